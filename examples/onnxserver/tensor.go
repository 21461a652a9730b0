package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// datatype is a type of elements, by its name in the Open Inference Protocol.
type datatype string

const (
	typeBool    datatype = "BOOL"
	typeInt8    datatype = "INT8"
	typeInt16   datatype = "INT16"
	typeInt32   datatype = "INT32"
	typeInt64   datatype = "INT64"
	typeUint8   datatype = "UINT8"
	typeUint16  datatype = "UINT16"
	typeUint32  datatype = "UINT32"
	typeUint64  datatype = "UINT64"
	typeFloat32 datatype = "FP32"
	typeFloat64 datatype = "FP64"
)

// size is that of an element in bytes.
func (d datatype) size() int {
	switch d {
	case typeBool, typeInt8, typeUint8:
		return 1
	case typeInt16, typeUint16:
		return 2
	case typeInt32, typeUint32, typeFloat32:
		return 4
	default:
		return 8
	}
}

// wanted says what stands for an element in JSON.
func (d datatype) wanted() string {
	switch d {
	case typeBool:
		return "true or false"
	case typeFloat32, typeFloat64:
		return "a number of " + string(d)
	default:
		return "a whole number of " + string(d)
	}
}

var errElement = errors.New("not an element of the datatype")

// appendElement appends the element that a JSON value, true, false or a number, stands for. A number that the type cannot hold,
// and for integers one with a fraction or an exponent, is errElement.
func (d datatype) appendElement(data, text []byte) ([]byte, error) {
	bits := 8 * d.size()
	switch d {
	case typeBool:
		switch string(text) {
		case "true":
			return append(data, 1), nil
		case "false":
			return append(data, 0), nil
		}
		return nil, errElement
	case typeFloat32, typeFloat64:
		v, err := strconv.ParseFloat(string(text), bits)
		if err != nil {
			return nil, errElement
		}
		if d == typeFloat32 {
			return binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(v))), nil
		}
		return binary.LittleEndian.AppendUint64(data, math.Float64bits(v)), nil
	case typeUint8, typeUint16, typeUint32, typeUint64:
		v, err := strconv.ParseUint(string(text), 10, bits)
		if err != nil {
			return nil, errElement
		}
		return appendBits(data, v, bits), nil
	default:
		v, err := strconv.ParseInt(string(text), 10, bits)
		if err != nil {
			return nil, errElement
		}
		return appendBits(data, uint64(v), bits), nil
	}
}

func appendBits(data []byte, v uint64, bits int) []byte {
	for ; bits > 0; bits -= 8 {
		data = append(data, byte(v))
		v >>= 8
	}
	return data
}

var errNotFinite = errors.New("NaN or an infinity, which JSON has no form for: ask for binary data")

// appendText appends an element as JSON. A float is the shortest decimal that reads back as the same one; one that is not
// finite is errNotFinite.
func (d datatype) appendText(b, element []byte) ([]byte, error) {
	switch d {
	case typeBool:
		return strconv.AppendBool(b, element[0] != 0), nil
	case typeInt8:
		return strconv.AppendInt(b, int64(int8(element[0])), 10), nil
	case typeInt16:
		return strconv.AppendInt(b, int64(int16(binary.LittleEndian.Uint16(element))), 10), nil
	case typeInt32:
		return strconv.AppendInt(b, int64(int32(binary.LittleEndian.Uint32(element))), 10), nil
	case typeInt64:
		return strconv.AppendInt(b, int64(binary.LittleEndian.Uint64(element)), 10), nil
	case typeUint8:
		return strconv.AppendUint(b, uint64(element[0]), 10), nil
	case typeUint16:
		return strconv.AppendUint(b, uint64(binary.LittleEndian.Uint16(element)), 10), nil
	case typeUint32:
		return strconv.AppendUint(b, uint64(binary.LittleEndian.Uint32(element)), 10), nil
	case typeUint64:
		return strconv.AppendUint(b, binary.LittleEndian.Uint64(element), 10), nil
	case typeFloat32:
		return appendFloat(b, float64(math.Float32frombits(binary.LittleEndian.Uint32(element))), 32)
	default:
		return appendFloat(b, math.Float64frombits(binary.LittleEndian.Uint64(element)), 64)
	}
}

func appendFloat(b []byte, v float64, bits int) ([]byte, error) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil, errNotFinite
	}
	return strconv.AppendFloat(b, v, 'g', -1, bits), nil
}

// tensor is what goes into a run or comes out of it: its elements are little-endian, row after row.
type tensor struct {
	name     string
	datatype datatype
	shape    []int64
	data     []byte
}

// port is an input or an output as the model declares it.
type port struct {
	name     string
	datatype datatype
	dims     []int64 // -1 where any size goes
}

// axis is the dimension along which rows are batched: the first that can have any size. Where none can, it is the first, and
// the batch has a fixed size; -1 of a scalar.
func (p port) axis() int {
	if i := slices.Index(p.dims, -1); i >= 0 || len(p.dims) == 0 {
		return i
	}
	return 0
}

// row is the shape of one row: the dimensions without that of the batch.
func (p port) row() []int64 {
	a := p.axis()
	return slices.Delete(slices.Clone(p.dims), a, a+1)
}

// takes reports whether a tensor of this shape is one of the port.
func (p port) takes(shape []int64) bool {
	return slices.EqualFunc(shape, p.dims, func(size, dim int64) bool { return dim == -1 || size == dim })
}

// shapeText is the port's shape for a reader: n is the batch.
func (p port) shapeText() string {
	var b strings.Builder
	b.WriteByte('[')
	for i, d := range p.dims {
		if i > 0 {
			b.WriteByte(',')
		}
		switch {
		case d != -1:
			b.WriteString(strconv.FormatInt(d, 10))
		case i == p.axis():
			b.WriteByte('n')
		default:
			b.WriteByte('*')
		}
	}
	return b.String() + "]"
}

// count is the number of elements of a shape; false where it does not fit.
func count(shape []int64) (int64, bool) {
	n := int64(1)
	for _, size := range shape {
		if size < 0 || size > 0 && n > math.MaxInt32/size {
			return 0, false
		}
		n *= size
	}
	return n, true
}

// moveAxis gives data of a shape in the order in which dimension from is dimension to. Rows are stacked in front of everything
// else, so that one of from and to is 0.
func moveAxis(data []byte, shape []int64, element, from, to int) []byte {
	if from == to {
		return data
	}
	product := func(sizes []int64) int {
		n := 1
		for _, s := range sizes {
			n *= int(s)
		}
		return n
	}
	axis := max(from, to)
	rows := int(shape[from])
	others := slices.Delete(slices.Clone(shape), from, from+1)
	outer, inner := product(others[:axis]), product(others[axis:])*element
	moved := make([]byte, 0, len(data))
	if to == 0 {
		for r := range rows {
			for o := range outer {
				at := (o*rows + r) * inner
				moved = append(moved, data[at:at+inner]...)
			}
		}
		return moved
	}
	for o := range outer {
		for r := range rows {
			at := (r*outer + o) * inner
			moved = append(moved, data[at:at+inner]...)
		}
	}
	return moved
}

// rowsOf checks that the inputs have one batch, and gives its size: 1 where no input has a batch.
func rowsOf(ports []port, inputs []tensor) (int64, error) {
	rows, first := int64(1), -1
	for i, t := range inputs {
		axis := ports[i].axis()
		if axis < 0 || ports[i].dims[axis] != -1 {
			continue
		}
		if first < 0 {
			rows, first = t.shape[axis], i
		} else if t.shape[axis] != rows {
			return 0, badRequest("inputs: %q has %d rows and %q has %d; give all the same number", inputs[first].name, rows, t.name, t.shape[axis])
		}
	}
	return rows, nil
}

// names lists ports for a reader: "a", "b" and "c".
func names(ports []port) string {
	var b strings.Builder
	for i, p := range ports {
		switch {
		case i > 0 && i == len(ports)-1:
			b.WriteString(" and ")
		case i > 0:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", p.name)
	}
	return b.String()
}

func find(ports []port, name string) int {
	return slices.IndexFunc(ports, func(p port) bool { return p.name == name })
}

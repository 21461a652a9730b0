package protocol

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"
)

// A server that reads a tensor's numbers from JSON takes some ten times as long for that as it takes to read them here, and as the network takes
// for the bytes. So where it knows the binary tensor extension it is sent them as bytes.

// Conversion is an Open Inference request in JSON that is to have its tensors in binary.
type Conversion struct {
	body    []byte
	least   int
	head    []byte // the JSON of what it becomes
	tensors []converted
	size    int // of their bytes
}

// ToBinary looks for the tensors of a request in JSON that can be in binary: those of numbers with so many elements a row, or more. It reports false
// where there is none, and where JSON is anything but usual, such as a member twice. The numbers it does not look at.
func (OIP) ToBinary(m Message, least int) (*Conversion, bool) {
	if m.Header != 0 {
		return nil, false
	}
	b := m.Body
	c := &Conversion{body: b, least: least, head: make([]byte, 0, 512)}
	o := walkObject(b, space(b, 0), MaxDepth)
	o.look.care = strict
	for separator := byte('{'); o.nextName(); separator = ',' {
		c.head = append(c.head, separator)
		if is(o.name, "inputs") && b[o.start] == '[' {
			c.head = append(c.head, b[o.nameStart:o.start]...)
			if o.end = c.inputs(o.start, o.depth); o.end == 0 {
				return nil, false
			}
			continue
		}
		if !o.skip() {
			break
		}
		c.head = append(c.head, b[o.nameStart:o.end]...)
	}
	if o.ended() != nil || len(c.tensors) == 0 {
		return nil, false
	}
	c.head = append(c.head, '}')
	return c, true
}

// Size is how many bytes the request has in binary: up to four times as many as in JSON, where numbers are short.
func (c *Conversion) Size() int { return len(c.head) + c.size }

// Append appends the request in binary to dst. A number is as a server has it that reads JSON's into float64 and converts that. It reports
// false where its datatype has no room for one, and where a tensor is not of its shape, or no valid JSON. Who takes what is returned for the request has it parsed:
// members other than the tensors' data are copied, and checked no more than to find their end.
func (c *Conversion) Append(dst []byte) (Message, bool) {
	start := len(dst)
	out := append(slices.Grow(dst, c.Size()), c.head...)
	for _, t := range c.tensors {
		var end int
		if out, end = appendElements(out, c.body, t.data.start, t.shape, t.form); end != t.data.end {
			return Message{}, false
		}
	}
	return Message{Body: out[start:], Header: len(c.head)}, true
}

// converted is a tensor that is to be in binary.
type converted struct {
	data  span // in the body, brackets included
	shape []int
	form  form
}

// inputs appends the tensors of the array that starts at i to the head, and returns where it ends; 0 where they are to stay as they are.
func (c *Conversion) inputs(i, depth int) (after int) {
	a := walkArray(c.body, i, depth)
	for separator := byte('['); a.nextStart(); separator = ',' {
		c.head = append(c.head, separator)
		if c.body[a.start] != '{' {
			return 0
		}
		if a.end = c.tensor(a.start, a.depth); a.end == 0 {
			return 0
		}
	}
	if a.err != nil || len(c.tensors) == 0 {
		return 0
	}
	c.head = append(c.head, ']')
	return a.after
}

// tensor appends the tensor that starts at i to the head, and returns where it ends; 0 where the request is to stay as it is.
func (c *Conversion) tensor(i, depth int) (after int) {
	b, t := c.body, converted{}
	before := len(c.head)
	var datatype, params []byte
	o := walkObject(b, i, depth)
	o.look.care = strict
	for separator := byte('{'); o.nextName(); {
		if is(o.name, "data") && b[o.start] == '[' {
			if o.end = glanced(b, o.start, o.depth, Unbroken{}); o.end > 0 {
				t.data = span{o.start, o.end}
				continue
			}
		}
		if !o.skip() {
			return 0
		}
		switch value := b[o.start:o.end]; {
		case is(o.name, "shape"):
			t.shape, _ = parseShape(b, o.start, o.depth) // nil where it is none
		case is(o.name, "datatype") && value[0] == '"':
			datatype = value
		case is(o.name, "parameters") && value[0] == '{':
			params = trim(b, o.start, o.end)
			if hasMember(b, o.start, "binary_data_size") || hasMember(b, o.start, "shared_memory_region") {
				return 0
			}
			continue
		case is(o.name, "parameters") && value[0] == 'n': // null is none
			continue
		}
		c.head = append(append(c.head, separator), b[o.nameStart:o.end]...)
		separator = ','
	}
	if o.err != nil {
		return 0
	}
	if datatype != nil {
		t.form = forms[unquote(datatype)]
	}
	if t.data.start == 0 || t.form == 0 || len(t.shape) < 2 || product(t.shape[1:]) < c.least ||
		product(t.shape) > (t.data.end-t.data.start)/2 { // it has fewer, and room for as many as it says is none to be made
		c.head = append(c.head[:before], b[i:o.after]...)
		return o.after
	}
	size := product(t.shape) * t.form.width()
	c.size += size
	c.head = append(c.head, `,"parameters":{`...)
	if len(params) > 0 {
		c.head = append(append(c.head, params...), ',')
	}
	c.head = append(strconv.AppendInt(append(c.head, `"binary_data_size":`...), int64(size), 10), "}}"...)
	c.tensors = append(c.tensors, t)
	return o.after
}

// form is how a number is in binary: its bytes, less those that are signed or have a fraction.
type form byte

const (
	signed   form = 0x10
	floating form = 0x20
)

func (f form) width() int { return int(f &^ (signed | floating)) }

// bits are those of a whole number that is not negative.
func (f form) bits() int {
	if f&signed != 0 {
		return 8*f.width() - 1
	}
	return 8 * f.width()
}

// forms are those of the datatypes that are numbers in JSON.
var forms = map[string]form{
	"INT8": 1 | signed, "INT16": 2 | signed, "INT32": 4 | signed, "INT64": 8 | signed, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8,
	"FP32": 4 | floating, "FP64": 8 | floating,
}

// appendElements appends the elements of the array that starts at i, which is flat or nested as the shape says, and returns where it ends;
// 0 where it is neither, or an element is no number of this form.
func appendElements(dst, b []byte, i int, shape []int, f form) ([]byte, int) {
	if first := space(b, i+1); len(shape) > 1 && first < len(b) && b[first] == '[' {
		return appendNested(dst, b, i, shape, f)
	}
	return appendNumbers(dst, b, i, product(shape), f)
}

// appendNested is appendElements for an array that is nested.
func appendNested(dst, b []byte, i int, shape []int, f form) ([]byte, int) {
	if len(shape) == 1 {
		return appendNumbers(dst, b, i, shape[0], f)
	}
	n := 0
	a := walkArray(b, i, MaxDepth)
	for a.nextStart() {
		if b[a.start] != '[' {
			return dst, 0
		}
		if dst, a.end = appendNested(dst, b, a.start, shape[1:], f); a.end == 0 {
			return dst, 0
		}
		n++
	}
	if a.err != nil || n != shape[0] {
		return dst, 0
	}
	return dst, a.after
}

// powers are those of ten that short numbers are divided by. A float64 has them exactly.
var powers = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// appendNumbers appends the n numbers of the array that starts at i, and returns where it ends; 0 where it is another.
func appendNumbers(dst, b []byte, i, n int, f form) ([]byte, int) {
	for i++; n > 0; n-- {
		if i < len(b) && b[i] <= ' ' {
			i = space(b, i)
		}
		var bits uint64
		start := i
		digits, fraction := uint64(0), 0 // the number is digits / 10^fraction
		negative := i < len(b) && b[i] == '-'
		if negative {
			i++
		}
		first := i
		for i < len(b) && b[i]-'0' <= 9 {
			digits = digits*10 + uint64(b[i]-'0')
			i++
		}
		whole := i - first
		if whole == 0 || whole > 1 && b[first] == '0' {
			return dst, 0
		}
		if i < len(b) && b[i] == '.' {
			i++
			for first = i; i < len(b) && b[i]-'0' <= 9; i++ {
				digits = digits*10 + uint64(b[i]-'0')
			}
			if fraction = i - first; fraction == 0 {
				return dst, 0
			}
		}
		if i == len(b) {
			return dst, 0
		}
		short := whole+fraction < len(powers) && b[i] != 'e' && b[i] != 'E'
		switch {
		case short && f&floating != 0 && negative && digits == 0 && fraction == 0:
			return dst, 0 // -0: some servers have it as a whole number, which is 0, and others as -0.0
		case short && f&floating != 0:
			// Both parts are exact, and so their quotient is the nearest there is: W. D. Clinger, How to Read Floating Point Numbers
			// Accurately, PLDI 1990.
			value := float64(digits) / powers[fraction]
			if negative {
				value = -value
			}
			if bits = math.Float64bits(value); f.width() == 4 {
				bits = uint64(math.Float32bits(float32(value)))
			}
		case short && fraction == 0 && !negative && digits>>f.bits() == 0:
			bits = digits
		default:
			if i = number(b, start); i == 0 {
				return dst, 0
			}
			var ok bool
			if bits, ok = bitsOf(string(b[start:i]), f); !ok {
				return dst, 0
			}
		}
		switch f.width() {
		case 1:
			dst = append(dst, byte(bits))
		case 2:
			dst = binary.LittleEndian.AppendUint16(dst, uint16(bits))
		case 4:
			dst = binary.LittleEndian.AppendUint32(dst, uint32(bits))
		case 8:
			dst = binary.LittleEndian.AppendUint64(dst, bits)
		}
		if i < len(b) && b[i] <= ' ' {
			i = space(b, i)
		}
		if n > 1 {
			if i >= len(b) || b[i] != ',' {
				return dst, 0
			}
			i++
		}
	}
	if i = space(b, i); i >= len(b) || b[i] != ']' {
		return dst, 0
	}
	return dst, i + 1
}

// bitsOf is a number in binary; false where its form has no room for it.
func bitsOf(text string, f form) (bits uint64, ok bool) {
	width := 8 * f.width()
	switch {
	case f&floating != 0:
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, false
		}
		if width == 64 {
			return math.Float64bits(value), true
		}
		short := float32(value)
		return uint64(math.Float32bits(short)), !math.IsInf(float64(short), 0)
	case f&signed != 0:
		n, err := strconv.ParseInt(text, 10, width)
		return uint64(n), err == nil
	default:
		n, err := strconv.ParseUint(text, 10, width)
		return n, err == nil
	}
}

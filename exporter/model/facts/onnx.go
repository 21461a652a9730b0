package facts

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
)

// What is read of an ONNX file.
const (
	maxONNXFields = 20_000_000 // each takes a byte or more of the file; a model of a billion parameters has 100,000
	maxONNXDepth  = 8          // of graphs in nodes of graphs
	maxONNXText   = 4 << 10
)

// onnxTypes are TensorProto.DataType: the types of weights. Those of shapes and indices (INT64, BOOL, STRING) are none.
var onnxTypes = map[uint64]string{
	1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 10: "float16", 11: "float64", 16: "bfloat16", 17: "float8_e4m3",
	18: "float8_e4m3", 19: "float8_e5m2", 20: "float8_e5m2", 21: "uint4", 22: "int4", 23: "float4",
}

// readONNX walks the fields of an ONNX file to its initialisers, of which it reads the shape and the type; their data is passed
// over. Files with weights that it names (external data) count with their sizes.
func readONNX(file string) (Facts, error) {
	f, size, err := open(file)
	if err != nil {
		return Facts{}, err
	}
	defer f.Close()
	w, err := walkONNX(f, size)
	if err != nil {
		return Facts{}, fmt.Errorf("onnx: %w", err)
	}
	for location := range w.external {
		if !filepath.IsLocal(location) {
			return Facts{}, fmt.Errorf("onnx: weights in %s: expected a file below the folder of the model", quote(location))
		}
		info, err := os.Stat(filepath.Join(filepath.Dir(file), location))
		if err != nil {
			return Facts{}, fmt.Errorf("onnx: weights in %s: %w", quote(location), pathless(err))
		}
		var ok bool
		if w.facts.Bytes, ok = add(w.facts.Bytes, info.Size()); !ok {
			return Facts{}, errors.New("onnx: more bytes than can be told")
		}
	}
	return w.facts, nil
}

// onnxWalk is the walk through one file.
type onnxWalk struct {
	s        io.ReadSeeker
	r        *bufio.Reader
	pos      int64
	fields   int
	tensors  int
	facts    Facts
	stored   map[string]int64 // numbers by type
	external map[string]bool
}

func walkONNX(s io.ReadSeeker, size int64) (*onnxWalk, error) {
	w := &onnxWalk{s: s, r: bufio.NewReaderSize(s, 32<<10), facts: Facts{Bytes: size, Framework: "onnx"}, stored: map[string]int64{}, external: map[string]bool{}}
	var version uint64
	graphs := 0
	err := w.message(size, func(field int, f onnxField) error {
		switch {
		case field == 5 && f.wire == 0: // model_version
			version = f.number
		case field == 7 && f.wire == 2:
			graphs++
			return w.graph(f.end, 0)
		}
		return nil
	})
	switch {
	case err != nil && graphs == 0:
		return nil, fmt.Errorf("no model: %w", err)
	case err != nil:
		return nil, err
	case graphs == 0:
		return nil, errors.New("no model: expected a graph in it")
	}
	w.facts.Precision = most(w.stored)
	if version > 0 && version <= math.MaxInt64 {
		w.facts.Version = strconv.FormatUint(version, 10)
	}
	return w, nil
}

// onnxField is a field's value: a number, or bytes up to end.
type onnxField struct {
	wire   int
	number uint64
	end    int64
}

// message reads the fields up to end. What take leaves of a field is passed over.
func (w *onnxWalk) message(end int64, take func(field int, f onnxField) error) error {
	for w.pos < end {
		if w.fields++; w.fields > maxONNXFields {
			return fmt.Errorf("more than %d fields, and no more are read", maxONNXFields)
		}
		begin := w.pos
		tag, err := w.varint(end)
		if err != nil {
			return err
		}
		f := onnxField{wire: int(tag & 7), end: w.pos}
		switch f.wire {
		case 0:
			if f.number, err = w.varint(end); err != nil {
				return err
			}
			f.end = w.pos
		case 1:
			f.end += 8
		case 5:
			f.end += 4
		case 2:
			n, err := w.varint(end)
			if err != nil {
				return err
			}
			if n > uint64(end-w.pos) {
				return fmt.Errorf("byte %d: a field of %d bytes, and there are %d: the file is cut short, or is no protobuf", begin, n, end-w.pos)
			}
			f.end = w.pos + int64(n)
		default:
			return fmt.Errorf("byte %d: a field of the kind %d: expected protobuf", begin, f.wire)
		}
		if tag>>3 == 0 || tag>>3 > math.MaxInt32 || f.end > end {
			return fmt.Errorf("byte %d: a field that cannot be: expected protobuf", begin)
		}
		if err := take(int(tag>>3), f); err != nil {
			return err
		}
		if err := w.to(f.end); err != nil {
			return err
		}
	}
	return nil
}

// to goes on to a position further on.
func (w *onnxWalk) to(pos int64) error {
	n := pos - w.pos
	if n <= int64(w.r.Buffered()) {
		_, err := w.r.Discard(int(n))
		w.pos = pos
		return err
	}
	if _, err := w.s.Seek(pos, io.SeekStart); err != nil {
		return err
	}
	w.r.Reset(w.s)
	w.pos = pos
	return nil
}

func (w *onnxWalk) varint(end int64) (uint64, error) {
	var v uint64
	for i := range binary.MaxVarintLen64 {
		if w.pos >= end {
			return 0, fmt.Errorf("byte %d: a number goes on after the end: the file is cut short, or is no protobuf", w.pos)
		}
		b, err := w.r.ReadByte()
		if err != nil {
			return 0, fmt.Errorf("byte %d: %w", w.pos, err)
		}
		w.pos++
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("byte %d: a number of more than ten bytes: expected protobuf", w.pos)
}

func (w *onnxWalk) text(f onnxField) (string, error) {
	n := f.end - w.pos
	if n > maxONNXText {
		return "", fmt.Errorf("byte %d: a name of %d bytes, and at most %d are read", w.pos, n, maxONNXText)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(w.r, b)
	w.pos = f.end
	return string(b), err
}

// graph reads a GraphProto.
func (w *onnxWalk) graph(end int64, depth int) error {
	if depth > maxONNXDepth {
		return fmt.Errorf("graphs in graphs, more than %d deep", maxONNXDepth)
	}
	return w.message(end, func(field int, f onnxField) error {
		if f.wire != 2 {
			return nil
		}
		switch field {
		case 1: // a node, whose attributes may have graphs: the branches of an If, the body of a Loop
			return w.message(f.end, func(field int, f onnxField) error {
				if field != 5 || f.wire != 2 {
					return nil
				}
				return w.message(f.end, func(field int, f onnxField) error {
					if f.wire == 2 && (field == 6 || field == 11) {
						return w.graph(f.end, depth+1)
					}
					return nil
				})
			})
		case 5: // an initialiser
			return w.tensor(f.end)
		case 15: // one that is stored sparsely: what there is of it
			return w.message(f.end, func(field int, f onnxField) error {
				if field == 1 && f.wire == 2 {
					return w.tensor(f.end)
				}
				return nil
			})
		}
		return nil
	})
}

// tensor reads the shape, the type and the place of a TensorProto.
func (w *onnxWalk) tensor(end int64) error {
	begin := w.pos
	if w.tensors++; w.tensors > maxTensors {
		return fmt.Errorf("more than %d tensors, and no more are read", maxTensors)
	}
	var (
		dims     []int64
		kind     uint64
		external bool
		location string
	)
	err := w.message(end, func(field int, f onnxField) error {
		switch {
		case field == 1 && f.wire == 0:
			dims = append(dims, int64(f.number))
		case field == 1 && f.wire == 2: // packed, as other writers have them
			for w.pos < f.end && len(dims) <= maxDims {
				d, err := w.varint(f.end)
				if err != nil {
					return err
				}
				dims = append(dims, int64(d))
			}
		case field == 2 && f.wire == 0:
			kind = f.number
		case field == 13 && f.wire == 2:
			var key, value string
			err := w.message(f.end, func(field int, f onnxField) (err error) {
				switch {
				case field == 1 && f.wire == 2:
					key, err = w.text(f)
				case field == 2 && f.wire == 2:
					value, err = w.text(f)
				}
				return err
			})
			if key == "location" {
				location = value
			}
			return err
		case field == 14 && f.wire == 0:
			external = f.number == 1
		}
		if len(dims) > maxDims {
			return fmt.Errorf("byte %d: a tensor of more than %d dimensions", begin, maxDims)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if external {
		if location == "" {
			return fmt.Errorf("byte %d: a tensor with data outside of the file: expected its location", begin)
		}
		if w.external[location] = true; len(w.external) > maxFiles {
			return fmt.Errorf("weights in more than %d files, and no more are read", maxFiles)
		}
	}
	name, weights := onnxTypes[kind]
	if !weights {
		return nil
	}
	n, ok := product(dims)
	if ok {
		w.facts.Parameters, ok = add(w.facts.Parameters, n)
	}
	if !ok {
		return fmt.Errorf("byte %d: a tensor of %v, more than can be told", begin, dims)
	}
	if w.stored[name] > math.MaxInt64-n {
		return fmt.Errorf("byte %d: more parameters than can be told", begin)
	}
	w.stored[name] += n
	return nil
}

package facts

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// What is read of a GGUF file. Its header has the vocabulary in it: some megabytes for 250,000 words.
const (
	maxGGUF      = 256 << 20
	maxGGUFKeys  = 100_000
	maxGGUFKey   = 1<<16 - 1 // the format's own limit
	maxGGUFText  = 1 << 10   // of a text that is kept; longer ones are passed over
	maxGGUFDepth = 4         // of arrays in arrays
)

// fileTypes are what general.file_type says that most weights are stored as.
var fileTypes = map[uint64]string{
	0: "float32", 1: "float16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m", 13: "q3_k_l",
	14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k",
}

// tensorTypes are what one tensor is stored as.
var tensorTypes = map[uint32]string{
	0: "float32", 1: "float16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k", 11: "q3_k", 12: "q4_k", 13: "q5_k",
	14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs",
	24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 29: "iq1_m", 30: "bfloat16", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4",
}

// readGGUF reads the header of a GGUF file, of version 2 or 3: its keys and the shapes of its tensors, which are of the
// weights themselves however they are quantised.
func readGGUF(file string) (Facts, error) {
	f, size, err := open(file)
	if err != nil {
		return Facts{}, err
	}
	defer f.Close()
	facts, err := gguf(f, size)
	if err != nil {
		return Facts{}, fmt.Errorf("gguf: %w", err)
	}
	return facts, nil
}

// ggufReader reads the header. After the first error, all that is read is 0.
type ggufReader struct {
	r     *bufio.Reader
	left  int64 // bytes that may still be read
	over  error // that there is no more to read
	order binary.ByteOrder
	err   error
}

func (g *ggufReader) fail(format string, args ...any) {
	if g.err == nil {
		g.err = fmt.Errorf(format, args...)
	}
}

// take counts n bytes that are about to be read.
func (g *ggufReader) take(n uint64) bool {
	if g.err == nil && n > uint64(g.left) {
		g.err = g.over
	}
	if g.err != nil {
		return false
	}
	g.left -= int64(n)
	return true
}

func (g *ggufReader) bytes(n int) []byte {
	b := make([]byte, n)
	if g.take(uint64(n)) {
		if _, err := io.ReadFull(g.r, b); err != nil {
			g.fail("the header is cut short: %w", err)
			clear(b)
		}
	}
	return b
}

func (g *ggufReader) uint32() uint32 { return g.order.Uint32(g.bytes(4)) }
func (g *ggufReader) uint64() uint64 { return g.order.Uint64(g.bytes(8)) }

func (g *ggufReader) skip(n uint64) {
	if g.take(n) {
		if _, err := g.r.Discard(int(n)); err != nil { // at most maxGGUF
			g.fail("the header is cut short: %w", err)
		}
	}
}

// text reads a text of at most limit bytes; of a longer one it is the empty text, or with must an error.
func (g *ggufReader) text(limit uint64, must bool) string {
	n := g.uint64()
	if n > limit {
		if must {
			g.fail("a name of %d bytes: expected at most %d", n, limit)
		} else {
			g.skip(n)
		}
		return ""
	}
	return string(g.bytes(int(n)))
}

// sizes are the bytes of values of a fixed size, by their type.
var sizes = map[uint32]uint64{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

const (
	ggufText  = 8
	ggufArray = 9
)

// value reads a value: a text, or a whole number without a sign; any other is passed over.
func (g *ggufReader) value(kind uint32, depth int) (text string, number uint64) {
	switch size, fixed := sizes[kind]; {
	case kind == ggufText:
		return g.text(maxGGUFText, false), 0
	case kind == ggufArray:
		element, n := g.uint32(), g.uint64()
		size, fixed := sizes[element]
		switch {
		case fixed:
			over, total := bits.Mul64(size, n)
			if over != 0 {
				g.fail("an array of %d values", n)
			}
			g.skip(total)
		case depth >= maxGGUFDepth:
			g.fail("arrays in arrays, %d deep", depth)
		case element != ggufText && element != ggufArray:
			g.fail("an array of values of the type %d, which is none", element)
		default:
			for range n { // each takes 8 bytes or more of what is left
				if g.err != nil {
					break
				}
				if element == ggufText {
					g.skip(g.uint64())
				} else {
					g.value(element, depth+1)
				}
			}
		}
	case !fixed:
		g.fail("a value of the type %d, which is none", kind)
	case kind == 4:
		return "", uint64(g.uint32())
	case kind == 10:
		return "", g.uint64()
	default:
		g.skip(size)
	}
	return "", 0
}

func gguf(r io.Reader, size int64) (Facts, error) {
	g := &ggufReader{r: bufio.NewReaderSize(r, 64<<10), left: size, over: errors.New("the header goes on after the end: the file is cut short"), order: binary.LittleEndian}
	if size > maxGGUF {
		g.left, g.over = maxGGUF, fmt.Errorf("a header of more than %d bytes, and no more are read", maxGGUF)
	}
	if magic := string(g.bytes(4)); g.err != nil || magic != "GGUF" {
		return Facts{}, errors.New("expected the four letters GGUF at its beginning")
	}
	version := g.uint32()
	if version > 0xffff { // written on a machine that begins with the high byte
		g.order, version = binary.BigEndian, bits.ReverseBytes32(version)
	}
	if g.err == nil && version != 2 && version != 3 {
		return Facts{}, fmt.Errorf("version %d of the format: expected 2 or 3", version)
	}
	tensors, keys := g.uint64(), g.uint64()
	switch {
	case g.err != nil:
		return Facts{}, g.err
	case tensors > maxTensors:
		return Facts{}, fmt.Errorf("%d tensors, and at most %d are read", tensors, maxTensors)
	case keys > maxGGUFKeys:
		return Facts{}, fmt.Errorf("%d keys, and at most %d are read", keys, maxGGUFKeys)
	}
	facts := Facts{Bytes: size, Framework: "gguf"}
	alignment := uint64(32)
	for range keys {
		key := g.text(maxGGUFKey, true)
		text, number := g.value(g.uint32(), 0)
		if g.err != nil {
			return Facts{}, fmt.Errorf("key %s: %w", quote(key), g.err)
		}
		switch key {
		case "general.architecture":
			facts.Architecture = text
		case "general.version":
			facts.Version = text
		case "general.file_type":
			facts.Precision = fileTypes[number]
		case "general.alignment":
			if number == 0 || number%8 != 0 {
				return Facts{}, fmt.Errorf("general.alignment of %d: expected a multiple of 8", number)
			}
			alignment = number
		}
	}
	stored := map[string]int64{}
	var last uint64 // where the last tensor begins
	for range tensors {
		name := g.text(maxGGUFKey, true)
		dims := make([]int64, min(g.uint32(), maxDims+1))
		if len(dims) > maxDims {
			return Facts{}, fmt.Errorf("tensor %s: more than %d dimensions", quote(name), maxDims)
		}
		for i := range dims {
			dims[i] = int64(g.uint64())
		}
		kind := g.uint32()
		last = max(last, g.uint64())
		if g.err != nil {
			return Facts{}, fmt.Errorf("tensor %s: %w", quote(name), g.err)
		}
		n, ok := product(dims)
		if ok {
			facts.Parameters, ok = add(facts.Parameters, n)
		}
		if !ok {
			return Facts{}, fmt.Errorf("tensor %s: dimensions of %v, more than can be told", quote(name), dims)
		}
		stored[tensorTypes[kind]] += n
	}
	if g.err != nil {
		return Facts{}, g.err
	}
	if facts.Precision == "" {
		facts.Precision = most(stored)
	}
	header := uint64(min(size, maxGGUF) - g.left) // bytes read
	if begin := header + (alignment-header%alignment)%alignment; tensors > 0 && (last >= uint64(size) || begin+last >= uint64(size)) {
		return Facts{}, fmt.Errorf("a tensor begins at byte %d of the weights, and the file has %d bytes: it is cut short", last, size)
	}
	return facts, nil
}

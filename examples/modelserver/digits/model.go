package digits

import (
	_ "embed" // for weights.bin
	"encoding/binary"
	"fmt"
	"math"
)

const (
	// PixelCount is how many pixels an image has: 8 rows of 8, row by row from the top left.
	PixelCount = 64
	// MaxPixel is the value of a pixel that is all ink; 0 is paper. Each pixel counts the dark dots in a 4x4 block.
	MaxPixel = 16
	// ClassCount is how many classes there are: the digits 0 to 9.
	ClassCount = 10

	weightsMagic = "DIGITSW1"
	// maxWidth bounds a layer, so that the hidden values of an image fit on the stack and Classify allocates nothing.
	maxWidth = 512
)

//go:embed weights.bin
var weightsFile []byte

// Model is a trained classifier. It is read-only: goroutines may share one.
type Model struct {
	layers []layer
}

// layer is one fully connected layer. Its weights lie input by input (all outputs of input 0, then those of input 1, ...),
// so that an input that is 0 is skipped in one step: half of the pixels are paper.
type layer struct {
	in, out int
	weights []float32 // in x out
	biases  []float32 // out
}

// Digit is what the model makes of one image.
type Digit struct {
	// Label is the most probable class, 0 to 9; the lowest of them where several are equally probable.
	Label int
	// Probabilities has one value from 0 to 1 for each class; they add up to 1 within rounding.
	Probabilities [ClassCount]float32
}

// Load returns the model whose weights are built into the binary. An error means that the binary was built from a damaged
// weights.bin.
func Load() (*Model, error) {
	m, err := parseModel(weightsFile)
	if err != nil {
		return nil, fmt.Errorf("weights.bin: %w", err)
	}
	return m, nil
}

// parseModel reads what train.py writes: the magic, the number of layer sizes, the sizes (uint32), then for each layer its
// weights and its biases (float32), all little-endian, and nothing after them.
func parseModel(b []byte) (*Model, error) {
	rest, ok := cutMagic(b, weightsMagic)
	if !ok || len(rest) < 4 {
		return nil, fmt.Errorf("does not begin with %s and a count", weightsMagic)
	}
	count := binary.LittleEndian.Uint32(rest)
	rest = rest[4:]
	if count < 2 || count > 8 || len(rest) < 4*int(count) {
		return nil, fmt.Errorf("%d layer sizes: need 2 to 8", count)
	}
	sizes := make([]int, count)
	for i := range sizes {
		size := binary.LittleEndian.Uint32(rest[4*i:])
		if size < 1 || size > maxWidth {
			return nil, fmt.Errorf("layer size %d is %d: need 1 to %d", i, size, maxWidth)
		}
		sizes[i] = int(size)
	}
	rest = rest[4*count:]
	if sizes[0] != PixelCount || sizes[count-1] != ClassCount {
		return nil, fmt.Errorf("takes %d values and gives %d: need %d and %d", sizes[0], sizes[count-1], PixelCount, ClassCount)
	}

	m := &Model{}
	for i := 1; i < len(sizes); i++ {
		l := layer{in: sizes[i-1], out: sizes[i]}
		var err error
		if l.weights, rest, err = cutFloats(rest, l.in*l.out); err != nil {
			return nil, fmt.Errorf("weights of layer %d: %w", i, err)
		}
		if l.biases, rest, err = cutFloats(rest, l.out); err != nil {
			return nil, fmt.Errorf("biases of layer %d: %w", i, err)
		}
		m.layers = append(m.layers, l)
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the last layer", len(rest))
	}
	return m, nil
}

func cutMagic(b []byte, magic string) (rest []byte, ok bool) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, false
	}
	return b[len(magic):], true
}

// cutFloats takes n float32 off the front of b.
func cutFloats(b []byte, n int) (values []float32, rest []byte, err error) {
	if len(b) < 4*n {
		return nil, nil, fmt.Errorf("%d bytes left: need %d", len(b), 4*n)
	}
	values = make([]float32, n)
	for i := range values {
		v := math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, nil, fmt.Errorf("value %d is %v", i, v)
		}
		values[i] = v
	}
	return values, b[4*n:], nil
}

// Classify reads one image: PixelCount values from 0 to MaxPixel, row by row. Any other count is an error. Values outside
// the range are taken as they are; the model was not trained on them, and with values near the limits of float32 the
// probabilities can be NaN.
func (m *Model) Classify(pixels []float32) (Digit, error) {
	if len(pixels) != PixelCount {
		return Digit{}, fmt.Errorf("an image has %d pixels, got %d", PixelCount, len(pixels))
	}
	// Two buffers that the layers use in turn: one holds what goes in, the other what comes out.
	var buffers [2][maxWidth]float32
	in := pixels
	for i := range m.layers {
		l := &m.layers[i]
		out := buffers[i%2][:l.out]
		l.apply(in, out)
		if i < len(m.layers)-1 {
			for j, v := range out {
				out[j] = max(v, 0) // ReLU
			}
		}
		in = out
	}
	return softmax((*[ClassCount]float32)(in)), nil
}

// apply sets out to in x weights + biases. It adds in the order of the inputs, whatever the batch, and each product is
// rounded to float32 before it is added: without the conversion the compiler may fuse the two steps on some processors, and
// the same image would get other bits there.
func (l *layer) apply(in, out []float32) {
	copy(out, l.biases)
	for i, x := range in {
		if x == 0 {
			continue
		}
		row := l.weights[i*l.out : (i+1)*l.out]
		row = row[:len(out)]
		for j := range out {
			out[j] += float32(x * row[j])
		}
	}
}

// softmax turns the last layer's values into probabilities, in float64 so that they add up to 1 well.
func softmax(logits *[ClassCount]float32) Digit {
	var d Digit
	for i, v := range logits {
		if v > logits[d.Label] {
			d.Label = i
		}
	}
	var exps [ClassCount]float64
	var sum float64
	top := float64(logits[d.Label])
	for i, v := range logits {
		exps[i] = math.Exp(float64(v) - top)
		sum += exps[i]
	}
	for i, e := range exps {
		d.Probabilities[i] = float32(e / sum)
	}
	return d
}

package models

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
)

// Op is what a layer does, by the name of the ONNX operator.
type Op string

// The operators that layers have.
const (
	Gemm              Op = "Gemm" // a product with a matrix, and a bias
	Conv              Op = "Conv" // a convolution with square kernels, padded so that a stride of 1 keeps the size, and a bias
	Relu              Op = "Relu"
	GlobalAveragePool Op = "GlobalAveragePool"
	Flatten           Op = "Flatten"
)

// Layer is one step of a [Network].
type Layer struct {
	Op Op
	// In and Out are the numbers of values (Gemm) or channels (Conv) that go in and come out.
	In, Out int
	// Kernel, Stride and Groups are those of a Conv: the sides of its kernel, its step, and the number of groups of channels
	// that do not see one another.
	Kernel, Stride, Groups int
	// Weights are those of a Gemm, In x Out, or of a Conv, Out x In/Groups x Kernel x Kernel; Bias has Out values.
	Weights, Bias []float32
}

// Network is a chain of layers from one input, "x", to one output, "y"; the first dimension of both is the batch.
type Network struct {
	Name string
	// Input is the shape of one row: a number of values, or channels, height and width.
	Input  []int
	Layers []Layer
}

// ONNX is the network as an ONNX file.
func (n *Network) ONNX() []byte {
	var g graph
	dims := []any{"batch"}
	for _, d := range n.Input {
		dims = append(dims, d)
	}
	g.port(graphInput, value{name: "x", elem: elemFloat, dims: dims})
	before := "x"
	for i, l := range n.Layers {
		after := "h" + strconv.Itoa(i)
		if i == len(n.Layers)-1 {
			after = "y"
		}
		w, b := "w"+strconv.Itoa(i), "b"+strconv.Itoa(i)
		switch l.Op {
		case Gemm:
			g.weights(w, l.Weights, l.In, l.Out)
			g.weights(b, l.Bias, l.Out)
			g.node(string(Gemm), []string{before, w, b}, after)
		case Conv:
			g.weights(w, l.Weights, l.Out, l.In/l.Groups, l.Kernel, l.Kernel)
			g.weights(b, l.Bias, l.Out)
			pad := l.Kernel / 2
			g.node(string(Conv), []string{before, w, b}, after,
				attribute{"kernel_shape", []int{l.Kernel, l.Kernel}}, attribute{"strides", []int{l.Stride, l.Stride}},
				attribute{"pads", []int{pad, pad, pad, pad}}, attribute{"group", l.Groups})
		default:
			g.node(string(l.Op), []string{before}, after)
		}
		before = after
	}
	g.port(graphOutput, value{name: "y", elem: elemFloat, dims: []any{"batch", n.Layers[len(n.Layers)-1].Out}})
	return g.file(n.Name)
}

// Rows is the number of values of one row.
func (n *Network) Rows() int {
	size := 1
	for _, d := range n.Input {
		size *= d
	}
	return size
}

// Infer computes the answer to one row in float64, plainly. It panics where the row does not have the network's size.
func (n *Network) Infer(row []float32) []float64 {
	if len(row) != n.Rows() {
		panic(fmt.Sprintf("a row of %d values for the network %s, which takes %d", len(row), n.Name, n.Rows()))
	}
	x := make([]float64, len(row))
	for i, v := range row {
		x[i] = float64(v)
	}
	height, width := 1, 1
	if len(n.Input) == 3 {
		height, width = n.Input[1], n.Input[2]
	}
	for _, l := range n.Layers {
		switch l.Op {
		case Gemm:
			x = l.product(x)
		case Conv:
			x, height, width = l.convolution(x, height, width)
		case Relu:
			for i := range x {
				x[i] = max(x[i], 0)
			}
		case GlobalAveragePool:
			x = averages(x, height*width)
			height, width = 1, 1
		case Flatten: // the values lie as they will
		}
	}
	return x
}

func (l *Layer) product(x []float64) []float64 {
	y := make([]float64, l.Out)
	for j := range y {
		y[j] = float64(l.Bias[j])
	}
	for i, v := range x {
		for j, w := range l.Weights[i*l.Out : (i+1)*l.Out] {
			y[j] += v * float64(w)
		}
	}
	return y
}

func (l *Layer) convolution(x []float64, height, width int) (y []float64, h, w int) {
	pad := l.Kernel / 2
	h, w = (height+2*pad-l.Kernel)/l.Stride+1, (width+2*pad-l.Kernel)/l.Stride+1
	in, out := l.In/l.Groups, l.Out/l.Groups // channels of a group
	y = make([]float64, l.Out*h*w)
	for o := range l.Out {
		first := o / out * in // the first channel that this one sees
		for r := range h {
			for c := range w {
				sum := float64(l.Bias[o])
				for i := range in {
					for kr := range l.Kernel {
						for kc := range l.Kernel {
							row, col := r*l.Stride+kr-pad, c*l.Stride+kc-pad
							if row < 0 || row >= height || col < 0 || col >= width {
								continue
							}
							sum += x[((first+i)*height+row)*width+col] * float64(l.Weights[((o*in+i)*l.Kernel+kr)*l.Kernel+kc])
						}
					}
				}
				y[(o*h+r)*w+c] = sum
			}
		}
	}
	return y, h, w
}

func averages(x []float64, area int) []float64 {
	y := make([]float64, len(x)/area)
	for i := range y {
		for _, v := range x[i*area : (i+1)*area] {
			y[i] += v
		}
		y[i] /= float64(area)
	}
	return y
}

// MLP is a network of products with matrices, Relu between them; widths are those of the input, between, and of the output.
// The same seed gives the same weights.
func MLP(name string, seed uint64, widths ...int) *Network {
	r := rand.New(rand.NewPCG(seed, 0))
	n := &Network{Name: name, Input: widths[:1]}
	for i, in := range widths[:len(widths)-1] {
		if i > 0 {
			n.Layers = append(n.Layers, Layer{Op: Relu, Out: in})
		}
		out := widths[i+1]
		n.Layers = append(n.Layers, Layer{Op: Gemm, In: in, Out: out, Weights: draw(r, in*out, in), Bias: draw(r, out, 50)})
	}
	return n
}

// MobileNet is a small network of its kind: a convolution, then pairs of one in each channel and one across them, the
// average of each channel, and a product. Its input has 3 channels of size x size; channels are those after each pair, and where the
// number grows the size halves. The same seed gives the same weights.
func MobileNet(name string, seed uint64, size, classes int, channels ...int) *Network {
	r := rand.New(rand.NewPCG(seed, 0))
	n := &Network{Name: name, Input: []int{3, size, size}}
	conv := func(in, out, kernel, stride, groups int) {
		sees := in / groups * kernel * kernel
		n.Layers = append(n.Layers,
			Layer{Op: Conv, In: in, Out: out, Kernel: kernel, Stride: stride, Groups: groups, Weights: draw(r, out*sees, sees), Bias: draw(r, out, 50)},
			Layer{Op: Relu, Out: out})
	}
	in := channels[0]
	conv(3, in, 3, 2, 1)
	for _, out := range channels[1:] {
		stride := 1
		if out > in {
			stride = 2
		}
		conv(in, in, 3, stride, in)
		conv(in, out, 1, 1, 1)
		in = out
	}
	n.Layers = append(n.Layers,
		Layer{Op: GlobalAveragePool, Out: in},
		Layer{Op: Flatten, Out: in},
		Layer{Op: Gemm, In: in, Out: classes, Weights: draw(r, in*classes, in), Bias: draw(r, classes, 50)})
	return n
}

// draw gives weights for sums of terms addends, scaled so that values keep their size from layer to layer.
func draw(r *rand.Rand, n, terms int) []float32 {
	w := make([]float32, n)
	scale := math.Sqrt(2 / float64(terms))
	for i := range w {
		w[i] = float32(r.NormFloat64() * scale)
	}
	return w
}

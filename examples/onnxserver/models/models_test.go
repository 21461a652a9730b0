package models

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestInferByHand: the reference itself, by sums that can be done on paper.
func TestInferByHand(t *testing.T) {
	mlp := &Network{Name: "hand", Input: []int{2}, Layers: []Layer{
		{Op: Gemm, In: 2, Out: 3, Weights: []float32{1, 2, 3, 4, 5, 6}, Bias: []float32{0.5, 0, -40}},
		{Op: Relu},
		{Op: Gemm, In: 3, Out: 1, Weights: []float32{1, 10, 100}, Bias: []float32{7}},
	}}
	// 1*1+2*4+0.5 = 9.5; 1*2+2*5 = 12; 1*3+2*6-40 < 0, so 0; 9.5 + 120 + 0 + 7
	if diff := cmp.Diff([]float64{136.5}, mlp.Infer([]float32{1, 2})); diff != "" {
		t.Errorf("products (-want +got):\n%s", diff)
	}
	ones := []float32{1, 1, 1, 1, 1, 1, 1, 1, 1}
	conv := &Network{Name: "hand", Input: []int{2, 3, 3}, Layers: []Layer{
		// Each channel by itself: sums of the neighbourhood, at the corners only.
		{Op: Conv, In: 2, Out: 2, Kernel: 3, Stride: 2, Groups: 2, Weights: append(append([]float32{}, ones...), ones...), Bias: []float32{0, 1}},
		// Across them: first less second.
		{Op: Conv, In: 2, Out: 1, Kernel: 1, Stride: 1, Groups: 1, Weights: []float32{1, -1}, Bias: []float32{100}},
		{Op: GlobalAveragePool},
	}}
	image := []float32{1, 2, 3, 4, 5, 6, 7, 8, 9 /* the second: */, 0, 0, 0, 0, 2, 0, 0, 0, 0}
	// Corners of the first: 1+2+4+5 = 12, 16, 24, 28; of the second 2+1 each; 100 + (12+16+24+28)/4 - 3
	if diff := cmp.Diff([]float64{117}, conv.Infer(image)); diff != "" {
		t.Errorf("convolutions (-want +got):\n%s", diff)
	}
	e := &Embedding{Name: "hand", Width: 2, Table: []float32{1, 2, 3, 4, 5, 6}}
	mean, largest := e.Infer([]int64{0, 2}, 10)
	if diff := cmp.Diff([]float64{30, 40}, mean); diff != "" || largest != 2 {
		t.Errorf("embedding: largest %d (-want +got):\n%s", largest, diff)
	}
}

// TestSameBytes: what was measured yesterday is what is measured today.
func TestSameBytes(t *testing.T) {
	want := map[string]string{
		"mlp_128":   "6a16ba2892350aad",
		"mlp_768":   "8ebb68a2514637ec",
		"conv_224":  "aa3ee6e64d5e0bea",
		"embedding": "5cc8f6ee86614e0b",
	}
	got := make(map[string]string)
	for _, m := range All() {
		sum := sha256.Sum256(m.ONNX())
		got[m.Name] = hex.EncodeToString(sum[:8])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sums of the files (-want +got):\n%s", diff)
	}
	if bytes.Equal(MLP("a", 1, 8, 8).ONNX(), MLP("a", 2, 8, 8).ONNX()) {
		t.Error("two seeds give the same weights")
	}
}

// TestValuesKeepTheirSize: an answer is neither nothing nor beyond what float32 tells apart, so that a wrong one shows.
func TestValuesKeepTheirSize(t *testing.T) {
	for _, n := range []*Network{MLP128(), MLP768(), MobileNet("small", 5, 32, 10, 8, 16, 16, 32)} {
		row := make([]float32, n.Rows())
		for i := range row {
			row[i] = float32(math.Sin(float64(i)))
		}
		largest := 0.0
		for _, v := range n.Infer(row) {
			largest = max(largest, math.Abs(v))
		}
		if largest < 0.1 || largest > 100 {
			t.Errorf("%s: the largest output is %g", n.Name, largest)
		}
	}
}

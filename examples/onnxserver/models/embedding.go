package models

import (
	"fmt"
	"math/rand/v2"
)

// Embedding is a model of two inputs: "ids", INT64 of n x length, and "scale", FP32 of n x 1. Its outputs are "mean", FP32 of
// n x Width, the average of the rows of the table that ids names times scale, and "largest", INT64 of n, the largest of ids.
type Embedding struct {
	Name  string
	Width int
	Table []float32 // rows of Width values
}

// NewEmbedding draws the table; the same seed gives the same one.
func NewEmbedding(name string, seed uint64, rows, width int) *Embedding {
	return &Embedding{Name: name, Width: width, Table: draw(rand.New(rand.NewPCG(seed, 0)), rows*width, 2)}
}

// ONNX is the model as an ONNX file.
func (e *Embedding) ONNX() []byte {
	var g graph
	g.port(graphInput, value{"ids", elemInt64, []any{"batch", "length"}})
	g.port(graphInput, value{"scale", elemFloat, []any{"batch", 1}})
	g.weights("table", e.Table, len(e.Table)/e.Width, e.Width)
	g.node("Gather", []string{"table", "ids"}, "rows")
	g.node("ReduceMean", []string{"rows"}, "average", attribute{"axes", []int{1}}, attribute{"keepdims", 0})
	g.node("Mul", []string{"average", "scale"}, "mean")
	g.node("ReduceMax", []string{"ids"}, "largest", attribute{"axes", []int{1}}, attribute{"keepdims", 0})
	g.port(graphOutput, value{"mean", elemFloat, []any{"batch", e.Width}})
	g.port(graphOutput, value{"largest", elemInt64, []any{"batch"}})
	return g.file(e.Name)
}

// Infer computes the answer to one row in float64. It panics where there are no ids or one has no row in the table.
func (e *Embedding) Infer(ids []int64, scale float32) (mean []float64, largest int64) {
	if len(ids) == 0 {
		panic(fmt.Sprintf("no ids for the model %s", e.Name))
	}
	mean, largest = make([]float64, e.Width), ids[0]
	for _, id := range ids {
		for i, v := range e.Table[int(id)*e.Width : (int(id)+1)*e.Width] {
			mean[i] += float64(v)
		}
		largest = max(largest, id)
	}
	for i := range mean {
		mean[i] *= float64(scale) / float64(len(ids))
	}
	return mean, largest
}

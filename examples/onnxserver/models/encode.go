package models

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of onnx.proto (onnx/onnx on GitHub) that are written here, and the values of its enums.
const (
	modelIRVersion, modelProducer, modelGraph, modelOpset = 1, 2, 7, 8
	opsetVersion                                          = 2
	graphNode, graphName, graphInitializer                = 1, 2, 5
	graphInput, graphOutput                               = 11, 12
	nodeInput, nodeOutput, nodeOp, nodeAttribute          = 1, 2, 4, 5
	attributeName, attributeI, attributeInts              = 1, 3, 8
	attributeType, typeInt, typeInts                      = 20, 2, 7
	tensorDims, tensorType, tensorName, tensorRaw         = 1, 2, 8, 9
	valueName, valueType                                  = 1, 2
	typeTensor, tensorElem, tensorShape                   = 1, 1, 2
	shapeDim, dimValue, dimParam                          = 1, 1, 2

	elemFloat, elemInt64 = 1, 7

	irVersion = 8  // of the file format
	opset     = 13 // of the operators: one that every ONNX Runtime since 1.6 has
)

// message is an encoded protobuf message that is being written.
type message []byte

func (m *message) bytes(field protowire.Number, b []byte) {
	*m = protowire.AppendTag(*m, field, protowire.BytesType)
	*m = protowire.AppendBytes(*m, b)
}

func (m *message) text(field protowire.Number, s string) { m.bytes(field, []byte(s)) }

func (m *message) number(field protowire.Number, n int) {
	*m = protowire.AppendTag(*m, field, protowire.VarintType)
	*m = protowire.AppendVarint(*m, uint64(n)) //nolint:gosec // dimensions and enums: none is negative
}

// graph is a model that is being written.
type graph struct {
	body message
}

// value is an input or output; a dimension that is a string may have any size, which is the same wherever the string is.
type value struct {
	name string
	elem int
	dims []any // int or string
}

func (g *graph) port(field protowire.Number, v value) {
	var shape message
	for _, d := range v.dims {
		var dim message
		switch d := d.(type) {
		case int:
			dim.number(dimValue, d)
		case string:
			dim.text(dimParam, d)
		}
		shape.bytes(shapeDim, dim)
	}
	var tensor message
	tensor.number(tensorElem, v.elem)
	tensor.bytes(tensorShape, shape)
	var kind message
	kind.bytes(typeTensor, tensor)
	var info message
	info.text(valueName, v.name)
	info.bytes(valueType, kind)
	g.body.bytes(field, info)
}

// attribute is a parameter of an operator: an int, or a list of them.
type attribute struct {
	name  string
	value any // int or []int
}

func (g *graph) node(op string, inputs []string, output string, attributes ...attribute) {
	var n message
	for _, in := range inputs {
		n.text(nodeInput, in)
	}
	n.text(nodeOutput, output)
	n.text(nodeOp, op)
	for _, a := range attributes {
		var m message
		m.text(attributeName, a.name)
		switch v := a.value.(type) {
		case int:
			m.number(attributeI, v)
			m.number(attributeType, typeInt)
		case []int:
			for _, i := range v {
				m.number(attributeInts, i)
			}
			m.number(attributeType, typeInts)
		}
		n.bytes(nodeAttribute, m)
	}
	g.body.bytes(graphNode, n)
}

// weights adds a constant tensor.
func (g *graph) weights(name string, values []float32, dims ...int) {
	raw := make([]byte, 0, 4*len(values))
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	var t message
	for _, d := range dims {
		t.number(tensorDims, d)
	}
	t.number(tensorType, elemFloat)
	t.text(tensorName, name)
	t.bytes(tensorRaw, raw)
	g.body.bytes(graphInitializer, t)
}

// file is the whole model.
func (g *graph) file(name string) []byte {
	g.body.text(graphName, name)
	var set message
	set.number(opsetVersion, opset)
	var m message
	m.number(modelIRVersion, irVersion)
	m.text(modelProducer, "flyball")
	m.bytes(modelGraph, g.body)
	m.bytes(modelOpset, set)
	return m
}

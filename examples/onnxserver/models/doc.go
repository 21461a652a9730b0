// Package models makes ONNX files of small models whose answers can be computed by hand: each model is a table of layers
// with weights drawn from a fixed seed, [Network.ONNX] writes it as a file, and [Network.Infer] computes one answer plainly, in
// float64, so that a server of such a file can be checked against it.
//
// The models are those by which batching is measured: mlp_128 and mlp_768, products of matrices, whose weights are read
// once for a batch, so that a batch costs little more than one row; conv_224, a small MobileNet, in which every row is work of
// its own and batching gains nothing; and embedding, which has two inputs of different types and a length that varies.
// The weights are random: what the models answer means nothing, and how long they take is what it is with any weights.
package models

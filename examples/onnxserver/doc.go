// Onnxserver is a model server on ONNX Runtime for the examples and the tests: it serves any ONNX file of tensors over the
// Open Inference Protocol (v2), in JSON and with the binary tensor extension, and over the v1 protocol of TensorFlow Serving and
// KServe, by HTTP.
//
// Here nothing is emulated: the model runs in ONNX Runtime on the CPU, and what batching gains is what it gains there. Each
// model has one session and runs one batch at a time, so that from outside it behaves as a device does.
//
// It is a module of its own, because it needs cgo and a shared library, which nothing else in the repository does.
//
// To read the code, begin at main.go (flags), then server.go (what runs, from start to shutdown), inference.go (the way of one
// request), v1.go, v2.go and binary.go (the protocols), tensor.go and elements.go (what a request is read into), model.go (ONNX
// Runtime). Package models makes files to serve. README.md has a call of each kind with its answer.
package main

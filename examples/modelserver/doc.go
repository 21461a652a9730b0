// Modelserver is a small model server for the examples and the tests: it reads handwritten digits over the Open Inference
// Protocol (v2) and over the v1 protocol of TensorFlow Serving and KServe, as JSON over HTTP.
//
// The model is real (package digits: a trained network and its accuracy on images it never saw). What is not real is the
// accelerator: with --accelerator=40ms+2ms an emulated accelerator is held for 40 ms and 2 ms for each image, one batch at a
// time, first come first served. That is how a GPU looks from outside (a fixed cost for each call, a small one for each item),
// so that batching and scaling can be seen and measured on a laptop.
//
// To read the code, begin at main.go (flags), then server.go (what runs, from start to shutdown), inference.go (the way of one
// request), v1.go and v2.go (the protocols), device.go (the emulated accelerator; precise_linux.go
// has its clock). README.md has a call of each kind with its answer.
package main

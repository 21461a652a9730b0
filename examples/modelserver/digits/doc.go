// Package digits is a small trained model and the images to try it on: it reads handwritten digits.
//
// The model is a multi-layer perceptron (64 pixels in, one hidden layer, 10 classes out) trained by train/train.py on the
// UCI set "Optical Recognition of Handwritten Digits". Its weights, and the images that the training never saw, are part of
// the binary; README.md in this folder tells where they come from, their licence, and the accuracy on the unseen images.
//
// Load the model once and share it; it never changes and any number of goroutines may use it:
//
//	model, err := digits.Load()
//	if err != nil { ... }
//	digit, err := model.Classify(pixels) // 64 values, 0 is paper and 16 is ink
//	fmt.Println(digit.Label, digit.Probabilities[digit.Label])
//
// An answer depends on the 64 pixels and on nothing else: the same image gives the same bits whether it is classified alone
// or between others. A test of a batching proxy can therefore compare answers byte for byte.
//
// HeldOut gives the 719 images kept out of the training, with what they show, so that a program which sends them can check
// every answer it gets.
package digits

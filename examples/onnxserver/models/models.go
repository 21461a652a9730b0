package models

// File is a model that can be written as a file.
type File struct {
	Name string // without .onnx
	ONNX func() []byte
}

// MLP128 is 128-256-10: so small that a call costs more than its work.
func MLP128() *Network { return MLP("mlp_128", 1, 128, 256, 10) }

// MLP768 is 768-3072-768-3072-768, 38 MB of weights: one row takes as long as reading them does, and a batch little longer.
func MLP768() *Network { return MLP("mlp_768", 2, 768, 3072, 768, 3072, 768) }

// Conv224 is a small MobileNet on 3 x 224 x 224: batching gains nothing, since every row is as much work as the first.
func Conv224() *Network {
	return MobileNet("conv_224", 3, 224, 10, 16, 32, 64, 64, 128, 256, 512)
}

// Pair has two inputs, of different types.
func Pair() *Embedding { return NewEmbedding("embedding", 4, 1000, 16) }

// All are the models that are measured and tested.
func All() []File {
	return []File{
		{"mlp_128", MLP128().ONNX},
		{"mlp_768", MLP768().ONNX},
		{"conv_224", Conv224().ONNX},
		{"embedding", Pair().ONNX},
	}
}

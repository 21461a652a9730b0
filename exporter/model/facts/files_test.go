package facts

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

// tensor is one of a file that a test writes.
type tensor struct {
	name, kind string
	shape      []int64
}

// writeSafetensors writes a file byte by byte as the format's README says: the length of the header, the header, the data.
func writeSafetensors(format string, tensors ...tensor) []byte {
	header := map[string]any{}
	if format != "" {
		header["__metadata__"] = map[string]string{"format": format}
	}
	var at int64
	for _, t := range tensors {
		n, _ := product(t.shape)
		size := n * types[t.kind].bits / 8
		header[t.name] = map[string]any{"dtype": t.kind, "shape": t.shape, "data_offsets": []int64{at, at + size}}
		at += size
	}
	text, err := json.Marshal(header)
	if err != nil {
		panic(err)
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	return append(append(b, text...), make([]byte, at)...)
}

// ggufFile writes a GGUF file.
type ggufFile struct {
	order   binary.AppendByteOrder
	version uint32
	keys    []any // key, value, key, value
	tensors []ggufTensor
	data    int // bytes of weights
}

type ggufTensor struct {
	name   string
	dims   []uint64
	kind   uint32
	offset uint64
}

func (f ggufFile) bytes() []byte {
	o := f.order
	if o == nil {
		o = binary.LittleEndian
	}
	text := func(b []byte, s string) []byte { return append(o.AppendUint64(b, uint64(len(s))), s...) }
	b := []byte("GGUF")
	b = o.AppendUint32(b, f.version)
	b = o.AppendUint64(b, uint64(len(f.tensors)))
	b = o.AppendUint64(b, uint64(len(f.keys)/2))
	for i := 0; i < len(f.keys); i += 2 {
		b = text(b, f.keys[i].(string))
		switch v := f.keys[i+1].(type) {
		case string:
			b = text(o.AppendUint32(b, 8), v)
		case uint32:
			b = o.AppendUint32(o.AppendUint32(b, 4), v)
		case uint64:
			b = o.AppendUint64(o.AppendUint32(b, 10), v)
		case float32:
			b = o.AppendUint32(o.AppendUint32(b, 6), 0x3f800000)
		case bool:
			b = append(o.AppendUint32(b, 7), 1)
		case []string:
			b = o.AppendUint64(o.AppendUint32(o.AppendUint32(b, 9), 8), uint64(len(v)))
			for _, s := range v {
				b = text(b, s)
			}
		case []int32:
			b = o.AppendUint64(o.AppendUint32(o.AppendUint32(b, 9), 5), uint64(len(v)))
			for _, n := range v {
				b = o.AppendUint32(b, uint32(n))
			}
		default:
			panic(v)
		}
	}
	for _, t := range f.tensors {
		b = o.AppendUint32(text(b, t.name), uint32(len(t.dims)))
		for _, d := range t.dims {
			b = o.AppendUint64(b, d)
		}
		b = o.AppendUint64(o.AppendUint32(b, t.kind), t.offset)
	}
	b = append(b, make([]byte, (32-len(b)%32)%32)...)
	return append(b, make([]byte, f.data)...)
}

// What an ONNX file is made of.
func field(n protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), bytes.Join(parts, nil))
}

func number(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func onnxTensor(kind uint64, dims ...uint64) []byte {
	var b []byte
	size := uint64(4)
	for _, d := range dims {
		b = append(b, number(1, d)...)
		size *= d
	}
	return append(b, append(number(2, kind), field(9, make([]byte, size))...)...)
}

func onnxModel(version uint64, graph ...[]byte) []byte {
	return bytes.Join([][]byte{number(1, 8), field(2, []byte("test")), number(5, version), field(7, graph...), field(8, number(2, 17))}, nil)
}

// folder writes files and returns where.
func folder(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func index(weights map[string]string, metadata string) []byte {
	b, _ := json.Marshal(weights)
	return fmt.Appendf(nil, `{"metadata": %s, "weight_map": %s}`, metadata, b)
}

func TestRead(t *testing.T) {
	one := writeSafetensors("pt", tensor{"a.weight", "BF16", []int64{100, 30}}, tensor{"a.bias", "F32", []int64{30}}, tensor{"scalar", "F32", []int64{}})
	two := writeSafetensors("pt", tensor{"b.weight", "BF16", []int64{10, 30}})
	packed := writeSafetensors("pt", tensor{"a.qweight", "I32", []int64{100, 30}}, tensor{"a.scales", "F16", []int64{30, 4}})
	config := []byte(`{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 30}`)
	words := make([]string, 2000)
	for i := range words {
		words[i] = strings.Repeat("w", i%40)
	}
	llama := ggufFile{version: 3, keys: []any{
		"general.architecture", "llama", "general.version", "v1.0", "general.file_type", uint32(15), "tokenizer.ggml.tokens", words,
		"tokenizer.ggml.token_type",
		[]int32{1, 2, 3},
		"llama.context_length", uint64(4096), "llama.rope.freq_base", float32(1), "x.flag", true,
	}, tensors: []ggufTensor{{"token_embd.weight", []uint64{64, 1000}, 12, 0}, {"blk.0.attn_q.weight", []uint64{64, 64}, 12, 36000}}, data: 40000}
	big := llama
	big.order = binary.BigEndian
	part1, part2 := ggufFile{version: 3, keys: []any{"general.architecture", "llama", "split.count", uint32(2)}},
		ggufFile{version: 3, tensors: []ggufTensor{{"w", []uint64{32, 10}, 8, 0}}, data: 340}
	for _, tt := range []struct {
		name  string
		files map[string][]byte
		path  string
		want  Facts // Bytes is of the files named in sizes
		sizes []string
	}{
		{
			name: "one file", files: map[string][]byte{"model.safetensors": one}, path: "model.safetensors", sizes: []string{"model.safetensors"},
			want: Facts{Parameters: 3031, Precision: "bfloat16", Framework: "pytorch"},
		},
		{
			name: "a folder with a config", files: map[string][]byte{"model.safetensors": one, "config.json": config, "tokenizer.json": []byte("{}"), "consolidated.safetensors": one},
			sizes: []string{"model.safetensors"},
			want:  Facts{Parameters: 3031, Precision: "bfloat16", Framework: "pytorch", Architecture: "LlamaForCausalLM"},
		},
		{
			name: "parts by their index", files: map[string][]byte{
				"model.safetensors.index.json":     index(map[string]string{"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}, `{"total_size": 6720}`),
				"model-00001-of-00002.safetensors": one, "model-00002-of-00002.safetensors": two, "old.safetensors": two, "config.json": config,
			},
			sizes: []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
			want:  Facts{Parameters: 3331, Precision: "bfloat16", Framework: "pytorch", Architecture: "LlamaForCausalLM"},
		},
		{
			name: "a pattern", files: map[string][]byte{"model-00001-of-00002.safetensors": one, "model-00002-of-00002.safetensors": two, "x.safetensors": one},
			path: "model-*.safetensors", sizes: []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
			want: Facts{Parameters: 3331, Precision: "bfloat16", Framework: "pytorch"},
		},
		{
			name: "one of the parts stands for all", files: map[string][]byte{"model-00001-of-00002.safetensors": one, "model-00002-of-00002.safetensors": two},
			path: "model-00001-of-00002.safetensors", sizes: []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
			want: Facts{Parameters: 3331, Precision: "bfloat16", Framework: "pytorch"},
		},
		{
			name: "packed weights have no number", files: map[string][]byte{"model.safetensors": packed, "config.json": []byte(`{"model_type": "qwen2", "quantization_config": {"quant_method": "gptq", "bits": 4}}`)},
			sizes: []string{"model.safetensors"},
			want:  Facts{Precision: "gptq-4bit", Framework: "pytorch", Architecture: "qwen2"},
		},
		{
			name: "unless the index tells it", files: map[string][]byte{
				"model.safetensors.index.json": index(map[string]string{"a.qweight": "model.safetensors"}, `{"total_parameters": 24000}`), "model.safetensors": packed,
			},
			sizes: []string{"model.safetensors"}, want: Facts{Parameters: 24000, Precision: "int32", Framework: "pytorch"},
		},
		{
			name: "config alone", files: map[string][]byte{"config.json": []byte(`{"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"dtype": "bfloat16"}}`)},
			want: Facts{Precision: "bfloat16", Framework: "transformers", Architecture: "Gemma3ForConditionalGeneration"},
		},
		{
			name: "a config of something else", files: map[string][]byte{"model.safetensors": two, "config.json": []byte(`{"port": 8080}`)},
			sizes: []string{"model.safetensors"}, want: Facts{Parameters: 300, Precision: "bfloat16", Framework: "pytorch"},
		},
		{
			name: "gguf", files: map[string][]byte{"llama-Q4_K_M.gguf": llama.bytes()}, path: "llama-Q4_K_M.gguf", sizes: []string{"llama-Q4_K_M.gguf"},
			want: Facts{Parameters: 68096, Precision: "q4_k_m", Framework: "gguf", Architecture: "llama", Version: "v1.0"},
		},
		{
			name: "gguf with the high byte first", files: map[string][]byte{"m.gguf": big.bytes()}, path: "m.gguf", sizes: []string{"m.gguf"},
			want: Facts{Parameters: 68096, Precision: "q4_k_m", Framework: "gguf", Architecture: "llama", Version: "v1.0"},
		},
		{
			name: "gguf in parts, the first without weights", files: map[string][]byte{"m-00001-of-00002.gguf": part1.bytes(), "m-00002-of-00002.gguf": part2.bytes()},
			path: "m-00001-of-00002.gguf", sizes: []string{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"},
			want: Facts{Parameters: 320, Precision: "q8_0", Framework: "gguf", Architecture: "llama"},
		},
		{
			name: "onnx", files: map[string][]byte{"m.onnx": onnxModel(3,
				field(1, field(4, []byte("If")), field(5, field(1, []byte("then_branch")), field(6, field(5, onnxTensor(1, 5))))), // a branch
				field(5, onnxTensor(1, 10, 20)), field(5, onnxTensor(7, 4)), // a shape, no weights
				field(15, field(1, onnxTensor(1, 7)), field(2, onnxTensor(7, 7))), // sparse
				field(5, append(field(1, []byte{3, 4}), number(2, 10)...)),        // packed dims, float16
			)}, path: "m.onnx", sizes: []string{"m.onnx"},
			want: Facts{Parameters: 5 + 200 + 7 + 12, Precision: "float32", Framework: "onnx", Version: "3"},
		},
		{
			name: "onnx with weights in another file", files: map[string][]byte{
				"m.onnx": onnxModel(0, field(5, number(1, 1000), number(2, 16), field(13, field(1, []byte("location")), field(2, []byte("data/m.bin"))),
					field(13, field(1, []byte("length")), field(2, []byte("2000"))), number(14, 1))),
				"data/m.bin": make([]byte, 2000),
			},
			path: "m.onnx", sizes: []string{"m.onnx", "data/m.bin"}, want: Facts{Parameters: 1000, Precision: "bfloat16", Framework: "onnx"},
		},
		{name: "a size alone", files: map[string][]byte{"rank0.engine": make([]byte, 77)}, sizes: []string{"rank0.engine"}, want: Facts{Framework: "tensorrt"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t, tt.files)
			got, err := Read(filepath.Join(dir, tt.path))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range tt.sizes {
				tt.want.Bytes += int64(len(tt.files[name]))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("facts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadErrors(t *testing.T) {
	whole := writeSafetensors("pt", tensor{"a", "F32", []int64{100}})
	header := func(text string, data int) []byte {
		return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), make([]byte, data)...)
	}
	gguf := ggufFile{version: 3, keys: []any{"general.architecture", "llama"}, tensors: []ggufTensor{{"w", []uint64{32, 10}, 8, 4096}}, data: 340}
	old, huge := gguf, gguf
	old.version = 1
	huge.tensors = []ggufTensor{{"w", []uint64{1 << 40, 1 << 40}, 0, 0}}
	for _, tt := range []struct {
		name  string
		files map[string][]byte
		path  string
		want  string // with DIR for the folder
	}{
		{name: "nothing there", path: "m.safetensors", want: "stat DIR/m.safetensors: no such file or directory"},
		{name: "no match", path: "*.safetensors", want: "DIR/*.safetensors: no file matches: file does not exist"},
		{name: "not a pattern", path: "[", want: "DIR/[: not a pattern: syntax error in pattern"},
		{name: "an empty folder", want: "DIR: a folder without weights: expected a file that ends in .safetensors, .gguf or .onnx (or .engine, .plan, .pt, .pth, .bin, .tflite, .pb, .keras, .h5 for the size alone)"},
		{name: "no weights", files: map[string][]byte{"m.txt": nil}, path: "m.txt", want: "DIR/m.txt: no weights by its name: expected one that ends in .safetensors, .gguf or .onnx (or .engine, .plan, .pt, .pth, .bin, .tflite, .pb, .keras, .h5 for the size alone), or a folder"},
		{name: "two formats", files: map[string][]byte{"a.gguf": gguf.bytes()[:200], "m.safetensors": whole}, path: "[am].*", want: "DIR/a.gguf: gguf: "},
		{name: "empty", files: map[string][]byte{"m.safetensors": nil}, path: "m.safetensors", want: "DIR/m.safetensors: safetensors: 0 bytes: expected 8 with the length of the header, then the header"},
		{name: "not safetensors", files: map[string][]byte{"m.safetensors": []byte("PK\x03\x04 a zip file")}, path: "m.safetensors", want: "expected its length in the first 8 bytes, or the file is cut short"},
		{name: "cut short", files: map[string][]byte{"m.safetensors": whole[:len(whole)-1]}, path: "m.safetensors", want: `DIR/m.safetensors: safetensors: tensor "a": ends at byte 400 of 399 of the weights: the file is cut short`},
		{name: "an array", files: map[string][]byte{"m.safetensors": header("[1]", 0)}, path: "m.safetensors", want: "expected a JSON object after the 8 bytes of its length"},
		{name: "not JSON", files: map[string][]byte{"m.safetensors": header("{nonsense}", 0)}, path: "m.safetensors", want: "the header is not the JSON that was expected: jsontext: "},
		{name: "two of a name", files: map[string][]byte{"m.safetensors": header(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4)}, path: "m.safetensors", want: "duplicate"},
		{name: "no shape", files: map[string][]byte{"m.safetensors": header(`{"a":{"dtype":"F32"}}`, 0)}, path: "m.safetensors", want: `tensor "a": expected its dtype, shape and data_offsets [begin, end]`},
		{name: "a negative shape", files: map[string][]byte{"m.safetensors": header(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}`, 0)}, path: "m.safetensors", want: `tensor "a": a shape of "[-1]"`},
		{name: "a shape without end", files: map[string][]byte{"m.safetensors": header(`{"a":{"dtype":"F32","shape":[9000000000,9000000000],"data_offsets":[0,0]}}`, 0)}, path: "m.safetensors", want: `tensor "a": a shape of "[9000000000 9000000000]"`},
		{name: "too many bytes for the shape", files: map[string][]byte{"m.safetensors": header(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,400]}}`, 400)}, path: "m.safetensors", want: `tensor "a": 400 bytes for 2 numbers of F32`},
		{name: "a header over the limit", files: map[string][]byte{"m.safetensors": append(binary.LittleEndian.AppendUint64(nil, 32<<20+1), make([]byte, 32<<20+1)...)}, path: "m.safetensors", want: "a header of 33554433 bytes, and at most 33554432 are read"},
		{name: "a part is missing", files: map[string][]byte{"m-00001-of-00002.safetensors": whole}, path: "m-00001-of-00002.safetensors", want: "DIR/m-00001-of-00002.safetensors: one of 2 files, of which one is missing: stat DIR/m-00002-of-00002.safetensors: no such file or directory"},
		{name: "a part of the index is missing", files: map[string][]byte{"model.safetensors.index.json": index(map[string]string{"a": "x.safetensors"}, "{}")}, want: "DIR/model.safetensors.index.json: DIR/x.safetensors: no such file or directory"},
		{name: "an index that leads away", files: map[string][]byte{"model.safetensors.index.json": index(map[string]string{"a": "../x.safetensors"}, "{}")}, want: `DIR/model.safetensors.index.json: weight_map has "../x.safetensors": expected the name of a file beside it`},
		{name: "an index of nothing", files: map[string][]byte{"model.safetensors.index.json": []byte("{}")}, want: "DIR/model.safetensors.index.json: weight_map has 0 files: expected 1 to 10000"},
		{name: "a broken config", files: map[string][]byte{"model.safetensors": whole, "config.json": []byte("{")}, want: "DIR/config.json: expected the JSON of a config.json: unexpected end of JSON input"},
		{name: "a config of something else alone", files: map[string][]byte{"config.json": []byte(`{"a":1}`)}, path: "config.json", want: "DIR/config.json: not a config.json of transformers: expected architectures, model_type or torch_dtype"},
		{name: "not gguf", files: map[string][]byte{"m.gguf": []byte("GGML....")}, path: "m.gguf", want: "DIR/m.gguf: gguf: expected the four letters GGUF at its beginning"},
		{name: "an old gguf", files: map[string][]byte{"m.gguf": old.bytes()}, path: "m.gguf", want: "gguf: version 1 of the format: expected 2 or 3"},
		{name: "gguf without its weights", files: map[string][]byte{"m.gguf": gguf.bytes()}, path: "m.gguf", want: "gguf: a tensor begins at byte 4096 of the weights, and the file has"},
		{name: "gguf cut short in its header", files: map[string][]byte{"m.gguf": gguf.bytes()[:60]}, path: "m.gguf", want: "the header goes on after the end: the file is cut short"},
		{name: "gguf with a shape without end", files: map[string][]byte{"m.gguf": huge.bytes()}, path: "m.gguf", want: `tensor "w": dimensions of [1099511627776 1099511627776], more than can be told`},
		{name: "two ggufs", files: map[string][]byte{"a.gguf": ggufFile{version: 3, tensors: []ggufTensor{{"w", []uint64{2}, 0, 0}}, data: 8}.bytes(), "b.gguf": ggufFile{version: 3, tensors: []ggufTensor{{"w", []uint64{2}, 0, 0}}, data: 8}.bytes()}, path: "*.gguf", want: "DIR/b.gguf: a whole model beside DIR/a.gguf: name one of them"},
		{name: "not onnx", files: map[string][]byte{"m.onnx": []byte("<html>")}, path: "m.onnx", want: "DIR/m.onnx: onnx: no model: "},
		{name: "an empty onnx", files: map[string][]byte{"m.onnx": nil}, path: "m.onnx", want: "DIR/m.onnx: onnx: no model: expected a graph in it"},
		{name: "onnx cut short", files: map[string][]byte{"m.onnx": onnxModel(1, field(5, onnxTensor(1, 100)))[:60]}, path: "m.onnx", want: "a field of "},
		{name: "onnx that leads away", files: map[string][]byte{"m.onnx": onnxModel(0, field(5, number(2, 1), field(13, field(1, []byte("location")), field(2, []byte("../../etc/passwd"))), number(14, 1)))}, path: "m.onnx", want: `DIR/m.onnx: onnx: weights in "../../etc/passwd": expected a file below the folder of the model`},
		{name: "onnx without its weights", files: map[string][]byte{"m.onnx": onnxModel(0, field(5, number(2, 1), field(13, field(1, []byte("location")), field(2, []byte("m.bin"))), number(14, 1)))}, path: "m.onnx", want: `DIR/m.onnx: onnx: weights in "m.bin": no such file or directory`},
		{name: "two onnx", files: map[string][]byte{"a.onnx": onnxModel(1), "b.onnx": onnxModel(1)}, want: "DIR: 2 models end in .onnx: name one of them"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t, tt.files)
			f, err := Read(filepath.Join(dir, tt.path))
			if err == nil {
				t.Fatalf("no error, and %+v", f)
			}
			if got := strings.ReplaceAll(err.Error(), dir, "DIR"); !strings.Contains(got, tt.want) {
				t.Errorf("error\n  %s\nwant in it\n  %s", got, tt.want)
			}
		})
	}
	if _, err := Read(""); err == nil {
		t.Error("no path, and no error")
	}
}

// TestReadONNXFiles reads real files, where they are at hand. What they must give was told by another reader of protobuf.
func TestReadONNXFiles(t *testing.T) {
	const cache = "../../../.cache/models/"
	for file, want := range map[string]Facts{
		cache + "mlp_128.onnx":   {Bytes: 142583, Parameters: 128*256 + 256 + 256*10 + 10, Precision: "float32", Framework: "onnx"},
		cache + "mlp_768.onnx":   {Bytes: 37779829, Parameters: 9444864, Precision: "float32", Framework: "onnx"},
		cache + "conv_224.onnx":  {Bytes: 765894, Parameters: 190922, Precision: "float32", Framework: "onnx"},
		cache + "embedding.onnx": {Bytes: 64346, Parameters: 16000, Precision: "float32", Framework: "onnx"},
	} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if _, err := os.Stat(file); err != nil {
				t.Skip("not at hand: ", err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := Read(file)
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("%d bytes allocated: it was loaded", n)
			}
		})
	}
	// Trees and graphs without weights have a size alone.
	caches, _ := filepath.Glob(filepath.Join(os.Getenv("HOME"), "go/pkg/mod/github.com/yalue/onnxruntime_go@*/test_data/*.onnx"))
	for _, file := range caches {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Read(file)
		if err != nil || got.Bytes != info.Size() || got.Parameters != 0 || got.Framework != "onnx" {
			t.Errorf("%s: %+v, %v", filepath.Base(file), got, err)
		}
		if want := "1337"; filepath.Base(file) == "example_big_compute.onnx" && got.Version != want {
			t.Errorf("%s: version %q, want %q", filepath.Base(file), got.Version, want)
		}
	}
}

func TestReadIsNoFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no device to open")
	}
	dir := t.TempDir()
	link := filepath.Join(dir, "m.safetensors")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(link); err == nil || !strings.Contains(err.Error(), "not a file with contents of its own") {
		t.Errorf("a device: %v", err)
	}
}

func FuzzSafetensors(f *testing.F) {
	f.Add(writeSafetensors("pt", tensor{"a", "BF16", []int64{3, 4}}, tensor{"b", "F4", []int64{8}}))
	f.Add(writeSafetensors("", tensor{"a", "I32", []int64{3, 0}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, err := safetensors(bytes.NewReader(b), int64(len(b)))
		consistent(t, facts, err, len(b))
	})
}

func FuzzGGUF(f *testing.F) {
	f.Add(ggufFile{version: 3, keys: []any{"general.architecture", "llama", "t", []string{"a", "b"}, "n", []int32{1}}, tensors: []ggufTensor{{"w", []uint64{4, 4}, 0, 0}}, data: 64}.bytes())
	f.Add(ggufFile{version: 2, order: binary.BigEndian, keys: []any{"general.alignment", uint32(64)}}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, err := gguf(bytes.NewReader(b), int64(len(b)))
		consistent(t, facts, err, len(b))
	})
}

func FuzzONNX(f *testing.F) {
	f.Add(onnxModel(1, field(5, onnxTensor(1, 2, 3)), field(1, field(5, field(6, field(5, onnxTensor(1, 1)))))))
	f.Add(onnxModel(1, field(5, number(2, 1), field(13, field(1, []byte("location")), field(2, []byte("x"))), number(14, 1))))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := walkONNX(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			consistent(t, w.facts, err, len(b))
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"architectures": ["A"], "torch_dtype": "bfloat16", "text_config": {"dtype": {"x": 1}}, "quantization_config": {"quant_method": "awq", "bits": 4}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err == nil {
			c.facts(Facts{})
		}
	})
}

// consistent is what holds whatever is in a file.
func consistent(t *testing.T, f Facts, err error, size int) {
	t.Helper()
	if err != nil && f != (Facts{}) {
		t.Errorf("%+v beside the error %v", f, err)
	}
	if err == nil && (f.Parameters < 0 || f.Bytes != int64(size)) {
		t.Errorf("of %d bytes: %+v", size, f)
	}
}

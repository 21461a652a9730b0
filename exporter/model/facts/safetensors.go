package facts

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// maxHeader is the longest header of a safetensors file that is read. The format allows 100 MB; the header of 200 billion
// parameters in one file is below 1 MB.
const maxHeader = 32 << 20

// types are safetensors' names of what numbers are stored as, and how many bits one takes.
var types = map[string]struct {
	name string
	bits int64
}{
	"F64": {"float64", 64}, "F32": {"float32", 32}, "F16": {"float16", 16}, "BF16": {"bfloat16", 16},
	"F8_E4M3": {"float8_e4m3", 8}, "F8_E5M2": {"float8_e5m2", 8}, "F8_E8M0": {"float8_e8m0", 8}, "F6_E2M3": {"float6_e2m3", 6},
	"F6_E3M2": {"float6_e3m2", 6}, "F4": {"float4", 4}, "C64": {"complex64", 64},
	"I64": {"int64", 64}, "I32": {"int32", 32}, "I16": {"int16", 16}, "I8": {"int8", 8},
	"U64": {"uint64", 64}, "U32": {"uint32", 32}, "U16": {"uint16", 16}, "U8": {"uint8", 8}, "BOOL": {"bool", 8},
}

// readSafetensors reads the header of a safetensors file: its length in 8 bytes, little-endian, then a JSON object of tensors
// by name. The bytes of each must be within the file, so that half a download is no model.
func readSafetensors(file string) (Facts, error) {
	f, size, err := open(file)
	if err != nil {
		return Facts{}, err
	}
	defer f.Close()
	facts, err := safetensors(f, size)
	if err != nil {
		return Facts{}, fmt.Errorf("safetensors: %w", err)
	}
	return facts, nil
}

func safetensors(r io.Reader, size int64) (Facts, error) {
	var length [8]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return Facts{}, fmt.Errorf("%d bytes: expected 8 with the length of the header, then the header", size)
	}
	n := binary.LittleEndian.Uint64(length[:])
	switch {
	case n > uint64(size-8):
		return Facts{}, fmt.Errorf("a header of %d bytes in a file of %d: expected its length in the first 8 bytes, or the file is cut short", n, size)
	case n > maxHeader:
		return Facts{}, fmt.Errorf("a header of %d bytes, and at most %d are read", n, maxHeader)
	}
	data := size - 8 - int64(n) // bytes of weights
	d := jsontext.NewDecoder(bufio.NewReader(io.LimitReader(r, int64(n))))
	if kind := d.PeekKind(); kind != jsontext.KindBeginObject {
		return Facts{}, errors.New("expected a JSON object after the 8 bytes of its length")
	}
	if _, err := d.ReadToken(); err != nil {
		return Facts{}, err
	}
	facts := Facts{Bytes: size}
	stored := map[string]int64{} // bytes by type
	var packed int64             // bytes of tensors that hold several weights in a number
	tensors := 0
	for d.PeekKind() != jsontext.KindEndObject {
		token, err := d.ReadToken()
		if err != nil {
			return Facts{}, badHeader(err)
		}
		name := token.String()
		value, err := d.ReadValue()
		if err != nil {
			return Facts{}, badHeader(err)
		}
		if name == "__metadata__" {
			facts.Framework = framework(value)
			continue
		}
		if tensors++; tensors > maxTensors {
			return Facts{}, fmt.Errorf("more than %d tensors, and no more are read", maxTensors)
		}
		var t struct {
			Type    string  `json:"dtype"`
			Shape   []int64 `json:"shape"`
			Offsets []int64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(value, &t); err != nil || len(t.Offsets) != 2 || t.Shape == nil {
			return Facts{}, fmt.Errorf("tensor %s: expected its dtype, shape and data_offsets [begin, end]", quote(name))
		}
		numbers, ok := product(t.Shape)
		if !ok || len(t.Shape) > maxDims {
			return Facts{}, fmt.Errorf("tensor %s: a shape of %s", quote(name), quote(fmt.Sprint(t.Shape)))
		}
		begin, end := t.Offsets[0], t.Offsets[1]
		switch {
		case begin < 0 || end < begin:
			return Facts{}, fmt.Errorf("tensor %s: data_offsets of [%d, %d]", quote(name), begin, end)
		case end > data:
			return Facts{}, fmt.Errorf("tensor %s: ends at byte %d of %d of the weights: the file is cut short", quote(name), end, data)
		}
		kind, known := types[t.Type]
		if known && numbers != 0 && (end-begin)/numbers > kind.bits/8+1 { // not exactly, as six bits are not whole bytes
			return Facts{}, fmt.Errorf("tensor %s: %d bytes for %d numbers of %s", quote(name), end-begin, numbers, t.Type)
		}
		if facts.Parameters, ok = add(facts.Parameters, numbers); !ok {
			return Facts{}, errors.New("more parameters than can be told")
		}
		stored[first(kind.name, strings.ToLower(t.Type))] += end - begin
		if len(t.Shape) > 1 && slices.Contains([]string{"U8", "I32", "U32"}, t.Type) {
			packed += end - begin
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return Facts{}, badHeader(err)
	}
	facts.Precision = most(stored)
	if packed > data/10 {
		facts.Parameters = 0 // what was counted is the numbers that they are packed in
	}
	return facts, nil
}

func badHeader(err error) error {
	return fmt.Errorf("the header is not the JSON that was expected: %w", err)
}

// framework is what the metadata of a safetensors file says wrote it.
func framework(metadata []byte) string {
	var m struct {
		Format string `json:"format"`
	}
	if json.Unmarshal(metadata, &m) != nil {
		return ""
	}
	switch m.Format {
	case "pt":
		return "pytorch"
	case "tf":
		return "tensorflow"
	case "flax":
		return "jax"
	case "np":
		return "numpy"
	case "mlx":
		return "mlx"
	}
	return ""
}

// readIndex returns the files that the index of a model in parts lists, and the number of parameters if it tells that.
func readIndex(file string) (files []string, parameters int64, err error) {
	b, err := readSmall(file, maxHeader)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", file, err)
	}
	var index struct {
		Metadata struct {
			Parameters float64 `json:"total_parameters"`
		} `json:"metadata"`
		Weights map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, 0, fmt.Errorf("%s: expected JSON with the files by tensor in weight_map: %w", file, err)
	}
	names := map[string]bool{}
	for _, name := range index.Weights {
		if name != filepath.Base(name) || name == "." || name == ".." {
			return nil, 0, fmt.Errorf("%s: weight_map has %s: expected the name of a file beside it", file, quote(name))
		}
		names[name] = true
	}
	if len(names) == 0 || len(names) > maxFiles {
		return nil, 0, fmt.Errorf("%s: weight_map has %d files: expected 1 to %d", file, len(names), maxFiles)
	}
	for name := range names {
		files = append(files, filepath.Join(filepath.Dir(file), name))
	}
	slices.Sort(files)
	if p := index.Metadata.Parameters; p > 0 && p < 1e18 {
		parameters = int64(p)
	}
	return files, parameters, nil
}

// quote writes what a file contains as it may stand in a message: quoted, and not all of it.
func quote(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "..."
	}
	return strconv.Quote(s)
}

package facts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Facts is what the files of a model say of it. An empty text and a 0 are what they do not say.
type Facts struct {
	Bytes        int64  // what the files of the weights take on the disk
	Parameters   int64  // numbers in the weights
	Precision    string // what most of them are stored as: float32, bfloat16, q4_k_m, gptq-4bit
	Framework    string // what wrote or runs them: pytorch, onnx, gguf, tensorrt
	Architecture string // LlamaForCausalLM, llama
	Version      string // that the file itself has
}

// What is read of any model, however much there is. Ten times what the largest public models have.
const (
	maxFiles   = 10_000
	maxTensors = 1_000_000
	maxDims    = 64
)

// formats are the files that are weights, by the ending of their names; all but the first three have a size alone.
var formats = map[string]struct {
	framework string
	read      func(string) (Facts, error)
}{
	".safetensors": {"", readSafetensors},
	".gguf":        {"gguf", readGGUF},
	".onnx":        {"onnx", readONNX},
	".engine":      {"tensorrt", sizeOf},
	".plan":        {"tensorrt", sizeOf},
	".pt":          {"pytorch", sizeOf},
	".pth":         {"pytorch", sizeOf},
	".bin":         {"pytorch", sizeOf},
	".tflite":      {"tensorflow", sizeOf},
	".pb":          {"tensorflow", sizeOf},
	".keras":       {"tensorflow", sizeOf},
	".h5":          {"tensorflow", sizeOf},
}

// Read returns what the files at path say: a file, a folder as Hugging Face's libraries write it, or a pattern in the syntax
// of filepath.Match, whose files are the parts of one model. Of a file that is one of several parts (model-00001-of-00004) all
// are read. An error names the file and what was expected of it.
func Read(path string) (Facts, error) {
	files, err := expand(path)
	if err != nil {
		return Facts{}, err
	}
	if len(files) == 1 {
		if info, err := os.Stat(files[0]); err == nil && info.IsDir() {
			return readFolder(files[0])
		}
		if files, err = parts(files[0]); err != nil {
			return Facts{}, err
		}
	}
	if filepath.Base(files[0]) == "config.json" && len(files) == 1 {
		c, err := readConfig(files[0])
		if err != nil {
			return Facts{}, err
		}
		return c.facts(Facts{Framework: "transformers"}), nil
	}
	f, err := readFiles(files)
	if err != nil {
		return Facts{}, err
	}
	return withConfig(filepath.Dir(files[0]), f)
}

// expand returns the files that path names.
func expand(path string) ([]string, error) {
	if path == "" {
		return nil, errors.New("no path of a model's files: give a file, a folder or a pattern")
	}
	_, err := os.Stat(path)
	if err == nil {
		return []string{path}, nil
	}
	if !strings.ContainsAny(path, `*?[`) {
		return nil, err // which names the path
	}
	files, err := filepath.Glob(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: not a pattern: %w", path, err)
	case len(files) == 0:
		return nil, fmt.Errorf("%s: no file matches: %w", path, fs.ErrNotExist)
	case len(files) > maxFiles:
		return nil, fmt.Errorf("%s: %d files match, and at most %d are read", path, len(files), maxFiles)
	}
	slices.Sort(files)
	return files, nil
}

// readFiles reads the parts of one model.
func readFiles(files []string) (Facts, error) {
	var all Facts
	largest := int64(-1) // bytes of the part that says what the precision is
	unknown := false
	for i, file := range files {
		ending := strings.ToLower(filepath.Ext(file))
		format, ok := formats[ending]
		if !ok {
			return Facts{}, fmt.Errorf("%s: no weights by its name: expected one that ends in %s, or a folder", file, endings())
		}
		if ending != strings.ToLower(filepath.Ext(files[0])) {
			return Facts{}, fmt.Errorf("%s: beside %s it is of another format: the files of one model are of one", file, files[0])
		}
		f, err := format.read(file)
		if err != nil {
			return Facts{}, fmt.Errorf("%s: %w", file, err)
		}
		if i > 0 && ending == ".gguf" && f.Parameters > 0 && !isPart(file) {
			return Facts{}, fmt.Errorf("%s: a whole model beside %s: name one of them", file, files[0])
		}
		var fits bool
		if all.Bytes, fits = add(all.Bytes, f.Bytes); !fits {
			return Facts{}, fmt.Errorf("%s: with the other files more than %d bytes", file, int64(math.MaxInt64))
		}
		if all.Parameters, fits = add(all.Parameters, f.Parameters); !fits {
			return Facts{}, fmt.Errorf("%s: with the other files more than %d parameters", file, int64(math.MaxInt64))
		}
		unknown = unknown || f.Parameters == 0 && ending != ".gguf" // GGUF's first part can be of metadata alone
		if f.Bytes > largest {
			largest = f.Bytes
			if f.Precision != "" {
				all.Precision = f.Precision
			}
		}
		all.Framework = first(all.Framework, f.Framework, format.framework)
		all.Architecture = first(all.Architecture, f.Architecture)
		all.Version = first(all.Version, f.Version)
	}
	if unknown {
		all.Parameters = 0
	}
	return all, nil
}

// readFolder reads a folder: the parts that its index lists, or the weights that are in it, and its config.json.
func readFolder(folder string) (Facts, error) {
	for _, name := range []string{"model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"} {
		index := filepath.Join(folder, name)
		if _, err := os.Stat(index); err != nil {
			continue
		}
		files, total, err := readIndex(index)
		if err != nil {
			return Facts{}, err
		}
		f, err := readFiles(files)
		if err != nil {
			return Facts{}, fmt.Errorf("%s: %w", index, err)
		}
		if f.Parameters == 0 {
			f.Parameters = total
		}
		return withConfig(folder, f)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return Facts{}, err
	}
	if len(entries) > maxFiles {
		return Facts{}, fmt.Errorf("%s: a folder of %d files, and at most %d are read: name the files", folder, len(entries), maxFiles)
	}
	byEnding := map[string][]string{}
	for _, e := range entries {
		if ending := strings.ToLower(filepath.Ext(e.Name())); !e.IsDir() && formats[ending].read != nil {
			byEnding[ending] = append(byEnding[ending], filepath.Join(folder, e.Name()))
		}
	}
	for _, ending := range []string{".safetensors", ".gguf", ".onnx", ".engine", ".plan", ".pt", ".pth", ".bin", ".tflite", ".pb", ".keras", ".h5"} {
		files := byEnding[ending]
		if len(files) == 0 {
			continue
		}
		// model.safetensors or model-00001-of-00002.safetensors beside others, such as consolidated.safetensors, are the model
		// as the libraries load it; the others are the same weights once more.
		if named := slices.DeleteFunc(slices.Clone(files), func(f string) bool {
			base := filepath.Base(f)
			return base != "model"+ending && !strings.HasPrefix(base, "model-")
		}); len(named) > 0 {
			files = named
		}
		if len(files) > 1 && (ending == ".onnx" || ending == ".engine" || ending == ".plan") {
			return Facts{}, fmt.Errorf("%s: %d models end in %s: name one of them", folder, len(files), ending)
		}
		f, err := readFiles(files)
		if err != nil {
			return Facts{}, err
		}
		return withConfig(folder, f)
	}
	if c, err := readConfig(filepath.Join(folder, "config.json")); err == nil {
		return c.facts(Facts{Framework: "transformers"}), nil
	}
	return Facts{}, fmt.Errorf("%s: a folder without weights: expected a file that ends in %s", folder, endings())
}

// withConfig adds what config.json beside the weights says, if there is one.
func withConfig(folder string, f Facts) (Facts, error) {
	c, err := readConfig(filepath.Join(folder, "config.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, nil
	case err != nil && errors.Is(err, errNotConfig):
		return f, nil // Triton and others have files of that name too
	case err != nil:
		return Facts{}, err
	}
	return c.facts(f), nil
}

// isPart says whether a file is one of several by its name, such as model-00002-of-00004.gguf.
func isPart(file string) bool {
	_, _, _, ok := part(file)
	return ok
}

// part takes the name of one of several files apart: what stands before the number, how many there are, and the ending.
func part(file string) (stem string, of int, ending string, ok bool) {
	ending = filepath.Ext(file)
	stem = strings.TrimSuffix(file, ending)
	const suffix = len("-00001-of-00004")
	if len(stem) <= suffix {
		return "", 0, "", false
	}
	tail := stem[len(stem)-suffix:]
	if tail[0] != '-' || tail[6:10] != "-of-" {
		return "", 0, "", false
	}
	for _, digits := range []string{tail[1:6], tail[10:]} {
		of = 0
		for _, c := range []byte(digits) {
			if c < '0' || c > '9' {
				return "", 0, "", false
			}
			of = of*10 + int(c-'0')
		}
	}
	return stem[:len(stem)-suffix], of, ending, of > 0
}

// parts returns all the files that a file is one of, or itself.
func parts(file string) ([]string, error) {
	stem, of, ending, ok := part(file)
	if !ok {
		return []string{file}, nil
	}
	if of > maxFiles {
		return nil, fmt.Errorf("%s: one of %d files by its name, and at most %d are read", file, of, maxFiles)
	}
	files := make([]string, of)
	for i := range files {
		files[i] = fmt.Sprintf("%s-%05d-of-%05d%s", stem, i+1, of, ending)
		if _, err := os.Stat(files[i]); err != nil {
			return nil, fmt.Errorf("%s: one of %d files, of which one is missing: %w", file, of, err)
		}
	}
	return files, nil
}

// sizeOf reads a format that only its size is told of.
func sizeOf(file string) (Facts, error) {
	f, size, err := open(file)
	if err != nil {
		return Facts{}, err
	}
	return Facts{Bytes: size}, f.Close()
}

// open opens a file to read from it; a pipe or a device is none.
func open(file string) (*os.File, int64, error) {
	info, err := os.Stat(file) // first: to open a pipe waits for its writer
	if err != nil {
		return nil, 0, pathless(err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.New("not a file with contents of its own: expected one that holds weights")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, pathless(err)
	}
	return f, info.Size(), nil
}

// pathless is an error of a file without the path, which whoever reports it puts before.
func pathless(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// readSmall reads a whole file of at most limit bytes.
func readSmall(file string, limit int64) ([]byte, error) {
	f, size, err := open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%d bytes, and at most %d are read", size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1)) // which may have grown
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("more than %d bytes, and no more are read", limit)
	}
	return b, err
}

func endings() string {
	return ".safetensors, .gguf or .onnx (or " + strings.Join([]string{".engine", ".plan", ".pt", ".pth", ".bin", ".tflite", ".pb", ".keras", ".h5"}, ", ") + " for the size alone)"
}

// add adds two numbers of at least 0, if the sum can be told.
func add(a, b int64) (sum int64, ok bool) {
	if a > math.MaxInt64-b {
		return 0, false
	}
	return a + b, true
}

// product multiplies the dimensions of a tensor, if each is at least 0 and the product can be told.
func product(dims []int64) (n int64, ok bool) {
	n = 1
	for _, d := range dims {
		switch {
		case d < 0:
			return 0, false
		case d == 0:
			n = 0
		case n > math.MaxInt64/d:
			return 0, false
		default:
			n *= d
		}
	}
	return n, true
}

// first returns the first text that is not empty.
func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// most returns the key with the largest value, the first by name of several.
func most(bytes map[string]int64) string {
	best := ""
	for k, v := range bytes {
		if best == "" || v > bytes[best] || v == bytes[best] && k < best {
			best = k
		}
	}
	return best
}

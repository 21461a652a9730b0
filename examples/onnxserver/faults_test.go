package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/onnxserver/models"
)

// TestRequestFaults: each says where it is, what is there and what is wanted.
func TestRequestFaults(t *testing.T) {
	opts := defaultOptions()
	opts.MaxBatch = 3
	opts.MaxBody = 4096
	_, c := start(t, opts, written(t, "hand", byHand().ONNX()), modelFile{Name: "pair", File: file(t, "embedding")})
	const v1, v2, pair = "/v1/models/hand:predict", "/v2/models/hand/infer", "/v2/models/pair/infer"
	input := func(name, datatype, shape, data string) string {
		return fmt.Sprintf(`{"inputs":[{"name":%q,"datatype":%q,"shape":%s,"data":%s}]}`, name, datatype, shape, data)
	}
	scale := `{"name":"scale","datatype":"FP32","shape":[1,1],"data":[1]}`
	for _, tt := range []struct {
		name, path, body string
		head             int // length of the JSON, where there is a header that says it
		code             int // 400 where left out
		want             string
	}{
		{name: "empty", path: v1, body: "", want: `body: empty; give a JSON object`},
		{name: "array", path: v2, body: "[1]", want: `body: an array; give an object`},
		{name: "cut short", path: v1, body: `{"instances":[[1,2`, want: `body: not valid JSON: it ends too early`},
		{name: "NaN", path: v1, body: `{"instances":[[NaN]]}`, want: `body: not valid JSON: byte 15: invalid character 'N' at start of value`},
		{name: "more after it", path: v1, body: `{"instances":[[1,2]]} {}`, want: `body: goes on after its JSON object`},
		{name: "twice", path: v2, body: `{"inputs":[],"inputs":[]}`, want: `body: not valid JSON: the name "inputs" comes twice in one object`},
		{name: "body too large", path: v1, body: strings.Repeat(" ", 4097), code: 413, want: `body is larger than 4096 bytes (--max-body)`},

		{name: "no model", path: "/v2/models/foot/infer", body: "{}", code: 404, want: `model "foot" is not served here: GET /v1/models lists those that are`},
		{name: "no version", path: "/v1/models/hand/versions/2:predict", body: "{}", code: 404, want: `model "hand" has no version "2": there is "1"`},
		{name: "no call", path: "/v1/models/hand:explain", body: "{}", code: 404, want: `call "explain" is not served here: there is predict`},
		{name: "no path", path: "/v3", body: "{}", code: 404, want: `nothing is served at "/v3": there are /v1/models, /v2 and /metrics`},

		{name: "no instances", path: v1, body: `{}`, want: `instances: missing; give an array of rows`},
		{name: "no rows", path: v1, body: `{"instances":[]}`, want: `instances: empty; give 1 to 3 rows`},
		{name: "too many rows", path: v1, body: `{"instances":[[1,2],[1,2],[1,2],[1,2]]}`, code: 413, want: `batch of 4 rows: at most 3 are taken (--max-batch)`},
		{name: "unknown member", path: v1, body: `{"rows":[]}`, want: `body: unknown member "rows"; there are instances, signature_name and parameters`},
		{name: "short row", path: v1, body: `{"instances":[[1,2],[1]]}`, want: `instances[1]: 1 values; give 2`},
		{name: "long row", path: v1, body: `{"instances":[[1,2,3]]}`, want: `instances[0]: 3 values; give 2`},
		{name: "flat rows", path: v1, body: `{"instances":[1,2]}`, want: `instances[0]: a number; give an array`},
		{name: "deep rows", path: v1, body: `{"instances":[[[1,2]]]}`, want: `instances[0][0]: an array; give a number of FP32`},
		{name: "text", path: v1, body: `{"instances":[[1,"2"]]}`, want: `instances[0][1]: a string; give a number of FP32`},
		{name: "boolean", path: v1, body: `{"instances":[[true,2]]}`, want: `instances[0][0]: true is not a number of FP32`},
		{name: "too large for the type", path: v1, body: `{"instances":[[1,1e39]]}`, want: `instances[0][1]: 1e39 is not a number of FP32`},
		{name: "unknown input", path: v1, body: `{"instances":[{"y":[1,2]}]}`, want: `instances[0].y: no input has this name; there is "x"`},
		{name: "input left out", path: "/v1/models/pair:predict", body: `{"instances":[{"ids":[1]}]}`, want: `instances[0]: no "scale"; give "ids" and "scale"`},
		{name: "row without names", path: "/v1/models/pair:predict", body: `{"instances":[[1]]}`, want: `instances[0]: an array; give an object with "ids" and "scale"`},
		{name: "rows of two lengths", path: "/v1/models/pair:predict", body: `{"instances":[{"ids":[1,2],"scale":[1]},{"ids":[1],"scale":[1]}]}`, want: `instances[1].ids: 1 values; give 2`},
		{name: "row of no length", path: "/v1/models/pair:predict", body: `{"instances":[{"ids":[],"scale":[1]}]}`, want: `instances[0].ids: empty; give 1 value or more`},
		{name: "fraction for an integer", path: "/v1/models/pair:predict", body: `{"instances":[{"ids":[1.0],"scale":[1]}]}`, want: `instances[0].ids[0]: 1.0 is not a whole number of INT64`},

		{name: "no inputs", path: v2, body: `{}`, want: `inputs: no "x"; the model takes "x"`},
		{name: "one of two inputs", path: pair, body: `{"inputs":[` + scale + `]}`, want: `inputs: no "ids"; the model takes "ids" and "scale"`},
		{name: "input twice", path: pair, body: `{"inputs":[` + scale + "," + scale + `]}`, want: `inputs[1].name: "scale" comes twice`},
		{name: "unknown input of v2", path: v2, body: input("y", "FP32", "[1,2]", "[1,2]"), want: `inputs[0].name: "y"; the model takes "x"`},
		{name: "datatype", path: v2, body: input("x", "FP64", "[1,2]", "[1,2]"), want: `inputs[0].datatype: "FP64"; "x" is FP32`},
		{name: "shape", path: v2, body: input("x", "FP32", "[1,3]", "[1,2,3]"), want: `inputs[0].shape: [1,3]; "x" is [n,2]`},
		{name: "shape of two free sizes", path: pair, body: input("ids", "INT64", "[1,2,3]", "[]"), want: `inputs[0].shape: [1,2,3]; "ids" is [n,*]`},
		{name: "shape left out", path: v2, body: `{"inputs":[{"name":"x","datatype":"FP32","data":[1,2]}]}`, want: `inputs[0].shape: []; "x" is [n,2]`},
		{name: "shape of nothing", path: v2, body: input("x", "FP32", "[0,2]", "[]"), want: `inputs[0].shape[0]: 0; give a whole number of 1 or more`},
		{name: "shape beyond all", path: pair, body: input("ids", "INT64", "[3,9223372036854775807]", "[1]"), want: `inputs[0].shape: [3,9223372036854775807] has more than 2147483647 elements`},
		{name: "too many rows of v2", path: v2, body: input("x", "FP32", "[4,2]", "[]"), code: 413, want: `batch of 4 rows: at most 3 are taken (--max-batch)`},
		{name: "data short", path: v2, body: input("x", "FP32", "[2,2]", "[1,2,3]"), want: `inputs[0].data: 3 values; the shape [2,2] has 4`},
		{name: "data of nothing", path: v2, body: input("x", "FP32", "[2,2]", "[]"), want: `inputs[0].data: empty; give 1 value or more`},
		{name: "data nested otherwise", path: v2, body: input("x", "FP32", "[2,2]", "[[1,2,3,4]]"), want: `inputs[0].data[0]: 4 values; give 2`},
		{name: "data left out", path: v2, body: `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2]}]}`, want: `inputs[0].data: missing; give 2 values, or their binary_data_size`},
		{name: "data of another kind", path: v2, body: input("x", "FP32", "[1,2]", `"AAAA"`), want: `inputs[0].data: a string; give an array`},
		{name: "two sizes of a batch", path: pair, body: `{"inputs":[` + scale + `,{"name":"ids","datatype":"INT64","shape":[2,1],"data":[1,2]}]}`, want: `inputs: "ids" has 2 rows and "scale" has 1; give all the same number`},
		{name: "what the model refuses", path: pair, body: `{"inputs":[` + scale + `,{"name":"ids","datatype":"INT64","shape":[1,1],"data":[1000]}]}`, want: `model "pair" does not take this input: indices element out of data bounds, idx=1000 must be within the inclusive range [-1000,999]`},
		{name: "unknown output", path: v2, body: `{"outputs":[{"name":"z"}]}`, want: `outputs[0].name: "z"; the model gives "y"`},
		{name: "output twice", path: v2, body: `{"outputs":[{"name":"y"},{"name":"y"}]}`, want: `outputs[1].name: "y" comes twice`},
		{name: "unknown member of an input", path: v2, body: `{"inputs":[{"dtype":"FP32"}]}`, want: `inputs[0].dtype: there is no such member; there are name, datatype, shape, parameters and data`},
		{name: "shared memory", path: v2, body: `{"inputs":[{"parameters":{"shared_memory_region":"a"}}]}`, want: `inputs[0].parameters.shared_memory_region: this extension is not offered; leave it out`},

		{name: "binary without bytes", path: v2, body: `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}`, want: `inputs[0].parameters.binary_data_size: 8; only 0 bytes are left after the JSON`},
		{name: "binary of another size", path: v2, body: `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":7}}]}`, want: `inputs[0].parameters.binary_data_size: 7; 2 elements of FP32 have 8`},
		{name: "binary and JSON", path: v2, body: `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2],"parameters":{"binary_data_size":8}}]}`, want: `inputs[0]: data and binary_data_size; give one of them`},
		{name: "bytes too many", path: v2, head: len(input("x", "FP32", "[1,2]", "[1,2]")), body: input("x", "FP32", "[1,2]", "[1,2]") + "abc", want: `body: 3 bytes follow the last binary input; give as many as the binary_data_size of all inputs`},
		{name: "header beyond the body", path: v2, head: 9999, body: "{}", want: `header Inference-Header-Content-Length: "9999"; give the length of the JSON, at most that of the body, 2`},
		{name: "header of rubbish", path: v2, head: -1, body: "{}", want: `header Inference-Header-Content-Length: "-1"; give the length of the JSON, at most that of the body, 2`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{}
			if tt.head != 0 {
				header.Set("Inference-Header-Content-Length", strconv.Itoa(tt.head))
			}
			code, _, got, err := c.send(http.MethodPost, tt.path, header, []byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if want := string(errorBody(tt.want)); code != max(tt.code, 400) || string(got) != want {
				t.Errorf("%d (-want +got):\n%s", code, cmp.Diff(want, string(got)))
			}
		})
	}
	if code, got := c.call(t, http.MethodGet, v2, ""); code != 405 || !strings.Contains(got, "use POST") {
		t.Errorf("GET of infer: %d %s", code, got)
	}
	if code, _, got, _ := c.send(http.MethodPost, v1, http.Header{"Content-Encoding": {"gzip"}}, []byte("{}")); code != 415 {
		t.Errorf("gzip: %d %s", code, got)
	}
}

// TestNotFinite: what JSON has no form for is an error there, and goes out as binary.
func TestNotFinite(t *testing.T) {
	_, c := start(t, defaultOptions(), written(t, "hand", byHand().ONNX()))
	const huge = `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[3e38,3e38]}]%s}`
	code, got := c.call(t, http.MethodPost, "/v2/models/hand/infer", fmt.Sprintf(huge, ""))
	if want := `{"error":"output \"y\" has NaN or an infinity, which JSON has no form for: ask for binary data"}`; code != 500 || got != want {
		t.Errorf("%d %s", code, got)
	}
	code, header, body, err := c.send(http.MethodPost, "/v2/models/hand/infer", nil, []byte(fmt.Sprintf(huge, `,"parameters":{"binary_data_output":true}`)))
	if code != 200 || err != nil {
		t.Fatalf("%d %v", code, err)
	}
	n, _ := strconv.Atoi(header.Get("Inference-Header-Content-Length"))
	if v := math.Float32frombits(binary.LittleEndian.Uint32(body[n:])); !math.IsInf(float64(v), 1) {
		t.Errorf("%v, want an infinity", v)
	}
}

// TestElements: every datatype, at its bounds, from JSON to bytes and back.
func TestElements(t *testing.T) {
	for _, tt := range []struct {
		datatype datatype
		good     string
		bad      []string
	}{
		{typeBool, `[true,false]`, []string{"1", "null"}},
		{typeInt8, `[-128,127,0]`, []string{"128", "-129", "1.5", "1e2"}},
		{typeInt16, `[-32768,32767]`, []string{"32768"}},
		{typeInt32, `[-2147483648,2147483647]`, []string{"2147483648"}},
		{typeInt64, `[-9223372036854775808,9223372036854775807,9007199254740993]`, []string{"9223372036854775808", "true"}},
		{typeUint8, `[0,255]`, []string{"-1", "256"}},
		{typeUint16, `[0,65535]`, []string{"65536"}},
		{typeUint32, `[0,4294967295]`, []string{"4294967296"}},
		{typeUint64, `[0,18446744073709551615]`, []string{"-1", "18446744073709551616"}},
		{typeFloat32, `[0,-1.5,3.4028235e+38,1e-45,0.1]`, []string{"1e39", "false"}},
		{typeFloat64, `[0,-1.5,1.7976931348623157e+308,5e-324,0.1]`, []string{"1e309"}},
	} {
		n := int64(strings.Count(tt.good, ",") + 1)
		data, err := flat(nil, []byte(tt.good), tt.datatype, []int64{n}, "data")
		if err != nil || int64(len(data)) != n*int64(tt.datatype.size()) {
			t.Errorf("%s: %d bytes, %v", tt.datatype, len(data), err)
			continue
		}
		if got, rest, err := appendNested(nil, data, tt.datatype, []int64{n}); string(got) != tt.good || len(rest) != 0 || err != nil {
			t.Errorf("%s: %s became %s, %v", tt.datatype, tt.good, got, err)
		}
		for _, bad := range tt.bad {
			if data, err := flat(nil, []byte("["+bad+"]"), tt.datatype, []int64{1}, "data"); err == nil {
				t.Errorf("%s: %s became % x", tt.datatype, bad, data)
			}
		}
	}
}

// TestBatchAxis: the batch is the first dimension that can have any size, wherever it is.
func TestBatchAxis(t *testing.T) {
	p := port{name: "x", datatype: typeUint8, dims: []int64{2, -1, 3}}
	if p.axis() != 1 || p.shapeText() != "[2,n,3]" {
		t.Errorf("axis %d of %s", p.axis(), p.shapeText())
	}
	in, n, err := decodeV1([]byte(`{"instances":[[[1,2,3],[4,5,6]],[[7,8,9],[10,11,12]]]}`), []port{p}, 8)
	if err != nil || n != 2 {
		t.Fatal(err)
	}
	want := []tensor{{name: "x", datatype: typeUint8, shape: []int64{2, 2, 3}, data: []byte{1, 2, 3, 7, 8, 9, 4, 5, 6, 10, 11, 12}}}
	if diff := cmp.Diff(want, in, cmp.AllowUnexported(tensor{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out, err := encodeV1([]port{p}, in, 2)
	if want := `{"predictions":[[[1,2,3],[4,5,6]],[[7,8,9],[10,11,12]]]}`; string(out) != want || err != nil {
		t.Errorf("%s %v", out, err)
	}
}

// TestLoading: until its models are loaded a server lives, is not ready, and refuses work for now.
func TestLoading(t *testing.T) {
	opts := defaultOptions()
	opts.Models = []modelFile{{Name: "a", File: "nowhere"}}
	s := newServer(opts)
	for _, tt := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/v2/health/live", 200},
		{"GET", "/v2/health/ready", 503},
		{"GET", "/v2/models/a/ready", 503},
		{"GET", "/v1/models/a", 503},
		{"GET", "/v2/models/a", 503},
		{"GET", "/v2/models/b", 404},
		{"POST", "/v2/models/a/infer", 503},
		{"POST", "/v1/models/a:predict", 503},
		{"GET", "/v1/models", 200},
		{"GET", "/metrics", 200},
	} {
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader("{}")))
		if w.Code != tt.code {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, w.Code, tt.code)
		}
	}
}

// TestModelFaults: a file that cannot be served ends the server, which says why.
func TestModelFaults(t *testing.T) {
	library := library(t)
	dir := t.TempDir()
	rubbish, none := filepath.Join(dir, "rubbish.onnx"), filepath.Join(dir, "none.onnx")
	if err := os.WriteFile(rubbish, bytes.Repeat([]byte("rubbish"), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		args  []string
		want  []string
		usage bool
	}{
		{name: "no model", usage: true, want: []string{"--model: missing: give an ONNX file, or NAME=FILE"}},
		{name: "unknown flag", args: []string{"--modle=a"}, usage: true, want: []string{"unknown long flag '--modle' (try --help)"}},
		{
			name: "values", usage: true,
			args: []string{"--model=a.onnx", "--model=a=b.onnx", "--model=a/b=c", "--threads=0", "--concurrency=0", "--max-batch=0", "--max-body=0B", "--shutdown-timeout=0s"},
			want: []string{
				`--model: "a" is there twice`, `--model: "a/b" is not a name`, "--threads: 0 is no number", "--concurrency: 0 is no number",
				"--max-batch: 0 is not", "--max-body: 0 bytes", "--shutdown-timeout: 0s is no time",
			},
		},
		{name: "no file", args: []string{"--model=" + none}, want: []string{`model "none": ` + none, "doesn't exist"}},
		{name: "rubbish", args: []string{"--model=m=" + rubbish}, want: []string{`model "m": ` + rubbish, "protobuf"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := run(context.Background(), append(tt.args, "--ort.library="+library, "--web.listen-address=127.0.0.1:0"), io.Discard)
			if err == nil || errors.As(err, new(*usageError)) != tt.usage {
				t.Fatalf("%v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
					t.Errorf("%v\nlacks %s", err, want)
				}
			}
		})
	}
}

func fuzzPorts() (inputs, outputs []port) {
	return []port{
			{name: "a", datatype: typeFloat32, dims: []int64{-1, 3}},
			{name: "b", datatype: typeBool, dims: []int64{-1, -1}},
		}, []port{
			{name: "y", datatype: typeFloat32, dims: []int64{-1}},
			{name: "z", datatype: typeInt64, dims: []int64{-1, 2}},
		}
}

// checkInputs: what a decoder lets through is what ONNX Runtime will believe.
func checkInputs(t *testing.T, ports []port, inputs []tensor, maxBatch int) {
	t.Helper()
	for i, in := range inputs {
		n, ok := count(in.shape)
		if !ok || n < 1 || !ports[i].takes(in.shape) || int64(len(in.data)) != n*int64(in.datatype.size()) || in.datatype != ports[i].datatype {
			t.Fatalf("input %q of shape %v has %d bytes", in.name, in.shape, len(in.data))
		}
		if in.shape[ports[i].axis()] > int64(maxBatch) {
			t.Fatalf("a batch of %v", in.shape)
		}
		if in.datatype == typeBool && bytes.ContainsFunc(in.data, func(r rune) bool { return r > 1 }) {
			t.Fatalf("a BOOL of % x", in.data)
		}
	}
}

// checkFault: an error of a decoder is the sender's, and short.
func checkFault(t *testing.T, err error) {
	t.Helper()
	f, ok := errors.AsType[*fault](err)
	if !ok || (f.code != http.StatusBadRequest && f.code != http.StatusRequestEntityTooLarge) || len(f.text) > 2000 {
		t.Fatalf("%T %v", err, err)
	}
}

func FuzzDecodeV2(f *testing.F) {
	f.Add(`2`, []byte("{}"))
	f.Add(``, []byte(`{"inputs":[{"name":"a","datatype":"FP32","shape":[1,3],"data":[1,2,3]},{"name":"b","datatype":"BOOL","shape":[1,1],"data":[[true]]}]}`))
	head := `{"id":"1","inputs":[{"name":"b","datatype":"BOOL","shape":[2,2],"parameters":{"binary_data_size":4}},{"name":"a","datatype":"FP32","shape":[2,3],"parameters":{"binary_data_size":24}}],"outputs":[{"name":"z","parameters":{"binary_data":true}}]}`
	f.Add(strconv.Itoa(len(head)), append([]byte(head+"\x01\x00\x01\x01"), make([]byte, 24)...))
	f.Add(strconv.Itoa(len(head)), append([]byte(head+"\x01\x00\x02\x01"), make([]byte, 24)...)) // a BOOL of 2
	f.Fuzz(func(t *testing.T, length string, body []byte) {
		h := http.Header{}
		if length != "" {
			h.Set("Inference-Header-Content-Length", length)
		}
		inputs, outputs := fuzzPorts()
		text, blobs, err := splitBinary(h, body)
		if err != nil {
			checkFault(t, err)
			return
		}
		if len(text)+len(blobs) != len(body) {
			t.Fatalf("%d and %d bytes of %d", len(text), len(blobs), len(body))
		}
		req, err := decodeV2(text, blobs, inputs, outputs, 4)
		if err != nil {
			checkFault(t, err)
			return
		}
		checkInputs(t, inputs, req.inputs, 4)
		if req.rows < 1 || req.rows > 4 || len(req.outputs) < 1 || len(req.outputs) > 2 {
			t.Fatalf("%d rows, outputs %v", req.rows, req.outputs)
		}
	})
}

func FuzzDecodeV1(f *testing.F) {
	f.Add([]byte(`{"instances":[{"a":[1,2,3],"b":[true,false]},{"a":[1,2,3],"b":[true,false]}]}`))
	f.Add([]byte(`{"instances":[{"a":[1,2,3],"b":[ ]}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ports, _ := fuzzPorts()
		inputs, n, err := decodeV1(body, ports, 4)
		if err != nil {
			checkFault(t, err)
			return
		}
		checkInputs(t, ports, inputs, 4)
		if n < 1 || n > 4 {
			t.Fatalf("%d rows", n)
		}
	})
}

func BenchmarkDecodeV2(b *testing.B) {
	network := models.MLP768()
	body := []byte(bodyV2(b, network, rows(1, 32, network)))
	p := []port{{name: "x", datatype: typeFloat32, dims: []int64{-1, 768}}}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeV2(body, nil, p, p, 64); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeV2(b *testing.B) {
	network := models.MLP768()
	out := []tensor{{name: "y", datatype: typeFloat32, shape: []int64{32, 768}, data: float32Bytes(flatten(rows(1, 32, network)))}}
	b.SetBytes(int64(len(out[0].data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encodeV2("m", inferRequest{outputs: []wantedOutput{{}}}, out); err != nil {
			b.Fatal(err)
		}
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/examples/modelserver/digits"
)

func zeros(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("0,", n), ",") + "]" }

func TestRequestFaults(t *testing.T) {
	opts := defaultOptions()
	opts.MaxBatch = 3
	opts.MaxBody = 4096
	_, c := start(t, opts)
	waitReady(t, c)

	const v1, v2 = "/v1/models/digits:predict", "/v2/models/digits/infer"
	good := zeros(64)
	input := func(name, datatype, shape, data string) string {
		return fmt.Sprintf(`{"inputs":[{"name":%q,"datatype":%q,"shape":%s,"data":%s}]}`, name, datatype, shape, data)
	}
	long := strings.Repeat("x", 130)
	for _, tt := range []struct {
		name, path, body string
		code             int // 400 where left out
		want             string
	}{
		{name: "empty", path: v1, body: "", want: `body: empty; give a JSON object`},
		{name: "blank", path: v2, body: " \n", want: `body: empty; give a JSON object`},
		{name: "array", path: v1, body: "[1]", want: `body: an array; give an object`},
		{name: "null", path: v2, body: "null", want: `body: null; give an object`},
		{name: "cut short", path: v1, body: `{"instances":[[1,2`, want: `body: not valid JSON: it ends too early`},
		{name: "bad character", path: v1, body: `{"instances":[[1,x`, want: `body: not valid JSON: byte 17: invalid character 'x' at start of value`},
		{name: "bad number", path: v1, body: `{"instances":[[01]]}`, want: `body: not valid JSON: byte 16: invalid character '1' after array element (expecting ',' or ']')`},
		{name: "NaN", path: v1, body: `{"instances":[[NaN]]}`, want: `body: not valid JSON: byte 15: invalid character 'N' at start of value`},
		{name: "more after it", path: v1, body: `{"instances":[` + good + `]} {}`, want: `body: goes on after its JSON object`},
		{name: "rubbish after it", path: v1, body: `{"instances":[` + good + `]}]`, want: `body: not valid JSON: byte 145: invalid character ']' at start of value`},
		{name: "twice", path: v1, body: `{"instances":[` + good + `],"instances":[]}`, want: `body: not valid JSON: the name "instances" comes twice in one object`},
		{name: "not UTF-8", path: v1, body: "{\"a\xff\":1}", want: `body: not valid JSON: byte 3: invalid UTF-8`},
		{name: "body too large", path: v1, body: strings.Repeat(" ", 4097), code: 413, want: `body is larger than 4096 bytes (--max-body)`},

		{name: "no instances", path: v1, body: `{}`, want: `instances: missing; give an array of images, each an array of 64 pixels`},
		{name: "empty instances", path: v1, body: `{"instances":[]}`, want: `instances: empty; give 1 to 3 images`},
		{name: "instances of another kind", path: v1, body: `{"instances":"a"}`, want: `instances: a string; give an array`},
		{name: "instance of another kind", path: v1, body: `{"instances":[` + good + `,{"pixels":[]}]}`, want: `instances[1]: an object; give an array`},
		{name: "pixel of another kind", path: v1, body: `{"instances":[` + good + `,[0,0,true]]}`, want: `instances[1][2]: a boolean; give a number from 0 to 16`},
		{name: "pixel too large", path: v1, body: `{"instances":[[0,250]]}`, want: `instances[0][1]: 250 is not a pixel; give a number from 0 to 16`},
		{name: "pixel negative", path: v1, body: `{"instances":[[-1]]}`, want: `instances[0][0]: -1 is not a pixel; give a number from 0 to 16`},
		{name: "pixel beyond a float", path: v1, body: `{"instances":[[1e999]]}`, want: `instances[0][0]: 1e999 is not a pixel; give a number from 0 to 16`},
		{name: "short image", path: v1, body: `{"instances":[` + good + "," + zeros(63) + `]}`, want: `instances[1]: 63 pixels; give 64`},
		{name: "long image", path: v1, body: `{"instances":[` + zeros(66) + `]}`, want: `instances[0]: 66 pixels; give 64`},
		{name: "empty image", path: v1, body: `{"instances":[[]]}`, want: `instances[0]: 0 pixels; give 64`},
		{name: "batch too large", path: v1, body: `{"instances":[` + strings.Repeat(good+",", 4) + good + `]}`, code: 413, want: `batch of 5 images: at most 3 are taken (--max-batch)`},
		{name: "unknown member", path: v1, body: `{"instnces":[]}`, want: `body: unknown member "instnces"; there are instances, signature_name and parameters`},
		{name: "long unknown member", path: v1, body: `{"` + long + `":1}`, want: `body: unknown member "` + long[:120] + `..."; there are instances, signature_name and parameters`},
		{name: "signature", path: v1, body: `{"signature_name":1}`, want: `signature_name: a number; give a string`},
		{name: "v1 parameters", path: v1, body: `{"parameters":[]}`, want: `parameters: an array; give an object`},
		{name: "v1 model", path: "/v1/models/letters:predict", body: "{}", code: 404, want: `model "letters" is not served here: there is "digits"`},
		{name: "v1 version", path: "/v1/models/digits/versions/7:predict", body: "{}", code: 404, want: `model "digits" has no version "7": there is "1"`},

		{name: "no inputs", path: v2, body: `{}`, want: `inputs: 0 tensors; give one, named "pixels"`},
		{name: "two inputs", path: v2, body: `{"inputs":[{"name":"pixels","datatype":"FP32","shape":[1,64],"data":` + good + `},{}]}`, want: `inputs: 2 tensors; give one, named "pixels"`},
		{name: "inputs of another kind", path: v2, body: `{"inputs":{}}`, want: `inputs: an object; give an array`},
		{name: "input of another kind", path: v2, body: `{"inputs":[7]}`, want: `inputs[0]: a number; give an object`},
		{name: "input name", path: v2, body: input("image", "FP32", "[1,64]", good), want: `inputs[0].name: "image"; give "pixels"`},
		{name: "datatype", path: v2, body: input("pixels", "INT64", "[1,64]", good), want: `inputs[0].datatype: "INT64"; give "FP32"`},
		{name: "shape missing", path: v2, body: `{"inputs":[{"name":"pixels","datatype":"FP32","data":` + good + `}]}`, want: `inputs[0].shape: []; give [n,64]`},
		{name: "shape of three", path: v2, body: input("pixels", "FP32", "[1,8,8]", good), want: `inputs[0].shape: [1,8,8]; give [n,64]`},
		{name: "shape of other images", path: v2, body: input("pixels", "FP32", "[1,784]", good), want: `inputs[0].shape: [1,784]; give [n,64]`},
		{name: "shape of none", path: v2, body: input("pixels", "FP32", "[0,64]", "[]"), want: `inputs[0].shape[0]: 0; give a whole number of 1 or more`},
		{name: "shape with a fraction", path: v2, body: input("pixels", "FP32", "[1.5,64]", good), want: `inputs[0].shape[0]: 1.5; give a whole number of 1 or more`},
		{name: "shape with a string", path: v2, body: input("pixels", "FP32", `["n",64]`, good), want: `inputs[0].shape[0]: a string; give a whole number of 1 or more`},
		{name: "data missing", path: v2, body: `{"inputs":[{"name":"pixels","datatype":"FP32","shape":[2,64]}]}`, want: `inputs[0].data: missing; give 128 values`},
		{name: "data short", path: v2, body: input("pixels", "FP32", "[2,64]", good), want: `inputs[0].data: 64 values; the shape [2,64] has 128`},
		{name: "data of another kind", path: v2, body: input("pixels", "FP32", "[1,64]", `"AAAA"`), want: `inputs[0].data: a string; give an array`},
		{name: "nested too short", path: v2, body: input("pixels", "FP32", "[2,64]", "["+good+","+zeros(63)+"]"), want: `inputs[0].data[1]: 63 pixels; give 64`},
		{name: "nested, then flat", path: v2, body: input("pixels", "FP32", "[2,64]", "["+good+",0]"), want: `inputs[0].data[1]: a number; give an array`},
		{name: "flat, then nested", path: v2, body: input("pixels", "FP32", "[1,64]", "[0,[0]]"), want: `inputs[0].data[1]: an array; give a number from 0 to 16`},
		{name: "v2 pixel", path: v2, body: input("pixels", "FP32", "[1,64]", "[16.5]"), want: `inputs[0].data[0]: 16.5 is not a pixel; give a number from 0 to 16`},
		{name: "v2 batch too large", path: v2, body: input("pixels", "FP32", "[4,64]", "[]"), code: 413, want: `batch of 4 images: at most 3 are taken (--max-batch)`},
		{name: "v2 unknown member", path: v2, body: `{"input":[]}`, want: `body: unknown member "input"; there are id, parameters, inputs and outputs`},
		{name: "unknown member of the input", path: v2, body: `{"inputs":[{"dtype":1}]}`, want: `inputs[0]: unknown member "dtype"; there are name, datatype, shape, parameters and data`},
		{name: "id of another kind", path: v2, body: `{"id":7}`, want: `id: a number; give a string`},
		{name: "unknown output", path: v2, body: `{"outputs":[{"name":"label"},{"name":"logits"}]}`, want: `outputs[1].name: "logits"; there are "label" and "probabilities"`},
		{name: "output twice", path: v2, body: `{"outputs":[{"name":"label"},{"name":"label"}]}`, want: `outputs[1].name: "label" comes twice`},
		{name: "unknown member of an output", path: v2, body: `{"outputs":[{"nme":"label"}]}`, want: `outputs[0]: unknown member "nme"; there are name and parameters`},
		{name: "binary output", path: v2, body: `{"parameters":{"binary_data_output":true}}`, want: `parameters.binary_data_output: binary tensors are not offered; send and take data as JSON`},
		{name: "binary output of one", path: v2, body: `{"outputs":[{"name":"label","parameters":{"binary_data":true}}]}`, want: `outputs[0].parameters.binary_data: binary tensors are not offered; send and take data as JSON`},
		{name: "binary input", path: v2, body: `{"inputs":[{"parameters":{"binary_data_size":256}}]}`, want: `inputs[0].parameters.binary_data_size: binary tensors are not offered; send and take data as JSON`},
		{name: "v2 model", path: "/v2/models/letters/infer", body: "{}", code: 404, want: `model "letters" is not served here: there is "digits"`},
		{name: "v2 version", path: "/v2/models/digits/versions/7/infer", body: "{}", code: 404, want: `model "digits" has no version "7": there is "1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, got := c.call(t, http.MethodPost, tt.path, tt.body)
			if tt.code == 0 {
				tt.code = http.StatusBadRequest
			}
			if want := string(errorBody(tt.want)); code != tt.code || got != want {
				t.Errorf("%d\n%s", code, cmp.Diff(want, got))
			}
		})
	}
}

// TestHeaderFaults: requests that are refused for what their headers say.
func TestHeaderFaults(t *testing.T) {
	_, c := start(t, defaultOptions())
	waitReady(t, c)
	for _, tt := range []struct {
		header, value string
		code          int
		want          string
	}{
		{header: "Content-Encoding", value: "gzip", code: 415, want: `content encoding "gzip" is not supported: send plain JSON`},
		{header: "Inference-Header-Content-Length", value: "10", code: 400, want: `header Inference-Header-Content-Length: binary tensors are not offered; send and take data as JSON`},
	} {
		t.Run(tt.header, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodPost, c.url+"/v2/models/digits/infer", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(tt.header, tt.value)
			resp, err := c.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if want := string(errorBody(tt.want)); resp.StatusCode != tt.code || string(got) != want {
				t.Errorf("%d %s\nwant %d %s", resp.StatusCode, got, tt.code, want)
			}
		})
	}
}

// TestTooLargeChunked: a body that does not announce its size is refused once it is over the limit.
func TestTooLargeChunked(t *testing.T) {
	opts := defaultOptions()
	opts.MaxBody = 4096
	_, c := start(t, opts)
	waitReady(t, c)
	body := io.MultiReader(strings.NewReader(strings.Repeat(" ", 4097))) // hides the length from the client
	resp, err := c.http.Post(c.url+"/v1/models/digits:predict", "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if want := string(errorBody("body is larger than 4096 bytes (--max-body)")); resp.StatusCode != http.StatusRequestEntityTooLarge || string(got) != want {
		t.Errorf("%d %s\nwant 413 %s", resp.StatusCode, got, want)
	}
}

// checkPixels: whatever a decoder lets through can be classified.
func checkPixels(t *testing.T, pixels []float32, maxBatch int) {
	t.Helper()
	n := len(pixels) / digits.PixelCount
	if len(pixels)%digits.PixelCount != 0 || n < 1 || n > maxBatch {
		t.Fatalf("%d pixels: want 1 to %d times %d", len(pixels), maxBatch, digits.PixelCount)
	}
	for i, p := range pixels {
		if !(p >= 0 && p <= digits.MaxPixel) { // NaN fails this too
			t.Fatalf("pixel %d is %v", i, p)
		}
	}
}

func FuzzDecodeV1(f *testing.F) {
	images := heldOut(f)
	f.Add([]byte(bodyV1(images[:1])))
	f.Add([]byte(bodyV1(images[:3])))
	f.Add([]byte(`{"signature_name":"serving_default","parameters":{"a":[1]},"instances":[` + zeros(64) + `]}`))
	f.Add([]byte(`{"instances":[[1e-50,1E400,-0]]}`))
	f.Add([]byte(`{"instances":[[`))
	f.Fuzz(func(t *testing.T, body []byte) {
		pixels, err := decodeV1(body, 2)
		if err != nil {
			checkFault(t, err)
			return
		}
		checkPixels(t, pixels, 2)
	})
}

func FuzzDecodeV2(f *testing.F) {
	images := heldOut(f)
	f.Add([]byte(bodyV2(images[:1])))
	f.Add([]byte(bodyV2(images[:3])))
	f.Add([]byte(`{"id":"a","inputs":[{"data":[` + zeros(64) + `],"shape":[1,64],"name":"pixels","datatype":"FP32"}],"outputs":[{"name":"label"}]}`))
	f.Add([]byte(`{"inputs":[{"shape":[9223372036854775807,64]}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeV2(body, 2)
		if err != nil {
			checkFault(t, err)
			return
		}
		checkPixels(t, req.pixels, 2)
		if n := len(req.outputs); n < 1 || n > 2 {
			t.Fatalf("outputs %q", req.outputs)
		}
	})
}

// checkFault: an error of a decoder is the sender's, and short.
func checkFault(t *testing.T, err error) {
	t.Helper()
	f, ok := errors.AsType[*fault](err)
	if !ok || (f.code != http.StatusBadRequest && f.code != http.StatusRequestEntityTooLarge) {
		t.Fatalf("%T %v", err, err)
	}
	if len(f.text) > 2000 {
		t.Fatalf("a message of %d bytes", len(f.text))
	}
}

func BenchmarkDecodeV1(b *testing.B) {
	body := []byte(bodyV1(heldOut(b)[:16]))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeV1(body, 64); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeV2(b *testing.B) {
	body := []byte(bodyV2(heldOut(b)[:16]))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeV2(body, 64); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeV2(b *testing.B) {
	model, err := digits.Load()
	if err != nil {
		b.Fatal(err)
	}
	var out []digits.Digit
	for _, image := range heldOut(b)[:16] {
		digit, err := model.Classify(image.Floats())
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, digit)
	}
	req := inferRequest{outputs: []string{outputLabel, outputProbabilities}}
	b.ReportAllocs()
	for b.Loop() {
		encodeV2("digits", req, out)
	}
}

// BenchmarkInfer is a whole v2 request with one image over loopback HTTP, without an emulated accelerator.
func BenchmarkInfer(b *testing.B) {
	_, c := start(b, defaultOptions())
	waitReady(b, c)
	body := bodyV2(heldOut(b)[:1])
	b.ReportAllocs()
	for b.Loop() {
		if code, answer := c.call(b, http.MethodPost, "/v2/models/digits/infer", body); code != http.StatusOK {
			b.Fatal(answer)
		}
	}
}

package batchproxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/batchproxy/protocol"
)

// TestSampleOf: what is made up is a request of the protocol, with the inputs' datatypes and shapes.
func TestSampleOf(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inputs []sampleInput
		want   string // body; what is not text as %q has it
		err    string
		rows   int
	}{
		{"floats", []sampleInput{{"x", "FP32", []int{-1, 3}}}, `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[0,0.37,0.74]}]}`, "", 1},
		{"rows alone", []sampleInput{{"x", "FP64", []int{-1}}}, `{"inputs":[{"name":"x","datatype":"FP64","shape":[1],"data":[0]}]}`, "", 1},
		{"a number of rows", []sampleInput{{"x", "UINT8", []int{2, 1}}}, `{"inputs":[{"name":"x","datatype":"UINT8","shape":[2,1],"data":[1,2]}]}`, "", 2},
		{
			"open dimensions",
			[]sampleInput{{"ids", "INT64", []int{-1, -1}}, {"mask", "BOOL", []int{-1, -1}}},
			`{"inputs":[{"name":"ids","datatype":"INT64","shape":[1,4],"data":[1,2,3,4]},{"name":"mask","datatype":"BOOL","shape":[1,4],"data":[true,false,true,false]}]}`, "", 1,
		},
		{"texts", []sampleInput{{"t", "BYTES", []int{-1, 1}}}, `{"inputs":[{"name":"t","datatype":"BYTES","shape":[1,1],"data":["` + sampleText + `"]}]}`, "", 1},
		{
			"in binary",
			[]sampleInput{{"h", "FP16", []int{-1, 2}}, {"b", "BF16", []int{-1, 1}}},
			`{"inputs":[{"name":"h","datatype":"FP16","shape":[1,2],"parameters":{"binary_data_size":4}},{"name":"b","datatype":"BF16","shape":[1,1],"parameters":{"binary_data_size":2}}]}` + "\x00\x3c\x00\x3c\x80\x3f", "", 1,
		},
		{"none", nil, "", "the server names no input of the model", 0},
		{"no rows", []sampleInput{{"x", "FP32", nil}}, "", `input "x" has no dimension that the rows of a batch could be`, 0},
		{"a dimension of 0", []sampleInput{{"x", "FP32", []int{-1, 0}}}, "", "input x FP32 [1,0] would have no elements, or more than 16777216", 0},
		{"too many", []sampleInput{{"x", "FP32", []int{-1, 1 << 20, 1 << 20, 1 << 40}}}, "", "input x FP32 [1,1048576,1048576,1099511627776] would have no elements, or more than 16777216", 0},
		{"unknown", []sampleInput{{"x", "DATE", []int{-1, 2}}}, "", "input x DATE [1,2] is of a datatype that is not known", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := sampleOf(tt.inputs, 4)
			if err != nil || tt.err != "" {
				if fmt.Sprint(err) != tt.err {
					t.Errorf("got  %v\nwant %s", err, tt.err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, string(got.Body)); diff != "" {
				t.Error(diff)
			}
			if r, err := (protocol.OIP{}).Parse(got); err != nil || r.Items != tt.rows {
				t.Errorf("as a request it is %+v, %v", r, err)
			}
		})
	}
}

// TestCalibrateAsks: without a request the server is asked for the model's inputs, and what it says is told.
func TestCalibrateAsks(t *testing.T) {
	const give = ": give the body of one request"
	for _, tt := range []struct {
		name, protocol, answer string // to the question: a status and a text
		open                   int
		want                   string // the first batch, or the error
	}{
		{"asked", "oip", `200 {"inputs":[{"name":"t","datatype":"INT32","shape":[-1,-1]}]}`, 3, `{"id":"calibrate-1","inputs":[{"name":"t","datatype":"INT32","shape":[1,3],"data":[1,2,3]}]}`},
		{"in binary", "oip", `200 {"inputs":[{"name":"t","datatype":"FP16","shape":[-1]}]}`, 3, `{"id":"calibrate-1","inputs":[{"name":"t","datatype":"FP16","shape":[1],"parameters":{"binary_data_size":2}}]}` + "\x00\x3c"},
		{"of OpenAI", "openai", "500 not asked", 3, `{"input":["` + sampleText + `"],"model":"m"}`},
		{"of v1", "v1", "500 not asked", 3, "request: missing, and a server of v1 does not say what its model takes" + give},
		{"unknown model", "oip", `404 {"error":"no model"}`, 3, `request: missing, and the server does not say what the model takes: GET /v2/models/m: it answered 404: {"error":"no model"}` + give},
		{"nothing said", "oip", `200 {}`, 3, "request: missing, and none can be made up: the server names no input of the model" + give},
		{"no JSON", "oip", `200 hello`, 3, "ask for the model's inputs: GET /v2/models/m: invalid character 'h' looking for beginning of value"},
		{"no dimension", "oip", `200 {}`, 0, "open dimension: 0 is not the length of one: give 1 or more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first := ""
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer x" {
					t.Errorf("%s without the header", r.URL.Path)
				}
				if r.Method == http.MethodGet {
					code, text, _ := strings.Cut(tt.answer, " ")
					if r.URL.Path != "/v2/models/m" || text == "not asked" {
						t.Errorf("asked %s", r.URL.Path)
					}
					if code == "404" {
						w.WriteHeader(404)
					}
					_, _ = io.WriteString(w, text)
					return
				}
				body, _ := io.ReadAll(r.Body)
				if text, binary, _ := headerLength(r.Header, len(body)); binary || (text > 0) != bytes.Contains(body, []byte("binary")) {
					t.Errorf("%q is said to be %d bytes of JSON", body, text)
				}
				if first == "" {
					first = string(body)
				}
				_, _ = io.WriteString(w, "{}")
			}))
			defer s.Close()
			opts := DefaultCalibrateOptions()
			opts.URL, opts.Model, opts.Protocol, opts.OpenDimension, opts.Sizes = s.URL, "m", tt.protocol, tt.open, []int{1, 2}
			opts.MaxDuration, opts.Header = time.Nanosecond, http.Header{"Authorization": {"Bearer x"}}
			got, err := Calibrate(t.Context(), opts)
			if err != nil {
				first = err.Error()
			}
			if diff := cmp.Diff(tt.want, first); diff != "" {
				t.Error(diff)
			}
			if err == nil && len(got.Inputs) != 1 {
				t.Errorf("made up of %q", got.Inputs)
			}
		})
	}
}

// TestCalibrateModelServer measures the example model server without being given a request.
func TestCalibrateModelServer(t *testing.T) {
	program := filepath.Join(t.TempDir(), "modelserver")
	if out, err := exec.Command("go", "build", "-o", program, "../examples/modelserver").CombinedOutput(); err != nil {
		t.Fatalf("build the model server: %v\n%s", err, out)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	server := exec.CommandContext(ctx, program, "--web.listen-address="+address)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = server.Wait() // it was killed
	}()
	until(t, "the model server is ready", func() bool {
		resp, err := http.Get("http://" + address + "/v2/health/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
	defer http.DefaultClient.CloseIdleConnections()
	opts := DefaultCalibrateOptions()
	opts.URL, opts.Model, opts.Sizes, opts.MaxDuration = "http://"+address, "digits", []int{1, 4, 16}, time.Second
	got, err := Calibrate(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"pixels FP32 [1,64]"}, got.Inputs); diff != "" {
		t.Error(diff)
	}
	if len(got.Sizes) != 3 || got.Sizes[2].Size != 16 || got.Sizes[2].Seconds <= 0 {
		t.Errorf("measured %+v", got.Sizes)
	}
	var text strings.Builder
	if err := got.WriteText(&text); err != nil || !strings.Contains(text.String(), "\nThe request was made up: pixels FP32 [1,64]; values may matter") {
		t.Errorf("%v %s", err, text.String())
	}
	opts.Model = "digit"
	if _, err := Calibrate(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "GET /v2/models/digit: it answered 404") {
		t.Errorf("another model: %v", err)
	}
}

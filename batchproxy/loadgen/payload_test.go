package loadgen

import (
	"encoding/json"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
)

func TestTensorRequests(t *testing.T) {
	rows := [][]float32{{0, 0.1, 16777216, 1e-9}}
	for _, tt := range []struct {
		protocol         Protocol
		path, body, sent string
	}{
		{
			protocol: V2, path: "/v2/models/a%2Fb/infer",
			body: `{"inputs":[{"name":"x\"","datatype":"FP32","shape":[1,4],"data":[0,0.1,1.6777216e+07,1e-09]}]}`,
			sent: `{"id":"bench-1","inputs":[{"name":"x\"","datatype":"FP32","shape":[1,4],"data":[0,0.1,1.6777216e+07,1e-09]}]}`,
		},
		{
			protocol: V1, path: "/v1/models/a%2Fb:predict",
			body: `{"instances":[[0,0.1,1.6777216e+07,1e-09]]}`,
			sent: `{"instances":[[0,0.1,1.6777216e+07,1e-09]]}`,
		},
	} {
		t.Run(string(tt.protocol), func(t *testing.T) {
			requests, err := TensorRequests("a/b", `x"`, tt.protocol, rows)
			if err != nil {
				t.Fatal(err)
			}
			if r := requests[0]; r.Path != tt.path || string(r.Body) != tt.body {
				t.Errorf("request\n got %s %s\nwant %s %s", r.Path, r.Body, tt.path, tt.body)
			}
			if got := sent(t, requests[0], "bench-1"); got != tt.sent {
				t.Errorf("sent\n got %s\nwant %s", got, tt.sent)
			}
		})
	}
	for _, tt := range []struct {
		row  []float32
		want string
	}{
		{row: nil, want: "rows[0]: empty: a tensor needs one value or more"},
		{row: []float32{1, float32(math.NaN())}, want: "rows[0]: value 1 is NaN, which JSON cannot hold"},
	} {
		if _, err := TensorRequests("m", "x", V2, [][]float32{tt.row}); message(err) != tt.want {
			t.Errorf("error %v, expected %s", err, tt.want)
		}
	}
}

// sent is the body that goes over the wire, read in small pieces too.
func sent(tb testing.TB, r Request, id string) string {
	tb.Helper()
	body, err := splitBody(r)
	if err != nil {
		tb.Fatal(err)
	}
	got, err := io.ReadAll(body.reader(id))
	if err != nil {
		tb.Fatal(err)
	}
	if slow, err := io.ReadAll(iotest.OneByteReader(body.reader(id))); err != nil || string(slow) != string(got) {
		tb.Fatalf("byte by byte: %s, %v", slow, err)
	}
	if body.size(id) != int64(len(got)) {
		tb.Fatalf("size is %d of %d bytes", body.size(id), len(got))
	}
	return string(got)
}

func TestReadPayloads(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		protocol   Protocol
		sent       []string
		err        string
	}{
		{
			name: "v2, with an id of its own and without", protocol: V2,
			text: "{\"inputs\":[1]}\n\n  { \"id\":\"mine\", \"inputs\": [9007199254740993] }\n",
			sent: []string{`{"id":"bench-1","inputs":[1]}`, `{"id":"bench-1","inputs":[9007199254740993]}`},
		},
		{name: "v1", protocol: V1, text: `{"instances":[1]}`, sent: []string{`{"instances":[1]}`}},
		{name: "v1 columns", protocol: V1, text: `{"inputs":[1]}`, sent: []string{`{"inputs":[1]}`}},
		{name: "empty", protocol: V2, text: "\n", err: "bodies.jsonl: no payloads: give one JSON object a line"},
		{name: "no object", protocol: V2, text: "{\"inputs\":[1]}\n[1]\n", err: "bodies.jsonl:2: not a JSON object: json: cannot unmarshal array into Go value of type map[string]json.RawMessage"},
		{name: "broken", protocol: V2, text: "{\"inputs\":[1}", err: "bodies.jsonl:1: not a JSON object: invalid character '}' after array element"},
		{name: "other protocol", protocol: V2, text: `{"instances":[1]}`, err: `bodies.jsonl:1: no "inputs" field: protocol v2 asks for one`},
		{name: "protocol", protocol: "v3", err: `protocol: "v3" is not a protocol: give v1 or v2`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests, err := ReadPayloads(strings.NewReader(tt.text), "bodies.jsonl", "m", tt.protocol)
			if message(err) != tt.err {
				t.Fatalf("error\n got %s\nwant %s", message(err), tt.err)
			}
			if len(requests) != len(tt.sent) {
				t.Fatalf("%d requests, expected %d", len(requests), len(tt.sent))
			}
			for i, r := range requests {
				if got := sent(t, r, "bench-1"); got != tt.sent[i] {
					t.Errorf("requests[%d] sends %s, expected %s", i, got, tt.sent[i])
				}
			}
		})
	}
}

func FuzzReadPayloads(f *testing.F) {
	f.Add(`{"inputs":[1]}`)
	f.Add("{\"id\":\"x\",\"inputs\":[1]}\n{}")
	f.Add(`{"inputs":1,"\u0069d":2}`)
	f.Fuzz(func(t *testing.T, text string) {
		requests, err := ReadPayloads(strings.NewReader(text), "fuzz.jsonl", "m", V2)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz.jsonl:") {
				t.Fatalf("error does not name the file: %v", err)
			}
			return
		}
		for _, r := range requests {
			body := sent(t, r, "bench-1")
			var fields map[string]json.RawMessage
			if err := json.Unmarshal([]byte(body), &fields); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			if string(fields["id"]) != `"bench-1"` || fields["inputs"] == nil {
				t.Fatalf("%s has another id, or no inputs", body)
			}
		}
	})
}

package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// withTensors is a message of JSON and the tensors that follow it.
func withTensors(text string, tensors ...[]byte) Message {
	return Message{Body: append([]byte(text), bytes.Join(tensors, nil)...), Header: len(text)}
}

func fp32(values ...float32) []byte {
	var out []byte
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

func texts(values ...string) []byte {
	var out []byte
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(v)))
		out = append(out, v...)
	}
	return out
}

func TestBinaryFaults(t *testing.T) {
	one := func(datatype, shape, params string) string {
		return `{"inputs":[{"name":"x","shape":` + shape + `,"datatype":"` + datatype + `","parameters":{` + params + `}}]}`
	}
	for _, tt := range []struct {
		name string
		m    Message
		want string // part of the message; "alone" for ErrAlone, empty for a good request
	}{
		{"good", withTensors(one("FP32", "[1,2]", `"binary_data_size":8`), fp32(1, 2)), ""},
		{"half precision", withTensors(one("FP16", "[1,2]", `"binary_data_size":4`), []byte("abcd")), ""},
		{"brain floats", withTensors(one("BF16", "[2]", `"binary_data_size":4`), []byte("abcd")), ""},
		{"texts", withTensors(one("BYTES", "[2,1]", `"binary_data_size":11`), texts("ab", "c")), ""},
		{"a size that is not the shape's", withTensors(one("FP32", "[1,3]", `"binary_data_size":8`), fp32(1, 2)), `inputs[0]: tensor "x": 8 bytes, the shape [1,3] of FP32 wants 12`},
		{"more said than sent", withTensors(one("FP32", "[1,3]", `"binary_data_size":12`), fp32(1, 2)), `inputs[0].parameters.binary_data_size: tensor "x" is said to be 12 bytes, and 8 are left of the body`},
		{"more sent than said", withTensors(one("FP32", "[1,2]", `"binary_data_size":8`), fp32(1, 2, 3)), "body: 4 bytes after the last tensor: no input has them in its binary_data_size"},
		{"a text that goes on beyond its tensor", withTensors(one("BYTES", "[1]", `"binary_data_size":6`), []byte("\xff\xff\xff\xffab")), `inputs[0]: tensor "x": an element's length, 4 bytes before it, goes beyond the tensor's end`},
		{"a text too few", withTensors(one("BYTES", "[2]", `"binary_data_size":6`), texts("ab")), `inputs[0]: tensor "x": ends after 1 elements of 2`},
		{"a text too many", withTensors(one("BYTES", "[1]", `"binary_data_size":11`), texts("ab", "c")), `inputs[0]: tensor "x": 5 bytes after the 1 elements that the shape [1] wants`},
		{"a datatype of its own", withTensors(one("COMPLEX", "[1]", `"binary_data_size":4`), fp32(1)), `"COMPLEX" has no binary form`},
		{"both", withTensors(`{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}}]}`, fp32(1)), `inputs[0]: tensor "x" has both data and parameters.binary_data_size: give one of them`},
		{"without the header", Message{Body: []byte(one("FP32", "[1]", `"binary_data_size":4`))}, `tensor "x" is said to be in binary, and there is no header Inference-Header-Content-Length`},
		{"no size", withTensors(one("FP32", "[1]", `"binary_data_size":-4`), fp32(1)), "inputs[0].parameters.binary_data_size: -4 is not a size"},
		{"bytes and no tensor in binary", withTensors(`{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}`, fp32(1)), "body: 4 bytes after the last tensor"},
		{"header within the JSON", Message{Body: []byte(one("FP32", "[1]", "")), Header: 10}, "not JSON"},
		{"half precision in JSON", Message{Body: []byte(`{"inputs":[{"name":"x","shape":[1],"datatype":"FP16","data":[1]}]}`)}, "alone"},
		{"outputs to shared memory", withTensors(`{"outputs":[{"name":"y","parameters":{"shared_memory_region":"r"}}],"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1],"parameters":{}}]}`), "alone"},
		{"start of a sequence", withTensors(`{"parameters":{"sequence_start":true},`+one("FP32", "[1]", `"binary_data_size":4`)[1:], fp32(1)), "alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := OIP{}.Parse(tt.m)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v for a good request", err)
			case tt.want == "alone" && !errors.Is(err, ErrAlone):
				t.Errorf("got %v, want ErrAlone", err)
			case tt.want != "" && tt.want != "alone" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func parseAll(t testing.TB, p Protocol, messages ...Message) []*Request {
	t.Helper()
	var out []*Request
	for _, m := range messages {
		r, err := p.Parse(m)
		if err != nil {
			t.Fatalf("%q: %v", m.Body, err)
		}
		if len(out) > 0 && !bytes.Equal(out[0].Key, r.Key) {
			t.Fatalf("keys differ:\n%s\n%s", out[0].Key, r.Key)
		}
		out = append(out, r)
	}
	return out
}

// TestBinaryTensorMajor merges requests of a tensor in JSON and two in binary, in whatever order they come, and splits an
// answer of both kinds.
func TestBinaryTensorMajor(t *testing.T) {
	requests := parseAll(t, OIP{},
		withTensors(`{"id":"a","parameters":{"binary_data_output":true},"inputs":[
			{"name":"z","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}},
			{"name":"j","shape":[1],"datatype":"INT64","data":[9007199254740993]},
			{"name":"b","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6}}]}`, fp32(1, 2), texts("ab")),
		withTensors(`{"parameters":{"binary_data_output":true},"inputs":[
			{"name":"b","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":13}},
			{"name":"j","shape":[2],"datatype":"INT64","data":[-0, 5]},
			{"name":"z","shape":[2,2],"datatype":"FP32","parameters":{"binary_data_size":16}}]}`, texts("c", "defg"), fp32(3, 4, 5, 6)),
	)
	want := withTensors(`{"id":"batch","inputs":[{"name":"b","datatype":"BYTES","shape":[3],"parameters":{"binary_data_size":19}},`+
		`{"name":"j","datatype":"INT64","shape":[3],"data":[9007199254740993,-0, 5]},`+
		`{"name":"z","datatype":"FP32","shape":[3,2],"parameters":{"binary_data_size":24}}],"parameters":{"binary_data_output":true}}`,
		texts("ab", "c", "defg"), fp32(1, 2, 3, 4, 5, 6))
	if diff := cmp.Diff(want, OIP{}.Merge(nil, "batch", requests)); diff != "" {
		t.Errorf("merged: %s", diff)
	}
	answer, err := OIP{}.Split(withTensors(`{"outputs":[{"name":"t","shape":[3],"datatype":"BYTES","parameters":{"k":1,"binary_data_size":15}},`+
		`{"name":"j","shape":[3],"datatype":"INT64","data":[1,2,3]},`+
		`{"name":"o","shape":[3,1],"datatype":"FP32","parameters":{"binary_data_size":12}}],"id":"batch"}`, texts("x", "y", "z"), fp32(7, 8, 9)), requests)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Message{
		withTensors(`{"outputs":[{"name":"t","shape":[1],"datatype":"BYTES","parameters":{"k":1,"binary_data_size":5}},`+
			`{"name":"j","shape":[1],"datatype":"INT64","data":[1]},`+
			`{"name":"o","shape":[1,1],"datatype":"FP32","parameters":{"binary_data_size":4}}],"id":"a"}`, texts("x"), fp32(7)),
		withTensors(`{"outputs":[{"name":"t","shape":[2],"datatype":"BYTES","parameters":{"k":1,"binary_data_size":10}},`+
			`{"name":"j","shape":[2],"datatype":"INT64","data":[2,3]},`+
			`{"name":"o","shape":[2,1],"datatype":"FP32","parameters":{"binary_data_size":8}}]}`, texts("y", "z"), fp32(8, 9)),
	} {
		if diff := cmp.Diff(want, answer.Append(nil, i)); diff != "" {
			t.Errorf("request %d: %s", i, diff)
		}
	}
}

// TestBinaryAnswersThatDoNotAddUp are answers that must not be split: a client would get another's bytes.
func TestBinaryAnswersThatDoNotAddUp(t *testing.T) {
	request := `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}`
	requests := parseAll(t, OIP{}, withTensors(request, fp32(1)), withTensors(request, fp32(2)))
	out := func(datatype, shape, size string) string {
		return `{"outputs":[{"name":"y","shape":` + shape + `,"datatype":"` + datatype + `","parameters":{"binary_data_size":` + size + `}}]}`
	}
	for _, tt := range []struct {
		name string
		m    Message
		want string
	}{
		{"good", withTensors(out("FP32", "[2]", "8"), fp32(1, 2)), ""},
		{"a row too few", withTensors(out("FP32", "[1]", "4"), fp32(1)), "outputs[0]: shape is [1] where the batch has 2 rows"},
		{"bytes too few", withTensors(out("FP32", "[2]", "4"), fp32(1)), "outputs[0]: 4 bytes, the shape [2] of FP32 wants 8"},
		{"bytes missing", withTensors(out("FP32", "[2]", "8"), fp32(1)), "outputs[0]: binary_data_size is 8, and 4 bytes are left"},
		{"bytes too many", withTensors(out("FP32", "[2]", "8"), fp32(1, 2, 3)), "4 bytes after the last output"},
		{"texts too few", withTensors(out("BYTES", "[2]", "5"), texts("a")), "outputs[0]: ends after 1 elements of 2"},
		{"unknown datatype", withTensors(out("FP8", "[2]", "2"), []byte("ab")), `"FP8" has no binary form`},
		{"size twice", withTensors(`{"outputs":[{"shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8,"binary_data_size":8}}]}`, fp32(1, 2)), "not one number of bytes"},
		{"both", withTensors(`{"outputs":[{"shape":[2],"data":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}`, fp32(1, 2)), "both data and binary_data_size"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := OIP{}.Split(tt.m, requests)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// TestUrgencyKeepsNobodyApart: how urgent a request is does not change its answer. The batch has the priority of the most urgent
// one, and the time of the most patient one.
func TestUrgencyKeepsNobodyApart(t *testing.T) {
	body := func(parameters string) Message {
		return Message{Body: []byte(`{"zone":1,` + parameters + `"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}`)}
	}
	for _, tt := range []struct {
		name, a, b, want string
	}{
		{"timeouts", `"parameters":{"timeout":500},`, `"parameters":{"timeout":200},`, `,"parameters":{"timeout":500}`},
		{"one has a timeout", `"parameters":{"timeout":500},`, ``, ``},
		{"one has none that bounds it", `"parameters":{"timeout":500},`, `"parameters":{"timeout":0},`, ``},
		{"priorities", `"parameters":{"priority":2},`, `"parameters":{"priority":1},`, `,"parameters":{"priority":1}`},
		{"one has a priority", ``, `"parameters":{"priority":1},`, ``},
		{"one has the default priority", `"parameters":{"priority":0},`, `"parameters":{"priority":1},`, ``},
		{"with others", `"parameters":{"timeout":500,"b":1,"a":2},`, `"parameters":{"a":2,"timeout":3,"b":1},`, `,"parameters":{"a":2,"b":1,"timeout":500}`},
		{"others alone", `"parameters":{"timeout":500,"b":1},`, `"parameters":{"priority":2,"b":1},`, `,"parameters":{"b":1}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, order := range [][]Message{{body(tt.a), body(tt.b)}, {body(tt.b), body(tt.a)}} {
				got := string(OIP{}.Merge(nil, "b", parseAll(t, OIP{}, order...)).Body)
				want := `{"id":"b","inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1,1]}]` + tt.want + `,"zone":1}`
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// TestUrgency: what a request says of its urgency is read, and nonsense is a fault of its field.
func TestUrgency(t *testing.T) {
	const (
		noPriority = " is not a priority: give a whole number, 1 for the most urgent, or 0 for none"
		noTimeout  = " is not a timeout: give a whole number of microseconds, or 0 for none"
	)
	for _, tt := range []struct {
		parameters        string
		priority, timeout uint64
		fault             string
	}{
		{`{"priority":1,"timeout":2500}`, 1, 2500, ""},
		{`{"priority":0,"timeout":0}`, 0, 0, ""},
		{`{}`, 0, 0, ""},
		{`{"pri\u006frity":7}`, 7, 0, ""},
		{`{"timeout":9223372036854775807}`, 0, math.MaxInt64, ""},
		{`{"timeout":9223372036854775808}`, 0, 0, "parameters.timeout: 9223372036854775808" + noTimeout},
		{`{"timeout":"5"}`, 0, 0, `parameters.timeout: "5"` + noTimeout},
		{`{"timeout":-1}`, 0, 0, "parameters.timeout: -1" + noTimeout},
		{`{"timeout":5.0}`, 0, 0, "parameters.timeout: 5.0" + noTimeout},
		{`{"timeout":null}`, 0, 0, "parameters.timeout: null" + noTimeout},
		{`{"priority":"high"}`, 0, 0, `parameters.priority: "high"` + noPriority},
		{`{"priority":true}`, 0, 0, "parameters.priority: true" + noPriority},
		{`{"priority":1e3,"sequence_id":4}`, 0, 0, "parameters.priority: 1e3" + noPriority},
		{`{"priority":[1]}`, 0, 0, "parameters.priority: [1]" + noPriority},
	} {
		r, err := OIP{}.Parse(Message{Body: []byte(`{"parameters":` + tt.parameters + `,"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}`)})
		fault := ""
		if err != nil {
			fault = err.Error()
		}
		if fault != tt.fault {
			t.Errorf("%s\n got %s\nwant %s", tt.parameters, fault, tt.fault)
		} else if err == nil && (r.Priority != tt.priority || r.Timeout != tt.timeout) {
			t.Errorf("%s: priority %d and timeout %d", tt.parameters, r.Priority, r.Timeout)
		}
	}
}

func TestBinaryKeysDiffer(t *testing.T) {
	body := func(shape, params, top string, raw []byte) Message {
		return withTensors(`{`+top+`"inputs":[{"name":"x","shape":`+shape+`,"datatype":"FP32","parameters":{`+params+`}}]}`, raw)
	}
	base := body("[1,2]", `"binary_data_size":8`, "", fp32(1, 2))
	for _, tt := range []struct {
		name string
		m    Message
		same bool
	}{
		{"rows", body("[2,2]", `"binary_data_size":16`, "", fp32(1, 2, 3, 4)), true},
		{"in JSON", Message{Body: []byte(`{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}`)}, false},
		{"shape", body("[1,2,1]", `"binary_data_size":8`, "", fp32(1, 2)), false},
		{"tensor's parameter", body("[1,2]", `"p":1,"binary_data_size":8`, "", fp32(1, 2)), false},
		{"answer in binary", body("[1,2]", `"binary_data_size":8`, `"parameters":{"binary_data_output":true},`, fp32(1, 2)), false},
		{"an output in binary", body("[1,2]", `"binary_data_size":8`, `"outputs":[{"name":"y","parameters":{"binary_data":true}}],`, fp32(1, 2)), false},
		{"classification", body("[1,2]", `"binary_data_size":8`, `"outputs":[{"name":"y","parameters":{"classification":3}}],`, fp32(1, 2)), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := parseAll(t, OIP{}, base)[0], parseAll(t, OIP{}, tt.m)[0]
			if bytes.Equal(a.Key, b.Key) != tt.same {
				t.Errorf("keys %s and %s", a.Key, b.Key)
			}
		})
	}
}

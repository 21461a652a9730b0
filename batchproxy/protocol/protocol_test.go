package protocol

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseFaults(t *testing.T) {
	deep := strings.Repeat("[", 63) + strings.Repeat("]", 63)
	for _, tt := range []struct {
		name     string
		protocol Protocol
		body     string
		want     string // part of the message; "alone" for ErrAlone, empty for a good request
	}{
		{"v1", V1{}, `{"instances":[1]}`, ""},
		{"v1 empty body", V1{}, ` `, "body: empty, a JSON object is wanted"},
		{"v1 not JSON", V1{}, `{"instances":[1,x]}`, "/instances/1: not JSON: invalid character 'x' at start of value at byte 16"},
		{"v1 truncated", V1{}, `{"instances":[1,`, "not JSON: unexpected EOF"},
		{"v1 two objects", V1{}, `{"instances":[1]}{"instances":[1]}`, "body: not JSON: more text after the object"},
		{"v1 splice", V1{}, `{"instances":[1]],"x":[[2]}`, "not JSON"},
		{"v1 array", V1{}, `[1]`, "body: a JSON object is wanted, this is an array"},
		{"v1 duplicate", V1{}, `{"instances":[1],"instances":[2]}`, "/instances: this name is given twice in its object"},
		{"v1 duplicate, escaped", V1{}, `{"instances":[1],"\u0069nstances":[2]}`, "/instances: this name is given twice in its object"},
		{"v1 duplicate inside", V1{}, `{"instances":[{"a":1,"a":2}]}`, "/instances/0/a: this name is given twice in its object"},
		{"v1 UTF-8", V1{}, "{\"instances\":[\"\xff\"]}", "UTF-8"},
		{"v1 NaN", V1{}, `{"instances":[NaN]}`, "not JSON"},
		{"v1 no instances", V1{}, `{"signature_name":"a"}`, "instances: missing: give an array with one element per instance"},
		{"v1 instances wrong", V1{}, `{"instances":"abc"}`, "instances: an array with one element per instance is wanted, this is a string"},
		{"v1 rows and columns", V1{}, `{"instances":[1],"inputs":[1]}`, "body: has both instances (rows) and inputs (columns): give one of them"},
		{"v1 columns", V1{}, `{"inputs":[1]}`, "alone"},
		{"v1 no rows", V1{}, `{"instances":[ ]}`, "alone"},
		{"v1 deep", V1{}, `{"instances":` + deep + `}`, ""},
		{"v1 too deep", V1{}, `{"instances":[` + deep + `]}`, "body: nested deeper than 64 levels"},
		{"v1 much too deep", V1{}, strings.Repeat("[", 100000), "not JSON"},

		{"oip", OIP{}, `{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}`, ""},
		{"oip nested", OIP{}, `{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2],[3,4]]}]}`, ""},
		{"oip strings", OIP{}, `{"inputs":[{"name":"x","shape":[2],"datatype":"BYTES","data":["a,b]","c"]}]}`, ""},
		{"oip elements", OIP{}, `{"inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","data":[1,2,3,4,5]}]}`, "inputs[0].data: 5 elements, the shape [2,3] wants 6"},
		{"oip no elements", OIP{}, `{"inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","data":[]}]}`, "inputs[0].data: 0 elements, the shape [2,3] wants 6"},
		{"oip nested rows", OIP{}, `{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2]]}]}`, "inputs[0].data: an array of 1 elements where the shape wants 2"},
		{"oip nested ragged", OIP{}, `{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2],[3]]}]}`, "inputs[0].data: a row has 1 elements, the last dimension of the shape is 2"},
		{"oip half nested", OIP{}, `{"inputs":[{"name":"x","shape":[1,2,2],"datatype":"FP32","data":[[1,2,3,4]]}]}`, "inputs[0].data: a number where the shape has another dimension, an array is wanted"},
		{"oip mixed", OIP{}, `{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,[3],4]}]}`, "inputs[0].data: element 2 is an array"},
		{"oip nested mixed", OIP{}, `{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2],3]}]}`, "inputs[0].data: a number where the shape has another dimension"},
		{"oip object", OIP{}, `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[{}]}]}`, "inputs[0].data: element 0 is an object"},
		{"oip shape", OIP{}, `{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32","data":[1]}]}`, "inputs[0].shape: -1 is not a dimension: a whole number, 0 or more, is wanted"},
		{"oip shape text", OIP{}, `{"inputs":[{"name":"x","shape":"2","datatype":"FP32","data":[1]}]}`, "inputs[0].shape: an array of dimensions is wanted, this is a string"},
		{"oip shape overflow", OIP{}, `{"inputs":[{"name":"x","shape":[99999999,99999999,99999999],"datatype":"FP32","data":[1]}]}`, "inputs[0].shape: the tensor has more than 2147483647 elements"},
		{"oip no shape", OIP{}, `{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}`, "inputs[0].shape: missing"},
		{"oip no name", OIP{}, `{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}`, "inputs[0].name: missing"},
		{"oip no datatype", OIP{}, `{"inputs":[{"name":"x","shape":[1],"data":[1]}]}`, "inputs[0].datatype: missing"},
		{"oip no data", OIP{}, `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}`, "inputs[0].data: missing"},
		{"oip data wrong", OIP{}, `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":1}]}`, "inputs[0].data: an array is wanted, this is a number"},
		{"oip name wrong", OIP{}, `{"inputs":[{"name":1,"shape":[1],"datatype":"FP32","data":[1]}]}`, "inputs[0].name: a string is wanted, this is a number"},
		{"oip twice", OIP{}, `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]},{"name":"\u0078","shape":[1],"datatype":"FP32","data":[1]}]}`, `inputs: two tensors are named "x"`},
		{"oip no inputs", OIP{}, `{"id":"1"}`, "inputs: missing: give an array with one tensor or more"},
		{"oip inputs wrong", OIP{}, `{"inputs":{}}`, "inputs: an array of tensors is wanted, this is an object"},
		{"oip input wrong", OIP{}, `{"inputs":[1]}`, "inputs[0]: a tensor (an object) is wanted, this is a number"},
		{"oip id", OIP{}, `{"id":1,"inputs":[]}`, "id: a string is wanted, this is a number"},
		{"oip rows differ", OIP{}, `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]},{"name":"y","shape":[2],"datatype":"FP32","data":[1,2]}]}`, "alone"},
		{"oip scalar", OIP{}, `{"inputs":[{"name":"x","shape":[],"datatype":"FP32","data":[1]}]}`, "alone"},
		{"oip no rows", OIP{}, `{"inputs":[{"name":"x","shape":[0],"datatype":"FP32","data":[]}]}`, "alone"},
		{"oip shared memory", OIP{}, `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}]}`, "alone"},
		{"oip sequence", OIP{}, `{"parameters":{"sequence_id":3},"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}`, "alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.protocol.Parse(Message{Body: []byte(tt.body)})
			switch {
			case tt.want == "":
				if err != nil {
					t.Errorf("got %v for a good request", err)
				}
			case tt.want == "alone":
				if !errors.Is(err, ErrAlone) {
					t.Errorf("got %v, want ErrAlone", err)
				}
			default:
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("got  %v\nwant %s", err, tt.want)
				}
				if _, ok := errors.AsType[*Fault](err); !ok {
					t.Errorf("%v is a %T, want a *Fault", err, err)
				}
			}
		})
	}
}

func parse(t testing.TB, p Protocol, bodies ...string) []*Request {
	t.Helper()
	var requests []*Request
	for _, body := range bodies {
		r, err := p.Parse(Message{Body: []byte(body)})
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		requests = append(requests, r)
	}
	return requests
}

func TestMergeAndSplit(t *testing.T) {
	for _, tt := range []struct {
		name     string
		protocol Protocol
		bodies   []string
		merged   string
		answer   string
		want     []string // nil: the answer cannot be split, and err says why
		err      string
	}{
		{
			name: "v1", protocol: V1{},
			bodies: []string{
				`{"instances":[ 9007199254740993 , {"a":"]"} ],"signature_name":"s","b":{"y":1.50,"x":2}}`,
				`{"b":{"x":2, "y":1.50},"signature_name":"\u0073","instances":[[1.0e-7,2]]}`,
			},
			merged: `{"instances":[9007199254740993 , {"a":"]"},[1.0e-7,2]],"b":{"x":2,"y":1.50},"signature_name":"s"}`,
			answer: `{"model":"m", "predictions": [ 9007199254740993, {"a":"]"} , [3] ], "versions":[1]}` + "\n",
			want: []string{
				`{"model":"m", "predictions": [9007199254740993, {"a":"]"}], "versions":[1]}` + "\n",
				`{"model":"m", "predictions": [[3]], "versions":[1]}` + "\n",
			},
		},
		{
			name: "v1 scalars", protocol: V1{},
			bodies: []string{`{"instances":[1,2]}`, `{"instances":[3]}`},
			merged: `{"instances":[1,2,3]}`,
			answer: `{"predictions":[ 1, NaN, -3.5 ]}`,
			want:   []string{`{"predictions":[ 1, NaN]}`, `{"predictions":[ -3.5 ]}`},
		},
		{
			name: "v1 one too few", protocol: V1{}, bodies: []string{`{"instances":[1,2]}`, `{"instances":[3]}`},
			merged: `{"instances":[1,2,3]}`, answer: `{"predictions":[1,2]}`, err: "predictions: 2 elements for 3 rows of 1",
		},
		{
			name: "v1 one too many", protocol: V1{}, bodies: []string{`{"instances":["a"]}`},
			merged: `{"instances":["a"]}`, answer: `{"predictions":["a","b"]}`, err: "predictions: 2 elements for 1 rows of 1",
		},
		{
			name: "v1 error", protocol: V1{}, bodies: []string{`{"instances":[1]}`},
			merged: `{"instances":[1]}`, answer: `{"error":"x"}`, err: "no predictions",
		},
		{
			name: "v1 twice", protocol: V1{}, bodies: []string{`{"instances":[1]}`},
			merged: `{"instances":[1]}`, answer: `{"predictions":[1],"predictions":[2]}`, err: "predictions is there twice",
		},
		{
			name: "v1 cut short", protocol: V1{}, bodies: []string{`{"instances":[1]}`},
			merged: `{"instances":[1]}`, answer: `{"predictions":[1]`, err: "a comma or } is missing at byte 18",
		},
		{
			name: "v1 something of each row", protocol: V1{}, bodies: []string{`{"instances":[1]}`, `{"instances":[2]}`},
			merged: `{"instances":[1,2]}`, answer: `{"predictions":[1,2],"scores":[3,4]}`, err: `"scores" has an element for each of the 2 rows`,
		},
		{
			name: "oip", protocol: OIP{},
			bodies: []string{
				`{"id":"a\"1","inputs":[{"name":"y","shape":[1],"datatype":"BYTES","data":["p,q"]},{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}],"outputs":[{"name":"z"}]}`,
				`{"outputs":[{"name":"z"}],"inputs":[{"datatype":"FP32","name":"x","shape":[2,2],"data":[ 3,4,5,6 ]},{"name":"y","shape":[2],"datatype":"BYTES","data":["r","s"]}]}`,
			},
			merged: `{"id":"batch","inputs":[{"name":"x","datatype":"FP32","shape":[3,2],"data":[1.0,2.0,3,4,5,6]},{"name":"y","datatype":"BYTES","shape":[3],"data":["p,q","r","s"]}],"outputs":[{"name":"z"}]}`,
			answer: `{"model_name":"m","id":"batch","outputs":[{"name":"z","shape":[3,2],"datatype":"FP32","data":[10,20,30,40,50,60]},{"data":[[[1]],[[2]],[[3]]],"shape":[ 3 ,1,1],"name":"w","datatype":"BYTES"}]}`,
			want: []string{
				`{"model_name":"m","id":"a\"1","outputs":[{"name":"z","shape":[1,2],"datatype":"FP32","data":[10,20]},{"data":[[[1]]],"shape":[ 1 ,1,1],"name":"w","datatype":"BYTES"}]}`,
				`{"model_name":"m","outputs":[{"name":"z","shape":[2,2],"datatype":"FP32","data":[30,40,50,60]},{"data":[[[2]],[[3]]],"shape":[ 2 ,1,1],"name":"w","datatype":"BYTES"}]}`,
			},
		},
		{
			name: "oip id last", protocol: OIP{},
			bodies: []string{
				`{"id":"1","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[[1,2]]}]}`,
				`{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[[3,4]]}]}`,
			},
			merged: `{"id":"batch","inputs":[{"name":"x","datatype":"FP32","shape":[2,2],"data":[[1,2],[3,4]]}]}`,
			answer: `{"outputs":[{"name":"z","shape":[2],"datatype":"BYTES","data":["a","b"]}] , "id":"batch" }`,
			want: []string{
				`{"outputs":[{"name":"z","shape":[1],"datatype":"BYTES","data":["a"]}],"id":"1" }`,
				`{"outputs":[{"name":"z","shape":[1],"datatype":"BYTES","data":["b"]}] }`,
			},
		},
		{
			name: "oip without id", protocol: OIP{},
			bodies: []string{`{"id":"1","inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"b":1,"a":2},"data":[1]}],"parameters":{"p":1}}`},
			merged: `{"id":"batch","inputs":[{"name":"x","datatype":"FP32","parameters":{"a":2,"b":1},"shape":[1],"data":[1]}],"parameters":{"p":1}}`,
			answer: `{"outputs":[{"name":"z","shape":[1],"datatype":"FP32","data":[1]}]}`,
			want:   []string{`{"id":"1","outputs":[{"name":"z","shape":[1],"datatype":"FP32","data":[1]}]}`},
		},
		{
			name: "oip no batch dimension", protocol: OIP{},
			bodies: []string{`{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}`},
			merged: `{"id":"batch","inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1,2]}]}`,
			answer: `{"outputs":[{"name":"z","shape":[1],"datatype":"FP32","data":[1]}]}`,
			err:    "outputs[0]: shape is [1] where the batch has 2 rows",
		},
		{
			name: "oip data short", protocol: OIP{},
			bodies: []string{`{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}`},
			merged: `{"id":"batch","inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1,2]}]}`,
			answer: `{"outputs":[{"name":"z","shape":[2,3],"datatype":"FP32","data":[1,2,3,4,5]}]}`,
			err:    "outputs[0]: data: 5 elements for 2 rows of 3",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := parse(t, tt.protocol, tt.bodies...)
			for _, r := range requests[1:] {
				if diff := cmp.Diff(string(requests[0].Key), string(r.Key)); diff != "" {
					t.Fatalf("keys differ: %s", diff)
				}
			}
			if diff := cmp.Diff(tt.merged, string(tt.protocol.Merge(nil, "batch", requests).Body)); diff != "" {
				t.Errorf("merged: %s", diff)
			}
			answer, err := tt.protocol.Split(Message{Body: []byte(tt.answer)}, requests)
			if tt.want == nil {
				if err == nil || err.Error() != tt.err {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range tt.want {
				if diff := cmp.Diff(want, string(answer.Append(nil, i).Body)); diff != "" {
					t.Errorf("request %d: %s", i, diff)
				}
			}
		})
	}
}

func TestKeysDiffer(t *testing.T) {
	tensor := func(name, datatype, shape, data, more string) string {
		return `{"inputs":[{"name":"` + name + `","datatype":"` + datatype + `","shape":` + shape + `,"data":` + data + more + `}]}`
	}
	for _, tt := range []struct {
		name     string
		protocol Protocol
		a, b     string
	}{
		{"signature", V1{}, `{"instances":[1],"signature_name":"a"}`, `{"instances":[1],"signature_name":"b"}`},
		{"large numbers", V1{}, `{"instances":[1],"seed":9007199254740993}`, `{"instances":[1],"seed":9007199254740992}`},
		{"another member", V1{}, `{"instances":[1]}`, `{"instances":[1],"parameters":{}}`},
		{"name", OIP{}, tensor("x", "FP32", "[1,2]", "[1,2]", ""), tensor("y", "FP32", "[1,2]", "[1,2]", "")},
		{"datatype", OIP{}, tensor("x", "FP32", "[1,2]", "[1,2]", ""), tensor("x", "FP64", "[1,2]", "[1,2]", "")},
		{"shape", OIP{}, tensor("x", "FP32", "[1,2]", "[1,2]", ""), tensor("x", "FP32", "[1,2,1]", "[1,2]", "")},
		{"form", OIP{}, tensor("x", "FP32", "[1,2]", "[1,2]", ""), tensor("x", "FP32", "[1,2]", "[[1,2]]", "")},
		{"tensor parameters", OIP{}, tensor("x", "FP32", "[1,2]", "[1,2]", ""), tensor("x", "FP32", "[1,2]", "[1,2]", `,"parameters":{"a":1}`)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := parse(t, tt.protocol, tt.a, tt.b)
			if string(requests[0].Key) == string(requests[1].Key) {
				t.Errorf("both have the key %s", requests[0].Key)
			}
		})
	}
}

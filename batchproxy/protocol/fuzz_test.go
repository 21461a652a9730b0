package protocol

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// The fuzz targets take bodies separated by line feeds, merge those that share a key, let an upstream echo the batch,
// and want every request to get its own rows back, byte for byte.

func FuzzV1(f *testing.F) {
	for _, seed := range []string{
		`{"instances":[1,2]}` + "\n" + `{"instances":[ "a\"]" , {"b":[1]}]}`,
		`{"instances":[[1,2],[3]],"signature_name":"s"}` + "\n" + `{"signature_name":"\u0073","instances":[null]}`,
		`{"inputs":[1]}` + "\n" + `{"instances":[]}` + "\n" + `{"instances":[1]],"x":[[2]}`,
		`{"instances":[[[[]]]],"a":{"c":1e400,"b":-0}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		roundTrip(t, V1{}, text, func(merged []byte) []byte {
			return bytes.Replace(merged, []byte(`"instances":`), []byte(`"predictions":`), 1)
		}, func(answer []byte) *Request {
			r, err := V1{}.Parse(Message{Body: bytes.Replace(answer, []byte(`"predictions":`), []byte(`"instances":`), 1)})
			if err != nil {
				t.Fatalf("%s: %v", answer, err)
			}
			return r
		})
	})
}

func FuzzOIP(f *testing.F) {
	for _, seed := range []string{
		`{"id":"1","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}` + "\n" + `{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}`,
		`{"inputs":[{"name":"x","shape":[1,2],"datatype":"BYTES","data":[["a]","b\""]]}],"outputs":[{"name":"y"}]}`,
		`{"inputs":[{"name":"x","shape":[1,1,1],"datatype":"BOOL","data":[[[true]]]},{"name":"a","shape":[1],"datatype":"INT64","data":[ 9007199254740993 ]}]}`,
		`{"parameters":{"sequence_id":1},"inputs":[{"name":"x","shape":[0],"datatype":"FP32","data":[]}]}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		roundTrip(t, OIP{}, text, func(merged []byte) []byte {
			return bytes.Replace(merged, []byte(`"inputs":`), []byte(`"outputs":`), 1)
		}, func(answer []byte) *Request {
			r, err := OIP{}.Parse(Message{Body: bytes.Replace(answer, []byte(`"outputs":`), []byte(`"inputs":`), 1)})
			if err != nil {
				t.Fatalf("%s: %v", answer, err)
			}
			return r
		})
	})
}

func roundTrip(t *testing.T, p Protocol, text string, echo func([]byte) []byte, parse func([]byte) *Request) {
	var batch []*Request
	for line := range strings.SplitSeq(text, "\n") {
		r, err := p.Parse(Message{Body: []byte(line)})
		if err != nil {
			continue
		}
		if !jsontext.Value(line).IsValid() {
			t.Fatalf("%q is not JSON and was taken", line)
		}
		if len(batch) == 0 || bytes.Equal(batch[0].Key, r.Key) {
			batch = append(batch, r)
		}
	}
	if len(batch) == 0 {
		return
	}
	merged := p.Merge(nil, "batch", batch).Body
	if !jsontext.Value(merged).IsValid() {
		t.Fatalf("merged is no JSON: %s", merged)
	}
	if whole, err := p.Parse(Message{Body: merged}); err != nil || whole.Items != items(batch) || !bytes.Equal(whole.Key, batch[0].Key) {
		t.Fatalf("merged is not a request like those that it is made of: %v, %s", err, merged)
	}
	answer, err := p.Split(Message{Body: echo(merged)}, batch)
	if err != nil {
		// The echo sends back the other members too, and those may look like something of each row.
		if strings.Contains(err.Error(), "has an element for each") || strings.Contains(err.Error(), "is there twice") ||
			strings.Contains(err.Error(), "rows without elements") {
			return
		}
		t.Fatalf("%v: %s", err, merged)
	}
	for i, r := range batch {
		own := answer.Append(nil, i).Body
		if !jsontext.Value(own).IsValid() {
			t.Fatalf("answer %d is no JSON: %s", i, own)
		}
		got := parse(own)
		if got.Items != r.Items || !bytes.Equal(got.id, r.id) || !bytes.Equal(got.Key, r.Key) {
			t.Fatalf("answer %d: %s\nof %s", i, own, merged)
		}
		for part := range r.parts {
			if !bytes.Equal(got.parts[part].raw, r.parts[part].raw) {
				t.Fatalf("answer %d holds %s, want %s", i, got.parts[part].raw, r.parts[part].raw)
			}
		}
	}
}

// FuzzScan checks the scanner against jsontext on every value that jsontext takes, and that it never runs over.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{`[1,"\\\"",{"a":[]}]`, `{"a":"]","b":[[1],[2,3]]}`, `[[[1,2],[3]],"x"]`, `["`, `[}`, `{"a":1`, ` `, `1e5`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		start := space(body, 0)
		end, err := skip(body, start, MaxDepth)
		if err == nil && end > len(body) {
			t.Fatalf("skip ran to %d of %d", end, len(body))
		}
		value := bytes.TrimRight(body[start:], " \n\r\t")
		if !jsontext.Value(body).IsValid() {
			return
		}
		if err != nil {
			if strings.Contains(err.Error(), "nested deeper") {
				return
			}
			t.Fatalf("skip: %v", err)
		}
		if !bytes.Equal(body[start:end], value) {
			t.Fatalf("skip read %s of %s", body[start:end], value)
		}
		if body[start] != '[' {
			return
		}
		n, err := count(body, start, end, MaxDepth)
		if err != nil {
			t.Fatalf("count: %v", err)
		}
		want := 0
		d := jsontext.NewDecoder(bytes.NewReader(value))
		if _, err := d.ReadToken(); err != nil {
			t.Fatal(err)
		}
		for ; d.PeekKind() != ']'; want++ {
			if _, err := d.ReadValue(); err != nil {
				t.Fatal(err)
			}
		}
		if n != want {
			t.Fatalf("count is %d of %s, want %d", n, value, want)
		}
	})
}

// FuzzSplit gives the protocols whatever an upstream might answer: they never panic, and what they take holds together.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{
		`{"predictions":[1,[2],{"a":3}],"x":[1]}`, `{"predictions":[1,2,3`, `{"predictions":["a","b",]}`, `{"predictions":[1 2,3]}`,
		`{"id":"b","outputs":[{"shape":[3,2],"data":[1,2,3,4,5,6]}]}`, `{"outputs":[{"data":[[1],[2],[3]],"shape":[3]}],"id":1}`,
		`{"outputs":[{"shape":[3],"data":["a","b","c"]},{"shape":[3,0],"data":[]}]}`, `{"outputs":[]}`, `[`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for p, bodies := range map[Protocol][]string{
			V1{}: {`{"instances":[1,2]}`, `{"instances":[3]}`},
			OIP{}: {
				`{"id":"1","inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}`,
				`{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[3]}]}`,
			},
		} {
			requests := parse(t, p, bodies...)
			answer, err := p.Split(Message{Body: body}, requests)
			if err != nil {
				continue
			}
			for i := range requests {
				own := answer.Append(nil, i).Body
				if jsontext.Value(body).IsValid() && !jsontext.Value(own).IsValid() {
					t.Fatalf("%s: %s gave %s", p.Name(), body, own)
				}
			}
		}
	})
}

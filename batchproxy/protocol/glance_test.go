package protocol

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestGlance: a quick look at a request says what a thorough one does of a good one, and survives any other.
func TestGlance(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, tt := range []struct {
		p    Protocol
		text string
	}{
		{V1{}, `{"signature_name":"a\"b","instances":[[1,2],{"x":[3]},"]"]}`},
		{V1{}, `{"inputs":{"x":[1,2]}}`},
		{Examples{}, `{"examples":[{"a":1},{"a":2}]}`},
		{OIP{}, `{"id":"1","parameters":{"priority":2,"timeout":5},"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}`},
		{OIP{}, `{"inputs":[{"name":"x","shape":[2,1],"datatype":"BYTES","data":[["a"],["b\\"]]}],"outputs":[{"name":"y"}]}`},
		{OIP{}, `{"parameters":{"sequence_id":1},"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}`},
		{OIP{}, `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}]}`},
		{OpenAI{}, `{"model":"m","input":["a","b"]}`},
		{OpenAI{}, `{"model":"m","input":[[1,2],[3]]}`},
	} {
		parsed, want := tt.p.Parse(Message{Body: []byte(tt.text)})
		got, err := Glance(tt.p, Message{Body: []byte(tt.text)}, Unbroken{})
		if !errors.Is(err, want) || err == nil && (got.Items != parsed.Items || got.Priority != parsed.Priority || got.Timeout != parsed.Timeout) {
			t.Errorf("%s: %+v, %v; parsed it is %+v, %v", tt.text, got, err, parsed, want)
		}
		for range 20_000 {
			text := []byte(tt.text)
			for range 1 + random.IntN(3) {
				switch at := random.IntN(len(text)); random.IntN(3) {
				case 0:
					text[at] = `{}[]",:\0e-`[random.IntN(11)]
				case 1:
					text = append(text[:at], text[at+1:]...)
				default:
					text = text[:at+1]
				}
				if len(text) == 0 {
					break
				}
			}
			_, _ = Glance(tt.p, Message{Body: text}, Unbroken{}) // or it panics
			_, _ = Glance(tt.p, Message{Body: text, Header: random.IntN(len(text) + 1)}, Unbroken{})
		}
	}
}

// FuzzGlance wants a quick look to say of a good request what a thorough one does, or that it cannot tell.
func FuzzGlance(f *testing.F) {
	for _, seed := range []string{
		`{"instances":[[1,[2]],[3]]}`, `{"instances":[[[1, 2],[3,4]],[[5,6]]],"a":[1,"]"]}`, `{"instances":[[1,{"x":[2]}],[3,"]"]]}`, `{"instances":[[1,{}],[true],[[]]]}`,
		`{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[[1, -2.5e3]]}],"parameters":{"priority":1}}`, `{"examples":[{"a":1},{"a":[2]}]}`, `{"model":"m","input":[[1,2],[3]]}`,
		`{"inputs":[{"name":"x","shape":[2],"datatype":"BYTES","data":["]","a"]}],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r"}}]}`,
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, piece uint8) {
		var unbroken Unbroken
		for at := 0; at < len(body); at += max(int(piece), 1) {
			unbroken.Add(body[at:min(at+max(int(piece), 1), len(body))], at)
		}
		for _, p := range []Protocol{V1{}, Examples{}, OIP{}, OpenAI{}} {
			want, err := p.Parse(Message{Body: body})
			if err != nil && !errors.Is(err, ErrAlone) {
				continue
			}
			got, gotErr := Glance(p, Message{Body: body}, unbroken)
			switch {
			case gotErr == nil && (err != nil || got.Items != want.Items || got.Priority != want.Priority || got.Timeout != want.Timeout):
				t.Errorf("%s: %q: %+v, want %+v, %v", p.Name(), body, got, want, err)
			case errors.Is(gotErr, ErrAlone) && err == nil:
				t.Errorf("%s: %q: alone, want %+v", p.Name(), body, want)
			}
		}
	})
}

// TestGlanceAtLength: rows of numbers of any length are counted, and a bracket in a text after them ends none.
func TestGlanceAtLength(t *testing.T) {
	for _, n := range []int{1, glanceAt/2 - 20, glanceAt / 2, glanceAt, 2*glanceAt + 7} {
		long := strings.Repeat("1,", n) + "1"
		for _, row := range []string{"[" + long + "]", "[[" + long + "],[2]]", "[" + long + `,"]",2]`, "[" + long + `,"[]",` + long + "]", "[" + long + ",[]]"} {
			body := []byte(`{"instances":[` + row + "," + row + `,[3]]}`)
			for _, piece := range []int{len(body), 100, glanceAt, glanceAt + 1} {
				var unbroken Unbroken
				for at := 0; at < len(body); at += piece {
					unbroken.Add(body[at:min(at+piece, len(body))], at)
				}
				got, err := Glance(V1{}, Message{Body: body}, unbroken)
				if nested := strings.HasSuffix(row, ",[]]"); nested != (err != nil) || err == nil && got.Items != 3 {
					t.Errorf("%d numbers, a row that ends with %s, in pieces of %d: %+v, %v", n, row[len(row)-3:], piece, got, err)
				}
			}
		}
		if got, err := Glance(V1{}, Message{Body: []byte(`{"instances":[[` + long)}, Unbroken{}); err == nil {
			t.Errorf("%d numbers and no end: %+v", n, got)
		}
	}
}

package protocol

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// walks are the protocols by how they walk a body.
func walks() map[Protocol]func(body []byte, l look) (*Request, error) {
	return map[Protocol]func([]byte, look) (*Request, error){
		V1{}: func(body []byte, l look) (*Request, error) {
			return walkRows(body, l, "instances", "instance")
		},
		Examples{}: func(body []byte, l look) (*Request, error) { return walkRows(body, l, "examples", "example") },
		OIP{}:      func(body []byte, l look) (*Request, error) { return walkInfer(Message{Body: body}, body, l) },
		OpenAI{}:   walkEmbeddings,
	}
}

// What is usual is checked in the one walk, and not by jsontext again.
func TestStrictWalkIsEnough(t *testing.T) {
	members := func(n int) string {
		var text strings.Builder
		for i := range n {
			text.WriteString(`,"m` + strings.Repeat("x", i) + `":null`)
		}
		return text.String()
	}
	for _, tt := range []struct {
		name, body string
		protocol   Protocol
		unusual    bool
	}{
		{name: "floats", protocol: V1{}, body: `{"instances":[[-0.123456,12.5,0,-7,100.25],[3.141592653589793,1,2,3,4]]}`},
		{name: "spaces after commas", protocol: V1{}, body: `{"instances": [[0.5, -1.25, 3], [1, 2, 3]], "signature_name": "s"}`},
		{name: "exponents", protocol: V1{}, body: `{"instances":[1e5,2.5E-07,-1.5e+3,0e0,0.000001,1e400]}`},
		{name: "indented", protocol: V1{}, body: "{\n\t\"instances\": [\n\t\t1.5,\r\n\t\t2.5\n\t]\n}\n"},
		{name: "rows of all kinds", protocol: V1{}, body: `{"instances":[{"b64":"AAECAwQFBgcICQ=="},"a",true,false,null,[],{}, -0]}`},
		{name: "text with escapes and of other alphabets", protocol: OpenAI{}, body: `{"model":"m","input":["a \"b\" \u00e9","größe","日本語",""]}`},
		{name: "tokens", protocol: OpenAI{}, body: `{"model":"m","input":[[1,20,300],[4000]]}`},
		{name: "tensors", protocol: OIP{}, body: `{"id":"1","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2.25,3,4]},{"name":"ü","shape":[2],"datatype":"BYTES","data":["a","b"]},{"name":"n","shape":[2,1],"datatype":"BOOL","data":[[true],[false]]}]}`},
		{name: "as many members as are compared", protocol: V1{}, body: `{"instances":[1]` + members(mostNames-1) + `}`},
		{name: "one more", protocol: V1{}, body: `{"instances":[1]` + members(mostNames) + `}`, unusual: true},
		{name: "a name with an escape", protocol: V1{}, body: `{"instances":[1],"\u0061":1,"b":2}`, unusual: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := walks()[tt.protocol]([]byte(tt.body), look{care: strict}); errors.Is(err, errUnusual) || err != nil && strings.Contains(err.Error(), errUnusual.Error()) {
				if !tt.unusual {
					t.Error("left to jsontext")
				}
			} else if err != nil || tt.unusual {
				t.Errorf("walked: %v", err)
			}
			if _, err := tt.protocol.Parse(Message{Body: []byte(tt.body)}); err != nil {
				t.Error(err)
			}
		})
	}
}

// What RFC 7493 and 8259 forbid is refused, wherever in a word of eight bytes it comes.
func TestStrictWalkRefuses(t *testing.T) {
	for _, bad := range []string{
		"01", "-01", "1.", ".5", "-", "--1", "-.5", "1..5", "1.2.3", "1.25.5", "1.2345678901.5", "1-2", "1 2", "1e", "1e+", "1e5.5", "+1", "0x1", "NaN", "Infinity", "1_0",
		"00", "0 0", "1,,2", ",1", "1,", "1 ,,2", "1, ,2", "", "tru", "nul", "True", `"`, `"\x"`, `"\ud800"`, "\"\x01\"", "\"\xff\"", "\"\xed\xa0\x80\"", "[1", "[1}", "{1:2}", `{"a"}`, `{"a":}`, `{"a":1,}`,
		`{"a":1,"a":2}`, `{"a":1,"b":2,"a":3}`, `{"é":1,"é":2}`, `{"a":{"b":1,"b":2}}`, "1\x00", "1\xa0", "1,\xa02", "1\xac2", "1\xb02", "1\xae5", "\xad1", "\ufeff1",
	} {
		for before := range 18 {
			for _, after := range []string{",1", ", 0.5,1.25,100.5,2.25"} {
				body := []byte(`{"instances":[` + strings.Repeat("7", before+1) + "," + bad + after + `]}`)
				if jsontext.Value(body).IsValid() {
					t.Fatalf("%s is valid", body)
				}
				if r, err := (V1{}).Parse(Message{Body: body}); err == nil {
					t.Fatalf("%s was taken: %d rows", body, r.Items)
				}
			}
		}
	}
}

// FuzzStrict wants the strict walk to take nothing that jsontext does not, and to find the same as the walk after it.
func FuzzStrict(f *testing.F) {
	for _, seed := range []string{
		`{"instances":[[0.5, -1.25,3],[1,2,3]],"a":{"b":[],"c":"\u00e9"}}`, `{"instances":[1.5,00,2]}`, `{"instances":[1.25.5,2e5,-0.1]}`,
		`{"examples":[{"a":1,"a":2}]}`, `{"id":"x","inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","data":[[0.25,-1000.125]]}]} `,
		`{"model":"m","input":["a","é\ud800"]}`, `{"input":[[1,2],[3]]}x`, `[1, 2,3.5 ,4,-10.25, 0.5,]`, `1.0000000000000,22222222222.5,0.1,`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		start := space(body, 0)
		if end, flat := value(body, start, MaxDepth); end > 0 {
			text := body[start:end]
			if !jsontext.Value(text).IsValid() {
				t.Fatalf("%q is not JSON and was taken", text)
			}
			if again, err := skip(text, 0, MaxDepth); err != nil || again != len(text) {
				t.Fatalf("%q: skip ends at %d: %v", text, again, err)
			}
			if flat && !plain(text[1:len(text)-1]) {
				t.Fatalf("%q is no array of numbers", text)
			}
		}
		numbers := "[" + string(body[:plainNumbers(body)]) + "0]"
		if !jsontext.Value(numbers).IsValid() || strings.ContainsAny(numbers[1:], "\"[{tfn") {
			t.Fatalf("%q are no numbers and were taken", numbers)
		}
		for p, walk := range walks() {
			got, gotErr := p.Parse(Message{Body: body})
			var want *Request
			wantErr := check(body)
			if wantErr == nil {
				want, wantErr = walk(body, look{})
			}
			if !reflect.DeepEqual(got, want) || (gotErr == nil) != (wantErr == nil) || gotErr != nil && gotErr.Error() != wantErr.Error() {
				t.Fatalf("%s: %q: %v, %v, want %v, %v", p.Name(), body, got, gotErr, want, wantErr)
			}
		}
	})
}

// FuzzCutRows wants rows cut as if one looked at each comma.
func FuzzCutRows(f *testing.F) {
	f.Add(strings.Repeat("1.5,", 100)+"2", uint8(3), uint8(4))
	f.Add(strings.Repeat(",", 500), uint8(2), uint8(200))
	f.Add(" ", uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, text string, each, first uint8) {
		if !plain([]byte(text)) || strings.Contains(text, "]") || each == 0 || first == 0 {
			return
		}
		elements := strings.Split(text, ",")
		if strings.Trim(text, " \n\t\r") == "" {
			elements = nil
		}
		rows := len(elements) / int(each)
		requests := []*Request{{Items: int(first)}, {Items: max(1, rows-int(first))}}
		b := []byte("[" + text + "]")
		bounds, end, err := cutRows(b, 0, leaf(b, 0), int(each), requests)
		if fits := items(requests)*int(each) == len(elements); fits != (err == nil) {
			t.Fatalf("%d elements, rows of %d: %v", len(elements), each, err)
		}
		if err != nil {
			return
		}
		cut := int(first) * int(each)
		if got, want := string(b[bounds[0].start:bounds[0].end]), strings.Join(elements[:cut], ","); got != want {
			t.Fatalf("the first got %q, want %q", got, want)
		}
		if got, want := string(b[bounds[1].start:bounds[1].end]), strings.Join(elements[cut:], ","); got != want || end != len(b) {
			t.Fatalf("the second got %q, want %q", got, want)
		}
	})
}

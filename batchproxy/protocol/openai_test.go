package protocol

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOpenAIInputs(t *testing.T) {
	for _, tt := range []struct {
		name, input string
		items       int
		tokens      bool
		want        string // of the error; "alone" for ErrAlone
	}{
		{"a string", `"a"`, 1, false, ""},
		{"strings", `["a","b]"]`, 2, false, ""},
		{"tokens", `[1, 2,3]`, 1, true, ""},
		{"arrays of tokens", `[[1,2],[3]]`, 2, true, ""},
		{"nothing", `[]`, 0, false, "alone"},
		{"floats", `[1.5]`, 0, false, "alone"},
		{"no tokens", `[[]]`, 0, false, "alone"},
		{"booleans", `[true]`, 0, false, "alone"},
		{"a server's own", `[{"image":"x"}]`, 0, false, "alone"},
		{"an object", `{"a":1}`, 0, false, "alone"},
		{"mixed", `["a",[1]]`, 0, false, "input: element 1 is an array, and element 0 is a string: give strings, or arrays of tokens"},
		{"mixed with a number", `["a",1]`, 0, false, "input: element 1 is a number, and element 0 is a string"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := OpenAI{}.Parse(Message{Body: []byte(`{"model":"m","input":` + tt.input + `}`)})
			switch {
			case tt.want == "" && (err != nil || r.Items != tt.items || r.tokens != tt.tokens):
				t.Errorf("got %+v, %v", r, err)
			case tt.want == "alone" && !errors.Is(err, ErrAlone):
				t.Errorf("got %v, want ErrAlone", err)
			case tt.want != "" && tt.want != "alone" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	for body, want := range map[string]string{
		`{"model":"m"}`:                         ErrAlone.Error(),
		`{"model":3,"input":"a"}`:               "model: a string is wanted, this is a number",
		`{"model":"m","input":"a","model":"n"}`: "/model: this name is given twice in its object",
		`{"model":"m","input":["a"]],"x":[[]}`:  "not JSON",
	} {
		if _, err := (OpenAI{}).Parse(Message{Body: []byte(body)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", body, err, want)
		}
	}
}

func TestOpenAIKeysDiffer(t *testing.T) {
	base := `{"model":"m","input":"a"}`
	for _, tt := range []struct {
		name, body string
		same       bool
	}{
		{"an array", `{"input":["b","c"],"model":"m"}`, true},
		{"model", `{"model":"n","input":"a"}`, false},
		{"encoding_format", `{"model":"m","input":"a","encoding_format":"base64"}`, false},
		{"dimensions", `{"model":"m","input":"a","dimensions":3}`, false},
		{"user", `{"model":"m","input":"a","user":"u"}`, false},
		{"tokens", `{"model":"m","input":[1]}`, false},
		{"one that is not known", `{"model":"m","input":"a","truncate":1}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := parse(t, OpenAI{}, base, tt.body)
			if got := string(requests[0].Key) == string(requests[1].Key); got != tt.same {
				t.Errorf("keys %s and %s", requests[0].Key, requests[1].Key)
			}
		})
	}
}

func embedded(usage string, indexes ...int) string {
	var data []string
	for _, i := range indexes {
		data = append(data, fmt.Sprintf(`{"object":"embedding","index":%d,"embedding":[%d.50,-0,1e400]}`, i, i))
	}
	return `{"object":"list","data":[` + strings.Join(data, ", ") + `],"model":"m","usage":` + usage + `}`
}

func TestOpenAISplit(t *testing.T) {
	own := func(usage string, values ...int) string {
		var data []string
		for i, v := range values {
			data = append(data, fmt.Sprintf(`{"object":"embedding","index":%d,"embedding":[%d.50,-0,1e400]}`, i, v))
		}
		return `{"object":"list","data":[` + strings.Join(data, ",") + `],"model":"m","usage":` + usage + `}`
	}
	texts := []string{`{"model":"m","input":"aaaaaa"}`, `{"model":"m","input":["bb","\u0063"]}`}
	tokens := []string{`{"model":"m","input":[1,2,3]}`, `{"model":"m","input":[[4],[5,6]]}`}
	for _, tt := range []struct {
		name      string
		bodies    []string
		answer    string
		want      []string
		estimated bool
		err       string
	}{
		{
			name: "by index, however they come", bodies: texts, answer: embedded(`{"prompt_tokens":10,"total_tokens":10}`, 2, 0, 1), estimated: true,
			// 6 and 3 of 9 bytes: 6.67 and 3.33 of 10
			want: []string{own(`{"prompt_tokens":7,"total_tokens":7}`, 0), own(`{"prompt_tokens":3,"total_tokens":3}`, 1, 2)},
		},
		{
			name: "tokens are counted", bodies: tokens, answer: embedded(`{"prompt_tokens":6,"total_tokens":6,"details":{"cached":0},"more":null}`, 0, 1, 2),
			want: []string{
				own(`{"prompt_tokens":3,"total_tokens":3,"details":{"cached":0},"more":null}`, 0),
				own(`{"prompt_tokens":3,"total_tokens":3,"details":{"cached":0},"more":null}`, 1, 2),
			},
		},
		{
			name: "tokens and what the server adds", bodies: tokens, answer: embedded(`{"prompt_tokens":9,"total_tokens":9}`, 0, 1, 2), estimated: true,
			want: []string{own(`{"prompt_tokens":5,"total_tokens":5}`, 0), own(`{"prompt_tokens":4,"total_tokens":4}`, 1, 2)},
		},
		{
			name: "no usage", bodies: texts, answer: `{"data":[{"index":0,"embedding":"AA=="},{"index":1,"embedding":"AQ=="},{"index":2,"embedding":"Ag=="}]}`,
			want: []string{`{"data":[{"index":0,"embedding":"AA=="}]}`, `{"data":[{"index":0,"embedding":"AQ=="},{"index":1,"embedding":"Ag=="}]}`},
		},
		{name: "a row too few", bodies: texts, answer: embedded(`{}`, 0, 1), err: "data has 2 elements where the batch has 3 rows"},
		{name: "a row too many", bodies: texts, answer: embedded(`{}`, 0, 1, 2, 3), err: "data[3] has the index 3 where the batch has 3 rows"},
		{name: "a row twice", bodies: texts, answer: embedded(`{}`, 0, 1, 1), err: "two elements of data have the index 1"},
		{name: "no index", bodies: texts, answer: `{"data":[{"embedding":[1]},{"embedding":[1]},{"embedding":[1]}]}`, err: "data[0] has no index"},
		{name: "an index that is none", bodies: texts, answer: `{"data":[{"index":-1},{"index":1},{"index":2}]}`, err: "data[0]: its index is not one number"},
		{name: "an index twice", bodies: texts, answer: `{"data":[{"index":0,"index":1},{"index":1},{"index":2}]}`, err: "data[0]: its index is not one number"},
		{name: "an error", bodies: texts, answer: `{"error":{"message":"x"}}`, err: "no data"},
		{name: "data twice", bodies: texts, answer: `{"data":[{"index":0},{"index":1},{"index":2}],"data":[]}`, err: "data is there twice"},
		{name: "a cost", bodies: texts, answer: embedded(`{"cost":0.5}`, 0, 1, 2), err: "usage.cost is 0.5: no whole number, which cannot be divided"},
		{name: "something of each row", bodies: texts, answer: `{"data":[{"index":0},{"index":1},{"index":2}],"ids":[1,2,3]}`, err: `"ids" has an element for each of the 3 rows`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := parse(t, OpenAI{}, tt.bodies...)
			answer, err := OpenAI{}.Split(Message{Body: []byte(tt.answer)}, requests)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if answer.Estimated() != tt.estimated {
				t.Errorf("estimated: %v", answer.Estimated())
			}
			for i, want := range tt.want {
				if diff := cmp.Diff(want, string(answer.Append(nil, i).Body)); diff != "" {
					t.Errorf("request %d: %s", i, diff)
				}
			}
		})
	}
}

// TestSharesAddUp: no token is lost or charged twice, whatever the weights are.
func TestSharesAddUp(t *testing.T) {
	for _, weights := range [][]int64{{1}, {0, 0, 0}, {1, 1, 1}, {5, 0, 7, 1}, {1 << 40, 3, 1 << 41}} {
		for _, n := range []int64{0, 1, 2, 10, 1<<62 + 1} {
			shares, _ := divide(n, weights, false)
			var sum, all int64
			for _, w := range weights {
				all += w
			}
			for i, s := range shares {
				sum += s
				if exact := float64(n) * float64(weights[i]) / float64(all); all > 0 && n < 1<<50 && (float64(s) <= exact-1 || float64(s) >= exact+1) {
					t.Errorf("%d of %d by %v is %d, want about %g", i, n, weights, s, exact)
				}
			}
			if sum != n {
				t.Errorf("%d by %v is %v", n, weights, shares)
			}
		}
	}
}

func TestModel(t *testing.T) {
	whole := `{"messages":[{"role":"user","content":"\"model\":\"no\""}],"x":{"model":"no"},"mod\u0065l":"org/yes","after":1}`
	for end := range len(whole) + 1 {
		got, err := Model([]byte(whole[:end]), true)
		found := end >= strings.Index(whole, `,"after"`)
		if found && (got != "org/yes" || err != nil) || !found && !errors.Is(err, ErrMore) {
			t.Fatalf("after %s: %q, %v", whole[:end], got, err)
		}
	}
	for _, tt := range []struct {
		text, want, err string
	}{
		{`{"a":1}`, "", ""},
		{`[1]`, "", "body: a JSON object is wanted, this is an array"},
		{`--boundary`, "", "body: a JSON object is wanted"},
		{``, "", "body: empty, a JSON object is wanted"},
		{`{"model":null}`, "", "model: a string is wanted, this is null"},
		{`{"a":[1`, "", "body: not JSON: the JSON text ends too early"},
		{`{"a":` + strings.Repeat("[", 100), "", "nested deeper than 64 levels"},
	} {
		got, err := Model([]byte(tt.text), false)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %q, %v", tt.text, got, err)
		}
	}
}

func TestExamples(t *testing.T) {
	requests := parse(t, Examples{}, `{"signature_name":"s","context":{"a":1},"examples":[{"x":1.0},{"x":-0}]}`, `{"examples":[{"x":3}],"context":{"a":1},"signature_name":"s"}`)
	if got, want := string(Examples{}.Merge(nil, "", requests).Body), `{"examples":[{"x":1.0},{"x":-0},{"x":3}],"context":{"a":1},"signature_name":"s"}`; got != want {
		t.Errorf("merged %s", got)
	}
	for _, member := range []string{"result", "results"} {
		answer, err := Examples{}.Split(Message{Body: []byte(`{"` + member + `":[[["a",0.5]],[["b",1]],[["c",0]]]}`)}, requests)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(answer.Append(nil, 0).Body), `{"`+member+`":[[["a",0.5]],[["b",1]]]}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

package loadgen

import (
	"fmt"
	"strings"
	"testing"
)

func TestFault(t *testing.T) {
	const want = `{"model_name":"m","id":"reference-0","outputs":[
		{"name":"scores","datatype":"FP32","shape":[2,2],"data":[0.5,1,2e1,-0.25]},
		{"name":"label","datatype":"INT64","shape":[1],"data":[9007199254740993]}]}`
	scores := func(data string) string {
		return `{"id":"bench-a-1","outputs":[{"name":"scores","datatype":"FP32","shape":[2,2],"data":` + data + `},` +
			`{"name":"label","datatype":"INT64","shape":[1],"data":[9007199254740993]}]}`
	}
	for _, tt := range []struct {
		name, body string
		tolerance  float64
		want       string
	}{
		{name: "equal", body: scores(`[0.5,1,2e1,-0.25]`)},
		{name: "numbers written otherwise", body: scores(`[5e-1,1.0,20,-0.250]`)},
		{name: "nested data", body: scores(`[[0.5,1],[20,-0.25]]`)},
		{
			name: "outputs and fields in another order",
			body: `{"outputs":[{"data":[9007199254740993],"shape":[1],"name":"label","datatype":"INT64"},` +
				`{"shape":[2,2],"data":[0.5,1,20,-0.25],"datatype":"FP32","name":"scores"}],"id":"bench-a-1","parameters":{"n":3}}`,
		},
		{name: "other value", body: scores(`[0.5,1,20,-0.2500001]`), want: "output scores data[3] is -0.2500001, expected -0.25"},
		{name: "value within tolerance", body: scores(`[0.5,1,20.0001,-0.2500001]`), tolerance: 1e-5},
		{name: "value beyond tolerance", body: scores(`[0.5,1,20.001,-0.25]`), tolerance: 1e-5, want: "output scores data[2] is 20.001, expected 2e1"},
		{name: "too few values", body: scores(`[0.5,1,20]`), want: "output scores data has 3 values, expected 4"},
		{name: "null", body: scores(`[0.5,1,20,null]`), want: "output scores data[3] is null, expected -0.25"},
		{name: "data no list", body: scores(`"x"`), want: `output scores data is "x", expected [0.5,1,2e1,-0.25]`},
		{
			name: "large integer, even with tolerance", tolerance: 0.1,
			body: strings.Replace(scores(`[0.5,1,20,-0.25]`), "740993", "740992", 1),
			want: "output label data[0] is 9007199254740992, expected 9007199254740993",
		},
		{name: "shape", body: strings.Replace(scores(`[0.5,1,20,-0.25]`), "[2,2]", "[4,1]", 1), want: "output scores shape[0] is 4, expected 2"},
		{name: "datatype", body: strings.Replace(scores(`[0.5,1,20,-0.25]`), "FP32", "FP64", 1), want: `output scores datatype is "FP64", expected "FP32"`},
		{name: "output renamed", body: strings.Replace(scores(`[0.5,1,20,-0.25]`), "scores", "logits", 1), want: `no output "scores"`},
		{name: "name no string", body: strings.Replace(scores(`[0.5,1,20,-0.25]`), `"scores"`, `["scores"]`, 1), want: `no output "scores"`},
		{name: "output missing", body: `{"id":"bench-a-1","outputs":[]}`, want: "0 outputs, expected 2"},
		{name: "outputs missing", body: `{"id":"bench-a-1"}`, want: `the answer has no "outputs"`},
		{name: "other id", body: strings.Replace(scores(`[0.5,1,20,-0.25]`), "a-1", "a-2", 1), want: `id is "bench-a-2", expected "bench-a-1": the answer of another request`},
		{name: "no id", body: strings.Replace(scores(`[0.5,1,20,-0.25]`), `"id":"bench-a-1",`, "", 1), want: `the answer has no id, expected "bench-a-1"`},
		{name: "id no string", body: strings.Replace(scores(`[0.5,1,20,-0.25]`), `"bench-a-1"`, "1", 1), want: `id is 1, expected "bench-a-1"`},
		{name: "empty", body: ``, want: "the answer is not a JSON object: EOF"},
		{name: "cut", body: scores(`[0.5,1]`)[:80], want: "the answer is not a JSON object: unexpected EOF"},
		{name: "two answers", body: scores(`[0.5,1,20,-0.25]`) + `{}`, want: "the answer goes on behind its JSON object"},
		{name: "null answer", body: `null`, want: "the answer is null, not a JSON object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := newAnswer(V2, []byte(want), tt.tolerance)
			if err != nil {
				t.Fatal(err)
			}
			for _, pass := range []string{"first", "second"} { // the second may know the bytes
				if got := a.fault([]byte(tt.body), "bench-a-1"); got != tt.want {
					t.Errorf("%s time\n got %s\nwant %s", pass, got, tt.want)
				}
			}
		})
	}
}

func TestFaultV1(t *testing.T) {
	a, err := newAnswer(V1, []byte(`{"predictions":[{"label":"cat","score":0.5,"ok":true}]}`), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ body, want string }{
		{body: `{"predictions":[{"ok":true,"score":5e-1,"label":"cat"}]}`},
		{body: `{"predictions":[{"label":"dog","score":0.5,"ok":true}]}`, want: `predictions[0].label is "dog", expected "cat"`},
		{body: `{"predictions":[{"label":"cat","score":0.5}]}`, want: `predictions[0] has 2 fields, expected 3`},
		{body: `{"predictions":[{"label":"cat","score":0.5,"no":true}]}`, want: `predictions[0] has no "ok"`},
		{body: `{"predictions":["cat"]}`, want: `predictions[0] is "cat", expected {"label":"cat","ok":true,"score":0.5}`},
		{body: `{"error":"x"}`, want: `the answer has no "predictions"`},
	} {
		if got := a.fault([]byte(tt.body), "unused"); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.body, got, tt.want)
		}
	}
}

// TestKnownFormsStayFew has a server write its answer differently each time.
func TestKnownFormsStayFew(t *testing.T) {
	a, err := newAnswer(V2, sumAnswer("reference-0", 3), 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		id := fmt.Sprintf("bench-a-%d", i)
		body := append(sumAnswer(id, 3), strings.Repeat(" ", i)...)
		if fault := a.fault(body, id); fault != "" {
			t.Fatal(fault)
		}
	}
	if n := len(*a.forms.Load()); n != maxForms {
		t.Errorf("%d forms are kept, expected %d", n, maxForms)
	}
}

// FuzzFault checks that what an answer has learned changes no verdict: one that has seen right answers judges any body
// as one does that has seen none.
func FuzzFault(f *testing.F) {
	f.Add(string(sumAnswer("bench-a-2", 3)), "bench-a-2")
	f.Add(string(sumAnswer("bench-a-1", 3)), "bench-a-2")
	f.Add(string(sumAnswer("bench-a-2", 4)), "bench-a-2")
	f.Add(`{"id":"bench-a-2","parameters":{"of":"bench-a-2"},"outputs":[{"name":"sum","datatype":"FP32","shape":[1,1],"data":[3]}]}`, "bench-a-2")
	f.Add(`{"id":"x","outputs":{}}`, "x")
	f.Fuzz(func(t *testing.T, body, id string) {
		if strings.ContainsFunc(id, func(r rune) bool { return !isPlain(r) }) {
			t.Skip("no id of ours")
		}
		fresh, err := newAnswer(V2, sumAnswer("reference-0", 3), 0)
		if err != nil {
			t.Fatal(err)
		}
		taught, err := newAnswer(V2, sumAnswer("reference-0", 3), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, right := range []string{"bench-a-1", "bench-a-22"} {
			if fault := taught.fault(sumAnswer(right, 3), right); fault != "" {
				t.Fatal(fault)
			}
		}
		want := fresh.fault([]byte(body), id)
		for range 2 {
			if got := taught.fault([]byte(body), id); got != want {
				t.Fatalf("fresh %q, taught %q", want, got)
			}
		}
	})
}

func BenchmarkFault(b *testing.B) {
	const id = "bench-a-123456"
	body := fmt.Appendf(nil, `{"model_name":"digits","model_version":"1","id":%q,"outputs":[{"name":"probabilities","datatype":"FP32","shape":[1,10],`+
		`"data":[0.0012,0.0003,0.91,0.004,0.0001,0.00021,0.0443,0.0102,0.0299,0.0087]},{"name":"label","datatype":"INT64","shape":[1],"data":[2]}]}`, id)
	b.Run("known", func(b *testing.B) {
		a, err := newAnswer(V2, body, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if fault := a.fault(body, id); fault != "" {
				b.Fatal(fault)
			}
		}
	})
	b.Run("parsed", func(b *testing.B) {
		a, err := newAnswer(V2, body, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			a.forms.Store(nil)
			if fault := a.fault(body, id); fault != "" {
				b.Fatal(fault)
			}
		}
	})
}

package remote

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
)

// FuzzDecode holds the decoder against encoding/json: what it takes is JSON, and says the same there.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		vector(), vector(seven), vector(seven, `{"metric":{"a":"\ud83d\ude00\ud800x\u0041"},"value":[-1.5e-3,"NaN"]}`),
		`{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}`,
		`{"status":"error","errorType":"bad_data","error":"x","data":null}`,
		`{"status":"success","isPartial":false,"warnings":null,"data":{"resultType":"vector","result":[]},"x":[{},[],true,false,null,0,-0.1E+9]}`,
		`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"2"]]}]}}`,
		`{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"2"}]}]}}`,
		`{"status":"success","data":{"resultType":"vector","result":[]},"x":[0EA0]}`,
		`{"status":"success","data":{"resultType":"vector"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := decode(bytes.NewReader(text), t0, 100)
		if err != nil {
			if a != nil {
				t.Error("an answer and an error")
			}
			return
		}
		if !utf8.Valid(text) || !json.Valid(text) {
			t.Fatalf("took %q, which is not JSON", text)
		}
		// Maps, since encoding/json takes a struct's key in any case. Of a key that is there twice it takes the last.
		var top, data map[string]json.RawMessage
		if a.status == "error" || json.Unmarshal(text, &top) != nil || json.Unmarshal(top["data"], &data) != nil ||
			bytes.Count(text, []byte(`"data"`))+bytes.Count(text, []byte(`"result"`)) != 2 || bytes.Contains(text, []byte(`\`)) {
			return
		}
		type series struct {
			metric map[string]string
			value  [2]any
		}
		var list []series
		if a.kind == "scalar" {
			one := series{}
			if err := json.Unmarshal(data["result"], &one.value); err != nil {
				t.Fatal(err)
			}
			list = append(list, one)
		} else {
			var all []map[string]json.RawMessage
			if err := json.Unmarshal(data["result"], &all); err != nil {
				t.Fatalf("took %q: %v", text, err)
			}
			if bytes.Count(text, []byte(`"metric"`)) > len(all) {
				return
			}
			for _, keys := range all {
				one := series{}
				if keys["metric"] != nil {
					if err := json.Unmarshal(keys["metric"], &one.metric); err != nil {
						t.Fatal(err)
					}
				}
				if err := json.Unmarshal(keys["value"], &one.value); err != nil {
					t.Fatal(err)
				}
				list = append(list, one)
			}
		}
		if len(list) != len(a.samples) {
			t.Fatalf("%d series of %d in %q", len(a.samples), len(list), text)
		}
		for i, s := range list {
			b := labels.NewBuilder(labels.EmptyLabels())
			for name, v := range s.metric {
				b.Set(name, v)
			}
			v, err := strconv.ParseFloat(fmt.Sprint(s.value[1]), 64)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				t.Fatalf("took %q for a value", s.value[1])
			}
			got := a.samples[i]
			if !labels.Equal(got.Labels, b.Labels()) || got.Value != v && !(math.IsNaN(v) && math.IsNaN(got.Value)) {
				t.Fatalf("got %s %g, want %s %g", got.Labels, got.Value, b.Labels(), v)
			}
		}
	})
}

// many is an answer with so many series of ten labels.
func many(n int) string {
	series := make([]string, n)
	for i := range series {
		series[i] = fmt.Sprintf(`{"metric":{"__name__":"flyball_batchproxy_requests_running","instance":"10.0.%d.%d:9839","job":"flyball","model":"llama","protocol":"openai","class":"interactive","cluster":"eu-1","namespace":"serving","pod":"llama-%d","zone":"b"},"value":[1767600000.25,"%d"]}`, i/256, i%256, i, i)
	}
	return vector(series...)
}

func BenchmarkDecode(b *testing.B) {
	text := many(1000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if a, err := decode(strings.NewReader(text), t0, 10_000); err != nil || len(a.samples) != 1000 {
			b.Fatal(err)
		}
	}
}

// BenchmarkQuery is a query as scale rules have it: one series, over loopback, never shared.
func BenchmarkQuery(b *testing.B) {
	c := client(b, serve(b, answers(vector(seven))))
	b.ReportAllocs()
	at := t0
	for b.Loop() {
		at = at.Add(1e6)
		if _, err := c.Query(b.Context(), "up", at, 0); err != nil {
			b.Fatal(err)
		}
	}
}

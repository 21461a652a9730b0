package batchproxy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// measured is what a meter says of an answer.
type measured struct {
	First  time.Duration
	Later  []time.Duration
	Tokens []string
	Finish string
}

func (m *measured) series() *generation {
	return &generation{
		firstToken: prometheus.ObserverFunc(func(s float64) { m.First = time.Duration(s*1000+.5) * time.Millisecond }),
		interToken: prometheus.ObserverFunc(func(s float64) { m.Later = append(m.Later, time.Duration(s*1000+.5)*time.Millisecond) }),
		tokens: func(kind, source string, n int64) {
			m.Tokens = append(m.Tokens, fmt.Sprintf("%d %s by %s", n, kind, source))
		},
		finished: func(how string) { m.Finish = how },
	}
}

const (
	role  = `{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}`
	hello = `{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"hel\"content\":\"lo"},"finish_reason":null}]}`
	last  = `{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}`
	used  = `{"object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":20,"details":{"usage":{}}}}`
)

// TestMeter: each piece of a stream comes 10 ms after the one before, the first 10 ms after the request.
func TestMeter(t *testing.T) {
	events := func(all ...string) []string {
		for i, e := range all {
			all[i] = "data: " + e + "\n\n"
		}
		return all
	}
	ms := time.Millisecond
	padding := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		name         string
		kind         string
		pieces       []string
		broken, gone bool
		want         measured
	}{
		{name: "chat", pieces: events(role, hello, hello, last, "[DONE]"), want: measured{20 * ms, []time.Duration{10 * ms}, []string{"2 completion by chunks"}, "length"}},
		{name: "usage", pieces: events(role, hello, hello, last, used, "[DONE]"), want: measured{20 * ms, []time.Duration{10 * ms}, []string{"7 prompt by usage", "20 completion by usage"}, "length"}},
		{
			name: "usage in every event", pieces: events(
				`{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`,
				`{"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`),
			want: measured{10 * ms, []time.Duration{10 * ms}, []string{"1 prompt by usage", "2 completion by usage"}, "stop"},
		},
		{name: "carriage returns, comments, fields, several lines of data", pieces: []string{
			": ping\r\n\r\n", "event: x\r\nid: 1\r", "\ndata: {\"choices\":\r\ndata:[{\"delta\":{\"content\"\r\ndata: : \"a\"}}]}\r\n", "\r", "data: " + hello + "\r\r", "datas: " + hello + "\n\n", "data\n\n",
		}, want: measured{40 * ms, []time.Duration{10 * ms}, []string{"2 completion by chunks"}, "none"}},
		{name: "two events in one piece", pieces: []string{"data: " + hello + "\n\ndata: " + hello + "\n\n"}, want: measured{10 * ms, []time.Duration{0}, []string{"2 completion by chunks"}, "none"}},
		{name: "completions", pieces: events(`{"object":"text_completion","choices":[{"text":" a","finish_reason":"stop"}]}`), want: measured{10 * ms, nil, []string{"1 completion by chunks"}, "stop"}},
		{
			name: "reasoning and tools", pieces: events(
				`{"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}`,
				`{"choices":[{"delta":{"tool_calls":[{"index":0,"type":"function","function":{"name":"f","arguments":""}}]}}]}`,
				`{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"usage\":{\"prompt_tokens\":9}}"}}]}}]}`,
				`{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}`),
			want: measured{10 * ms, []time.Duration{20 * ms}, []string{"2 completion by chunks"}, "tool_calls"},
		},
		{
			name: "responses", pieces: events(
				`{"type":"response.created","response":{"output":[]}}`,
				`{"type":"response.output_text.delta","delta":"a"}`, `{"type":"response.output_text.delta","delta":"b"}`,
				`{"type":"response.output_text.done","text":"ab"}`,
				`{"type":"response.completed","response":{"output":[{"content":[{"text":"ab`+padding+`"}]}],"usage":{"input_tokens":3,"output_tokens":2}}}`),
			want: measured{20 * ms, []time.Duration{10 * ms}, []string{"3 prompt by usage", "2 completion by usage"}, "stop"},
		},
		{
			name: "TGI", pieces: events(
				`{"index":1,"token":{"id":1,"text":" a","special":false},"generated_text":null,"details":null}`,
				`{"index":2,"token":{"id":2,"text":" b"},"generated_text":" a b","details":{"finish_reason":"eos_token","generated_tokens":2,"input_length":5}}`),
			want: measured{10 * ms, []time.Duration{10 * ms}, []string{"5 prompt by usage", "2 completion by usage"}, "stop"},
		},
		{name: "Triton", pieces: events(`{"model_name":"m","text_output":"a"}`, `{"model_name":"m","text_output":"b"}`), want: measured{10 * ms, []time.Duration{10 * ms}, []string{"2 completion by chunks"}, "none"}},
		{name: "breaks off", pieces: events(hello)[:1], broken: true, want: measured{10 * ms, nil, []string{"1 completion by chunks"}, "error"}},
		{name: "client gone", pieces: events(hello, hello), broken: true, gone: true, want: measured{10 * ms, []time.Duration{10 * ms}, []string{"2 completion by chunks"}, "cancelled"}},
		{name: "an event that does not end", pieces: []string{"data: " + hello}, want: measured{Finish: "none"}},
		{name: "wrong numbers", pieces: events(`{"usage":{"prompt_tokens":-1,"completion_tokens":1e300}}`, `{"usage":{"prompt_tokens":9000000000000000}}`, `{"usage":[]}`, `{"usage":`), want: measured{Finish: "none"}},
		{name: "one answer", kind: "application/json", pieces: []string{
			`{"object":"chat.completion","choices":[{"message":{"content":"`, padding, `"},"finish_reason":"stop"}],"usage": {"prompt_tok`, `ens": 7, "completion_tokens": 20}}`,
		}, want: measured{0, nil, []string{"7 prompt by usage", "20 completion by usage"}, "stop"}},
		{name: "one answer of responses", kind: "application/json", pieces: []string{`{"object":"response","status":"incomplete","usage":{"input_tokens":1,"output_tokens":2}}`}, want: measured{0, nil, []string{"1 prompt by usage", "2 completion by usage"}, "length"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kind := tt.kind
			if kind == "" {
				kind = "text/event-stream; charset=utf-8"
			}
			var got measured
			now := time.Unix(0, 0)
			m := newMeter(got.series(), now, 200, http.Header{"Content-Type": {kind}})
			for _, piece := range tt.pieces {
				now = now.Add(10 * ms)
				m.pass(now, []byte(piece))
				if c := cap(m.text.b); c > 64<<10 {
					t.Fatalf("it holds %d bytes", c)
				}
			}
			m.end(tt.broken, tt.gone)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, header := range []http.Header{{"Content-Type": {"text/html"}}, {"Content-Type": {"text/event-stream"}, "Content-Encoding": {"gzip"}}, {}} {
		if newMeter(nil, time.Time{}, 200, header) != nil {
			t.Errorf("an answer with %v is measured", header)
		}
	}
}

// FuzzMeter: what is measured does not depend on how the stream was cut, and little is held.
func FuzzMeter(f *testing.F) {
	for _, seed := range []string{
		"data: " + hello + "\n\ndata: " + used + "\r\n\r\n", ": c\r\rdata:" + role + "\rdata: x\r\n\n", "data: " + strings.Repeat(hello, 100) + "\n\n", "data\n\ndata:\n\n", `{"usage":{"prompt_tokens":1}}`,
	} {
		f.Add([]byte(seed), uint64(1), true)
		f.Add([]byte(seed), uint64(2), false)
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64, events bool) {
		header := http.Header{"Content-Type": {"application/json"}}
		if events {
			header.Set("Content-Type", "text/event-stream")
		}
		measure := func(most int) measured {
			var got measured
			sent := httptest.NewRecorder()
			r := &recorder{ResponseWriter: sent, meter: newMeter(got.series(), time.Now(), 200, header)}
			m := r.meter
			random := rand.New(rand.NewPCG(seed, 0))
			for rest := stream; len(rest) > 0; {
				n := min(1+random.IntN(most), len(rest))
				if written, err := r.Write(bytes.Clone(rest[:n])); written != n || err != nil {
					t.Fatalf("%d of %d bytes written, %v", written, n, err)
				}
				if cap(m.text.b) > 64<<10 {
					t.Fatalf("it holds %d bytes", cap(m.text.b))
				}
				rest = rest[n:]
			}
			m.end(false, false)
			if !bytes.Equal(sent.Body.Bytes(), stream) {
				t.Error("other bytes were delivered")
			}
			got.First = 0
			clear(got.Later) // how many, whenever they came
			return got
		}
		whole := measure(len(stream) + 1)
		for _, most := range []int{1, 3, 100} {
			if diff := cmp.Diff(whole, measure(most)); diff != "" {
				t.Errorf("in pieces of up to %d bytes it is another:\n%s", most, diff)
			}
		}
	})
}

// BenchmarkMeter is what measuring costs for each event of a chat.
func BenchmarkMeter(b *testing.B) {
	var got measured
	series := got.series()
	series.interToken = prometheus.ObserverFunc(func(float64) {})
	m := newMeter(series, time.Now(), 200, http.Header{"Content-Type": {"text/event-stream"}})
	event := []byte("data: " + hello + "\n\n")
	b.ReportAllocs()
	now := time.Now()
	for b.Loop() {
		m.pass(now, event)
	}
}

// TestStreamPassesAsItComes: each piece is with the client before the replica sends the next, measured or not.
func TestStreamPassesAsItComes(t *testing.T) {
	for _, path := range []string{"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v2/models/m/generate_stream", "/generate_stream"} {
		t.Run(path, func(t *testing.T) {
			taken := make(chan struct{})
			s := newModelServer(t)
			s.before = func(w http.ResponseWriter, _ *http.Request, _ call) bool {
				w.Header().Set("Content-Type", "text/event-stream")
				for i, c := range []byte("data: " + hello + "\n\ndata: " + used + "\n\n") { // byte by byte
					_, _ = w.Write([]byte{c})
					if i < 10 || c == '\n' {
						_ = http.NewResponseController(w).Flush()
						<-taken
					}
				}
				return true
			}
			registry := prometheus.NewRegistry()
			f := start(t, oneModel(Upstream{URL: s.URL}), Options{Registerer: registry})
			response, err := f.client.Post(f.url+path, "application/json", strings.NewReader(`{"model":"m","inputs":"x","stream":true}`))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var got []byte
			for {
				b := make([]byte, 1024)
				n, err := response.Body.Read(b)
				got = append(got, b[:n]...)
				if n == 1 && len(got) <= 10 || n > 0 && b[n-1] == '\n' {
					taken <- struct{}{}
				}
				if err != nil {
					break
				}
			}
			if want := "data: " + hello + "\n\ndata: " + used + "\n\n"; string(got) != want {
				t.Errorf("got %q, want %q", got, want)
			}
			f.running(0)
			protocol := map[string]string{"/v2": "oip", "/v1": "openai", "/ge": "tgi"}[path[:3]]
			for name, want := range map[string]float64{
				`flyball_batchproxy_tokens_total{class="normal",kind="completion",model="m",protocol="` + protocol + `",source="usage"}`: 20,
				`flyball_batchproxy_tokens_total{class="normal",kind="prompt",model="m",protocol="` + protocol + `",source="usage"}`:     7,
				`flyball_batchproxy_generations_total{class="normal",finish="none",model="m",protocol="` + protocol + `"}`:               1,
			} {
				if got, _ := value(t, registry, name); got != want {
					t.Errorf("%s is %v, want %v", name, got, want)
				}
			}
		})
	}
}

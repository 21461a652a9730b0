package batchproxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

// embed has a test's replica answer embeddings as OpenAI does, last row first: a row's is its own text, and a token is four
// bytes of it.
func embed(w http.ResponseWriter, _ *http.Request, c call) bool {
	if c.path != "/v1/embeddings" {
		return false
	}
	var in struct {
		Model string
		Input json.RawMessage
	}
	if err := json.Unmarshal([]byte(c.body), &in); err != nil || strings.Contains(c.body, "poison") {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":{"message":"poison","type":"invalid_request_error","param":"input","code":null}}`)
		return true
	}
	var rows []json.RawMessage
	if json.Unmarshal(in.Input, &rows) != nil {
		rows = []json.RawMessage{in.Input}
	}
	var data []string
	tokens := 0
	for i, row := range rows {
		data = append(data, fmt.Sprintf(`{"object":"embedding","index":%d,"embedding":%s}`, i, row))
		tokens += (len(row) + 1) / 4
	}
	slices.Reverse(data)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Served-By", "replica")
	fmt.Fprintf(w, `{"object":"list","data":[%s],"model":%q,"usage":{"prompt_tokens":%d,"total_tokens":%d}}`, strings.Join(data, ","), in.Model, tokens, tokens)
	return true
}

func embedding(model string, tokens int, rows ...string) string {
	var data []string
	for i, row := range rows {
		data = append(data, fmt.Sprintf(`{"object":"embedding","index":%d,"embedding":%q}`, i, row))
	}
	return fmt.Sprintf(`{"object":"list","data":[%s],"model":%q,"usage":{"prompt_tokens":%d,"total_tokens":%d}}`, strings.Join(data, ","), model, tokens, tokens)
}

// models is a configuration of several models, each at its own replica.
func models(named map[string][]string, servers map[string]*modelServer) Config {
	cfg := DefaultConfig()
	for _, name := range []string{"a", "b"} {
		m := DefaultModelConfig()
		m.Name, m.ServedModelNames, m.Upstreams = name, named[name], []Upstream{{URL: servers[name].URL}}
		m.Batch.Mode, m.Batch.MaxSize, m.Batch.MaxWait = ModeTimeout, 3, prom.Duration(time.Hour)
		cfg.Models = append(cfg.Models, m)
	}
	return cfg
}

func TestEmbeddingsShareABatch(t *testing.T) {
	servers := map[string]*modelServer{"a": newModelServer(t), "b": newModelServer(t)}
	servers["a"].before, servers["b"].before = embed, embed
	f := start(t, models(map[string][]string{"b": {"org/b"}}, servers), Options{})
	replies := f.postAll("/v1/embeddings", `{"model":"a","input":"aaaaaaa"}`, `{"input":["b","c"],"model":"a"}`,
		`{"model":"org/b","input":["x","y"]}`, `{"model":"org/b","input":"z"}`)
	// 2+1+1 tokens by 7, 1 and 1 bytes: 3.1 and 0.9 of 4
	for i, body := range []string{embedding("a", 3, "aaaaaaa"), embedding("a", 1, "b", "c"), embedding("org/b", 2, "x", "y"), embedding("org/b", 1, "z")} {
		want(t, replies[i], 200, body)
		if h := replies[i].header; h.Get("X-Flyball-Usage") != "estimated" || h.Get("X-Flyball-Batch-Size") != "3" || h.Get("X-Served-By") != "" {
			t.Errorf("headers: %v", h)
		}
	}
	for name, model := range map[string]string{"a": "a", "b": "org/b"} {
		calls := servers[name].seen()
		if len(calls) != 1 || calls[0].path != "/v1/embeddings" || !strings.Contains(calls[0].body, `"model":"`+model+`"`) {
			t.Errorf("%s was sent %+v", name, calls)
		}
	}
}

// TestTokensAreCharged: what a client sends as tokens is what it pays for.
func TestTokensAreCharged(t *testing.T) {
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
		fmt.Fprintf(w, `{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":5}}`)
		return true
	}
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 2, MaxWait: prom.Duration(time.Hour)}
	f := start(t, cfg, Options{})
	first := make(chan reply, 1)
	go func() { first <- f.post("/v1/embeddings", `{"model":"m","input":[7,8,9]}`) }()
	f.queued(1)
	second := f.post("/v1/embeddings", `{"model":"m","input":[[7,8]]}`)
	one := <-first
	want(t, one, 200, `{"data":[{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":3}}`)
	want(t, second, 200, `{"data":[{"index":0,"embedding":[2]}],"usage":{"prompt_tokens":2}}`)
	if one.header.Get("X-Flyball-Usage") != "" {
		t.Error("exact shares are said to be estimated")
	}
}

func TestOpenAIErrors(t *testing.T) {
	servers := map[string]*modelServer{"a": newModelServer(t), "b": newModelServer(t)}
	servers["a"].before = embed
	cfg := models(map[string][]string{"a": {"llama", "a"}}, servers)
	cfg.Models[0].Batch.MaxSize = 1
	cfg.Limits.MaxBody = 300
	f := start(t, cfg, Options{})
	fault := func(message, kind, param, code string) string {
		text, _ := json.Marshal(map[string]any{"error": map[string]any{"message": message, "type": kind}})
		quoted := func(s string) string {
			if s == "" {
				return "null"
			}
			return `"` + s + `"`
		}
		return strings.TrimSuffix(string(text), "}}") + `,"param":` + quoted(param) + `,"code":` + quoted(code) + `}}`
	}
	const wrong = "invalid_request_error"
	for _, tt := range []struct {
		name, path, body string
		header           []string
		code             int
		want             string
	}{
		{"no model", "/v1/embeddings", `{"input":"a"}`, nil, 400, fault("model: missing: give one of a, b, llama", wrong, "model", "")},
		{"no model in a chat", "/v1/chat/completions", `{"messages":[]}`, nil, 400, fault("model: missing: give one of a, b, llama", wrong, "model", "")},
		{"unknown model", "/v1/embeddings", `{"model":"lama","input":"a"}`, nil, 404, fault(`model "lama" is unknown; did you mean "llama"?`, wrong, "model", "model_not_found")},
		{"unknown model in a chat", "/v1/chat/completions", `{"model":"gpt-4"}`, nil, 404, fault(`model "gpt-4" is unknown`, wrong, "model", "model_not_found")},
		{"model of another kind", "/v1/responses", `{"model":1}`, nil, 400, fault("model: a string is wanted, this is a number", wrong, "model", "")},
		{"not JSON", "/v1/embeddings", `{"model":"a","input":[}`, nil, 400, fault("/input/0: not JSON: invalid character '}' at start of value at byte 22", wrong, "/input/0", "")},
		{"mixed input", "/v1/embeddings", `{"model":"a","input":["a",[1]]}`, nil, 400, fault("input: element 1 is an array, and element 0 is a string: give strings, or arrays of tokens", wrong, "input", "")},
		{"no JSON at all", "/v1/audio/transcriptions", `--x`, nil, 400, fault("body: a JSON object is wanted, this is a number", wrong, "", "")},
		{"compressed", "/v1/embeddings", `x`, []string{"Content-Encoding", "gzip"}, 415, fault(`body: encoded as "gzip": send it as plain JSON`, wrong, "", "")},
		{"too large", "/v1/embeddings", `{"model":"a","input":"` + strings.Repeat("a", 300) + `"}`, nil, 413, fault("body is larger than the limit of 300 bytes", wrong, "", "")},
		{"too large a chat", "/v1/chat/completions", `{"model":"a","input":"` + strings.Repeat("a", 300) + `"}`, nil, 413, fault("body is larger than the limit of 300 bytes", wrong, "", "")},
		{"the replica's own", "/v1/embeddings", `{"model":"a","input":"poison"}`, nil, 400, fault("poison", wrong, "input", "")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := f.post(tt.path, tt.body, tt.header...)
			if got.code != tt.code {
				t.Errorf("got %d, want %d", got.code, tt.code)
			}
			var a, b any
			_ = json.Unmarshal([]byte(got.body), &a)
			_ = json.Unmarshal([]byte(tt.want), &b)
			if diff := cmp.Diff(b, a); diff != "" || a == nil {
				t.Errorf("%s: %s", got.body, diff)
			}
		})
	}
}

// TestBodyGoesOnAsItIs: what is not batched reaches the model that it names, byte for byte, in OpenAI's paths too.
func TestBodyGoesOnAsItIs(t *testing.T) {
	servers := map[string]*modelServer{"a": newModelServer(t), "b": newModelServer(t)}
	f := start(t, models(map[string][]string{"b": {"*"}}, servers), Options{})
	long := strings.Repeat("x", 100_000)
	for _, tt := range []struct{ name, path, body, to string }{
		{"chat", "/v1/chat/completions", `{ "model" : "a" , "messages":[{"content":"` + long + `"}], "n":9007199254740993 }`, "a"},
		{"model last", "/v1/completions", `{"prompt":"` + long + `","model":"a"}`, "a"},
		{"another's name", "/v1/responses", `{"input":"x","model":"gpt"}`, "b"},
		{"no name", "/v1/rerank", `{"query":"x"}`, "b"},
		{"trailing text is not ours to judge", "/v1/score", `{"model":"a"} and more`, "a"},
		{"embeddings of a server's own", "/v1/embeddings", `{"model":"a","input":[{"image":"x"}], "n":1.50}`, "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(servers[tt.to].seen())
			if got := f.post(tt.path, tt.body, "Authorization", "Bearer k"); got.code != 200 {
				t.Fatalf("got %d %.200s", got.code, got.body)
			}
			calls := servers[tt.to].seen()
			if len(calls) != before+1 || calls[before].body != tt.body || calls[before].path != tt.path || calls[before].header.Get("Authorization") != "Bearer k" {
				t.Errorf("%s was not sent what it should", tt.to)
			}
		})
	}
	until(t, "all bytes are given back", func() bool { return f.buffers.held.Load() == 0 })
}

// TestOnlyWhatIsNeededIsRead: a chat is on its way before its body has ended, and its stream comes as it is written.
func TestOnlyWhatIsNeededIsRead(t *testing.T) {
	read := make(chan string, 10)
	ended, more := make(chan struct{}), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lines := bufio.NewReader(r.Body)
		line, _ := lines.ReadString('\n')
		read <- line
		rest, _ := io.ReadAll(lines)
		read <- string(rest)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		w.(http.Flusher).Flush()
		<-more
		fmt.Fprint(w, "data: [DONE]\n\n")
	}))
	defer upstream.Close()
	f := start(t, oneModel(Upstream{URL: upstream.URL}), Options{})
	in, out := io.Pipe()
	go func() {
		_, _ = io.WriteString(out, `{"model":"m",`+"\n")
		<-ended // the replica has that much
		_, _ = io.WriteString(out, `"messages":[]}`)
		out.Close()
	}()
	go func() {
		if line := <-read; line != `{"model":"m",`+"\n" {
			t.Errorf("the replica read %q", line)
		}
		close(ended)
	}()
	req, err := http.NewRequestWithContext(context.Background(), "POST", f.url+"/v1/chat/completions", in)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if rest := <-read; rest != `"messages":[]}` {
		t.Errorf("the replica read %q at last", rest)
	}
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); line != "data: one\n" {
		t.Fatalf("%q %v", line, err) // comes before the stream goes on
	}
	close(more)
	if rest, err := io.ReadAll(lines); string(rest) != "\ndata: [DONE]\n\n" || err != nil {
		t.Errorf("%q %v", rest, err)
	}
}

func TestModelsAreListed(t *testing.T) {
	servers := map[string]*modelServer{"a": newModelServer(t), "b": newModelServer(t)}
	f := start(t, models(map[string][]string{"b": {"org/b", "*"}}, servers), Options{})
	got := f.send(context.Background(), "GET", "/v1/models", "")
	var list struct {
		Object string
		Data   []struct {
			ID, Object string
			Created    int64
		}
		Models []string
	}
	if err := json.Unmarshal([]byte(got.body), &list); err != nil {
		t.Fatal(err)
	}
	if list.Object != "list" || len(list.Data) != 2 || list.Data[0].ID != "a" || list.Data[1].ID != "org/b" || list.Data[1].Object != "model" ||
		list.Data[0].Created == 0 || !slices.Equal(list.Models, []string{"a", "b"}) {
		t.Errorf("got %s", got.body)
	}
	want(t, f.send(context.Background(), "GET", "/v1/models/org/b", ""), 200, `{"path":"/v1/models/org/b","method":"GET","body":""}`)
	if got := f.send(context.Background(), "GET", "/v1/files", ""); got.code != 404 || !strings.Contains(got.body, "names no model, and there are several: a, org/b") {
		t.Errorf("got %d %s", got.code, got.body)
	}
	one := start(t, oneModel(Upstream{URL: servers["a"].URL}), Options{})
	want(t, one.send(context.Background(), "GET", "/v1/models", ""), 200, `{"path":"/v1/models","method":"GET","body":""}`)
	want(t, one.post("/v1/audio/transcriptions", "--x\r\n"), 200, `{"path":"/v1/audio/transcriptions","method":"POST","body":"--x\r\n"}`)
}

// TestProtocolOfAModel: a model's protocol says what is batched of it; the rest is passed on.
func TestProtocolOfAModel(t *testing.T) {
	for _, tt := range []struct {
		protocol string
		batched  []string
	}{
		{"auto", []string{"v1", "oip", "openai"}},
		{"", []string{"v1", "oip", "openai"}},
		{"v1", []string{"v1"}},
		{"oip", []string{"oip"}},
		{"openai", []string{"openai"}},
		{"passthrough", nil},
	} {
		t.Run(tt.protocol, func(t *testing.T) {
			s := newModelServer(t)
			s.before = embed
			cfg := oneModel(Upstream{URL: s.URL})
			cfg.Models[0].Protocol = tt.protocol
			registry := prometheus.NewRegistry()
			f := start(t, cfg, Options{Registerer: registry})
			for protocol, request := range map[string][2]string{
				"v1":     {"/v1/models/m:predict", `{"instances":[1]}`},
				"oip":    {"/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}`},
				"openai": {"/v1/embeddings", `{"model":"m","input":"a"}`},
			} {
				got := f.post(request[0], request[1])
				if got.code != 200 {
					t.Errorf("%s: %d %s", protocol, got.code, got.body)
				}
				if batched := got.header.Get("X-Flyball-Batch-Size") != ""; batched != slices.Contains(tt.batched, protocol) {
					t.Errorf("%s is batched: %v", protocol, batched)
				}
				if n, _ := value(t, registry, fmt.Sprintf(`flyball_batchproxy_arrivals_total{class="normal",model="m",protocol=%q}`, protocol)); n != 1 {
					t.Errorf("%s: %g arrivals", protocol, n)
				}
			}
		})
	}
}

// TestClientsAboutThemselves: the headers by which OpenAI's clients tell what they are do not keep requests apart.
func TestClientsAboutThemselves(t *testing.T) {
	s := newModelServer(t)
	s.before = embed
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 2, MaxWait: prom.Duration(time.Hour)}
	f := start(t, cfg, Options{})
	var wg sync.WaitGroup
	for _, version := range []string{"1", "2"} {
		wg.Go(func() {
			if got := f.post("/v1/embeddings", `{"model":"m","input":"a"}`, "X-Stainless-Runtime-Version", version); got.code != 200 {
				t.Errorf("got %d", got.code)
			}
		})
	}
	wg.Wait()
}

package batchproxy

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"

	"flyball/rules/peertest"
)

// openAIServer answers embeddings and chat streams. A text's embedding is its bytes.
func openAIServer(w http.ResponseWriter, r *http.Request, c call) bool {
	w.Header().Set("Content-Type", "application/json")
	switch c.path {
	case "/v1/models":
		fmt.Fprint(w, `{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"replica"}]}`)
	case "/v1/chat/completions":
		w.Header().Set("Content-Type", "text/event-stream")
		for _, word := range []string{"one ", "two ", "three"} {
			fmt.Fprintf(w, "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", word)
			_ = http.NewResponseController(w).Flush()
		}
		for strings.Contains(c.body, "forever") && r.Context().Err() == nil {
			fmt.Fprint(w, "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"on \"}}]}\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(time.Millisecond):
			}
		}
		if strings.Contains(c.body, "include_usage") {
			fmt.Fprint(w, "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":4,\"total_tokens\":9}}\n\n")
		}
		fmt.Fprint(w, "data: [DONE]\n\n")
	case "/v1/embeddings":
		var in struct {
			Input  []string
			Format string `json:"encoding_format"`
		}
		if err := json.Unmarshal([]byte(c.body), &in); err != nil { // a single string
			var one struct{ Input string }
			_ = json.Unmarshal([]byte(c.body), &one)
			in.Input = []string{one.Input}
		}
		type row struct {
			Object    string `json:"object"`
			Index     int    `json:"index"`
			Embedding any    `json:"embedding"`
		}
		out := struct {
			Object string         `json:"object"`
			Data   []row          `json:"data"`
			Model  string         `json:"model"`
			Usage  map[string]int `json:"usage"`
		}{Object: "list", Model: "m", Usage: map[string]int{}}
		for i, text := range in.Input {
			values := make([]float32, len(text))
			var raw []byte
			for j := range text {
				values[j] = float32(text[j])
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(values[j]))
			}
			one := row{Object: "embedding", Index: i, Embedding: values}
			if in.Format == "base64" {
				one.Embedding = base64.StdEncoding.EncodeToString(raw)
			}
			out.Data = append(out.Data, one)
			out.Usage["prompt_tokens"] += len(text)
			out.Usage["total_tokens"] += len(text)
		}
		text, _ := json.Marshal(out)
		_, _ = w.Write(text)
	default:
		return false
	}
	return true
}

// testOpenAIsOwnClient drives the proxy with the client of OpenAI's package for Node.
func testOpenAIsOwnClient(t *testing.T) {
	node, modules := peertest.Binary(t, "node"), peertest.NodeModules(t)
	if _, err := os.Stat(filepath.Join(modules, "openai")); err != nil {
		peertest.Missing(t, "the node module openai")
	}
	peertest.Reads(t, "testdata/openai.mjs")
	dir := t.TempDir()
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/openai.mjs")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "openai.mjs"), script, 0o600); err != nil {
		t.Fatal(err)
	}

	s := newModelServer(t)
	s.before = openAIServer
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 8, MaxWait: prom.Duration(20 * time.Millisecond)}
	registry := prometheus.NewRegistry()
	f := start(t, cfg, Options{Registerer: registry})
	cmd := exec.CommandContext(t.Context(), node, "openai.mjs")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BASE_URL="+f.url+"/v1", "NO_PROXY=*")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var got struct {
		Embeddings []struct {
			Input   []string
			Values  [][]float64
			Indexes []int
			Tokens  int
		}
		Chat   string
		Chunks int

		Conversations []struct {
			Text               string
			Prompt, Completion int
		}
		Aborted int
		Fault   map[string]any
		Listed  []string
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if len(got.Embeddings) != 80 {
		t.Errorf("%d embeddings, want 80", len(got.Embeddings))
	}
	tokens, bytes := 0, 0
	for _, e := range got.Embeddings {
		tokens += e.Tokens
		for i, input := range e.Input {
			bytes += len(input)
			var text []byte
			for _, v := range e.Values[i] {
				text = append(text, byte(v))
			}
			if string(text) != input || e.Indexes[i] != i {
				t.Errorf("%v was given %q with the index %d", e.Input, text, e.Indexes[i])
			}
		}
		if len(e.Values) != len(e.Input) {
			t.Errorf("%v was given %d embeddings", e.Input, len(e.Values))
		}
	}
	if tokens != bytes {
		t.Errorf("clients were charged %d tokens, the server counted %d", tokens, bytes)
	}
	calls := 0
	for _, c := range s.seen() {
		if c.path == "/v1/embeddings" {
			calls++
		}
	}
	if calls > 60 {
		t.Errorf("80 requests of 8 clients were sent in %d calls", calls)
	}
	if got.Chat != "one two three" || got.Chunks != 3 {
		t.Errorf("the chat was %q in %d chunks", got.Chat, got.Chunks)
	}
	if len(got.Conversations) != 10 || got.Aborted < 3 {
		t.Errorf("%d conversations, and one left after %d pieces", len(got.Conversations), got.Aborted)
	}
	for _, c := range got.Conversations {
		if c.Text != "one two three" || c.Prompt != 5 || c.Completion != 4 {
			t.Errorf("a conversation was %+v", c)
		}
	}
	f.running(0)
	const labels = `class="normal",`
	for name, want := range map[string]float64{
		`flyball_batchproxy_tokens_total{` + labels + `kind="prompt",model="m",protocol="openai",source="usage"}`:     50,
		`flyball_batchproxy_tokens_total{` + labels + `kind="completion",model="m",protocol="openai",source="usage"}`: 40,
		`flyball_batchproxy_time_to_first_token_seconds{` + labels + `model="m",protocol="openai"}`:                   12,
		`flyball_batchproxy_generations_total{` + labels + `finish="cancelled",model="m",protocol="openai"}`:          1,
		`flyball_batchproxy_generations_total{` + labels + `finish="none",model="m",protocol="openai"}`:               11,
	} {
		if got, _ := value(t, registry, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if diff := cmp.Diff(map[string]any{
		"name": "NotFoundError", "status": 404.0, "code": "model_not_found", "param": "model", "type": "invalid_request_error",
		"message": `404 model "n" is unknown`,
	}, got.Fault); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"m"}, got.Listed); diff != "" {
		t.Error(diff)
	}
}

package facts

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// oipServer answers by METHOD PATH; what it does not have is status 404.
func oipServer(t *testing.T, answers map[string]string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.Method+" "+r.URL.EscapedPath()]
		if !ok {
			http.Error(w, `{"error": "not found"}`, http.StatusNotFound)
			return
		}
		if code, text, found := strings.Cut(answer, "|"); found {
			switch code {
			case "400":
				w.WriteHeader(http.StatusBadRequest)
			case "401":
				w.WriteHeader(http.StatusUnauthorized)
			case "503":
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			answer = text
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	return server
}

// Answers as the servers' own documentation has them.
var (
	tritonAnswers = map[string]string{
		"GET /v2":                             `{"name":"triton","version":"2.51.0","extensions":["classification","model_repository","statistics"]}`,
		"POST /v2/repository/index":           `[{"name":"resnet","version":"1","state":"READY"},{"name":"resnet","version":"3","state":"READY"},{"name":"bert","version":"1","state":"UNAVAILABLE","reason":"unloaded"}]`,
		"GET /v2/models/resnet/ready":         ``,
		"GET /v2/models/resnet":               `{"name":"resnet","versions":["1","3"],"platform":"onnxruntime_onnx","inputs":[{"name":"data_0","datatype":"FP32","shape":[-1,3,224,224]}],"outputs":[]}`,
		"GET /v2/models/bert/ready":           `400|`,
		"GET /v2/models/bert":                 `400|{"error":"Request for unknown model: 'bert' has no available versions"}`,
		"GET /v2/models/not%20listed%2F/x":    ``,
		"GET /v2/models/team%2Fllama/ready":   `{"name":"team/llama","ready":true}`,
		"GET /v2/models/team%2Fllama":         `{"name":"team/llama","platform":"vllm"}`,
		"GET /v2/models/loading/ready":        `503|{"error":"Model with name loading is not ready."}`,
		"GET /v2/models/loading":              `503|{"error":"Model with name loading is not ready."}`,
		"GET /v2/models/said-not-ready/ready": `{"name":"said-not-ready","ready":false}`,
		"GET /v2/models/said-not-ready":       `{"name":"said-not-ready","versions":["2"],"platform":"sklearn"}`,
	}
	kserveAnswers = map[string]string{
		"GET /v2":                   `{"name":"kserve","version":"0.11.0","extensions":["model_repository_extension"]}`,
		"GET /v2/models":            `{"models":["iris"]}`,
		"GET /v2/models/iris/ready": `{"name":"iris","ready":true}`,
		"GET /v2/models/iris":       `{"name":"iris","platform":"","inputs":[],"outputs":[]}`,
	}
)

func TestOIP(t *testing.T) {
	triton, kserve := oipServer(t, tritonAnswers), oipServer(t, kserveAnswers)
	for _, tt := range []struct {
		name  string
		base  string
		names []string
		want  []ModelStatus
	}{
		{"triton", triton.URL, nil, []ModelStatus{
			{Name: "bert", Server: "triton 2.51.0"}, {Name: "resnet", Versions: []string{"1", "3"}, Platform: "onnxruntime_onnx", Ready: true, Server: "triton 2.51.0"},
		}},
		{"kserve", kserve.URL + "/", nil, []ModelStatus{{Name: "iris", Ready: true, Server: "kserve 0.11.0"}}},
		{"by name", triton.URL, []string{"team/llama", "loading", "said-not-ready"}, []ModelStatus{
			{Name: "team/llama", Platform: "vllm", Ready: true, Server: "triton 2.51.0"},
			{Name: "loading", Server: "triton 2.51.0"},
			{Name: "said-not-ready", Versions: []string{"2"}, Platform: "sklearn", Server: "triton 2.51.0"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := OIP(t.Context(), http.DefaultClient, tt.base, tt.names...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("models (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOIPErrors(t *testing.T) {
	with := func(answers map[string]string) string { return oipServer(t, answers).URL }
	const server = `{"name":"x","version":"1"}`
	for _, tt := range []struct {
		name, base string
		names      []string
		want       string // with URL for the server
	}{
		{"not a URL", "localhost:8000", nil, `oip: "localhost:8000": expected a URL such as http://localhost:8000`},
		{"another scheme", "ftp://localhost", nil, `expected a URL such as`},
		{"nobody there", "http://127.0.0.1:1", nil, "connection refused"},
		{"another server", with(nil), nil, `oip: GET URL/v2: status 404: "not found"`},
		{"a page", with(map[string]string{"GET /v2": "<html>"}), nil, "oip: GET URL/v2: expected the JSON of the Open Inference Protocol: "},
		{"no list", with(map[string]string{"GET /v2": server}), nil, `oip: the server does not list its models, which must be named: POST URL/v2/repository/index: status 404: "not found"`},
		{"a broken list", with(map[string]string{"GET /v2": server, "GET /v2/models": `{"models":`}), nil, "oip: GET URL/v2/models: expected the JSON"},
		{"no such model", with(map[string]string{"GET /v2": server}), []string{"a"}, `oip: model "a": GET URL/v2/models/a: status 404: "not found"`},
		{"not allowed", with(map[string]string{"GET /v2": server, "GET /v2/models/a/ready": `401|`}), []string{"a"}, `oip: model "a": GET URL/v2/models/a/ready: status 401`},
		{"a path", with(map[string]string{"GET /v2": server}), []string{".."}, `oip: model "..": no name of a model`},
		{"a long answer", with(map[string]string{"GET /v2": server + strings.Repeat(" ", maxAnswer)}), nil, "oip: GET URL/v2: an answer of more than 1048576 bytes, and no more are read"},
		{"many models", with(map[string]string{"GET /v2": server, "GET /v2/models": `{"models":["` + strings.Repeat("a", 10) + `"` + many(300) + `]}`}), nil, " has 301 models, and at most 256 are read: name those that matter"},
		{"many versions", with(map[string]string{"GET /v2": server, "GET /v2/models/a/ready": "", "GET /v2/models/a": `{"versions":["x"` + many(64) + `]}`}), []string{"a"}, `oip: model "a": 65 versions, and at most 64 are read`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := OIP(t.Context(), http.DefaultClient, tt.base, tt.names...)
			if err == nil {
				t.Fatalf("no error, and %+v", got)
			}
			if text := strings.ReplaceAll(err.Error(), tt.base+"/", "URL/"); !strings.Contains(text, tt.want) {
				t.Errorf("error\n  %s\nwant in it\n  %s", text, tt.want)
			}
		})
	}
	t.Run("no list", func(t *testing.T) {
		if _, err := OIP(t.Context(), http.DefaultClient, with(map[string]string{"GET /v2": server})); !errors.Is(err, ErrNoList) {
			t.Errorf("%v is not ErrNoList", err)
		}
	})
	t.Run("one model of two", func(t *testing.T) {
		answers := map[string]string{"GET /v2": server, "GET /v2/models/a/ready": "", "GET /v2/models/a": `{"platform":"p"}`}
		got, err := OIP(t.Context(), http.DefaultClient, with(answers), "a", "b")
		if err == nil || !strings.Contains(err.Error(), `model "b"`) || len(got) != 1 || got[0].Name != "a" {
			t.Errorf("%+v and %v, want a beside an error of b", got, err)
		}
	})
	t.Run("a password is not told", func(t *testing.T) {
		base := strings.Replace(with(nil), "http://", "http://user:secret@", 1)
		if _, err := OIP(t.Context(), http.DefaultClient, base); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %v", err)
		}
	})
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`,"m` + strings.Repeat("i", i) + `"`)
	}
	return b.String()
}

func TestOIPHangs(t *testing.T) {
	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gone }))
	defer server.Close()
	defer close(gone)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := OIP(ctx, http.DefaultClient, server.URL); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestOIPNeverEnds has an answer without an end: it is given up at the limit, not at the deadline.
func TestOIPNeverEnds(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for b := []byte(strings.Repeat(" ", 64<<10)); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := OIP(ctx, http.DefaultClient, server.URL); err == nil || !strings.Contains(err.Error(), "an answer of more than 1048576 bytes") {
		t.Errorf("error %v", err)
	}
}

func FuzzOIP(f *testing.F) {
	f.Add(tritonAnswers["GET /v2"], tritonAnswers["POST /v2/repository/index"], tritonAnswers["GET /v2/models/resnet"])
	f.Add(kserveAnswers["GET /v2"], kserveAnswers["GET /v2/models"], kserveAnswers["GET /v2/models/iris"])
	f.Fuzz(func(t *testing.T, server, list, model string) {
		client := &http.Client{Transport: answers(func(r *http.Request) string {
			switch path := r.URL.Path; {
			case path == "/v2":
				return server
			case path == "/v2/models" || path == "/v2/repository/index":
				return list
			case !strings.HasPrefix(path, "/v2/models/"):
				t.Errorf("asked %s", path)
			}
			return model
		})}
		models, err := OIP(t.Context(), client, "http://x")
		for _, m := range models {
			if m.Name == "" || len(m.Versions) > maxVersions {
				t.Errorf("%+v, %v", m, err)
			}
		}
	})
}

// answers is a server without a network.
type answers func(*http.Request) string

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(a(r))), Header: http.Header{}, Request: r}, nil
}

// countingClient answers as a server of one model does, until it is down.
type countingClient struct {
	asked *atomic.Int64
	down  atomic.Bool
}

func (c *countingClient) client() *http.Client {
	return &http.Client{Transport: answers(func(r *http.Request) string {
		c.asked.Add(1)
		if c.down.Load() {
			return "<html>"
		}
		return kserveAnswers[r.Method+" "+r.URL.Path]
	})}
}

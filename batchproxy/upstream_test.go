package batchproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	prom "github.com/prometheus/common/model"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// modelServer is an upstream that echoes instances as predictions and inputs as outputs, refuses what holds "poison"
// with 400, and remembers what it was sent.
type modelServer struct {
	*httptest.Server
	// before is asked first, if set, and answers instead where it returns true.
	before func(w http.ResponseWriter, r *http.Request, c call) bool

	mu    sync.Mutex
	calls []call
}

type call struct {
	path   string
	header http.Header
	body   string
	rows   int
}

func newModelServer(t testing.TB) *modelServer {
	s := new(modelServer)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *modelServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2" { // it has no metadata
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	var in struct {
		ID        json.RawMessage   `json:"id"`
		Instances []json.RawMessage `json:"instances"`
		Inputs    []struct {
			Name     string            `json:"name"`
			Shape    []int             `json:"shape"`
			Datatype string            `json:"datatype"`
			Data     []json.RawMessage `json:"data"`
		} `json:"inputs"`
	}
	_ = json.Unmarshal(body, &in)
	c := call{path: r.URL.Path, header: r.Header, body: string(body), rows: len(in.Instances)}
	if len(in.Inputs) > 0 && len(in.Inputs[0].Shape) > 0 {
		c.rows = in.Inputs[0].Shape[0]
	}
	s.mu.Lock()
	s.calls = append(s.calls, c)
	s.mu.Unlock()
	if s.before != nil && s.before(w, r, c) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Model", "mine")
	switch {
	case bytes.Contains(body, []byte("poison")):
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"poison"}`)
	case in.Instances != nil:
		out, _ := json.Marshal(map[string]any{"predictions": in.Instances})
		_, _ = w.Write(out)
	case in.Inputs != nil:
		out, _ := json.Marshal(map[string]any{"model_name": "m", "id": in.ID, "outputs": in.Inputs})
		_, _ = w.Write(out)
	default:
		fmt.Fprintf(w, `{"path":%q,"method":%q,"body":%q}`, r.URL.Path, r.Method, body)
	}
}

func (s *modelServer) seen() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]call(nil), s.calls...)
}

func (s *modelServer) rows() []int {
	var rows []int
	for _, c := range s.seen() {
		rows = append(rows, c.rows)
	}
	return rows
}

func (s *modelServer) address() string { return s.Listener.Addr().String() }

// oneModel is a configuration of a model m at the upstreams.
func oneModel(upstreams ...Upstream) Config {
	cfg := DefaultConfig()
	m := DefaultModelConfig()
	m.Name, m.Upstreams = "m", upstreams
	m.Batch.Mode, m.Batch.MaxWait = ModeTimeout, prom.Duration(20*time.Millisecond) // what leaves when is the test's to say
	cfg.Models = []ModelConfig{m}
	return cfg
}

// front is a running proxy and a client of it.
type front struct {
	*Proxy
	t      testing.TB
	url    string
	client *http.Client
	stop   func() error // ends Run and returns its error
}

func start(t testing.TB, cfg Config, opts Options) *front {
	t.Helper()
	p, err := New(cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(p)
	server.Config = NewServer(p, slog.New(slog.DiscardHandler))
	server.Start()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	f := &front{Proxy: p, t: t, url: server.URL, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
	f.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		f.client.CloseIdleConnections()
		server.Close()
	})
	return f
}

// reply is what a client was answered.
type reply struct {
	code   int
	header http.Header
	body   string
	err    error
}

func (f *front) send(ctx context.Context, method, path, body string, header ...string) reply {
	return f.sendFrom(ctx, method, path, strings.NewReader(body), len(body), header...)
}

// sendFrom is send for a body that is read while it is sent.
func (f *front) sendFrom(ctx context.Context, method, path string, body io.Reader, size int, header ...string) reply {
	req, err := http.NewRequestWithContext(ctx, method, f.url+path, body)
	if err != nil {
		f.t.Error(err)
		return reply{err: err}
	}
	req.ContentLength = int64(size)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(text), err}
}

func (f *front) post(path, body string, header ...string) reply {
	return f.send(context.Background(), http.MethodPost, path, body, header...)
}

// postAll sends the bodies at once and returns the replies in their order.
func (f *front) postAll(path string, bodies ...string) []reply {
	replies := make([]reply, len(bodies))
	var wg sync.WaitGroup
	for i, body := range bodies {
		wg.Go(func() { replies[i] = f.post(path, body) })
	}
	wg.Wait()
	return replies
}

// until waits for a condition that other goroutines bring about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (f *front) queued(n int) {
	f.t.Helper()
	until(f.t, fmt.Sprintf("%d queued", n), func() bool { return f.Models()[0].Queued == n })
}

func (f *front) running(n int) {
	f.t.Helper()
	until(f.t, fmt.Sprintf("%d running", n), func() bool { return f.Models()[0].Running == n })
}

func want(t testing.TB, got reply, code int, body string) {
	t.Helper()
	if got.err != nil || got.code != code || got.body != body {
		t.Errorf("got  %d %s %v\nwant %d %s", got.code, got.body, got.err, code, body)
	}
}

// gate holds the requests of an upstream until they are let go.
type gate struct {
	entered chan call
	open    chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan call, 1000), open: make(chan struct{})} }

func (g *gate) hold(_ http.ResponseWriter, r *http.Request, c call) bool {
	g.entered <- c
	select {
	case <-g.open:
	case <-r.Context().Done():
	}
	return false
}

// refusing is an address of this machine that nobody listens on.
func refusing(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// list is a target's replicas, which a test changes.
type list struct {
	mu      sync.Mutex
	current []string
	changes []chan []string
}

func (l *list) Endpoints(ctx context.Context, target string) ([]string, <-chan []string, error) {
	if target != "pool" && target != "ml/pool:http" {
		return nil, nil, fmt.Errorf("no target %q", target)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := make(chan []string, 1000)
	l.changes = append(l.changes, c)
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.changes = slices.DeleteFunc(l.changes, func(other chan []string) bool { return other == c })
		close(c)
	})
	return l.current, c, nil
}

func (l *list) set(addresses ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = addresses
	for _, c := range l.changes {
		c <- addresses
	}
}

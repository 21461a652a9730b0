package store

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules/peertest"
)

func TestParseRemoteWrite(t *testing.T) {
	w, err := ParseRemoteWrite([]byte(`
- url: http://user:hunter2@a/api/v1/write
  name: a
  queue_config: {max_shards: 2}
  write_relabel_configs: [{source_labels: [__name__], regex: flyball_.*, action: keep}]
- url: https://b/api/v1/write
  authorization: {credentials_file: token}
  tls_config: {insecure_skip_verify: true}
`), "/etc")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(w.URLs(), " "); got != "http://user:xxxxx@a/api/v1/write https://b/api/v1/write" {
		t.Errorf("got %s", got)
	}
	if file := w.configs[1].HTTPClientConfig.Authorization.CredentialsFile; file != "/etc/token" {
		t.Errorf("the file is %s", file)
	}
	for _, text := range []string{"", "[]", "null"} {
		if w, err := ParseRemoteWrite([]byte(text), ""); err != nil || w.URLs() != nil {
			t.Errorf("%q: %v, %v", text, w.URLs(), err)
		}
	}
	for _, tt := range []struct{ name, text, want string }{
		{"not a list", "{}", "remote_write: it is not a list"},
		{"not a mapping", "[http://a]", "remote_write[0]: it is not a place to send samples to: give a mapping with url"},
		{"no url", "[{name: a}]", "remote_write[0]: url for remote_write is empty"},
		{"not a url", "[{url: /write}]", `remote_write[0].url: "/write" is not the http(s) URL of a receiver`},
		{"a typo", "[{url: http://a/w}, {url: http://b/w, nmae: x}]", `remote_write[1].nmae: unknown key "nmae"`},
		{"the wrong kind", "- {url: http://b/w}\n- url: http://a/w\n  basic_auth: hunter2", "remote_write[1].basic_auth: it is text where a mapping"},
		{"two ways", "[{url: http://a/w, bearer_token: hunter2, basic_auth: {username: u}}]", "remote_write[0]: at most one of basic_auth"},
		{"a name twice", "[{url: http://a/w, name: x}, {url: http://b/w, name: x}]", `remote_write[1].name: "x" is the name of another one`},
		{"the same twice", "[{url: http://a/w}, {url: http://a/w}]", "remote_write[1]: it is the same as remote_write[0]"},
		{"no file", "[{url: https://a/w, tls_config: {ca_file: /none.pem}}]", "remote_write[0]: unable to read CA cert: unable to read file /none.pem"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseRemoteWrite([]byte(tt.text), "")
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// writes parses one place to send to, with short waits.
func writes(t *testing.T, u string) RemoteWrites {
	t.Helper()
	w, err := ParseRemoteWrite(fmt.Appendf(nil, "- {url: '%s', queue_config: {batch_send_deadline: 50ms, min_backoff: 10ms, max_backoff: 50ms}}\n", u), "")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// counting is a group that records one sample each 100 ms.
var counting = []Group{{Name: "a", Interval: 100 * time.Millisecond, Rules: []Rule{{Record: &Record{Name: "own:seven", Expr: "vector(7)"}}}}}

// run runs the store until the end of the test.
func run(t *testing.T, s *Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
}

// TestRemoteWrite: what the rules write is queried in a real Prometheus and in VictoriaMetrics, with the external labels.
func TestRemoteWrite(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		start      func(t *testing.T) *peertest.Server
	}{
		{"Prometheus", "/api/v1/write", func(t *testing.T) *peertest.Server {
			return peertest.Prometheus(t, "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver")
		}},
		{"VictoriaMetrics", "/api/v1/write", func(t *testing.T) *peertest.Server { return peertest.VictoriaMetrics(t) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			peer := tt.start(t)
			s := open(t, t.TempDir())
			takeOver(t, s, Config{
				Global: Global{ExternalLabels: labels.FromStrings("cluster", "eu-1")}, Groups: counting, RemoteWrites: writes(t, peer.URL+tt.path),
			})
			run(t, s)
			until(t, "the sample is there", func() bool {
				// VictoriaMetrics leaves new series unseen for some seconds, and answers for 30 s ago unless it is told not to.
				if tt.name == "VictoriaMetrics" {
					if response, err := http.Get(peer.URL + "/internal/force_flush"); err == nil {
						response.Body.Close()
					}
				}
				query := url.Values{"query": {`own:seven{cluster="eu-1"}`}, "nocache": {"1"}}
				response, err := http.Get(peer.URL + "/api/v1/query?" + query.Encode())
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				var answer struct {
					Data struct{ Result []struct{ Value [2]any } }
				}
				if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
					t.Fatal(err)
				}
				return len(answer.Data.Result) == 1 && answer.Data.Result[0].Value[1] == "7"
			})
		})
	}
}

// TestRemoteWriteChanges: a reload starts, moves and ends the sending; one that fails leaves it as it is. A receiver that
// is out loses nothing.
func TestRemoteWriteChanges(t *testing.T) {
	var first, second, status atomic.Int64
	status.Store(http.StatusServiceUnavailable)
	receiver := func(n *atomic.Int64) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			w.WriteHeader(int(status.Load()))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	a, b := receiver(&first), receiver(&second)
	reg := prometheus.NewRegistry()
	s := open(t, t.TempDir(), func(o *Options) { o.Registerer = reg })
	takeOver(t, s, Config{Groups: counting})
	run(t, s)
	if s.sender.storage.Load() != nil {
		t.Error("it sends to nowhere")
	}
	takeOver(t, s, Config{Groups: counting, RemoteWrites: writes(t, a)})
	until(t, "it tries again", func() bool { return first.Load() > 2 })
	status.Store(http.StatusNoContent)
	sent := func() float64 { return sumOf(t, reg, "prometheus_remote_storage_samples_total") }
	until(t, "it sends", func() bool { return sent() > 5 })
	if n := sumOf(t, reg, "prometheus_remote_storage_samples_failed_total"); n != 0 {
		t.Errorf("%g samples were lost", n)
	}

	broken := Config{Groups: counting, RemoteWrites: writes(t, b)}
	broken.RemoteWrites.configs[0].HTTPClientConfig.TLSConfig.CAFile = filepath.Join(t.TempDir(), "gone.pem")
	p, err := s.Prepare(broken)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(nil); err == nil || !strings.Contains(err.Error(), "remote_write[0]") {
		t.Errorf("got %v for a file that is gone", err)
	}
	before := first.Load()
	until(t, "the first goes on", func() bool { return first.Load() > before+2 })

	takeOver(t, s, Config{Groups: counting, RemoteWrites: writes(t, b)})
	until(t, "the second gets it", func() bool { return second.Load() > 2 })
	takeOver(t, s, Config{Groups: counting})
	ended := second.Load()
	until(t, "rules go on", func() bool {
		last := s.Groups()[0].LastEvaluation
		return !last.IsZero() && time.Since(last) < time.Second && ask(t, s, "count_over_time(own:seven[1m])", time.Now()) != ""
	})
	if n := second.Load(); n != ended {
		t.Errorf("%d requests after the end", n-ended)
	}
}

// TestRemoteWriteEnds: a receiver that does not answer does not keep the process from ending.
func TestRemoteWriteEnds(t *testing.T) {
	asked, release := make(chan struct{}, 1000), make(chan struct{})
	hung := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-release
	}))
	defer hung.Close()
	defer close(release)
	s := open(t, t.TempDir())
	s.sender.deadline = 200 * time.Millisecond
	takeOver(t, s, Config{Groups: counting, RemoteWrites: writes(t, hung.URL)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-asked
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > flushDeadline {
		t.Errorf("it took %s", took)
	}
}

// sumOf is the sum of a metric's series.
func sumOf(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

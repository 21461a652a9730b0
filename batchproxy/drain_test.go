package batchproxy

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	prom "github.com/prometheus/common/model"
)

// TestDrainDelay: a proxy that ends is not ready at once, answers for the delay as ever, telling clients to come back elsewhere, and
// ends as soon as it is idle after that.
func TestDrainDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := oneModel(Upstream{URL: "http://replica"})
		cfg.Drain = Drain{Delay: prom.Duration(5 * time.Second), Timeout: prom.Duration(time.Hour)}
		p, err := New(cfg, Options{Transport: answers(`{"predictions":[1]}`)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		check := func(when, path string, code int, connection string) {
			t.Helper()
			method := http.MethodPost
			if path == "/v2/health/ready" {
				method = http.MethodGet
			}
			if w := serveOnce(p, method, path, `{"instances":[1]}`); w.Code != code || w.Header().Get("Connection") != connection {
				t.Errorf("%s: %s: status %d, Connection %q, want %d, %q", when, path, w.Code, w.Header().Get("Connection"), code, connection)
			}
		}
		check("before", "/v1/models/m:predict", 200, "")
		check("before", "/v2/models/m/generate", 200, "")
		check("before", "/v2/health/ready", 200, "")
		at := time.Now()
		end()
		synctest.Wait()
		check("in the delay", "/v2/health/ready", 503, "")
		check("in the delay", "/v1/models/m:predict", 200, "close")
		check("in the delay", "/v2/models/m/generate", 200, "close")
		check("in the delay", "/v1/models/m:explain", 200, "close")
		select {
		case <-p.Refusing():
			t.Error("it takes no more requests before the delay is over")
		default:
		}
		if err := <-ended; err != nil || time.Since(at) != 5*time.Second {
			t.Errorf("it ended after %s with %v, want 5s", time.Since(at), err)
		}
		<-p.Refusing()
		check("after it", "/v1/models/m:predict", 503, "close")
	})
}

// TestReplacedDoesNotDelay: the proxy of a configuration that was replaced sends nobody elsewhere, and waits for nothing.
func TestReplacedDoesNotDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := oneModel(Upstream{URL: "http://replica"})
		cfg.Drain.Delay = prom.Duration(time.Hour)
		var all [2]*Proxy
		for i := range all {
			p, err := New(cfg, Options{Transport: answers(`{"predictions":[1]}`)})
			if err != nil {
				t.Fatal(err)
			}
			all[i] = p
		}
		ctx, end := context.WithCancel(t.Context())
		all[0].Replace(all[1])
		end()
		at := time.Now()
		if err := all[0].Run(ctx); err != nil || time.Since(at) != 0 {
			t.Errorf("it ended after %s with %v", time.Since(at), err)
		}
		if w := serveOnce(all[0], http.MethodPost, "/v1/models/m:predict", `{"instances":[1]}`); w.Code != 200 || w.Header().Get("Connection") != "" {
			t.Errorf("status %d, Connection %q", w.Code, w.Header().Get("Connection"))
		}
		select {
		case <-all[0].Refusing():
			t.Error("connections would be closed at a reload")
		default:
		}
	})
}

// answers is a transport whose replica answers everything with a text.
type answers string

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/json"}},
		ContentLength: int64(len(a)), Body: io.NopCloser(strings.NewReader(string(a))), Request: r,
	}, nil
}

func serveOnce(p *Proxy, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

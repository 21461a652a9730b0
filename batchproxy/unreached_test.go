package batchproxy

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// away is a replica that can be reached or not.
type away struct{ there, silent atomic.Bool }

func (s *away) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case s.silent.Load(): // packets are dropped
		<-r.Context().Done()
		return nil, r.Context().Err()
	case !s.there.Load():
		return nil, errDial
	}
	return echo{}.RoundTrip(r)
}

// echo is a transport that answers as a replica would, in no time.
type echo struct{}

func (echo) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	body = bytes.Replace(body, []byte(`"instances"`), []byte(`"predictions"`), 1)
	return &http.Response{
		StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(body)),
		Body: io.NopCloser(bytes.NewReader(body)),
	}, nil
}

// Who operates a proxy whose replica is not there is told so once, and why, as is who waited for it; and that it is back, by whatever it
// was seen.
func TestUnreachedReplicaIsToldOf(t *testing.T) {
	for _, back := range []string{"/v1/models/m:predict", "/v2/models/m/generate"} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			var s away
			p, err := New(oneModel(Upstream{URL: "http://a:1"}), Options{Transport: &s, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			told := func(text string) int { return strings.Count(log.String(), text) }
			const waited = `{"error":"model \"m\": waited 30s to be sent: no replica is ready (a:1: dial: connection refused)"}`
			for range 2 {
				if w := serveOnce(p, http.MethodPost, "/v1/models/m:predict", `{"instances":[1]}`); w.Code != 503 || w.Body.String() != waited {
					t.Errorf("answered %d %s", w.Code, w.Body)
				}
			}
			synctest.Wait()
			if told(`level=WARN msg="a replica cannot be reached" model=m replica=a:1 err="dial: connection refused"`) != 1 || told("again") != 0 {
				t.Errorf("after it was away: %s", log.String())
			}
			s.silent.Store(true)
			if w := serveOnce(p, http.MethodPost, "/v1/models/m:predict", `{"instances":[1]}`); w.Code != 504 {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
			synctest.Wait()
			if told("again") != 0 {
				t.Errorf("after it did not answer in time: %s", log.String())
			}
			s.silent.Store(false)
			s.there.Store(true)
			synctest.Wait()
			for range 2 {
				time.Sleep(longestBench)
				if w := serveOnce(p, http.MethodPost, back, `{"instances":[1]}`); w.Code != 200 {
					t.Errorf("answered %d %s", w.Code, w.Body)
				}
			}
			synctest.Wait() // for what is told after the answer
			if told(`level=INFO msg="a replica can be reached again" model=m replica=a:1`) != 1 || p.models["m"].picker.replicas[0].refusals != 0 {
				t.Errorf("after it is back: %s", log.String())
			}
			p.models["m"].timer.Stop()
		})
	}
}

// That no more connections can be taken is a warning once a minute, and what clients do a matter for the debug log.
func TestServerLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		server := NewServer(http.NotFoundHandler(), slog.New(slog.NewTextHandler(&log, nil)))
		server.ErrorLog.Printf("http: TLS handshake error from %s", "1.2.3.4")
		for range 90 {
			server.ErrorLog.Printf("http: Accept error: %v; retrying in 1s", "accept tcp 127.0.0.1:1: accept4: too many open files")
			time.Sleep(time.Second)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 2 || strings.Contains(log.String(), "TLS") {
			t.Errorf("%d warnings: %s", n, log.String())
		}
	})
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metric serves one metric named queue.
func metric(value float64) http.Handler {
	reg := prometheus.NewRegistry()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "queue"})
	g.Set(value)
	reg.MustRegister(g)
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// TestScrapeHandler: handlers of this process are scraped without a port, each job its own, with the labels that a scrape
// of Address would give.
func TestScrapeHandler(t *testing.T) {
	var remote atomic.Value
	seen := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			remote.Store(r.RemoteAddr + " " + r.URL.Path)
			h.ServeHTTP(w, r)
		})
	}
	_, tcp := exporter(t, 3)
	s := open(t, t.TempDir())
	self := Self{Name: "flyball", Address: "127.0.0.1:9838", Handler: seen(metric(7)), Scheme: "https", Interval: fast, Labels: map[string]string{"role": "all"}}
	other := Self{Name: "Two: words", Address: "127.0.0.1:9838", Handler: metric(8), Interval: fast}
	apply(t, s, Scrape{Self: []Self{self, other, {Name: "by-tcp", Address: tcp, Interval: fast}}})
	start(t, s)
	want := strings.Join([]string{
		fmt.Sprintf(`{__name__="queue", instance=%q, job="by-tcp"} 3`, tcp),
		`{__name__="queue", instance="127.0.0.1:9838", job="flyball", role="all"} 7`,
		`{__name__="queue", instance="127.0.0.1:9838", job="Two: words"} 8`,
	}, "\n")
	until(t, "samples", func() bool { return ask(t, s, "sort(queue)", time.Now()) == want })
	if got := remote.Load(); got != "pipe /metrics" {
		t.Errorf("it was asked from %v", got)
	}
	for _, target := range s.Targets() {
		if target.Job == "flyball" && (target.Health != "up" || target.URL != "http://flyball.in-process.invalid/metrics") {
			t.Errorf("the target says %+v", target)
		}
	}
	self.Handler = metric(9)
	apply(t, s, Scrape{Self: []Self{self}}) // while it runs
	until(t, "new handler", func() bool { return ask(t, s, `sum(queue{job="flyball"})`, time.Now()) == "{} 9" })
	if got := ask(t, s, `count(up)`, time.Now()); got != "{} 1" {
		t.Errorf("series of jobs that went: %s", got)
	}
}

func TestInProcessHost(t *testing.T) {
	got := []string{inProcessHost("flyball"), inProcessHost("Fly:ball"), inProcessHost("é")}
	want := []string{"flyball.in-process.invalid", "-46ly-3aball.in-process.invalid", "-c3-a9.in-process.invalid"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestInProcessEnds: what asks when nobody answers, or no longer, gets an error and not a wait.
func TestInProcessEnds(t *testing.T) {
	p := newPipes()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.dial(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a dial that nobody takes: %v", err)
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if _, err := p.dial(t.Context()); !errors.Is(err, errPipesClosed) {
		t.Errorf("a dial after the end: %v", err)
	}
	if _, err := p.Accept(); !errors.Is(err, io.EOF) {
		t.Errorf("accept after the end: %v", err)
	}
}

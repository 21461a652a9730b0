package store

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// patience is how long a test waits for what must come; it is only ever used up by a failure.
const patience = 30 * time.Second

// until waits for a condition that something outside of the test brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s after %s", what, patience)
		}
	}
}

// exporter serves one metric at /metrics, and returns its address.
func exporter(t *testing.T, value float64) (*httptest.Server, string) {
	t.Helper()
	reg := prometheus.NewRegistry()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "queue"})
	g.Set(value)
	reg.MustRegister(g)
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv, strings.TrimPrefix(srv.URL, "http://")
}

// list is an Endpoints whose list the test changes.
type list struct {
	mu      sync.Mutex
	current []string
	changes chan []string
	faults  int // how often it still fails
}

func (l *list) Endpoints(context.Context, string) ([]string, <-chan []string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.faults > 0 {
		l.faults--
		return nil, nil, fmt.Errorf("the actuator does not answer")
	}
	return l.current, l.changes, nil
}

// start runs the store until the end of the test.
func start(t *testing.T, s *Store) {
	t.Helper()
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func apply(t *testing.T, s *Store, sc Scrape) {
	t.Helper()
	if err := s.ApplyScrape(sc); err != nil {
		t.Fatal(err)
	}
}

const fast = 50 * time.Millisecond // the interval of the jobs in these tests

func TestScrapeSelf(t *testing.T) {
	srv, addr := exporter(t, 7)
	s := open(t, t.TempDir())
	apply(t, s, Scrape{Self: []Self{{Name: "flyball", Address: addr, Interval: fast, Labels: map[string]string{"role": "exporter"}}}})
	start(t, s)
	labels := fmt.Sprintf(`instance=%q, job="flyball", role="exporter"}`, addr)
	until(t, "sample", func() bool { return ask(t, s, "queue", time.Now()) == `{__name__="queue", `+labels+" 7" })
	until(t, "target", func() bool {
		ts := s.Targets()
		return len(ts) == 1 && ts[0].Health == "up" && ts[0].LastError == "" && !ts[0].LastScrape.IsZero() && ts[0].Job == "flyball" &&
			ts[0].URL == srv.URL+"/metrics" && ts[0].Labels.String() == "{"+labels
	})
	srv.Close()
	until(t, "up 0", func() bool { return ask(t, s, "up", time.Now()) == `{__name__="up", `+labels+" 0" })
	until(t, "end of the series", func() bool { return ask(t, s, "queue", time.Now()) == "" })
	if ts := s.Targets(); len(ts) != 1 || ts[0].Health != "down" || !strings.Contains(ts[0].LastError, "connection refused") {
		t.Errorf("the target says %+v", ts)
	}
	apply(t, s, Scrape{}) // while it runs
	if got := ask(t, s, "up", time.Now()); len(s.Targets()) != 0 || got != "" {
		t.Errorf("a job that was taken away leaves %v and %s", s.Targets(), got)
	}
}

func TestScrapeConfigsRun(t *testing.T) {
	_, addr := exporter(t, 3)
	sd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `[{"targets": [%q], "labels": {"found": "http"}}]`, addr)
	}))
	defer sd.Close()
	configs, err := ParseScrapeConfigs([]byte(fmt.Sprintf(`
- job_name: by-hand
  static_configs: [{targets: [%q], labels: {found: static}}]
- job_name: by-http
  http_sd_configs: [{url: %q}]
`, addr, sd.URL)), ScrapeGlobal{Interval: fast})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	apply(t, s, Scrape{Configs: configs})
	start(t, s)
	for found, job := range map[string]string{"http": "by-http", "static": "by-hand"} {
		want := fmt.Sprintf(`{found=%q, job=%q} 3`, found, job)
		until(t, "sample of "+job, func() bool {
			return ask(t, s, fmt.Sprintf("sum by (found, job) (queue{found=%q})", found), time.Now()) == want
		})
	}
}

// TestReplicas follows the list of an actuator's target.
func TestReplicas(t *testing.T) {
	_, a := exporter(t, 1)
	_, b := exporter(t, 2)
	replicas := &list{current: []string{a}, changes: make(chan []string)}
	s := open(t, t.TempDir())
	job := Job{Name: "models", Target: "digits", Endpoints: replicas, Interval: 500 * time.Millisecond, Labels: map[string]string{"zone": "z"}}
	apply(t, s, Scrape{Jobs: []Job{job}})
	start(t, s)
	series := func(addrs ...string) string {
		var lines []string
		for _, addr := range addrs {
			v := 1
			if addr == b {
				v = 2
			}
			lines = append(lines, fmt.Sprintf(`{__name__="queue", instance=%q, job="models", target="digits", zone="z"} %d`, addr, v))
		}
		return strings.Join(lines, "\n")
	}
	now := func() string { return ask(t, s, "sort(queue)", time.Now()) }
	until(t, "first replica", func() bool { return now() == series(a) })
	replicas.changes <- []string{a, b}
	until(t, "second replica", func() bool { return now() == series(a, b) })

	apply(t, s, Scrape{Jobs: []Job{job}}) // nothing changed: the list, which is asked for once, goes on
	replicas.changes <- []string{b, b}    // a leaves; b stands there twice
	until(t, "end of the first replica", func() bool { return now() == series(b) })
	if got := ask(t, s, "count(up)", time.Now()); got != "{} 1" {
		t.Errorf("up of the replica that left stays: %s", got)
	}
	replicas.changes <- nil
	until(t, "end of all", func() bool { return now() == "" && len(s.Targets()) == 0 })
	replicas.changes <- []string{a}
	until(t, "return", func() bool { return now() == series(a) })
}

// TestReplicasAgain has the list fail at first and end later; it is asked for again.
func TestReplicasAgain(t *testing.T) {
	_, a := exporter(t, 1)
	_, b := exporter(t, 2)
	replicas := &list{current: []string{a}, changes: make(chan []string), faults: 1}
	s := open(t, t.TempDir())
	apply(t, s, Scrape{Jobs: []Job{{Name: "models", Target: "digits", Endpoints: replicas, Interval: fast}}})
	start(t, s)
	until(t, "first replica", func() bool { return ask(t, s, "sum(queue)", time.Now()) == "{} 1" })
	replicas.mu.Lock()
	close(replicas.changes)
	replicas.current, replicas.changes = []string{b}, make(chan []string)
	replicas.mu.Unlock()
	until(t, "second replica", func() bool { return ask(t, s, "sum(queue)", time.Now()) == "{} 2" })
}

func TestApplyScrapeAllOrNothing(t *testing.T) {
	_, addr := exporter(t, 1)
	s := open(t, t.TempDir())
	good := Self{Name: "good", Address: addr, Interval: fast}
	apply(t, s, Scrape{Self: []Self{good}})
	start(t, s)
	until(t, "target", func() bool { return len(s.Targets()) == 1 })
	err := s.ApplyScrape(Scrape{
		Self: []Self{{Name: "other", Address: addr}, good, good, {Name: "nowhere"}, {Address: addr}},
		Jobs: []Job{{Name: "no-list", Target: "x"}, {Name: "short", Target: "x", Endpoints: &list{}, Interval: 1}},
	})
	want := []string{
		"job no-list: it has no target to follow",
		"job short: an interval of 1ns is too short: give 1ms or more",
		"job good: there are two of this name",
		"job nowhere: it has no address",
		"a job has no name",
	}
	if err == nil {
		t.Fatal("it was taken")
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
	if ts := s.Targets(); len(ts) != 1 || ts[0].Job != "good" {
		t.Errorf("the targets changed: %v", ts)
	}
}

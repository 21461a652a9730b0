package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
	"flyball/rules"
	"flyball/rules/journal"
	"flyball/rules/peertest"
	"flyball/rules/promapi"
	"flyball/rules/remote"
	"flyball/rules/store"
)

// remoteRules scale by a query that goes elsewhere, and by one that is answered here, of what a rule records from there.
const remoteRules = `groups:
- name: a
  rules:
  - {record: "job:demand", expr: "max(demand)"}
  - scale: direct
    target: {kind: process, name: direct}
    max: 4
    mode: act
    behavior: {down: {window: 0s}}
    queries: {demand: {expr: "max(last_over_time(demand[1m]))", stale_after: 10s}}
    signals: [{name: load, value: demand, target_per_replica: 10}]
  - scale: recorded
    target: {kind: process, name: recorded}
    max: 4
    mode: act
    behavior: {down: {window: 0s}}
    queries: {demand: {expr: "job:demand", stale_after: 10s}}
    signals: [{name: load, value: demand, target_per_replica: 10}]
`

// remoteInterval is how often rules are evaluated, and the source is scraped.
const remoteInterval = 200 * time.Millisecond

// demandSource is a source of samples: one series, whose value a test sets.
type demandSource struct {
	*httptest.Server
	demand atomic.Int64
	dead   atomic.Bool
}

func newDemandSource(t *testing.T) *demandSource {
	s := &demandSource{}
	s.demand.Store(35)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if s.dead.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "# TYPE demand gauge\ndemand %d\n", s.demand.Load())
	}))
	t.Cleanup(s.Close)
	return s
}

// scrapes is the configuration of a Prometheus that scrapes the source.
func (s *demandSource) scrapes() string {
	return fmt.Sprintf("global: {scrape_interval: %s, scrape_timeout: %[1]s}\nscrape_configs: [{job_name: source, static_configs: [{targets: ['%s']}]}]\n",
		model.Duration(remoteInterval), strings.TrimPrefix(s.URL, "http://"))
}

// front stands before a Prometheus and passes everything on, until it is told to answer in another way.
type front struct {
	t       *testing.T
	address string
	pass    http.Handler
	answer  atomic.Pointer[http.HandlerFunc] // nil: pass
	asked   atomic.Int64
	server  *http.Server
	done    chan struct{}
}

func newFront(t *testing.T, behind string) *front {
	t.Helper()
	u, err := url.Parse(behind)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(u)
	pass.ErrorLog = log.New(io.Discard, "", 0) // of those who hung up
	f := &front{t: t, address: "127.0.0.1:0", pass: pass}
	f.open()
	t.Cleanup(f.close)
	return f
}

func (f *front) open() {
	f.t.Helper()
	l, err := net.Listen("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.address = l.Addr().String()
	f.server, f.done = &http.Server{Handler: f}, make(chan struct{})
	go func() {
		defer close(f.done)
		_ = f.server.Serve(l)
	}()
}

func (f *front) close() {
	_ = f.server.Close()
	<-f.done
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked.Add(1)
	if answer := f.answer.Load(); answer != nil {
		_, _ = io.Copy(io.Discard, r.Body) // then the server sees that the client has gone
		(*answer)(w, r)
		return
	}
	f.pass.ServeHTTP(w, r)
}

// evaluations are the decisions of one scaler, one for each evaluation.
type evaluations struct {
	*rules.Scaler

	mu  sync.Mutex // guards what follows
	all []rules.Decision
}

func (e *evaluations) Eval(ctx context.Context, at time.Time) ([]rules.Sample, error) {
	samples, err := e.Scaler.Eval(ctx, at)
	if err == nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.all = append(e.all, *e.Last())
	}
	return samples, err
}

// since are the decisions of a time and after.
func (e *evaluations) since(at time.Time) (found []rules.Decision) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range e.all {
		if !d.Time.Before(at) {
			found = append(found, d)
		}
	}
	return found
}

// remoteLoop is all that decides: real store, real rules, real client; only the target is made up.
type remoteLoop struct {
	t       *testing.T
	store   *store.Store
	fake    *actuatortest.Fake
	metrics *prometheus.Registry
	scalers map[string]*evaluations
}

func newRemoteLoop(t *testing.T, address string, change ...func(*remote.Config)) *remoteLoop {
	t.Helper()
	l := &remoteLoop{t: t, fake: &actuatortest.Fake{}, metrics: prometheus.NewRegistry(), scalers: map[string]*evaluations{}}
	dir := t.TempDir()
	o := store.DefaultOptions()
	o.Dir = filepath.Join(dir, "tsdb")
	var err error
	if l.store, err = store.Open(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.store.Close(); err != nil {
			t.Error(err)
		}
	})
	j, err := journal.Open(filepath.Join(dir, "decisions.jsonl"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	c := remote.DefaultConfig()
	c.URL = "http://" + address
	for _, f := range change {
		f(&c)
	}
	client, err := remote.New(c, remote.Options{Metrics: remote.NewMetrics(l.metrics)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	reader := &rules.Reader{Defaults: rules.Defaults{EvaluationInterval: remoteInterval, ScrapeInterval: remoteInterval}, Remote: true}
	file, err := reader.Parse("rules.yml", []byte(remoteRules))
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Finish(); err != nil {
		t.Fatal(err)
	}
	metrics, memory := rules.NewMetrics(prometheus.NewRegistry()), &rules.Memory{}
	group := store.GroupOf(file, &file.Groups[0], func(r *rules.Rule) rules.Evaluator {
		if r.Scale == nil {
			return nil
		}
		name := r.Scale.Name
		l.fake.Resize(actuators.Target{Kind: "process", Name: name}, 1)
		e := &evaluations{Scaler: rules.NewScaler(r.Scale, rules.ScalerOptions{
			Querier: l.store.Router(), Actuators: map[string]actuators.Actuator{"process": l.fake}, Journal: j, Metrics: metrics, Memory: memory, Acting: true,
		})}
		l.scalers[name] = e
		return e
	})
	p, err := l.store.Prepare(store.Config{Groups: []store.Group{group}, Remote: client})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(nil); err != nil {
		t.Fatal(err)
	}
	return l
}

// run evaluates until the end of the test.
func (l *remoteLoop) run() {
	ctx, cancel := context.WithCancel(l.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.store.Run(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Error(err)
		}
	})
}

// until waits until it holds of the decisions of each scaler since then.
func (l *remoteLoop) until(what string, since time.Time, holds func(name string, all []rules.Decision) bool) {
	l.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n := 0
		for name, e := range l.scalers {
			if all := e.since(since); len(all) > 0 && holds(name, all) {
				n++
			}
		}
		if n == len(l.scalers) {
			return
		}
		if time.Now().After(end) {
			for name, e := range l.scalers {
				if last := e.Last(); last != nil {
					l.t.Logf("%s: %s -> %d, %s, %+v", name, last.Time.Format(time.StampMilli), last.To, last.Text, last.Queries)
				}
			}
			for _, r := range l.store.Groups()[0].Rules {
				l.t.Logf("%s: %s %s", r.Name, r.Health, r.LastError)
			}
			l.t.Fatal("not within 30 s: " + what)
		}
	}
}

// scaled waits until both targets have the size that the demand asks for.
func (l *remoteLoop) scaled(to int) {
	l.t.Helper()
	l.until(fmt.Sprintf("%d replicas", to), time.Time{}, func(_ string, all []rules.Decision) bool {
		d := all[len(all)-1]
		return d.To == to && d.Queries[0].Fault == ""
	})
}

// says is a handler that answers by a text.
func says(status int, kind, text string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

func vectorOf(series ...string) string {
	return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(series, ",") + `]}}`
}

// tooLarge is 32 MB of series, which end before they are there.
func tooLarge(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"vector","result":[`)
	for i := range 32 {
		var chunk bytes.Buffer
		for j := range 1 << 10 {
			fmt.Fprintf(&chunk, `{"metric":{"n":"%d","x":"%s"},"value":[0,"1"]},`, i<<10+j, strings.Repeat("y", 980))
		}
		if _, err := w.Write(chunk.Bytes()); err != nil {
			return
		}
	}
}

// TestRemoteOutages: whatever happens to the Prometheus elsewhere, sizes hold, the decision says why, and two evaluations
// after the end of it all is as before. A real Prometheus behind what fails, real store and rules.
func TestRemoteOutages(t *testing.T) {
	src := newDemandSource(t)
	prom := peertest.Prometheus(t, src.scrapes())
	const seven = `{"metric":{},"value":[0,"7"]}`
	for _, o := range []struct {
		name   string
		answer http.HandlerFunc // nil: nobody listens
		fault  rules.Reason
		direct string // what the decision says of a query that goes elsewhere
		after  time.Duration
	}{
		{"down", nil, rules.MetricMissing, "connection refused", 0},
		{"slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, rules.MetricMissing, "no answer within 150ms", 0},
		{"503", says(503, "text/plain", "down"), rules.MetricMissing, "it answered 503 Service Unavailable", 0},
		{"503 with Retry-After", says(503, "text/plain", "down", "Retry-After", "1"), rules.MetricMissing, "503 Service Unavailable with Retry-After", time.Second},
		{"half an answer, connection cut", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, vectorOf(seven)[:70])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, rules.MetricMissing, "it was cut off after 70 bytes", 0},
		{"half an answer", says(200, "application/json", vectorOf(seven)[:70]), rules.MetricMissing, "it was cut off after 70 bytes", 0},
		{"empty", says(200, "application/json", vectorOf()), rules.MetricMissing, "the query has no answer", 0},
		{"NaN", says(200, "application/json", vectorOf(`{"metric":{},"value":[0,"NaN"]}`)), rules.MetricNaN, "is NaN", 0},
		{"a series twice", says(200, "application/json", vectorOf(seven, seven)), rules.MetricMissing, "it has the series {} twice", 0},
		{"32 MB", tooLarge, rules.MetricMissing, "larger than 1MiB (max_bytes)", 0},
		{"wrong JSON", says(200, "application/json", `{"status":"success","data":7}`), rules.MetricMissing, "it is not JSON as the API gives it", 0},
		{"a login page", says(200, "text/html", "<html>"), rules.MetricMissing, "a page for people", 0},
		{"a part of the data", says(200, "application/json", strings.TrimSuffix(vectorOf(seven), "}")+`,"warnings":["store: unavailable"]}`), rules.MetricMissing, "for a part of the data only: store: unavailable", 0},
	} {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			f := newFront(t, prom.URL)
			l := newRemoteLoop(t, f.address, func(c *remote.Config) {
				c.MaxBytes = 1 << 20
				if o.name == "slow" {
					c.Timeout = model.Duration(150 * time.Millisecond)
				}
			})
			l.run()
			l.scaled(4)
			before := len(l.fake.Changes())

			if o.answer == nil {
				f.close()
			} else {
				f.answer.Store(&o.answer)
				f.server.SetKeepAlivesEnabled(true)
			}
			began := time.Now()
			l.until("held with the reason", began, func(name string, all []rules.Decision) bool {
				held := 0
				for _, d := range all {
					q := d.Queries[0]
					if q.Fault == o.fault && d.Action == rules.Hold && d.To == 4 && slices.Contains(d.Reasons, o.fault) &&
						(name == "recorded" || strings.Contains(q.Detail, o.direct)) {
						held++
					}
				}
				return held >= 3
			})
			if changes := l.fake.Changes(); len(changes) != before {
				t.Errorf("changed: %+v", changes[before:])
			}

			if o.answer == nil {
				f.open()
			} else {
				f.answer.Store(nil)
			}
			ended := time.Now().Add(o.after)
			l.until("it decides again", ended, func(name string, all []rules.Decision) bool {
				for i, d := range all {
					if d.Queries[0].Fault == "" {
						if i > 1 { // the second is within two intervals
							t.Errorf("%s: %d evaluations went by before %s", name, i, d.Time)
						}
						return true
					}
				}
				return false
			})
			if changes := l.fake.Changes(); len(changes) != before {
				t.Errorf("changed: %+v", changes[before:])
			}
		})
	}
}

// TestRemotePeers: the same rules on a real Prometheus and on VictoriaMetrics, from the first sample to the death of what
// is scraped and back.
func TestRemotePeers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		start  func(t *testing.T, src *demandSource) *peertest.Server
		change func(*remote.Config)

		dialect, fault string       // errors of MetricsQL and of a query that is none
		gone           rules.Reason // what is said of a recorded series whose source has died: only Prometheus marks the end of one
	}{
		{"Prometheus", func(t *testing.T, src *demandSource) *peertest.Server { return peertest.Prometheus(t, src.scrapes()) }, func(*remote.Config) {}, "bad_data", "bad_data", rules.MetricMissing},
		{"VictoriaMetrics", func(t *testing.T, src *demandSource) *peertest.Server {
			config := filepath.Join(t.TempDir(), "prometheus.yml")
			text := []byte(strings.Replace(src.scrapes(), ", scrape_timeout: "+model.Duration(remoteInterval).String(), "", 1))
			if err := os.WriteFile(config, text, 0o600); err != nil {
				t.Fatal(err)
			}
			vm := peertest.VictoriaMetrics(t, "-promscrape.config="+config)
			flushing(t, vm.URL)
			return vm
		}, func(c *remote.Config) { c.Params = map[string]remote.Values{"nocache": {"1"}} }, "", "execution", rules.MetricStale},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			src := newDemandSource(t)
			l := newRemoteLoop(t, newFront(t, tt.start(t, src).URL).address, tt.change)
			l.run()
			l.scaled(4)
			for name, e := range l.scalers {
				if q := e.Last().Queries[0]; q.AgeSeconds <= 0 || q.AgeSeconds > 10 {
					t.Errorf("%s: %g s old", name, q.AgeSeconds)
				}
			}

			// What people ask goes there as it is, whether it can be parsed here or not.
			for expr, want := range map[string]string{"last_over_time(demand[1m])": "", "range_median(last_over_time(demand[1m]))": tt.dialect, "sum(": tt.fault} {
				r, err := l.store.Router().QueryInstant(t.Context(), promapi.Query{Expr: expr, Time: time.Now()})
				if got := string(promapi.TypeOf(err)); err != nil && got != want || err == nil && want != "" {
					t.Errorf("%s: %v, want %q", expr, err, want)
				}
				if err == nil {
					if data := string(r.Data.(promapi.Raw)); !strings.Contains(data, `"35"`) {
						t.Errorf("%s: %s", expr, data)
					}
					r.Close()
				}
			}

			src.dead.Store(true)
			began := time.Now()
			l.until("held", began, func(name string, all []rules.Decision) bool {
				d := all[len(all)-1]
				want := map[string]rules.Reason{"direct": rules.MetricStale, "recorded": tt.gone}[name]
				return d.To == 4 && d.Action == rules.Hold && d.Queries[0].Fault == want
			})
			src.demand.Store(25)
			src.dead.Store(false)
			l.scaled(3)
		})
	}
}

// flushing has VictoriaMetrics show what it has scraped at once, as it does of itself after some seconds.
func flushing(t *testing.T, address string) {
	ctx, cancel := context.WithCancel(t.Context())
	var flusher sync.WaitGroup
	flusher.Go(func() {
		for ctx.Err() == nil {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/internal/force_flush", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if response, err := http.DefaultClient.Do(request); err == nil {
				response.Body.Close()
			}
			time.Sleep(remoteInterval)
		}
	})
	t.Cleanup(func() {
		cancel()
		flusher.Wait()
	})
}

// TestRemoteMemory: an answer of 32 MB at each query of hundreds of evaluations leaves nothing, and is not read.
func TestRemoteMemory(t *testing.T) {
	f := newFront(t, "http://127.0.0.1:1")
	series := []byte(strings.Repeat(`{"metric":{"x":"y"},"value":[0,"1"]},`, 1<<10))
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.asked.Load()%2 == 0 { // with and without saying how much will come
			w.Header().Set("Content-Length", fmt.Sprint(32<<20))
		}
		_, _ = io.WriteString(w, `{"status":"success","x":[`)
		for n := 0; n < 32<<20; n += len(series) {
			if _, err := w.Write(series); err != nil {
				return
			}
		}
	})
	f.answer.Store(&endless)
	const limit = 1 << 20
	l := newRemoteLoop(t, f.address, func(c *remote.Config) { c.MaxBytes = limit })
	at := time.Now()
	var most, after uint64
	const ticks = 300
	for i := range ticks {
		at = at.Add(15 * time.Second)
		if _, err := l.store.EvalGroups(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		var m runtime.MemStats
		if i == 20 || i == ticks-1 {
			runtime.GC()
			runtime.ReadMemStats(&m)
			if i == 20 {
				after = m.HeapInuse
			} else if grown := int64(m.HeapInuse) - int64(after); grown > 8<<20 {
				t.Errorf("the heap grew by %d bytes in %d evaluations", grown, ticks-20)
			}
		}
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse)
	}
	if most > after+64<<20 {
		t.Errorf("the heap was at %d bytes, %d at rest", most, after)
	}
	for name, e := range l.scalers {
		if d := e.Last(); d.Queries[0].Fault != rules.MetricMissing || name == "direct" && !strings.Contains(d.Queries[0].Detail, "max_bytes") {
			t.Errorf("%s: %+v", name, d.Queries[0])
		}
	}
	asked, read := f.asked.Load(), total(t, l.metrics, "flyball_remote_response_bytes_total")
	if asked < 2*ticks || read > float64(asked)*limit {
		t.Errorf("%d requests, %g bytes read", asked, read)
	}
	t.Logf("%d evaluations, %d requests, %.0f MB read, heap at most %d MB, %d MB at rest", ticks, asked, read/1e6, most>>20, after>>20)
}

// total is the sum of a metric's series.
func total(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
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

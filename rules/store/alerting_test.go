package store

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/notifier"
	promrules "github.com/prometheus/prometheus/rules"
)

// posted is an alert as it arrives at an Alertmanager.
type posted struct {
	Labels       map[string]string
	Annotations  map[string]string
	StartsAt     time.Time
	EndsAt       time.Time
	GeneratorURL string
}

// receiver is an Alertmanager that takes note of what it gets and answers as it is told to.
type receiver struct {
	*httptest.Server
	conns atomic.Int32 // open connections

	mu     sync.Mutex // guards what follows
	answer http.HandlerFunc
	alerts []posted
	paths  []string
	auth   string // of the last request
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		answer := r.answer
		r.paths = append(r.paths, req.Method+" "+req.URL.Path)
		r.auth = req.Header.Get("Authorization")
		r.mu.Unlock()
		if answer != nil {
			answer(w, req)
			return
		}
		var alerts []posted
		if err := json.NewDecoder(req.Body).Decode(&alerts); err != nil {
			t.Errorf("the alerts: %v", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.alerts = append(r.alerts, alerts...)
	}))
	r.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			r.conns.Add(1)
		case http.StateClosed:
			r.conns.Add(-1)
		}
	}
	r.Start()
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) set(answer http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) got() []posted {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.alerts)
}

func (r *receiver) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.paths)
}

func (r *receiver) address() string { return strings.TrimPrefix(r.URL, "http://") }

// to is an alerting section for some addresses, with more keys for each.
func to(t *testing.T, more string, addresses ...string) Alerting {
	t.Helper()
	text := "alertmanagers:\n"
	for _, a := range addresses {
		text += fmt.Sprintf("- static_configs: [{targets: ['%s']}]\n", a)
		for line := range strings.Lines(more) {
			text += "  " + line
		}
	}
	a, err := ParseAlerting([]byte(text), "")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func applyAlerting(t *testing.T, s *Store, a Alerting) {
	t.Helper()
	if err := s.ApplyAlerting(a); err != nil {
		t.Fatal(err)
	}
}

// quick makes alerts be sent again after half a second.
func quick(o *Options) {
	o.ResendDelay = 500 * time.Millisecond
	o.ExternalLabels = labels.FromStrings("cluster", "east", "team", "nobody")
	o.ExternalURL = "http://flyball.example:9838/"
}

// always is a group with an alert that fires at once and a rule that counts evaluations.
func always(name string) Group {
	return Group{Name: name, Interval: 50 * time.Millisecond, Rules: []Rule{
		{Alert: &Alert{Name: name, Expr: "vector(1) > 0", Labels: map[string]string{"severity": "warning", "team": "serving"}, Annotations: map[string]string{"summary": "it is {{ $value }}"}}},
	}}
}

// fired is an alert as the rules hand it on, and noted one as the notifier takes it.
func fired(name string) *promrules.Alert {
	now := time.Now()
	return &promrules.Alert{Labels: labels.FromStrings("alertname", name), FiredAt: now, ValidUntil: now.Add(time.Minute)}
}

func noted(name string) *notifier.Alert {
	return &notifier.Alert{Labels: labels.FromStrings("alertname", name)}
}

// TestAlertsAreSent: labels, annotations, times and links are as Prometheus sends them, again and again.
func TestAlertsAreSent(t *testing.T) {
	r := newReceiver(t)
	s := open(t, t.TempDir(), quick)
	setGroups(t, s, always("Always"))
	applyAlerting(t, s, to(t, "path_prefix: /am/\n", r.address()))
	start(t, s)
	until(t, "the alert comes three times", func() bool { return len(r.got()) >= 3 })
	first := r.got()[0]
	want := posted{
		Labels:      map[string]string{"alertname": "Always", "severity": "warning", "team": "serving", "cluster": "east"},
		Annotations: map[string]string{"summary": "it is 1"}, GeneratorURL: "http://flyball.example:9838/graph?g0.expr=vector%281%29+%3E+0&g0.tab=1",
		StartsAt: first.StartsAt, EndsAt: first.EndsAt,
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	if got := first.EndsAt.Sub(first.StartsAt); got != 4*500*time.Millisecond {
		t.Errorf("it ends by itself after %s, want four resend delays", got)
	}
	for i, a := range r.got()[1:3] {
		if before := r.got()[i]; !a.StartsAt.Equal(first.StartsAt) || a.EndsAt.Sub(before.EndsAt) < 500*time.Millisecond {
			t.Errorf("sent again: from %s to %s, after one to %s", a.StartsAt, a.EndsAt, before.EndsAt)
		}
	}
	r.mu.Lock()
	if r.paths[0] != "POST /am/api/v2/alerts" {
		t.Errorf("it was sent by %s", r.paths[0])
	}
	r.mu.Unlock()
	if diff := cmp.Diff(Alertmanagers{Active: []string{r.URL + "/am/api/v2/alerts"}}, s.Alertmanagers()); diff != "" {
		t.Error(diff)
	}
}

func started(s *Store) bool {
	s.alerter.mu.Lock()
	defer s.alerter.mu.Unlock()
	return s.alerter.started
}

// TestNothingRuns without alerting, and evaluations that are not live send nothing.
func TestNothingRuns(t *testing.T) {
	r := newReceiver(t)
	s := open(t, t.TempDir(), quick)
	setGroups(t, s, always("Always"))
	applyAlerting(t, s, to(t, "", r.address()))
	eval(t, s, t0)
	if started(s) || len(s.alerter.outbox.take()) > 0 {
		t.Error("before Run the notifier runs, or has alerts")
	}
	applyAlerting(t, s, Alerting{})
	start(t, s)
	until(t, "the alert fires", func() bool { a := s.Alerts(); return len(a) == 1 && a[0].State == "firing" })
	if started(s) || len(s.alerter.outbox.take()) > 0 {
		t.Error("without Alertmanagers the notifier runs, or has alerts")
	}
	applyAlerting(t, s, to(t, "", r.address())) // and from now on
	until(t, "the alert comes", func() bool { return len(r.got()) >= 1 })
	applyAlerting(t, s, Alerting{})
	if got := s.Alertmanagers(); len(got.Active) != 0 {
		t.Errorf("still sent to %v", got)
	}
	before := s.Groups()[0].LastEvaluation
	until(t, "more evaluations", func() bool { return s.Groups()[0].LastEvaluation.Sub(before) > 700*time.Millisecond })
	if n := len(s.alerter.outbox.take()); n > 0 {
		t.Errorf("%d alerts wait for nobody", n)
	}
}

// TestRelabelling drops alerts for all, for one Alertmanager, and Alertmanagers.
func TestRelabelling(t *testing.T) {
	all, some := newReceiver(t), newReceiver(t)
	s := open(t, t.TempDir(), quick)
	setGroups(t, s, always("Always"), always("Debug"), always("Local"))
	a, err := ParseAlerting([]byte(`
alert_relabel_configs:
- {source_labels: [alertname], regex: Debug, action: drop}
- {target_label: via, replacement: all}
alertmanagers:
- static_configs: [{targets: ['`+all.address()+`', 'gone:1']}]
  relabel_configs: [{source_labels: [__address__], regex: 'gone.*', action: drop}]
- static_configs: [{targets: ['`+some.address()+`']}]
  alert_relabel_configs: [{source_labels: [alertname], regex: Local, action: drop}, {target_label: via, replacement: some}]
`), "")
	if err != nil {
		t.Fatal(err)
	}
	applyAlerting(t, s, a)
	start(t, s)
	names := func(r *receiver) string {
		seen := map[string]bool{}
		for _, a := range r.got() {
			seen[a.Labels["alertname"]+" via "+a.Labels["via"]] = true
		}
		var list []string
		for n := range seen {
			list = append(list, n)
		}
		slices.Sort(list)
		return strings.Join(list, ", ")
	}
	until(t, "alerts at both", func() bool { return len(all.got()) >= 4 && len(some.got()) >= 2 })
	if got := names(all); got != "Always via all, Local via all" {
		t.Errorf("the first got %s", got)
	}
	if got := names(some); got != "Always via some" {
		t.Errorf("the second got %s", got)
	}
	if got := s.Alertmanagers().Dropped; !slices.Equal(got, []string{"http://gone:1/api/v2/alerts"}) {
		t.Errorf("dropped %v", got)
	}
}

// TestDiscoveredAlertmanagers are found by a file and over HTTP, and may come later.
func TestDiscoveredAlertmanagers(t *testing.T) {
	byFile, byHTTP := newReceiver(t), newReceiver(t)
	sd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `[{"targets": [%q]}]`, byHTTP.address())
	}))
	defer sd.Close()
	dir := t.TempDir()
	a, err := ParseAlerting([]byte("alertmanagers:\n- file_sd_configs: [{files: [am.yml]}]\n- http_sd_configs: [{url: '"+sd.URL+"'}]\n"), dir)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), quick)
	setGroups(t, s, always("Always"))
	applyAlerting(t, s, a)
	start(t, s)
	until(t, "by HTTP", func() bool { return len(byHTTP.got()) >= 1 })
	if n := byFile.asked(); n != 0 {
		t.Errorf("%d requests to one that is not in the file yet", n)
	}
	next := filepath.Join(dir, "next")
	if err := os.WriteFile(next, []byte("- targets: ['"+byFile.address()+"']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(dir, "am.yml")); err != nil {
		t.Fatal(err)
	}
	until(t, "by file", func() bool { return len(byFile.got()) >= 1 })
}

// TestFirstAlertIsHeld: an alert that fires before discovery has found the Alertmanager is not lost until it is due again.
func TestFirstAlertIsHeld(t *testing.T) {
	r := newReceiver(t)
	dir := t.TempDir()
	a, err := ParseAlerting([]byte("alertmanagers: [{file_sd_configs: [{files: [am.yml]}]}]"), dir)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), quick, func(o *Options) { o.ResendDelay = time.Hour })
	setGroups(t, s, always("Always"))
	applyAlerting(t, s, a)
	start(t, s)
	until(t, "it fires", func() bool { a := s.Alerts(); return len(a) == 1 && a[0].State == "firing" })
	if err := os.WriteFile(filepath.Join(dir, "am.yml"), []byte("- targets: ['"+r.address()+"']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, "it comes", func() bool { return len(r.got()) == 1 })
}

// TestReloadAlerting takes Alertmanagers away and adds them, and takes up a password that changed, which Prometheus's own
// comparison does not see.
func TestReloadAlerting(t *testing.T) {
	first, second := newReceiver(t), newReceiver(t)
	s := open(t, t.TempDir(), quick)
	setGroups(t, s, always("Always"))
	applyAlerting(t, s, to(t, "authorization: {credentials: old}\n", first.address()))
	start(t, s)
	auth := func(want string) func() bool {
		return func() bool {
			first.mu.Lock()
			defer first.mu.Unlock()
			return first.auth == "Bearer "+want
		}
	}
	until(t, "the first password", auth("old"))
	for _, next := range []string{"new", "newer", "newest"} {
		applyAlerting(t, s, to(t, "authorization: {credentials: "+next+"}\n", first.address()))
		until(t, "the password "+next, auth(next))
	}
	same := to(t, "authorization: {credentials: newest}\n", first.address())
	before := s.alerter.applied.alertmanagers[0]
	applyAlerting(t, s, same)
	if after := s.alerter.applied.alertmanagers[0]; after != before {
		t.Errorf("the same again: %+v, before %+v", after, before)
	}

	ca := authority(t)
	bad, err := ParseAlerting([]byte("alertmanagers:\n- static_configs: [{targets: [a:1]}]\n- static_configs: [{targets: [a:1]}]\n  tls_config: {ca_file: ca.pem}\n- http_sd_configs: [{url: 'http://a:1', tls_config: {ca_file: ca.pem}}]\n"), filepath.Dir(ca))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	err = s.ApplyAlerting(bad)
	want := "alerting.alertmanagers[1]: unable to read CA cert: unable to read file " + ca + ": open " + ca + ": no such file or directory\n" +
		"alerting.alertmanagers[2]: unable to read CA cert: unable to read file " + ca + ": open " + ca + ": no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if got := s.Alertmanagers().Active; !slices.Equal(got, []string{first.URL + "/api/v2/alerts"}) {
		t.Errorf("after a fault alerts go to %v", got)
	}

	applyAlerting(t, s, to(t, "", second.address()))
	until(t, "the second gets it", func() bool { return len(second.got()) > 0 })
	n := first.asked()
	m := len(second.got())
	until(t, "the second gets it again", func() bool { return len(second.got()) >= m+2 })
	if first.asked() != n {
		t.Errorf("the first still gets it")
	}
}

// TestAlertmanagerHangs: one that never answers holds up neither the groups nor the other Alertmanager nor /metrics, nor
// its being taken away, by a reload or by discovery.
func TestAlertmanagerHangs(t *testing.T) {
	for _, by := range []string{"reload", "discovery", "reload that waits"} {
		t.Run(by, func(t *testing.T) {
			release := make(chan struct{})
			defer close(release)
			bad, good := newReceiver(t), newReceiver(t)
			bad.set(func(http.ResponseWriter, *http.Request) { <-release })
			file := filepath.Join(t.TempDir(), "am.yml")
			find := func(addresses ...string) {
				t.Helper()
				if err := os.WriteFile(file+".next", []byte("- targets: ['"+strings.Join(addresses, "', '")+"']\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(file+".next", file); err != nil {
					t.Fatal(err)
				}
			}
			find(bad.address(), good.address())
			a, err := ParseAlerting([]byte("alertmanagers: [{file_sd_configs: [{files: ["+file+"]}], timeout: 1h}]"), "")
			if err != nil {
				t.Fatal(err)
			}
			metrics := prometheus.NewRegistry()
			s := open(t, t.TempDir(), quick, func(o *Options) { o.Metrics = metrics })
			s.alerter.remove, s.alerter.drain = 100*time.Millisecond, 100*time.Millisecond
			if by == "reload that waits" {
				s.alerter.remove = time.Hour
			}
			setGroups(t, s, always("Always"))
			applyAlerting(t, s, a)
			start(t, s)
			until(t, "both are asked", func() bool { return bad.asked() == 1 && good.asked() >= 1 })
			for i := range 1000 { // four requests
				s.ruleOptions.NotifyFunc(t.Context(), "x", fired(fmt.Sprint("Alert", i)))
			}
			goOn := func(what string) {
				t.Helper()
				n, last := len(good.got()), s.Groups()[0].LastEvaluation
				until(t, what, func() bool { return len(good.got()) > n && s.Groups()[0].LastEvaluation.After(last) })
			}
			goOn("evaluations while it hangs")
			switch next := to(t, "", good.address()); by {
			case "reload":
				applyAlerting(t, s, next)
			case "discovery":
				find(good.address())
			default: // until Run ends, which then waits no longer than drain
				p, err := s.alerter.prepare(*s.global.Load(), next)
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				t.Cleanup(func() {
					if err := <-done; err != nil {
						t.Error(err)
					}
				})
				go func() { done <- s.alerter.commit(p) }()
				until(t, "the notifier is busy", func() bool { return bad.asked() == 2 })
				last := s.Groups()[0].LastEvaluation
				until(t, "evaluations meanwhile", func() bool { return s.Groups()[0].LastEvaluation.Sub(last) >= time.Second })
				return
			}
			until(t, "it is gone", func() bool { return slices.Equal(s.Alertmanagers().Active, []string{good.URL + "/api/v2/alerts"}) })
			if _, err := metrics.Gather(); err != nil {
				t.Error(err)
			}
			goOn("evaluations after it is gone")
		})
	}
}

// TestAlertmanagerFails: one that answers 500, answers too late or hangs up does not hold up the other, and the metrics tell.
func TestAlertmanagerFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(release <-chan struct{}) http.HandlerFunc
	}{
		{"500", func(<-chan struct{}) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "out of memory", http.StatusInternalServerError)
			}
		}},
		{"hangs", func(release <-chan struct{}) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) {
				select {
				case <-release:
				case <-r.Context().Done():
				}
			}
		}},
		{"hangs up", func(<-chan struct{}) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			release := make(chan struct{})
			bad, good := newReceiver(t), newReceiver(t)
			bad.set(tt.answer(release))
			defer close(release)
			ours, theirs := prometheus.NewRegistry(), prometheus.NewRegistry()
			s := open(t, t.TempDir(), quick, func(o *Options) { o.Metrics, o.Registerer = ours, theirs })
			setGroups(t, s, always("Always"))
			a := to(t, "", bad.address(), good.address())
			a.alertmanagers[0].config.Timeout = 200_000_000 // 200ms
			applyAlerting(t, s, a)
			start(t, s)
			until(t, "alerts at the good one, more tries at the bad one", func() bool { return len(good.got()) >= 3 && bad.asked() >= 2 })
			value := func(name, url string) float64 {
				families, err := ours.Gather()
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range families {
					for _, m := range f.GetMetric() {
						if f.GetName() == name && (url == "" || m.GetLabel()[0].GetValue() == url+"/api/v2/alerts") {
							return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
						}
					}
				}
				return -1
			}
			until(t, "errors are counted", func() bool { return value("flyball_notifications_errors_total", bad.URL) >= 1 })
			if n := value("flyball_notifications_dropped_total", bad.URL); n < 1 {
				t.Errorf("%g dropped", n)
			}
			if n := value("flyball_notifications_errors_total", good.URL); n != 0 {
				t.Errorf("%g errors at the good one", n)
			}
			if n := value("flyball_notifications_sent_total", good.URL); n < 3 {
				t.Errorf("%g sent to the good one", n)
			}
			if n := value("flyball_notifications_latency_seconds", good.URL); n < 3 {
				t.Errorf("%g latencies of the good one", n)
			}
			if n := value("flyball_notifications_queue_capacity", ""); n != 10_000 {
				t.Errorf("room for %g alerts", n)
			}
			if n := value("flyball_notifications_alertmanagers_discovered", ""); n != 2 {
				t.Errorf("%g Alertmanagers", n)
			}
			if n, err := testutil.GatherAndCount(theirs, "prometheus_notifications_sent_total"); err != nil || n != 2 {
				t.Errorf("%d of Prometheus's own series, %v", n, err)
			}
		})
	}
}

// TestLastAlerts: what was queued when the process is told to stop still arrives, and one that hangs does not hold it up.
func TestLastAlerts(t *testing.T) {
	for range 20 {
		r := newReceiver(t)
		s := open(t, t.TempDir(), quick)
		applyAlerting(t, s, to(t, "", r.address()))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		until(t, "it is known", func() bool { return len(s.Alertmanagers().Active) == 1 })
		s.ruleOptions.NotifyFunc(t.Context(), "x", fired("Last"))
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := r.got(); len(got) != 1 || got[0].Labels["alertname"] != "Last" {
			t.Fatalf("arrived: %v", got)
		}
		until(t, "end of connections", func() bool { return r.conns.Load() == 0 })
	}
}

func TestHangsAtTheEnd(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	r := newReceiver(t)
	r.set(func(http.ResponseWriter, *http.Request) { <-release })
	s := open(t, t.TempDir(), quick)
	s.alerter.drain = 100 * time.Millisecond
	applyAlerting(t, s, to(t, "timeout: 1h\n", r.address()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	until(t, "it is known", func() bool { return len(s.Alertmanagers().Active) == 1 })
	for i := range 1000 {
		s.ruleOptions.NotifyFunc(t.Context(), "x", fired(fmt.Sprint("Alert", i)))
	}
	until(t, "it hangs", func() bool { return r.asked() > 0 })
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Run does not end")
	}
}

// TestOutbox keeps the newest alerts and never blocks.
func TestOutbox(t *testing.T) {
	m := &notifications{}
	o := newOutbox(&m.overflow)
	o.Send(noted("closed"))
	if got := o.take(); len(got) != 0 {
		t.Errorf("a closed outbox has %d alerts", len(got))
	}
	o.set(true, t0)
	for i := range alertQueue + 5 {
		o.Send(noted(fmt.Sprint(i)))
	}
	got := o.take()
	if len(got) != alertQueue || got[0].Name() != "5" || m.overflow.Load() != 5 {
		t.Errorf("%d alerts from %s, %d dropped", len(got), got[0].Name(), m.overflow.Load())
	}
	if o.held(t0) || !o.held(t0.Add(-1)) {
		t.Error("held at the wrong time")
	}
}

// TestReloadWithAlerting: Alertmanagers and external labels are taken over with the rest of a configuration, and a fault
// elsewhere in it leaves them as they were.
func TestReloadWithAlerting(t *testing.T) {
	first, second := newReceiver(t), newReceiver(t)
	s := open(t, t.TempDir(), quick)
	reload := func(r *receiver, cluster string, groups ...Group) error {
		p, err := s.Prepare(Config{
			Global: Global{ExternalLabels: labels.FromStrings("cluster", cluster)}, Groups: groups, Alerting: to(t, "", r.address()),
		})
		if err != nil {
			return err
		}
		return p.Commit(nil)
	}
	last := func(r *receiver) string {
		got := r.got()
		if len(got) == 0 {
			return ""
		}
		return got[len(got)-1].Labels["cluster"]
	}
	if err := reload(first, "one", always("Always")); err != nil {
		t.Fatal(err)
	}
	start(t, s)
	until(t, "the first gets it", func() bool { return last(first) == "one" })
	if err := reload(second, "two", always("Always"), Group{Interval: time.Second}); err == nil {
		t.Fatal("a group without a name is taken over")
	}
	n := len(first.got())
	until(t, "the first gets it again", func() bool { return len(first.got()) > n })
	if got := last(first); got != "one" || second.asked() > 0 {
		t.Errorf("after a fault the label is %q, and the other was asked %d times", got, second.asked())
	}
	if err := reload(second, "two", always("Always")); err != nil {
		t.Fatal(err)
	}
	until(t, "the second gets it", func() bool { return last(second) == "two" })
}

package store

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
)

// authority writes a certificate of an authority, as a CA file, and returns its path.
func authority(t *testing.T) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.StartTLS()
	defer s.Close()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// running is all that a Config decides, as it is in the parts that run.
func running(t *testing.T, s *Store, reg *prometheus.Registry) string {
	t.Helper()
	var b strings.Builder
	g := s.global.Load()
	fmt.Fprintf(&b, "scrapes every %s, evaluates every %s, %s\n", g.ScrapeInterval, g.EvaluationInterval, g.ExternalLabels)
	for _, g := range s.Groups() {
		fmt.Fprintf(&b, "group %s every %s", g.Name, g.Interval)
		for _, r := range g.Rules {
			fmt.Fprintf(&b, ", %s = %s", r.Name, r.Expr)
		}
		b.WriteByte('\n')
	}
	for _, target := range s.Targets() {
		fmt.Fprintf(&b, "target %s\n", target.Labels)
	}
	fmt.Fprintf(&b, "alertmanagers %s\n", s.Alertmanagers().Active)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var queues []string
	for _, f := range families {
		if f.GetName() == "prometheus_remote_storage_shards_max" {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "url" {
						queues = append(queues, l.GetValue())
					}
				}
			}
		}
	}
	slices.Sort(queues)
	fmt.Fprintf(&b, "sends to %s\n", queues)
	return b.String()
}

// twoConfigs are two configurations that differ in every part, with a receiver of alerts and one of samples each; the files
// of the second are in dir.
func twoConfigs(t *testing.T, dir string) (before, after Config, sent func(i int) int) {
	t.Helper()
	var configs [2]Config
	var alerts [2]*receiver
	for i, name := range []string{"one", "two"} {
		tls := ""
		if i == 1 {
			tls = ", tls_config: {ca_file: " + filepath.Join(dir, "%s.pem") + "}"
		}
		_, address := exporter(t, float64(i))
		alerts[i] = newReceiver(t)
		samples := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		t.Cleanup(samples.Close)
		sub := func(format, part string) []byte {
			if i == 0 {
				return []byte(format)
			}
			return fmt.Appendf(nil, format, part)
		}
		scrapes, err := ParseScrapeConfigs(sub("[{job_name: "+name+", static_configs: [{targets: ['"+address+"']}]"+tls+"}]", "scrape"), ScrapeGlobal{Interval: fast})
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			sd, err := ParseScrapeConfigs(sub("[{job_name: sd, http_sd_configs: [{url: 'http://127.0.0.1:1/'"+tls+"}]}]", "discovery"), ScrapeGlobal{Interval: fast})
			if err != nil {
				t.Fatal(err)
			}
			scrapes.configs = append(scrapes.configs, sd.configs...)
		}
		alerting, err := ParseAlerting(sub("alertmanagers: [{static_configs: [{targets: ['"+alerts[i].address()+"']}]"+tls+"}]", "alerting"), "")
		if err != nil {
			t.Fatal(err)
		}
		writes, err := ParseRemoteWrite(sub("[{url: '"+samples.URL+"'"+tls+"}]", "write"), "")
		if err != nil {
			t.Fatal(err)
		}
		configs[i] = Config{
			Global: Global{
				ScrapeInterval: fast * time.Duration(i+1), EvaluationInterval: fast * time.Duration(i+1), ExternalLabels: labels.FromStrings("site", name),
			},
			Groups: []Group{always("Always"), {Name: name, Interval: fast, Rules: []Rule{record("r", fmt.Sprintf("vector(%d)", i))}}},
			Scrape: Scrape{Configs: scrapes}, Alerting: alerting, RemoteWrites: writes,
		}
	}
	return configs[0], configs[1], func(i int) int { return len(alerts[i].got()) }
}

// TestCommitFails: what befalls a file between Prepare and Commit leaves every part as it was, whichever part it is of.
func TestCommitFails(t *testing.T) {
	ca, err := os.ReadFile(authority(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := []string{"scrape", "discovery", "alerting", "write"}
	restore := func() {
		for _, name := range files {
			if err := os.WriteFile(filepath.Join(dir, name+".pem"), ca, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	restore()
	before, after, sent := twoConfigs(t, dir)
	reg := prometheus.NewRegistry()
	s := open(t, t.TempDir(), quick, func(o *Options) { o.Registerer = reg })
	takeOver(t, s, before)
	start(t, s)
	until(t, "all parts run", func() bool { return len(s.Targets()) == 1 && sent(0) > 0 })
	want := running(t, s, reg)
	for _, tt := range []struct{ part, want string }{
		{"scrape", "job two: unable to read CA cert"},
		{"discovery", "job sd: unable to read CA cert"},
		{"alerting", "alerting.alertmanagers[0]: unable to read CA cert"},
		{"write", "remote_write[0]: unable to read CA cert"},
		{"failure log", "apply the scrape configuration: can't create json log file"},
	} {
		t.Run(tt.part, func(t *testing.T) {
			next := after
			if tt.part == "failure log" {
				broken := *after.Scrape.Configs.configs[0]
				broken.ScrapeFailureLogFile = filepath.Join(dir, "none", "failures.json")
				next.Scrape.Configs.configs = append([]*config.ScrapeConfig{&broken}, after.Scrape.Configs.configs[1:]...)
			}
			p, err := s.Prepare(next)
			if err != nil {
				t.Fatal(err)
			}
			if tt.part != "failure log" {
				if err := os.Remove(filepath.Join(dir, tt.part+".pem")); err != nil {
					t.Fatal(err)
				}
				defer restore()
			}
			err = p.Commit(func() { t.Error("it says that it can fail no more") })
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if diff := cmp.Diff(want, running(t, s, reg)); diff != "" {
				t.Errorf("something changed (-before +after):\n%s", diff)
			}
			n, at := sent(0), s.Groups()[1].LastEvaluation
			scraped := s.Targets()[0].LastScrape
			until(t, "all goes on", func() bool {
				targets := s.Targets()
				return sent(0) > n && s.Groups()[1].LastEvaluation.After(at) && len(targets) == 1 && targets[0].LastScrape.After(scraped)
			})
		})
	}

	// The last resort: the scraper and the sender have changed already when the notifier refuses.
	p, err := s.Prepare(after)
	if err != nil {
		t.Fatal(err)
	}
	scraped, sending := s.scraper.present(), s.sender.applied
	if err := s.scraper.change(p.scrape); err != nil {
		t.Fatal(err)
	}
	if err := s.sender.change(p.send); err != nil {
		t.Fatal(err)
	}
	if running(t, s, reg) == want {
		t.Error("nothing changed that could be taken back")
	}
	if err := s.takeBack(scraped, sending); err != nil {
		t.Fatal(err)
	}
	until(t, "all is as it was", func() bool { return running(t, s, reg) == want })

	// And nothing of it stands in the way of a good one.
	if p, err = s.Prepare(after); err != nil {
		t.Fatal(err)
	}
	told := false
	committed := func() {
		told = true
		if names := s.Groups(); names[1].Name != "one" {
			t.Errorf("the group %s is there before it may be evaluated", names[1].Name)
		}
	}
	if err := p.Commit(committed); err != nil || !told {
		t.Fatalf("%v, told %t", err, told)
	}
	until(t, "the second Alertmanager is told", func() bool { return sent(1) > 0 })
	if got := running(t, s, reg); !strings.Contains(got, `site="two"`) || strings.Contains(got, "one") {
		t.Errorf("it runs\n%s", got)
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/cmd/flyball/web"
	"flyball/rules"
	"flyball/rules/store"
)

// busyModel publishes the series of a model that queues from the tenth minute on.
type busyModel struct{ start time.Time }

func (busyModel) Name() string { return "busy" }

func (b busyModel) Eval(_ context.Context, at time.Time) (all []rules.Sample, _ error) {
	seconds := at.Sub(b.start).Seconds()
	slow := max(0, seconds-600)
	for name, v := range map[string]float64{
		"arrivals_total": 10 * seconds, "requests_running": 3,
		"request_duration_seconds_sum": 10 * (0.1*(seconds-slow) + slow), "request_duration_seconds_count": 10 * seconds,
		"queue_duration_seconds_sum": 10 * (0.01*(seconds-slow) + 0.9*slow), "queue_duration_seconds_count": 10 * seconds,
	} {
		all = append(all, rules.Sample{Labels: labels.FromStrings(labels.MetricName, "flyball_batchproxy_"+name, "model", "digits"), Value: v})
	}
	return append(all, rules.Sample{Labels: labels.FromStrings(labels.MetricName, "flyball_batchproxy_requests_total", "model", "digits", "code", "200"), Value: 10 * seconds}), nil
}

// TestReport asks a server's API as flyball has it, with what can go wrong on the way.
func TestReport(t *testing.T) {
	start := time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)
	o := store.DefaultOptions()
	o.Dir = t.TempDir()
	s, err := store.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.SetGroups([]store.Group{{Name: "g", Interval: 15 * time.Second, Rules: []store.Rule{{Evaluator: busyModel{start}}}}}); err != nil {
		t.Fatal(err)
	}
	for at := start; !at.After(start.Add(40 * time.Minute)); at = at.Add(15 * time.Second) {
		if _, err := s.EvalGroups(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	web.Prometheus{Store: func(*http.Request) web.PrometheusStore { return s.Router() }, Build: buildInfo()}.Register(mux)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "ann" || password != "s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>hello") }))
	t.Cleanup(elsewhere.Close)
	access := filepath.Join(t.TempDir(), "http.yml")
	if err := os.WriteFile(access, []byte("basic_auth: {username: ann, password: s3cret}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := []string{"--http.config.file=" + access, "--url=" + server.URL, "--since=40m", "--step=1m", "--until=2026-03-02T08:40:00Z"}
	with := func(flag string) []string { // takes the place of the same one
		name, _, _ := strings.Cut(flag, "=")
		return append(slices.DeleteFunc(slices.Clone(in), func(f string) bool { return strings.HasPrefix(f, name+"=") }), flag)
	}
	for _, tt := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"text", in, exitOK, "warning  queueing: Requests wait longer than they are served", ""},
		{"html", with("--output=html"), exitOK, "<svg", ""},
		{"a URL without a scheme", with("--url=" + strings.TrimPrefix(server.URL, "http://")), exitOK, "queueing", ""},
		{"no password", in[1:], exitFailed, "", "asks for a password: --http.config.file gives it"},
		{"an unknown scale rule", with("--scale=x"), exitFailed, "", `no scale rule "x"`},
		{"another time", with("--until=2026-02-01T00:00:00Z"), exitFailed, "", `nothing was measured of model "digits" from`},
		{"not Prometheus", with("--url=" + elsewhere.URL), exitFailed, "", "does not answer as Prometheus's API does"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := execute(t.Context(), append([]string{"report", "digits"}, tt.args...), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) || tt.stderr == "" && stderr.Len() > 0 {
				t.Errorf("exit %d\n%s\n%s", code, &stdout, &stderr)
			}
			if strings.Contains(stderr.String(), "s3cret") {
				t.Error("the password is in the error")
			}
		})
	}
	t.Run("json", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		if code := execute(t.Context(), append([]string{"report", "digits", "-o", "json"}, in...), &stdout, &stderr); code != exitOK {
			t.Fatal(stderr.String())
		}
		var r struct {
			Start, End time.Time
			Checks     []struct {
				Name    string
				Finding *struct{ Evidence []struct{ Queries []string } }
			}
		}
		if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if !r.Start.Equal(start) || !r.End.Equal(start.Add(40*time.Minute)) || r.Checks[0].Name != "queueing" || r.Checks[0].Finding == nil || len(r.Checks[0].Finding.Evidence[0].Queries) != 2 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("unknown model", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		code := execute(t.Context(), append([]string{"report", "digit"}, in...), &stdout, &stderr)
		if code != exitFailed || !strings.Contains(stderr.String(), `no model "digit" (did you mean "digits"?): there are digits`) {
			t.Errorf("exit %d: %s", code, &stderr)
		}
	})
}

package model

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	prom "github.com/prometheus/common/model"

	"flyball/exporter"
)

// TestRedacted: what may be a token in a server's URL, or in that of another which it names, is in no log, no report and on no page,
// whether the server answers, refuses, sends elsewhere or is not there.
func TestRedacted(t *testing.T) {
	const secret = "s3cret"
	answers := map[string]http.HandlerFunc{
		"answers": text2page("vllm:num_requests_running{model_name=\"m\"} 1\n"),
		"refuses": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"sends elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/login?back="+secret, http.StatusFound)
		},
		"no page":      text2page("what is this"),
		"cut off":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"hangs":        func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"is not there": nil,
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			url := "http://127.0.0.1:1"
			if answer != nil {
				url = serve(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Query().Get("token") != secret {
						t.Errorf("it was asked without its token: %s", r.URL)
					}
					answer(w, r)
				}).URL
			}
			var log strings.Builder
			c := newCollector(t, Options{ProcFS: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))},
				configOf(t, url+"/metrics?token="+secret, func(c *exporter.ModelServer) {
					if name == "hangs" {
						c.Timeout = prom.Duration(200 * time.Millisecond)
					}
				}))
			c.servers[0].poll(context.Background())
			r, err := c.Probe(context.Background(), "s")
			if err != nil {
				t.Fatal(err)
			}
			report, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			metrics, err := c.Update(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for what, text := range map[string]string{"log": log.String(), "report": string(report), "page": page2text(t, metrics)} {
				if strings.Contains(text, secret) {
					t.Errorf("the %s has it:\n%s", what, text)
				}
			}
			if want := url + "/metrics?token=xxxxx"; r.URL != want || r.Up != (name == "answers") || r.Up == strings.Contains(log.String(), want) {
				t.Errorf("the report is of %s, up %t, and the log %q", r.URL, r.Up, log.String())
			}
		})
	}
}

// TestRedactedFaults: nor is it in what is said of a configuration.
func TestRedactedFaults(t *testing.T) {
	for _, url := range []string{
		"ftp://host/metrics?token=s3cret", "http:///metrics?token=s3cret", "http://s3cret@host/", "http://u:s3cret@host/", "http://host/%zz?token=s3cret",
		"http://host/#s3cret", "unix:/run/s:nothing?token=s3cret", "unix:/run/s:/%zz?token=s3cret", "host:8000?s3cret",
	} {
		c := exporter.DefaultConfig()
		s := exporter.DefaultModelServer()
		s.Name, s.URL = "s", url
		c.ModelServers = []exporter.ModelServer{s}
		if err := c.Validate(); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

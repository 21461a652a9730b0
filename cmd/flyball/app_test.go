package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestApp starts and stops everything that needs no process of its own, within this one, and looks for what is left.
func TestApp(t *testing.T) {
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"predictions": [7]}`)
	}))
	defer model.Close()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"flyball.yml": "global: {scrape_interval: 100ms, evaluation_interval: 100ms}\nrule_files: ['*.rules.yml']\nexporter: {collectors: {gpu: false}}\n" +
			"batchproxy: {models: [{name: m, upstreams: [{url: '" + model.URL + "'}]}]}\n",
		"a.rules.yml": "groups:\n- name: a\n  rules:\n  - {record: up:sum, expr: sum(up)}\n  - {alert: Up, expr: 'up:sum > 0'}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	leaks := goleak.IgnoreCurrent()
	for range 2 { // the second time on what the first has left
		l, err := load(filepath.Join(dir, "flyball.yml"))
		if err != nil {
			t.Fatal(err)
		}
		l.Storage.Path = filepath.Join(dir, "state")
		a, err := newApp(l, &runOptions{
			roles: []string{roleAll}, webListen: []string{"127.0.0.1:0"}, proxyListen: "127.0.0.1:0", log: slog.New(slog.DiscardHandler), stdout: io.Discard,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.run(ctx) }()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		get := func(url string) (int, string) {
			response, err := client.Get(url)
			if err != nil {
				return 0, err.Error()
			}
			defer response.Body.Close()
			text, _ := io.ReadAll(response.Body)
			return response.StatusCode, string(text)
		}
		wait := func(what string, holds func() bool) {
			t.Helper()
			for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal(what)
				}
			}
		}
		wait("ready", func() bool { code, _ := get(a.pageURL() + "-/ready"); return code == http.StatusOK })
		wait("the alert fires on what the rule above it recorded", func() bool { _, page := get(a.pageURL()); return strings.Contains(page, "firing") })
		if code, _ := get(a.pageURL() + "-/healthy"); code != http.StatusOK {
			t.Errorf("healthy: %d", code)
		}
		if code, text := get(a.pageURL() + "metrics/embedded"); code != http.StatusOK || !strings.Contains(text, "prometheus_tsdb_head_series") {
			t.Errorf("embedded metrics: %d", code)
		}
		response, err := client.Post("http://"+a.proxyListener.Addr().String()+"/v1/models/m:predict", "application/json", strings.NewReader(`{"instances": [1]}`))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(text) != `{"predictions": [7]}` {
			t.Errorf("the model said %s", text)
		}
		if code, text := get(a.pageURL() + "debug/batcher"); code != http.StatusOK || !strings.Contains(text, "model m: mode adaptive") || !strings.Contains(text, "lane v1 /v1/models/m:predict #") {
			t.Errorf("the batcher: %d %s", code, text)
		}
		var explained struct {
			Models []struct {
				Model     string
				Decisions []struct{ Reason string }
			}
		}
		if _, text := get(a.pageURL() + "debug/batcher?format=json"); json.Unmarshal([]byte(text), &explained) != nil || len(explained.Models) != 1 ||
			explained.Models[0].Model != "m" || len(explained.Models[0].Decisions) != 1 || explained.Models[0].Decisions[0].Reason != "greedy" {
			t.Errorf("the batcher as JSON: %s", text)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stopped with %v", err)
		}
		a.close()
	}
	goleak.VerifyNone(t, leaks, goleak.IgnoreTopFunction("net/http.(*Server).Serve"),
		goleak.IgnoreAnyFunction("net/http/httptest.(*Server).goServe.func1"), goleak.IgnoreAnyFunction("net/http.(*conn).serve"))
}

// TestAppFails: what cannot be opened is told, and what was taken is let go.
func TestAppFails(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l := &loaded{Config: DefaultConfig()}
	l.Storage.Path = file
	a, err := newApp(l, &runOptions{roles: []string{roleRules}, webListen: []string{"127.0.0.1:0"}, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	err = a.run(t.Context())
	a.close()
	if want := "data directory " + file + "/tsdb cannot be made: not a directory: remove the file that is there, or give another directory by storage.path or --storage.path"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = newApp(l, &runOptions{roles: []string{roleBatchproxy}, webListen: []string{"127.0.0.1:0"}, log: slog.New(slog.DiscardHandler)})
	if want := "--role=batchproxy has nothing to do: the configuration has no batchproxy.models"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

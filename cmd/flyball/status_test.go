package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"flyball/rules"
)

// TestPageFreezes: what is asked for on the page is what the rules ask before they act, and outlives the process.
func TestPageFreezes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "freeze.json")
	a := &app{opts: &runOptions{roles: []string{roleRules}, log: slog.New(slog.DiscardHandler)}, brake: rules.OpenBrake(file)}
	page := a.page()
	page.Lifecycle = true
	mux := http.NewServeMux()
	page.Register(mux)
	post := func(form url.Values) {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, "/-/freeze", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		if mux.ServeHTTP(w, r); w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	post(url.Values{"why": {"a bad rollout"}})
	if f, frozen := a.brake.Frozen(); !frozen || f.Why != "a bad rollout" || f.By != "192.0.2.1" {
		t.Errorf("frozen %v: %+v", frozen, f)
	}
	if f, frozen := rules.OpenBrake(file).Frozen(); !frozen || f.Why != "a bad rollout" {
		t.Errorf("the next process: frozen %v: %+v", frozen, f)
	}
	post(url.Values{"release": {"1"}})
	if _, frozen := a.brake.Frozen(); frozen {
		t.Error("frozen after the release")
	}
	if _, frozen := rules.OpenBrake(file).Frozen(); frozen {
		t.Error("the next process is frozen after the release")
	}
}

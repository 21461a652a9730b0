package main

import (
	"net/http"
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReadme: each call in README.md gives the answer that stands there.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, c := start(t, defaultOptions())
	waitReady(t, c)
	calls := regexp.MustCompile(`(?m)^\$ curl -s 127\.0\.0\.1:8000(\S+)(?: -d '(.*)')?\n(.+)$`).FindAllStringSubmatch(string(readme), -1)
	if len(calls) != 6 {
		t.Fatalf("%d calls found, want 6", len(calls))
	}
	for _, call := range calls {
		path, body, want := call[1], call[2], call[3]
		method := http.MethodGet
		if body != "" {
			method = http.MethodPost
		}
		_, got := c.call(t, method, path, body)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-README +got):\n%s", path, diff)
		}
	}
}

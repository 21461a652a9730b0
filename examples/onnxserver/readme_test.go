package main

import (
	"net/http"
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReadme: each call in README.md gives the answer that stands there. None adds numbers up, whose last digit depends on the CPU.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, c := start(t, defaultOptions(), modelFiles(t, "mlp_128", "mlp_768", "conv_224", "embedding")...)
	calls := regexp.MustCompile(`(?m)^\$ curl -s 127\.0\.0\.1:8000(\S+)(?: -d '(.*)')?\n(.+)$`).FindAllStringSubmatch(string(readme), -1)
	if len(calls) != 6 {
		t.Fatalf("%d calls found, want 6", len(calls))
	}
	for _, call := range calls {
		method := http.MethodGet
		if call[2] != "" {
			method = http.MethodPost
		}
		_, got := c.call(t, method, call[1], call[2])
		if diff := cmp.Diff(call[3], got); diff != "" {
			t.Errorf("%s (-README +got):\n%s", call[1], diff)
		}
	}
}

package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunLogsLint: what is probably not meant is in the log, once for each load.
func TestRunLogsLint(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"flyball.yml": "rule_files: [rules.yml]\n",
		"rules.yml":   "groups:\n- name: a\n  rules:\n  - {record: x, expr: sum(requests_total)}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	o := runOptions{configFile: filepath.Join(dir, "flyball.yml"), log: slog.New(slog.NewTextHandler(&log, nil))}
	if _, err := o.load(nil); err != nil {
		t.Fatal(err)
	}
	want := `level=WARN msg="rule file" place=` + filepath.Join(dir, "rules.yml") + `:4:27 finding="requests_total is a counter`
	if n := strings.Count(log.String(), want); n != 1 {
		t.Errorf("%d times in the log: %s\n%s", n, want, log.String())
	}
}

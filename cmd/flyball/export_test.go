package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"flyball/rules/peertest"
)

// ruleFiles are the rule files that users start from.
func ruleFiles(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../../examples/*/rules.yml", "../../mixin/out/rules.yaml", "../../mixin/out/alerts.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatal(pattern, "finds nothing", err)
		}
		all = append(all, found...)
	}
	return all
}

// TestExportForPromtool: the real promtool takes what is exported of each rule file of the examples and of the mixin.
func TestExportForPromtool(t *testing.T) {
	promtool := peertest.Binary(t, "promtool")
	for _, path := range ruleFiles(t) {
		to := filepath.Join(t.TempDir(), "exported.yml")
		if err := exportRules(io.Discard, []string{path}, to); err != nil {
			t.Error(err)
			continue
		}
		out, err := exec.Command(promtool, "check", "rules", "--lint=all", "--lint-fatal", to).CombinedOutput()
		if err != nil {
			text, _ := os.ReadFile(to)
			t.Errorf("%s: %v\n%s\n%s", path, err, out, text)
		}
	}
	slo := filepath.Join(t.TempDir(), "slo.yml")
	text := "groups:\n- name: a\n  rules:\n  - {slo: m, objectives: [{name: errors, target: 0.999}, {name: latency, target: 0.99, threshold: 500ms}], thresholds: [{name: throughput, below: 1}]}\n" +
		"  - {budget: b, spend: 'increase(c[$elapsed])', limit: 10, thresholds: [{at: 0.5, alert: Half}, {at: 1, forecasted: true, alert: Over}]}\n"
	if err := os.WriteFile(slo, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "exported.yml")
	if err := exportRules(io.Discard, []string{slo}, to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", "--lint=all", "--lint-fatal", to).CombinedOutput(); err != nil {
		t.Errorf("slo and budget: %v\n%s", err, out)
	}
}

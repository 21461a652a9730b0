package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gopkg.in/yaml.v3"

	"flyball/rules/peertest"
)

const watched = `groups:
- name: promises
  rules:
  - slo: digits
    objectives:
    - {name: errors, target: 0.999}
    - {name: latency, threshold: 500ms, target: 0.99}
    thresholds:
    - {name: throughput, below: 9.5, for: 10m, severity: info}
    - {name: throughput, below: 2, for: 5m, severity: critical}
    - {name: utilization, above: 0.9, severity: info}
    - {name: utilization, expr: avg(busy) - 0.1, above: 0.8, unit: of the time}
`

// TestSLOPromtool has promtool evaluate the rules that an SLO stands for: when its alerts fire, when they are quiet, and what
// they say.
func TestSLOPromtool(t *testing.T) {
	promtool := peertest.Binary(t, "promtool")
	f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(watched))
	if err != nil {
		t.Fatal(err)
	}
	var all []any
	for _, r := range f.Groups[0].Rules[0].Derived() {
		if r.Record != nil {
			all = append(all, r.Record)
		} else {
			all = append(all, r.Alert)
		}
	}
	file, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "promises", "rules": all}}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yml"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	const test = "testdata/slo_test.yaml"
	text, err := os.ReadFile(test)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "test.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", filepath.Join(dir, "rules.yml")).CombinedOutput(); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, out)
	}
	if out, err := exec.Command(promtool, "test", "rules", filepath.Join(dir, "test.yaml")).CombinedOutput(); err != nil {
		t.Errorf("promtool test rules %s: %v\n%s", test, err, out)
	}
}

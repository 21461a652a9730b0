package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestExampleRules: each example is right, and each key that a rule may have is in one of them.
func TestExampleRules(t *testing.T) {
	paths, err := filepath.Glob("../../examples/rules/*.yml")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	if code := execute(t.Context(), append([]string{"check", "rules", "--lint=none"}, paths...), io.Discard, t.Output()); code != exitOK {
		t.Errorf("exit %d", code)
	}
	if code := execute(t.Context(), []string{"test", "rules", "../../examples/rules/forecast_test.yaml"}, t.Output(), t.Output()); code != exitOK {
		t.Errorf("the example's test: exit %d", code)
	}
	quickstart := "../../examples/quickstart/rules.yml"
	used := map[string]bool{}
	for _, path := range append(paths, quickstart) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var document yaml.Node
		if err := yaml.Unmarshal(text, &document); err != nil {
			t.Fatal(err)
		}
		collectKeys(document.Content[0], used)
	}
	listed, err := os.ReadFile("testdata/keys.golden")
	if err != nil {
		t.Fatal(err)
	}
	var missing []string
	for path := range strings.Lines(string(listed)) {
		kind, _, _ := strings.Cut(path, ".")
		key := strings.TrimSpace(path[strings.LastIndexByte(path, '.')+1:])
		key = strings.TrimSuffix(strings.TrimSuffix(key, "[]"), "[]")
		if !slices.Contains([]string{"scale", "budget", "slo", "optimize", "forecast"}, kind) || key == "NAME" || used[key] {
			continue
		}
		missing = append(missing, strings.TrimSpace(path))
	}
	if len(missing) > 0 {
		t.Errorf("keys in no example:\n%s", strings.Join(missing, "\n"))
	}
}

// collectKeys notes the keys of all mappings below a node.
func collectKeys(n *yaml.Node, keys map[string]bool) {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			keys[c.Value] = true
			continue
		}
		collectKeys(c, keys)
	}
}

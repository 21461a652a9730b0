package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"flyball/rules"
)

// ruleSchema is what `flyball export schema` writes, read by a JSON Schema validator.
func ruleSchema(t *testing.T) (*jsonschema.Schema, map[string]any) {
	t.Helper()
	var b bytes.Buffer
	if err := exportSchema(&b, ""); err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(&b)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("rules.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("rules.json") // which checks it against draft 2020-12 itself
	if err != nil {
		t.Fatal(err)
	}
	return schema, document.(map[string]any)
}

func validate(schema *jsonschema.Schema, text []byte) error {
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return err
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return err
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(plain))
	if err != nil {
		return err
	}
	return schema.Validate(instance)
}

// TestSchemaTakes: every rule file of the examples, of the mixin and of the scripts that check takes is valid.
func TestSchemaTakes(t *testing.T) {
	schema, _ := ruleSchema(t)
	files := map[string][]byte{}
	for _, path := range ruleFiles(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = text
	}
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range scripts {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			reader := newRuleReader(rules.Defaults{EvaluationInterval: 15e9, ScrapeInterval: 15e9})
			if _, err := reader.Parse(f.Name, f.Data); err == nil && bytes.Contains(f.Data, []byte("groups:")) {
				files[path+"/"+f.Name] = f.Data
			}
		}
	}
	for path, text := range files {
		if err := validate(schema, text); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if len(files) < 9 {
		t.Errorf("only %d files", len(files))
	}
	full := `groups:
- name: full
  interval: 15s
  query_offset: 0s
  limit: 10
  labels: {a: 1}
  rules:
  - scale: llm
    for_each: {by: [model], query: up, limit: 5, forget: 1h}
    target: {kind: process, name: 'llm-{{ $labels.model }}'}
    mode: act
    max: 8
    startup: auto
    price: 2.5
    queries:
      a: up
      b: {expr: up, reduce: sum, stale_after: 1m, expect: ready + 1, on_missing: block}
    signals:
    - {name: a, value: a, target_per_replica: 3, weight: 2, tolerance: 0.2, role: floor, panic: {window: 10s, threshold: 3}}
    - {name: b, value: b, service_rate: 4, wait: 500ms, goal: 0.9, concurrency: 2}
    - {name: c, forecast: x, quantile: 0.5, target_per_replica: 2}
    when: [{if: a > 1, do: '+25%', for: 1m, priority: 2, reason: because}]
    combine: priority
    constraints: [{if: a > 3, min: 2, max: 4, reason: x}]
    schedule: [{cron: 0 7 * * 1-5, until: 0 20 * * 1-5, tz: Europe/Berlin, min: 2}]
    min_confidence: {up: 0.2, down: 0.9}
    behavior: {up: {window: 0s, policies: []}, down: {window: 5m, policies: [{percent: 10, period: 1m}, {replicas: 1, period: 1m}], cooldown: 5m}}
    flap_budget: {reversals: 4, window: 1h}
    on_missing: {up: allow, down: fallback, after: 10m, fallback: 3}
    annotations: {summary: x}
  - scale: v
    queries: {a: up}
    signals: [{name: a, value: a}]
    variants: [{name: s, target: {kind: aws, name: s}, capacity: 2, price: 1, max: 3, interruptible: true}]
    cost: {prefer: cheapest, max_interruptible_share: 0.5}
  - {forecast: f, query: up, step: 1m, history: 1w, horizon: 30m, seasons: [24h], levels: [0.5], regressors: {a: up}, missing: zero}
`
	if err := validate(schema, []byte(full)); err != nil {
		t.Error(err)
	}
}

// TestSchemaRefuses: what an editor should underline.
func TestSchemaRefuses(t *testing.T) {
	schema, _ := ruleSchema(t)
	scale := `groups: [{name: a, rules: [{scale: s, target: {kind: process, name: s}, max: 3, queries: {a: up}, signals: [{name: a, value: a, target_per_replica: 3}]}]}]`
	if err := validate(schema, []byte(scale)); err != nil {
		t.Fatal(err)
	}
	for _, edit := range [][2]string{
		{"max: 3,", ""},
		{"max: 3", "max: 0"},
		{"max: 3", "max: 3, mode: go"},
		{"max: 3", "max: 3, behaviour: {}"},
		{"max: 3", "max: 3, startup: soon"},
		{"max: 3", "max: 3, record: x"},
		{"{kind: process, name: s}", "{kind: process}"},
		{"queries: {a: up}", "queries: {a: {expr: up, reduce: mean}}"},
		{"target_per_replica: 3", "target_per_replica: 0"},
		{"name: a, rules", "nam: a, rules"},
		{"scale: s,", ""},
		{"groups:", "group:"},
		{"max: 3", "max: 3, when: [{if: a > 1, do: up}]"},
	} {
		text := strings.Replace(scale, edit[0], edit[1], 1)
		if validate(schema, []byte(text)) == nil {
			t.Errorf("valid: %s", text)
		}
	}
}

// TestSchemaKnowsEveryKey: every key of rule files is in the schema, with a description.
func TestSchemaKnowsEveryKey(t *testing.T) {
	_, document := ruleSchema(t)
	text, err := os.ReadFile("testdata/keys.golden")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{
		"record": "Record", "alert": "Alert", "scale": "Scale", "budget": "Budget", "slo": "SLO", "optimize": "Optimize", "forecast": "ForecastRule",
	}
	definitions := document["$defs"].(map[string]any)
	known := 0
	for _, path := range strings.Fields(string(text)) {
		steps := strings.Split(path, ".")
		at := document
		if kind, ok := kinds[steps[0]]; ok {
			at = definitions[kind].(map[string]any)
		} else if steps[0] != "rules" {
			continue
		}
		known++
		for _, step := range steps[1:] {
			at = property(definitions, at, strings.TrimSuffix(step, "[]"))
			if at == nil || step != "NAME" && at["description"] == nil {
				t.Errorf("%s: %s is not in the schema, or has no description", path, step)
				break
			}
			if strings.HasSuffix(step, "[]") {
				at = at["items"].(map[string]any)
			}
		}
	}
	if known < 120 {
		t.Errorf("only %d keys", known)
	}
}

// property follows one key, NAME being any.
func property(definitions, at map[string]any, key string) map[string]any {
	if name, ok := at["$ref"].(string); ok {
		at = definitions[strings.TrimPrefix(name, "#/$defs/")].(map[string]any)
	}
	if key == "NAME" {
		next, _ := at["additionalProperties"].(map[string]any)
		return next
	}
	if properties, ok := at["properties"].(map[string]any); ok {
		next, _ := properties[key].(map[string]any)
		return next
	}
	choices, _ := at["anyOf"].([]any)
	for _, choice := range choices {
		if next := property(definitions, choice.(map[string]any), key); next != nil {
			return next
		}
	}
	return nil
}

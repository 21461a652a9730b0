package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules"
	"flyball/rules/convert"
)

// TestConvertExamples: what is made of the examples is what they show, flyball takes it without lint, and it decides what
// their tests say, by real queries of real series.
func TestConvertExamples(t *testing.T) {
	for name, how := range map[string]func([]convert.Input, convert.Options) (*convert.Result, error){
		"hpa": convert.HPA, "scaledobject": convert.ScaledObject,
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir("../../examples/convert")
			made := filepath.Join(t.TempDir(), "made.yml")
			o := &convertOptions{files: []string{name + ".yaml"}, output: made, convert: how, stdout: io.Discard, stderr: io.Discard}
			if err := o.do(); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(made)
			if err != nil {
				t.Fatal(err)
			}
			shown := name + ".rules.yml"
			if *update {
				if err := os.WriteFile(shown, text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(shown)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(text)); diff != "" {
				t.Error(diff)
			}
			// The kinds of targets are for the configuration to check.
			reader := rules.Reader{Defaults: rules.Defaults{EvaluationInterval: 15 * time.Second, ScrapeInterval: 30 * time.Second}, CheckGroup: checkGroup}
			if _, err := reader.ReadFile(shown); err != nil {
				t.Fatal(err)
			}
			if err := reader.Lint(); err != nil {
				t.Error(err)
			}
			for file, verdict := range verdicts(t, []string{name + "_test.yml"}) {
				if verdict != "ok" {
					t.Errorf("%s: %s", file, verdict)
				}
			}
		})
	}
}

// TestConvertStandardInput: - is standard input, in errors as well.
func TestConvertStandardInput(t *testing.T) {
	text := "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}}}"
	for _, tt := range []struct{ text, out, err string }{
		{text, "# HorizontalPodAutoscaler web/a, standard input:1\n", ""},
		{strings.Replace(text, "3", "none", 1), "", `standard input:1:102: spec.maxReplicas: "none" is not a whole number`},
	} {
		var out bytes.Buffer
		o := &convertOptions{files: []string{"-"}, namespace: "web", convert: convert.HPA, stdin: strings.NewReader(tt.text), stdout: &out, stderr: io.Discard}
		err := o.do()
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err)) {
			t.Errorf("%v, want %s", err, tt.err)
		}
		if !strings.Contains(out.String(), tt.out) {
			t.Errorf("%s: no %q", out.String(), tt.out)
		}
	}
}

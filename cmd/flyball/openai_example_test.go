package main

import (
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOpenAIExample: examples/openai is a configuration.
func TestOpenAIExample(t *testing.T) {
	const file = "../../examples/openai/flyball.yml"
	out, err := exec.Command(built.path("flyball"), "check", "config", file).CombinedOutput()
	want := file + ": ok: 0 rule files, 0 groups, 0 record, 0 alert, 0 scale, 2 models, 0 targets\n"
	if diff := cmp.Diff(want, string(out)); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

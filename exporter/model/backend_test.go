package model

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"flyball/exporter"
)

// TestBackendFirst: a page of Triton on which the lines of its backend stand first is Triton's at the first reading and at every other;
// once vLLM alone answers there it is vLLM's.
func TestBackendFirst(t *testing.T) {
	both, err := os.ReadFile("testdata/pages/triton-vllm.prom")
	if err != nil {
		t.Fatal(err)
	}
	alone, _, _ := strings.Cut(string(both), "# HELP nv_")
	served, asked := string(both), 0
	config := configOf(t, "http://localhost/metrics")
	r := newReading(&config)
	read := func() (string, error) { // as server.fetch does
		for {
			asked++
			err := r.read(context.Background(), strings.NewReader(served), "text/plain", "")
			if errors.Is(err, errOther) {
				continue
			}
			if err != nil {
				return "", err
			}
			return r.finish(newDescs()).engine, nil
		}
	}
	for i := range 3 {
		engine, err := read()
		if engine != "triton" || err != nil || asked != i+2 {
			t.Fatalf("reading %d of %d: %q, %v", i+1, asked, engine, err)
		}
	}
	if len(r.values) == 0 {
		t.Error("nothing was taken of it")
	}
	served = alone
	if engine, err := read(); err == nil || !strings.Contains(err.Error(), "was one of triton before and is one of vllm now") {
		t.Errorf("%q, %v", engine, err)
	}
	if engine, err := read(); engine != "vllm" || err != nil {
		t.Errorf("%q, %v", engine, err)
	}
	served = string(both)
	if engine, err := read(); engine != "triton" || err != nil {
		t.Errorf("%q, %v", engine, err)
	}

	config = configOf(t, "http://localhost/metrics", func(c *exporter.ModelServer) { c.Engine = "vllm" })
	r = newReading(&config)
	if engine, err := read(); engine != "vllm" || err != nil {
		t.Errorf("of engine: vllm: %q, %v", engine, err)
	}
}

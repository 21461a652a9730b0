package rules

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// manyRules is a file of n rules: of ten, six record, two alert and two scale.
func manyRules(n int) []byte {
	var b strings.Builder
	b.WriteString("groups:\n")
	for i := range n {
		if i%100 == 0 {
			fmt.Fprintf(&b, "- name: group-%d\n  rules:\n", i/100)
		}
		switch {
		case i%10 < 6:
			fmt.Fprintf(&b, "  - record: model:requests:rate%dm\n    expr: sum by (model) (rate(flyball_batchproxy_requests_total{job=\"j%d\"}[5m]))\n    labels: {team: serving}\n", i, i)
		case i%10 < 8:
			fmt.Fprintf(&b, "  - alert: Busy%d\n    expr: model:requests:rate%dm > 100\n    for: 5m\n    labels: {severity: page}\n    annotations: {summary: '{{ $labels.model }} has {{ $value | humanize }}'}\n", i, i-6)
		default:
			fmt.Fprintf(&b, `  - scale: model-%[1]d
    target: {kind: process, name: model-%[1]d}
    max: 8
    queries:
      demand: model:requests:rate%[2]dm{model="m%[1]d"}
      p95: {expr: 'histogram_quantile(0.95, sum by (le) (rate(flyball_batchproxy_request_duration_seconds_bucket{model="m%[1]d"}[1m])))', optional: true}
    signals:
    - {name: load, value: demand, target_per_replica: 130}
    when:
    - {if: p95 > 0.5 && pending == 0, do: '+1', for: 30s, reason: slow}
`, i, i-8)
		}
	}
	return []byte(b.String())
}

// BenchmarkLoad reads, validates, traces and lints a file of 2,000 rules.
func BenchmarkLoad(b *testing.B) {
	text := manyRules(2000)
	b.ReportAllocs()
	began := cpuTime()
	defer func() { reportCPU(b, began) }()
	for b.Loop() {
		r := &Reader{Defaults: testDefaults}
		if _, err := r.Parse("rules.yml", text); err != nil {
			b.Fatal(err)
		}
		if err := r.Finish(); err != nil {
			b.Fatal(err)
		}
		if err := r.Lint(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecide is deciding alone: a signal, a step, and windows that are full.
func BenchmarkDecide(b *testing.B) {
	r := parseScale(b, rule("    signals:", "    when:\n    - {if: demand > 700, do: '+2', for: 20s}\n    signals:"))
	st, at := State{}, noon
	decide := func() {
		at = at.Add(15 * time.Second)
		_, st = Decide(r, observed(at, 3, demand(300)), st)
	}
	for range 240 {
		decide()
	}
	b.ReportAllocs()
	began := cpuTime()
	defer func() { reportCPU(b, began) }()
	for b.Loop() {
		decide()
	}
}

package rules

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// FuzzParse: whatever is in a file, it is read or refused with a place in it, and does not take long.
func FuzzParse(f *testing.F) {
	f.Add(rule())
	f.Add(two(both, "    combine: weighted"))
	f.Add("groups:\n- name: a\n  rules:\n  - {record: a, expr: up}\n  - {alert: b, expr: up == 0, for: 5m}\n")
	if text, err := os.ReadFile("../examples/quickstart/rules.yml"); err == nil {
		f.Add(string(text))
	}
	for _, text := range hostile() {
		if len(text) < 10_000 {
			f.Add(text)
		}
	}
	for seed := range uint64(5) {
		f.Add(newWorld(&testing.T{}, seed, false).text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		start := time.Now()
		reader := &Reader{Defaults: testDefaults}
		file, err := reader.Parse("rules.yml", []byte(text))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s", took)
		}
		if err != nil {
			if err.Error() == "" {
				t.Error("no text")
			}
			return
		}
		_ = reader.Lint()
		for _, g := range file.Groups {
			for _, r := range g.Rules {
				if r.Scale == nil || len(r.Scale.Variants) > 0 {
					continue
				}
				// What is read can decide, on nothing as well.
				d, _ := Decide(r.Scale, observed(noon, 3), State{})
				if d.To < r.Scale.Min || d.To > r.Scale.Max {
					t.Errorf("%d outside of %d to %d", d.To, r.Scale.Min, r.Scale.Max)
				}
			}
		}
	})
}

// FuzzExpression: whatever an expression is, it is refused, or gives a number or an error within a moment.
func FuzzExpression(f *testing.F) {
	for _, text := range []string{
		"demand * 2", "max(demand, 3) % 2", "sum(series.demand, .value)", "any(series.demand, .labels.a == \"b\") ? 1 : 2",
		"clamp(demand, 1, 5) + ratio(1, 0)", "q.other.n", "window('Mon-Fri 08:00-18:00', 'UTC') ? 1.0 : 0.0", "1 / 0", "1..3", "let a = 1; a",
		"weekday matches '(a+)+$' ? 1 : 0", "count(series.demand, count(series.demand, true) > 0)",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(rule("value: demand", "value: "+strconv.Quote(text), "    queries:\n", "    queries:\n      other: up\n")))
		if err != nil {
			return
		}
		r := file.Groups[0].Rules[0].Scale
		v := 5.0
		obs := observed(noon, 3, Answer{Name: "demand", Value: &v, Series: 1, Confidence: 1}, Answer{Name: "other", Value: &v, Series: 1, Confidence: 1})
		for range maxElements {
			obs.Answers[0].elements = append(obs.Answers[0].elements, element{map[string]string{"a": strings.Repeat("a", 100)}, 1})
		}
		start := time.Now()
		if d, _ := Decide(r, obs, State{}); d.To < r.Min || d.To > r.Max {
			t.Errorf("%s", story(d))
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s", took)
		}
	})
}

// FuzzPromQL: whatever a query is, it is refused, or its age can be asked by PromQL that parses.
func FuzzPromQL(f *testing.F) {
	for _, text := range []string{
		"up", "sum(rate(requests_total[1m] offset 5m)) by (job)", "max_over_time(up[5m:30s])", "up @ 5", "1 + time()", "{__name__=~\"a.*\"} or -up",
		"requests_total / on (a) group_left recorded",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		record := "  - {record: recorded, expr: recorded + requests_total}\n"
		file, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(rule("sum(rate(requests_total[1m]))", strconv.Quote(text), "  - scale", record+"  - scale")))
		if err != nil {
			return
		}
		for _, age := range file.Groups[0].Rules[1].Scale.Queries["demand"].ages {
			parsed, err := promQL.ParseExpr(age)
			if err != nil || parsed.Type() != parser.ValueTypeVector {
				t.Errorf("the age of %q is asked by %q: %v", text, age, err)
			}
		}
	})
}

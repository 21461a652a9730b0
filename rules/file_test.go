package rules

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var testDefaults = Defaults{EvaluationInterval: 15 * time.Second, ScrapeInterval: 15 * time.Second}

// rule is a whole file around one scale rule; edits are old and new text in turn.
func rule(edits ...string) string {
	text := `groups:
- name: serving
  rules:
  - scale: digits
    target: {kind: process, name: digits}
    max: 8
    queries:
      demand: sum(rate(requests_total[1m]))
    signals:
    - {name: load, value: demand, target_per_replica: 130}
`
	for i := 0; i+1 < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			panic("not in the rule: " + edits[i])
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

func TestParseFileErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a typo in a key", rule("target_per_replica", "target_per_replcia"), `
rules.yml:10:7: target_per_replica: missing: how much of load one replica serves; or service_rate and wait, or utilization
   10 |     - {name: load, value: demand, target_per_replcia: 130}
      |       ^
rules.yml:10:35: unknown key "target_per_replcia" (did you mean "target_per_replica"?)
   10 |     - {name: load, value: demand, target_per_replcia: 130}
      |                                   ^
2 errors in 1 file`},
		{"wrong PromQL", rule("sum(rate(requests_total[1m]))", "sum(rate(requests_total[1m])) by (jbo"), `
rules.yml:8:52: PromQL: unclosed left parenthesis
    8 |       demand: sum(rate(requests_total[1m])) by (jbo
      |                                                    ^
1 error in 1 file`},
		{"wrong PromQL in a block", rule("sum(rate(requests_total[1m]))", "|\n        sum(\n          rate(requests_total)\n        )"), `
rules.yml:10:16: PromQL: expected type range vector in call to function "rate", got instant vector
   10 |           rate(requests_total)
      |                ^
1 error in 1 file`},
		{"a range as a query", rule("sum(rate(requests_total[1m]))", "requests_total[1m]"), `
rules.yml:8:15: PromQL: a query must give an instant vector or a scalar, this gives a matrix
    8 |       demand: requests_total[1m]
      |               ^
1 error in 1 file`},
		{"an unknown name in expr", rule("value: demand", "value: 'demnad * 2'"), `
rules.yml:10:28: value: unknown name "demnad" (did you mean "demand"?)
   10 |     - {name: load, value: 'demnad * 2', target_per_replica: 130}
      |                            ^
1 error in 1 file`},
		{"a wrong type in expr", rule("    signals:", "    when:\n    - {if: \"demand > 'a'\", do: '+1'}\n    signals:"), `
rules.yml:10:20: if: invalid operation: > (mismatched types float64 and string)
   10 |     - {if: "demand > 'a'", do: '+1'}
      |                    ^
1 error in 1 file`},
		{"a condition that is none", rule("    signals:", "    when:\n    - {if: demand + 1, do: '+1'}\n    signals:"), `
rules.yml:10:12: if: expected bool, but got float64
   10 |     - {if: demand + 1, do: '+1'}
      |            ^
1 error in 1 file`},
		{"what loops", rule("    signals:", "    when:\n    - {if: 'any([1], # > 1)', do: hold}\n    signals:"), `
rules.yml:10:17: if: lists and maps are not allowed
   10 |     - {if: 'any([1], # > 1)', do: hold}
      |                 ^
1 error in 1 file`},
		{"a range in expr", rule("    signals:", "    when:\n    - {if: 'replicas in 1..9', do: hold}\n    signals:"), `
rules.yml:10:26: if: ranges are not allowed
   10 |     - {if: 'replicas in 1..9', do: hold}
      |                          ^
1 error in 1 file`},
		{"the state of an unknown query", rule("    signals:", "    when:\n    - {if: '!q.demnad.ok', do: hold}\n    signals:"), `
rules.yml:10:16: if: q has no query "demnad" (did you mean "demand"?)
   10 |     - {if: '!q.demnad.ok', do: hold}
      |                ^
1 error in 1 file`},
		{"a guard that cannot work", rule("    signals:", "    when:\n    - {if: 'q.demand.ok && demand > 5', do: hold}\n    signals:"), `
rules.yml:10:15: if: q.demand stands beside demand, without which the expression is not evaluated: write two ` + "`when`" + ` steps, one that asks q.demand.ok and one that uses demand
   10 |     - {if: 'q.demand.ok && demand > 5', do: hold}
      |               ^
1 error in 1 file`},
		{"a wrong do", rule("    signals:", "    when:\n    - {if: demand > 1, do: 2}\n    signals:"), `
rules.yml:10:28: do: "2": expected +2, +25%, -1, -25%, =3 or hold
   10 |     - {if: demand > 1, do: 2}
      |                            ^
1 error in 1 file`},
		{"to zero with a min", rule("    signals:", "    when:\n    - {if: demand == 0, do: '=0'}\n    signals:"), `
rules.yml:10:30: do is "=0", below min, which is 1
   10 |     - {if: demand == 0, do: '=0'}
      |                              ^
1 error in 1 file`},
		{"max missing", rule("    max: 8\n", ""), `
rules.yml:4:5: max: missing: a scale rule needs an upper bound
    4 |   - scale: digits
      |     ^
1 error in 1 file`},
		{"min above max", rule("max: 8", "max: 8\n    min: 9"), `
rules.yml:7:10: min is 9, above max, which is 8
    7 |     min: 9
      |          ^
1 error in 1 file`},
		{"a duplicate target", rule("- name: serving", "- name: other\n  rules:\n  - {scale: first, target: {kind: process, name: digits}, max: 2, queries: {d: up}, when: [{if: d > 0, do: '+1'}]}\n- name: serving"), `
rules.yml:8:5: target process/digits is already scaled by rule "first" in rules.yml: two rules would fight over it
    8 |     target: {kind: process, name: digits}
      |     ^
1 error in 1 file`},
		{"a target that there is not", rule("name: digits}", "name: digist}"), `
rules.yml:5:35: target.name: no such process
    5 |     target: {kind: process, name: digist}
      |                                   ^
1 error in 1 file`},
		{"no kind", "groups:\n- name: a\n  rules:\n  - {scael: digits, max: 3}\n", `
rules.yml:4:5: a rule needs one of record, alert, scale, budget, slo, optimize or forecast (did you mean "scale"?)
    4 |   - {scael: digits, max: 3}
      |     ^
1 error in 1 file`},
		{"two kinds", "groups:\n- name: a\n  rules:\n  - {record: a, alert: b, expr: up}\n", `
rules.yml:4:5: a rule has one kind: found record and alert
    4 |   - {record: a, alert: b, expr: up}
      |     ^
1 error in 1 file`},
		{"an SLO of nothing", "groups:\n- name: a\n  rules:\n  - {slo: b}\n", `
rules.yml:4:11: SLO "b" has neither objectives nor thresholds
    4 |   - {slo: b}
      |           ^
1 error in 1 file`},
		{"a recording rule", "groups:\n- name: a\n  rules:\n  - {record: 'a b', expr: 'up(', labels: {__name__: x}}\n", `
rules.yml:4:31: PromQL: unclosed left parenthesis
    4 |   - {record: 'a b', expr: 'up(', labels: {__name__: x}}
      |                               ^
rules.yml:4:53: __name__ cannot be set: what a rule writes is named by record or alert
    4 |   - {record: 'a b', expr: 'up(', labels: {__name__: x}}
      |                                                     ^
2 errors in 1 file`},
		{"groups and rules with the same name", "groups:\n- {name: a}\n- {name: a}\n", `
rules.yml:3:10: group "a" is already in this file
    3 | - {name: a}
      |          ^
1 error in 1 file`},
		{"everything of a scale rule at once", `groups:
- name: a
  rules:
  - scale: digits
    target: {kind: process}
    mode: acting
    min: -1
    max: 0
    startup: 0s
    combine: sum
    queries:
      min: up
      d: {expr: up, reduce: sume, stale_after: -1s, expect: "'a'"}
    signals:
    - {value: d, target_per_replica: 0, tolerance: 2}
    behavior:
      up: {window: -1s, cooldown: -1s, policies: [{replicas: 1, percent: 5, period: 1m}, {replicas: 1}]}
`, `
rules.yml:5:5: target.name: missing
    5 |     target: {kind: process}
      |     ^
rules.yml:6:11: mode is "acting": expected observe or act
    6 |     mode: acting
      |           ^
rules.yml:7:10: min is -1: expected 0 or more
    7 |     min: -1
      |          ^
rules.yml:8:10: max is 0: expected 1 or more
    8 |     max: 0
      |          ^
rules.yml:9:14: startup is 0s: expected auto, or more than 0
    9 |     startup: 0s
      |              ^
rules.yml:10:14: combine is "sum": expected max, weighted or priority
   10 |     combine: sum
      |              ^
rules.yml:12:12: "min" cannot name a query: it has a meaning in expressions
   12 |       min: up
      |            ^
rules.yml:13:29: reduce is "sume": expected one of single, sum, max, min, avg (did you mean "sum"?)
   13 |       d: {expr: up, reduce: sume, stale_after: -1s, expect: "'a'"}
      |                             ^
rules.yml:13:48: stale_after: "-1s" is not a duration: expected one such as 15s, 5m or 1h30m
   13 |       d: {expr: up, reduce: sume, stale_after: -1s, expect: "'a'"}
      |                                                ^
rules.yml:13:62: expect: expected float64, but got string
   13 |       d: {expr: up, reduce: sume, stale_after: -1s, expect: "'a'"}
      |                                                              ^
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := (&Reader{Defaults: testDefaults, CheckScale: checkScale}).Parse("rules.yml", []byte(tt.text))
			if err == nil {
				t.Fatal("no error")
			}
			want := strings.TrimPrefix(tt.want, "\n")
			got := err.Error()
			if strings.HasSuffix(want, "\n") && len(got) > len(want) {
				got = got[:len(want)] // only the first ones are given
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s\n%s", diff, got)
			}
		})
	}
}

func checkScale(s *Scale) error {
	if s.Target.Name != "digits" && s.Target.Name != "" {
		return errors.New("target.name: no such process")
	}
	return nil
}

func TestReadFileUnreadable(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yml")
	_, err := (&Reader{}).ReadFile(missing)
	if want := "read rule file: open " + missing + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestParseFile(t *testing.T) {
	f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(rule("max: 8", "max: 8\n    behavior: {down: {window: 10s}}")))
	if err != nil {
		t.Fatal(err)
	}
	g := f.Groups[0]
	if time.Duration(g.Interval) != testDefaults.EvaluationInterval {
		t.Errorf("interval %s", g.Interval)
	}
	s := g.Rules[0].Scale
	if s.Mode != Observe || s.Min != 1 || s.Max != 8 || *s.Signals[0].Tolerance != 0.1 {
		t.Errorf("defaults: %+v", s)
	}
	if got := time.Duration(s.Queries["demand"].StaleAfter); got != 45*time.Second {
		t.Errorf("stale after %s, want twice the interval and a scrape", got)
	}
	if time.Duration(*s.Behavior.Down.Window) != 10*time.Second || *s.Behavior.Up.Window != 0 {
		t.Errorf("windows %s %s", s.Behavior.Up.Window, s.Behavior.Down.Window)
	}
	if len(s.Behavior.Up.Policies) != 2 || len(s.Behavior.Down.Policies) != 2 {
		t.Errorf("a behavior that sets only the window lost the policies: %+v", s.Behavior)
	}
}

func TestAges(t *testing.T) {
	f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(`groups:
- name: a
  rules:
  - {record: "job:x:rate", expr: "sum by (job) (rate(x[1m]))"}
  - {record: "ratio", expr: "job:x:rate / up", labels: {kind: one}}
  - {record: "ratio", expr: "other", labels: {kind: two}}
  - {record: "loop", expr: "loop + y"}
`))
	if err != nil {
		t.Fatal(err)
	}
	by := newAges([]*File{f})
	rate := "(max(timestamp(x)) or 0 * count(last_over_time(x[1m])))"
	for expr, want := range map[string]string{
		"1 + time()":                      "",
		"up":                              "max(timestamp(up))",
		"sum(rate(x[1m]))":                rate,
		`x{a="b"} / x{a="b"}`:             `max(timestamp(x{a="b"}))`,
		"sum(x offset 1m)":                "(max(timestamp(x offset 1m)) + 60)",
		"rate(x[1m] offset 5m)":           "((max(timestamp(x offset 5m)) or 0 * count(last_over_time(x[1m] offset 5m))) + 300)",
		"x @ 10":                          "",
		"sum(a) / sum(b)":                 `min(label_replace(max(timestamp(a)), "selector", "1", "", "") or label_replace(max(timestamp(b)), "selector", "2", "", ""))`,
		"max_over_time(rate(x[1m])[5m:])": rate,
		`sum({__name__=~"x|y"})`:          `max(timestamp({__name__=~"x|y"}))`,
		// Recorded series are as old as what they were made of.
		`job:x:rate{job="a"}`:                    rate,
		`ratio{kind="one"}`:                      `min(label_replace(` + rate + `, "selector", "1", "", "") or label_replace(max(timestamp(up)), "selector", "2", "", ""))`,
		`ratio{kind="two"}`:                      "max(timestamp(other))",
		"avg_over_time(ratio{kind=\"two\"}[5m])": "max(timestamp(other))",
		"loop":                                   `min(label_replace(max(timestamp(loop)), "selector", "1", "", "") or label_replace(max(timestamp(y)), "selector", "2", "", ""))`,
	} {
		parsed, err := promQL.ParseExpr(expr)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(by.queries(parsed), "\n")
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", expr, got, want)
		}
		if got != "" {
			if _, err := promQL.ParseExpr(got); err != nil {
				t.Errorf("%s: %v", got, err)
			}
		}
	}
}

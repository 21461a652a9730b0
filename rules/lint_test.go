package rules

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLint(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", rule(), ""},
		{"a counter as it is", rule("sum(rate(requests_total[1m]))", "sum(requests_total)"), `
rules.yml:8:19: requests_total is a counter: its value is what was counted since its process started; take rate() or increase() of it
    8 |       demand: sum(requests_total)
      |                   ^
1 error in 1 file`},
		{"a counter that is counted", rule("sum(rate(requests_total[1m]))", "count(requests_total) + sum(increase(sum(requests_total)[5m:15s]))"), ""},
		{"no data made zero", rule("sum(rate(requests_total[1m]))", "sum(rate(requests_total[1m])) or (vector(0))"), `
rules.yml:8:48: ` + "`or vector(0)`" + ` makes missing data look like no demand, and a target as small as it may be: without it the rule holds its size
    8 |       demand: sum(rate(requests_total[1m])) or (vector(0))
      |                                                ^
1 error in 1 file`},
		{"no failures where there are none", rule("    signals:", "      errors: sum(rate(errors_total[1m])) or vector(0)\n    when:\n    - {if: errors > 1, do: '+1'}\n    signals:"), ""},
		{"another default", rule("sum(rate(requests_total[1m]))", "sum(rate(requests_total[1m])) or vector(1)"), ""},
		{"a short range", rule("[1m]", "[45s]"), `
rules.yml:8:24: rate over 45s, where a sample comes each 15s: after one that is missing there may be no answer: use 1m or more
    8 |       demand: sum(rate(requests_total[45s]))
      |                        ^
1 error in 1 file`},
		{"a short range of what needs one sample", rule("rate(requests_total[1m])", "max_over_time(queue[30s])"), ""},
		{"decisions that are late", rule("- name: serving", "- name: serving\n  query_offset: 1m"), `
rules.yml:3:17: query_offset is 1m: each decision of this group comes so much later, on data that is so much older: put scale rules into a group without it
    3 |   query_offset: 1m
      |                 ^
1 error in 1 file`},
		{"twice", "groups:\n- name: a\n  rules:\n  - {record: x, expr: up}\n  - {record: x, expr: down, labels: {a: b}}\n  - {record: x, expr: down}\n", `
rules.yml:6:5: it writes the same series as rule 1 of the group: one of them will be refused as a duplicate
    6 |   - {record: x, expr: down}
      |     ^
1 error in 1 file`},
		{"a forecast", "groups:\n- name: a\n  rules:\n  - {forecast: demand:forecast, query: requests_total, horizon: 30m, regressors: {a: up}}\n", `
rules.yml:4:40: requests_total is a counter: its value is what was counted since its process started; take rate() or increase() of it
    4 |   - {forecast: demand:forecast, query: requests_total, horizon: 30m, regressors: {a: up}}
      |                                        ^
rules.yml:4:86: a is known up to now and no further, so a forecast holds its last value: what leads the demand has an offset, such as signups offset 30m
    4 |   - {forecast: demand:forecast, query: requests_total, horizon: 30m, regressors: {a: up}}
      |                                                                                      ^
2 errors in 1 file`},
		{"a forecast of what was decided", "groups:\n- name: a\n  rules:\n  - {forecast: f, query: sum(kube_deployment_spec_replicas)}\n  - {forecast: g, query: 'sum(rate(flyball_batchproxy_requests_total{code=\"200\"}[5m]))'}\n  - {forecast: h, query: 'sum(rate(flyball_batchproxy_requests_total{code!=\"499\"}[5m]))'}\n", `
rules.yml:4:30: kube_deployment_spec_replicas is a number of replicas: a forecast of it repeats what was decided before; forecast the demand instead
    4 |   - {forecast: f, query: sum(kube_deployment_spec_replicas)}
      |                              ^
rules.yml:5:36: these are requests that were served: no more than the replicas could take; forecast those that came, without the label code
    5 |   - {forecast: g, query: 'sum(rate(flyball_batchproxy_requests_total{code="200"}[5m]))'}
      |                                    ^
2 errors in 1 file`},
		{"forecasts that a scale rule uses", "groups:\n- name: a\n  rules:\n  - {forecast: demand_ahead, query: demand, horizon: 5m}\n  - {record: recorded, expr: up}\n  - scale: s\n    target: {kind: process, name: s}\n    max: 3\n    startup: 6m\n    signals:\n" +
			"    - {name: a, forecast: demand_ahaed, target_per_replica: 1}\n    - {name: b, forecast: demand_ahead, target_per_replica: 1}\n    - {name: c, forecast: recorded, target_per_replica: 1}\n", `
rules.yml:11:27: no rule that is loaded writes demand_ahaed: unless something else does, the signal asks for nothing (did you mean "demand_ahead"?)
   11 |     - {name: a, forecast: demand_ahaed, target_per_replica: 1}
      |                           ^
rules.yml:12:27: a start takes 6m and the horizon of demand_ahead is 5m: its models are fitted to less than is needed: set horizon to 6m or more
   12 |     - {name: b, forecast: demand_ahead, target_per_replica: 1}
      |                           ^
2 errors in 1 file`},
		{"a counter in an optimize rule", "groups:\n- name: a\n  rules:\n  - {optimize: o, queries: {n: x_total}, if: n > 1}\n", `
rules.yml:4:32: x_total is a counter: its value is what was counted since its process started; take rate() or increase() of it
    4 |   - {optimize: o, queries: {n: x_total}, if: n > 1}
      |                                ^
1 error in 1 file`},
		{"a second document", "groups:\n---\n- name: a\n", `
rules.yml:2:1: a second YAML document: put it in a file of its own
    2 | ---
      | ^
1 error in 1 file`},
		{"zero in an alert is its author's business", "groups:\n- name: a\n  rules:\n  - {alert: A, expr: sum(up) or vector(0)}\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &Reader{Defaults: testDefaults}
			if _, err := r.Parse("rules.yml", []byte(tt.text)); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := r.Lint(); err != nil {
				got = "\n" + err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

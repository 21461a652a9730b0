package rules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const promised = `groups:
- name: promises
  rules:
  - slo: digits
    selector: job="flyball"
    min_requests: 50
    labels: {team: vision}
    annotations: {runbook_url: 'https://example.test/slo'}
    objectives:
    - {name: errors, target: 0.999}
    - {name: latency, threshold: 1s, target: 0.9}
    - {name: ttft, target: 0.99, bad: 'sum(rate(slow[$window]))', total: 'sum(rate(all[$window]))'}
    thresholds:
    - {name: throughput, below: 10, for: 10m}
    - {name: utilization, expr: avg(busy) or avg(idle), above: 0.95, severity: info}
`

// TestSLORules: the rules that an SLO stands for are right by the parser of Prometheus, each series that an alert looks at
// is recorded, and no alert is there that could not fire.
func TestSLORules(t *testing.T) {
	f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(promised))
	if err != nil {
		t.Fatal(err)
	}
	all := f.Groups[0].Rules[0].Derived()
	recorded := map[string]bool{}
	var alerts []string
	for _, r := range all {
		expr := ""
		switch {
		case r.Record != nil:
			recorded[fmt.Sprintf("%s{%s}", r.Record.Name, r.Record.Labels["objective"])] = true
			expr = r.Record.Expr
		case r.Alert != nil:
			expr = r.Alert.Expr
			alerts = append(alerts, fmt.Sprintf("%s %s %s%s %s", r.Alert.Name, r.Alert.Labels["severity"], r.Alert.Labels["objective"], r.Alert.Labels["threshold"], r.Alert.Labels["long"]))
			if r.Alert.Labels["team"] != "vision" || r.Alert.Annotations["runbook_url"] == "" || r.Alert.Labels["model"] != "digits" {
				t.Errorf("%+v", r.Alert)
			}
		}
		if _, err := promQL.ParseExpr(expr); err != nil {
			t.Errorf("%s: %v", expr, err)
		}
	}
	if diff := cmp.Diff([]string{
		"FlyballSLOBudgetBurn critical errors 1h", "FlyballSLOBudgetBurn critical errors 6h", "FlyballSLOBudgetBurn warning errors 1d", "FlyballSLOBudgetBurn warning errors 3d",
		"FlyballSLOBudgetBurn critical latency-1s 6h", "FlyballSLOBudgetBurn warning latency-1s 1d", "FlyballSLOBudgetBurn warning latency-1s 3d",
		"FlyballSLONotMeasured warning latency-1s ",
		"FlyballSLOBudgetBurn critical ttft 1h", "FlyballSLOBudgetBurn critical ttft 6h", "FlyballSLOBudgetBurn warning ttft 1d", "FlyballSLOBudgetBurn warning ttft 3d",
		"FlyballSLONotMeasured warning ttft ",
		"FlyballSLOThreshold warning throughput ", "FlyballSLOThreshold info utilization ",
	}, alerts); diff != "" {
		t.Error(diff)
	}
	if len(recorded) != 3*(7+5+1)+2*1 {
		t.Errorf("%d records", len(recorded))
	}
	for _, r := range all {
		if r.Alert == nil || r.Alert.Name != "FlyballSLOBudgetBurn" {
			continue
		}
		for _, w := range []string{sloBadRatio + r.Alert.Labels["long"], sloBadRatio + r.Alert.Labels["short"], sloRequests + r.Alert.Labels["long"]} {
			if !strings.Contains(r.Alert.Expr, w+"{") || !recorded[w+"{"+r.Alert.Labels["objective"]+"}"] {
				t.Errorf("%s: %s is not recorded or not looked at", r.Alert.Expr, w)
			}
		}
	}
	for _, want := range []string{
		`sum(rate(flyball_batchproxy_request_duration_seconds_count{model="digits",job="flyball"}[6h]))`,
		`le=~"1(\\.0)?"`, `sum(rate(slow[3d])) / (sum(rate(all[3d])) > 0)`,
		`(avg(busy) or avg(idle)) > 0.95`, `sum(rate(flyball_batchproxy_requests_total{model="digits",code=~"2..",job="flyball"}[5m])) or 0 * sum(rate(flyball_batchproxy_requests_total{model="digits",job="flyball"}[5m]))) < 10`,
	} {
		if !strings.Contains(fmt.Sprint(exprs(all)), want) {
			t.Errorf("nowhere: %s in %s", want, exprs(all))
		}
	}
}

func exprs(all []Rule) (list []string) {
	for _, r := range all {
		if r.Record != nil {
			list = append(list, r.Record.Expr)
		} else {
			list = append(list, r.Alert.Expr)
		}
	}
	return list
}

func TestSLOErrors(t *testing.T) {
	for _, tt := range []struct{ old, new, want string }{
		{"target: 0.999", "target: 1", "target is 1: expected the share of good requests, such as 0.999"},
		{"name: errors", "name: errros", `objective "errros" needs bad and total`},
		{"threshold: 1s, ", "", "threshold: missing: what a request may take"},
		{"[$window]))', total", "[5m]))', total", "bad needs PromQL over $window"},
		{"below: 10", "below: 10, above: 3", "a threshold needs above or below, one of them"},
		{"name: throughput", "name: thruput", `threshold "thruput" needs expr; known without it are cost, latency, queue, throughput`},
		{"name: throughput", "name: cost", "threshold cost needs scale_rule"},
		{`job="flyball"`, `job=flyball`, "selector is"},
		{"{name: utilization, expr: avg(busy) or avg(idle), above: 0.95, severity: info}", "{name: throughput, below: 5}", `threshold "throughput" is already in this SLO`},
		{"expr: avg(busy) or avg(idle)", "expr: 3", "expr gives a scalar: expected an instant vector"},
		{"above: 0.95", "above: .inf", `above: ".inf" is not a number`},
		{"name: ttft", "name: latency-1s", `objective "latency-1s" is already in this SLO`},
	} {
		if !strings.Contains(promised, tt.old) {
			t.Fatal(tt.old)
		}
		_, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(strings.Replace(promised, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.new, err, tt.want)
		}
	}
}

// TestSLOAsWritten: what a file says is not changed by what stands around it.
func TestSLOAsWritten(t *testing.T) {
	f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(`groups:
- name: promises
  rules:
  - slo: digits
    labels: {severity: ticket}
    objectives:
    - {name: whole, target: 0.99, bad: 'rate(all[$window]) - rate(good[$window])', total: 'rate(all[$window]) or rate(other[$window])'}
    thresholds:
    - {name: queue, above: 1234567.5, severity: page}
    - {name: latency, above: 1}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range f.Groups[0].Rules[0].Derived() {
		switch {
		case r.Record != nil && r.Record.Name == sloBadRatio+"5m":
			got = append(got, r.Record.Expr)
		case r.Alert != nil && r.Alert.Name == "FlyballSLOThreshold":
			got = append(got, r.Alert.Labels["severity"]+" "+r.Alert.Expr[strings.LastIndex(r.Alert.Expr, ">"):])
		case r.Alert != nil && r.Alert.Labels["severity"] != "ticket":
			t.Errorf("%+v", r.Alert)
		}
	}
	if diff := cmp.Diff([]string{
		"(rate(all[5m]) - rate(good[5m])) / ((rate(all[5m]) or rate(other[5m])) > 0)",
		"page > 1.2345675e+06", "ticket > 1",
	}, got); diff != "" {
		t.Error(diff)
	}
}

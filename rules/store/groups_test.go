package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	promrules "github.com/prometheus/prometheus/rules"

	"flyball/rules"
)

// TestOneTimestamp has each rule of a group see what those above it wrote at the very same time.
func TestOneTimestamp(t *testing.T) {
	var sent []string
	s := open(t, t.TempDir())
	s.ruleOptions.NotifyFunc = func(_ context.Context, expr string, alerts ...*promrules.Alert) {
		for _, a := range alerts {
			sent = append(sent, fmt.Sprintf("%s %s %s %s", expr, a.State, a.Labels, a.Annotations))
		}
	}
	setGroups(t, s, Group{Name: "g", Interval: time.Minute, Labels: map[string]string{"team": "serving"}, Rules: []Rule{
		record("model:queue:sum", `sum by (model) (queue)`),
		copyOf(s, "decided", `model:queue:sum * 10`),
		{Alert: &Alert{
			Name: "Busy", Expr: `decided > 100`, Labels: map[string]string{"severity": "{{ if gt $value 100.0 }}critical{{ end }}"},
			Annotations: map[string]string{"summary": "{{ $labels.model }} wants {{ $value }}"},
		}},
		record("firing", `count(ALERTS{alertstate="firing"})`),
	}})
	for i, queue := range []float64{1, 20, 2} {
		at := t0.Add(time.Duration(i) * time.Minute)
		put(t, s, `queue{model="a"}`, at, queue)
		eval(t, s, at)
		want := fmt.Sprintf(`{__name__="decided", model="a", team="serving"} %g`, queue*10)
		if got := ask(t, s, "decided", at); got != want {
			t.Errorf("minute %d: got %s, want %s", i, got, want)
		}
		if got, want := ask(t, s, "time() - timestamp(decided)", at), `{model="a", team="serving"} 0`; got != want {
			t.Errorf("minute %d: written at %s, want %s", i, got, want)
		}
		want = ""
		if queue > 10 {
			want = `{__name__="firing", team="serving"} 1`
		}
		if got := ask(t, s, "firing", at); got != want {
			t.Errorf("minute %d: got %q, want %q", i, got, want)
		}
	}
	const alert = `{alertname="Busy", model="a", severity="critical", team="serving"} {summary="a wants 200"}`
	want := []string{"decided > 100 firing " + alert, "decided > 100 inactive " + alert}
	if diff := cmp.Diff(want, sent); diff != "" {
		t.Errorf("notified: %s", diff)
	}
}

func TestEvaluatorFails(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := open(t, t.TempDir(), func(o *Options) { o.Metrics = reg })
	var answer []rules.Sample
	var fault error
	sample := func(pairs ...string) rules.Sample {
		return rules.Sample{Labels: labels.FromStrings(pairs...), Value: 1}
	}
	setGroups(t, s, Group{Name: "g", File: "f.yml", Interval: time.Minute, Limit: 2, Rules: []Rule{
		{Evaluator: &evaluator{name: "scale", eval: func(context.Context, time.Time) ([]rules.Sample, error) { return answer, fault }}},
		{Alert: &Alert{Name: "Gone", Expr: "absent(want)"}},
		record("after", "vector(1)"),
	}})
	good := []rules.Sample{sample("__name__", "want", "target", "a")}
	for i, tt := range []struct {
		name    string
		answer  []rules.Sample
		fault   error
		wantErr string
	}{
		{name: "fine", answer: good},
		{name: "error", answer: good, fault: errors.New("the target is gone"), wantErr: "the target is gone"},
		{name: "still", fault: errors.New("the target is gone"), wantErr: "the target is gone"},
		{name: "recovered", answer: good},
		{name: "no name", answer: []rules.Sample{sample("target", "a")}, wantErr: `it gave the series {target="a"}, which has no metric name`},
		{name: "fine again", answer: good},
		{name: "twice", answer: append(good, good...), wantErr: `it gave the series {__name__="want", target="a"} twice`},
		{name: "invalid", answer: []rules.Sample{sample("__name__", "want", "target", "\xff")}, wantErr: `it gave the series {__name__="want", target="\xff"}, which has an invalid name or label`},
		{name: "too many", answer: append(good, sample("__name__", "want"), sample("__name__", "want", "x", "y")), wantErr: "it gave 3 series where the group's limit is 2"},
		{name: "vanishes", answer: []rules.Sample{sample("__name__", "other")}},
		{name: "back", answer: good},
	} {
		at := t0.Add(time.Duration(i) * time.Minute)
		answer, fault = tt.answer, tt.fault
		eval(t, s, at)
		rs := s.Groups()[0].Rules
		want := RuleStatus{Kind: KindEvaluator, Name: "scale", Health: "ok"}
		if tt.wantErr != "" {
			want.Health, want.LastError = "err", tt.wantErr
		}
		if diff := cmp.Diff(want, rs[0], cmpopts.IgnoreFields(RuleStatus{}, "LastEvaluation", "Duration", "Labels")); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		seen := ""
		if tt.wantErr == "" && tt.name != "vanishes" {
			seen = `{__name__="want", target="a"} 1`
		}
		if got := ask(t, s, "want", at); got != seen {
			t.Errorf("%s: the series is %q, want %q", tt.name, got, seen)
		}
		if fires := len(s.Alerts()) == 1; fires != (seen == "") {
			t.Errorf("%s: the alert on its absence fires: %t", tt.name, fires)
		}
		if got := ask(t, s, "after", at); got != `{__name__="after"} 1` {
			t.Errorf("%s: the rules after it did not go on: %q", tt.name, got)
		}
	}
	const metrics = `
# HELP flyball_rule_failures_total Evaluations of the rule that failed.
# TYPE flyball_rule_failures_total counter
flyball_rule_failures_total{group="f.yml;g",rule="Gone"} 0
flyball_rule_failures_total{group="f.yml;g",rule="after"} 0
flyball_rule_failures_total{group="f.yml;g",rule="scale"} 6
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(metrics), "flyball_rule_failures_total"); err != nil {
		t.Error(err)
	}
}

func TestRecordVanishes(t *testing.T) {
	s := open(t, t.TempDir())
	setGroups(t, s, Group{Name: "g", Interval: time.Minute, Rules: []Rule{record("r", "m > 1")}})
	put(t, s, "m", t0, 2)
	eval(t, s, t0)
	put(t, s, "m", t0.Add(time.Minute), 0)
	eval(t, s, t0.Add(time.Minute))
	if got := ask(t, s, "r", t0); got != `{__name__="r"} 2` {
		t.Errorf("got %q", got)
	}
	if got := ask(t, s, "r", t0.Add(time.Minute)); got != "" {
		t.Errorf("it stays: %q", got)
	}
}

func TestRuleErrors(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.MaxSamples = 2 })
	for i := range 3 {
		put(t, s, fmt.Sprintf(`many{i="%d"}`, i), t0, 1)
	}
	put(t, s, `two{i="1"}`, t0, 1)
	put(t, s, `two{i="2"}`, t0, 1)
	setGroups(t, s, Group{Name: "g", Interval: time.Minute, Rules: []Rule{
		record("a", "many"),
		{Record: &Record{Name: "b", Expr: "two", Labels: map[string]string{"i": "x"}}},
	}})
	eval(t, s, t0)
	rs := s.Groups()[0].Rules
	if want := "it needs more than 2 samples at once: select fewer series or a shorter range"; rs[0].Health != "err" || rs[0].LastError != want {
		t.Errorf("%s %q, want %q", rs[0].Health, rs[0].LastError, want)
	}
	if want := "vector contains metrics with the same labelset after applying rule labels"; rs[1].Health != "err" || rs[1].LastError != want {
		t.Errorf("%s %q, want %q", rs[1].Health, rs[1].LastError, want)
	}
}

// TestAlertRestored closes the store while an alert is pending and again while it fires: "for" goes on counting.
func TestAlertRestored(t *testing.T) {
	dir := t.TempDir()
	group := Group{Name: "g", File: "f.yml", Interval: time.Minute, Rules: []Rule{
		{Alert: &Alert{Name: "Busy", Expr: "m > 1", For: 20 * time.Minute}},
	}}
	minute := 0
	run := func(s *Store, until int) {
		for ; minute <= until; minute++ {
			at := t0.Add(time.Duration(minute) * time.Minute)
			put(t, s, "m", at, 2)
			eval(t, s, at)
		}
	}
	state := func(s *Store) string {
		t.Helper()
		alerts := s.Alerts()
		if len(alerts) != 1 {
			t.Fatalf("minute %d: %d alerts", minute-1, len(alerts))
		}
		at := t0.Add(time.Duration(minute-1) * time.Minute)
		got, err := s.Query(t.Context(), `ALERTS{alertname="Busy"}`, at, 0)
		if err != nil || len(got) != 1 || got[0].Labels.Get("alertstate") != alerts[0].State {
			t.Errorf("minute %d: the series says %v (%v), the alert %s", minute-1, got, err, alerts[0].State)
		}
		return fmt.Sprintf("%s since %s", alerts[0].State, alerts[0].ActiveAt.Sub(t0))
	}
	s := open(t, dir)
	setGroups(t, s, group)
	run(s, 5)
	if got := state(s); got != "pending since 0s" {
		t.Errorf("at first: %s", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir)
	setGroups(t, s, group)
	run(s, 9) // down from 5 to 6; restored at the second evaluation, at 7, seen from 8 on
	if got := state(s); got != "pending since 2m0s" {
		t.Errorf("restored while pending: %s, want it to go on but for the outage", got)
	}
	run(s, 22)
	if got := state(s); got != "firing since 2m0s" {
		t.Errorf("after its time: %s", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir)
	setGroups(t, s, group)
	run(s, 25)
	if got := state(s); got != "firing since 2m0s" {
		t.Errorf("restored while firing: %s", got)
	}
}

func TestSetGroupsAllOrNothing(t *testing.T) {
	s := open(t, t.TempDir())
	good := Group{Name: "good", Interval: time.Minute, Rules: []Rule{record("r", "vector(1)")}}
	setGroups(t, s, good)
	offset := -time.Second
	err := s.SetGroups([]Group{
		{Name: "new", Rules: []Rule{record("x", "vector(1)")}},
		{
			Name: "bad", File: "a.yml", Interval: -1, QueryOffset: &offset, Limit: -1, Labels: map[string]string{"__name__": "x", "l": "\xff"},
			Rules: []Rule{
				record("ok", "sum(x"),
				record("not{a}", "x"),
				{},
				{Record: &Record{Name: "a", Expr: "x"}, Alert: &Alert{}},
				{Alert: &Alert{Name: "A", Expr: "x", Annotations: map[string]string{"summary": "{{ $nope }}"}}},
				{Alert: &Alert{Name: "B", Expr: "x", For: -time.Second}},
				{Record: &Record{Expr: "x"}},
				{Evaluator: &evaluator{}},
			},
		},
		good, good,
	})
	if err == nil {
		t.Fatal("bad groups were taken")
	}
	for _, want := range []string{
		`group a.yml;bad: interval: -1ns is too short: give 1ms or more`,
		`group a.yml;bad: query_offset: -1s is before now: give 0s or more`,
		`labels: "__name__" is not a label name`,
		`labels.l: "\xff" is not valid UTF-8`,
		`group a.yml;bad: rules[0]: ok: could not parse expression: 1:6: parse error: unclosed left parenthesis`,
		`rules[1]: not{a}: braces present in the recording rule name; should it be in expr?: not{a}`,
		`rules[2]: it has 0 of record, alert and evaluator: give exactly one`,
		`rules[3]: it has 2 of record, alert and evaluator: give exactly one`,
		`rules[4]: A: annotation "summary": template: __alert_A:1: undefined variable "$nope"`,
		`rules[5]: B: for and keep_firing_for must be 0s or more`,
		`rules[6]: the rule has no name`,
		`rules[7]: the evaluator has no name`,
		`group good: there are two of this name in one file`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
	eval(t, s, t0)
	var names []string
	for _, g := range s.Groups() {
		names = append(names, g.Name)
	}
	if diff := cmp.Diff([]string{"good"}, names); diff != "" {
		t.Errorf("the groups changed: %s", diff)
	}
	if got := ask(t, s, "r", t0); got == "" {
		t.Error("the groups of before are not evaluated")
	}
}

// described is an Evaluator that says what it depends on.
type described struct {
	*evaluator
	config string
}

func (d described) String() string { return d.config }

func TestReload(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := open(t, t.TempDir(), func(o *Options) { o.Metrics = reg })
	calls := map[string]int{}
	counting := func(id string) *evaluator {
		return &evaluator{name: "e", eval: func(context.Context, time.Time) ([]rules.Sample, error) {
			calls[id]++
			return []rules.Sample{{Labels: labels.FromStrings("__name__", "e", "id", id[:1]), Value: 1}}, nil
		}}
	}
	alert := Rule{Alert: &Alert{Name: "Busy", Expr: "vector(1)", For: 5 * time.Minute}}
	groups := func(id, config, expr string) []Group {
		return []Group{
			{Name: "same", Interval: time.Minute, Rules: []Rule{{Evaluator: described{counting(id), config}}}},
			{Name: "changing", Interval: time.Minute, Rules: []Rule{record("r", expr), alert}},
		}
	}
	gone := Group{Name: "gone", Interval: time.Minute, Rules: []Rule{record("g", "vector(1)"), record("renamed", "vector(1)")}}
	setGroups(t, s, append(groups("a1", "x", "vector(1)"), gone)...)
	eval(t, s, t0)
	setGroups(t, s, append(groups("a2", "x", "vector(2)"), Group{Name: "other", Interval: time.Minute, Rules: []Rule{record("renamed", "vector(1)")}})...)
	at := t0.Add(time.Minute)
	eval(t, s, at)
	if diff := cmp.Diff(map[string]int{"a1": 2}, calls); diff != "" {
		t.Errorf("an unchanged group got another evaluator: %s", diff)
	}
	if got := ask(t, s, "r", at); got != `{__name__="r"} 2` {
		t.Errorf("the changed group gives %q", got)
	}
	if alerts := s.Alerts(); len(alerts) != 1 || !alerts[0].ActiveAt.Equal(t0) {
		t.Errorf("the changed group lost its alert: %v", alerts)
	}
	if got := ask(t, s, "g", at); got == "" {
		t.Error("the series of the removed group ended before two intervals were over")
	}
	at = t0.Add(2 * time.Minute)
	eval(t, s, at)
	if got := ask(t, s, "g", at); got != "" {
		t.Errorf("the series of the removed group stays: %q", got)
	}
	if got := ask(t, s, "renamed", at); got == "" {
		t.Error("the series that another group writes now was ended")
	}
	if n, err := testutil.GatherAndCount(reg, "flyball_rule_group_duration_seconds"); err != nil || n != 3 {
		t.Errorf("%d groups in the metrics: %v", n, err)
	}

	setGroups(t, s, groups("b", "y", "vector(2)")...)
	at = t0.Add(3 * time.Minute)
	eval(t, s, at)
	if diff := cmp.Diff(map[string]int{"a1": 3, "b": 1}, calls); diff != "" {
		t.Errorf("a changed evaluator: %s", diff)
	}
	if got := ask(t, s, "e", at); got != `{__name__="e", id="b"} 1` {
		t.Errorf("the series of the old evaluator stays: %q", got)
	}
}

// TestReloadThenFail has an evaluator that fails right after a reload take away what the one before it wrote.
func TestReloadThenFail(t *testing.T) {
	s := open(t, t.TempDir())
	group := func(fault error) Group {
		return Group{Name: "g", Interval: time.Minute, Rules: []Rule{{Evaluator: &evaluator{name: "e", eval: func(context.Context, time.Time) ([]rules.Sample, error) {
			return []rules.Sample{{Labels: labels.FromStrings("__name__", "e"), Value: 1}}, fault
		}}}}}
	}
	setGroups(t, s, group(nil))
	eval(t, s, t0)
	setGroups(t, s, group(errors.New("no")))
	eval(t, s, t0.Add(time.Minute))
	if got := ask(t, s, "e", t0.Add(time.Minute)); got != "" {
		t.Errorf("the series stays: %q", got)
	}
}

func TestQueryOffset(t *testing.T) {
	s := open(t, t.TempDir())
	offset := time.Minute
	setGroups(t, s, Group{Name: "g", Interval: time.Minute, QueryOffset: &offset, Rules: []Rule{
		record("r", "m"), copyOf(s, "e", "r"),
	}})
	put(t, s, "m", t0, 1)
	put(t, s, "m", t0.Add(time.Minute), 2)
	eval(t, s, t0.Add(time.Minute))
	if got := ask(t, s, "e and r", t0); got != `{__name__="e"} 1` {
		t.Errorf("got %q", got)
	}
}

func TestEvalGroupsDue(t *testing.T) {
	s := open(t, t.TempDir())
	setGroups(t, s,
		Group{Name: "fast", Interval: time.Second, Rules: []Rule{record("a", "vector(1)")}},
		Group{Name: "slow", Interval: 3 * time.Second, Rules: []Rule{record("b", "vector(1)")}})
	var got []int
	for i := range 7 {
		n, err := s.EvalGroups(t.Context(), t0.Add(time.Duration(i)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, n)
	}
	if diff := cmp.Diff([]int{2, 1, 1, 2, 1, 1, 2}, got); diff != "" {
		t.Error(diff)
	}
	g := s.Groups()[1]
	if want := t0.Add(6 * time.Second); !g.LastEvaluation.Equal(want) || g.Interval != 3*time.Second {
		t.Errorf("%+v, want the last at %s", g, want)
	}
}

// TestRepeatedRules: as in Prometheus, rules that write the same series are no reason to refuse a group. The first one's value
// stays, the others are counted, and an alert that is there twice is pending twice.
func TestRepeatedRules(t *testing.T) {
	s := open(t, t.TempDir())
	alert := Rule{Alert: &Alert{Name: "A", Expr: "same > 0", For: time.Minute}}
	group := Group{Name: "g", Interval: time.Minute, Limit: -1, Rules: []Rule{record("same", "vector(1)"), record("same", "vector(2)"), alert, alert}}
	setGroups(t, s, group)
	for i := range 3 {
		at := t0.Add(time.Duration(i) * time.Minute)
		eval(t, s, at)
		if got := ask(t, s, "same", at); got != `{__name__="same"} 1` {
			t.Errorf("minute %d: got %s", i, got)
		}
	}
	if n := len(s.Alerts()); n != 2 {
		t.Errorf("%d alerts, want 2", n)
	}
	group.Limit = 0
	setGroups(t, s, group) // takes over the state of each
	if n := len(s.Alerts()); n != 2 {
		t.Errorf("%d alerts after a reload, want 2", n)
	}
	at := t0.Add(3 * time.Minute)
	eval(t, s, at)
	if got := ask(t, s, `count(ALERTS{alertname="A",alertstate="firing"})`, at); got != "{} 1" {
		t.Errorf("firing: %s", got)
	}
}

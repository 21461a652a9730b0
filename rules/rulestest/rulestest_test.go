package rulestest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
	"flyball/rules/source"
)

// echo answers each query with the time, in seconds, for which it is asked.
type echo struct{}

func (echo) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]rules.Sample, error) {
	if expr == "none" {
		return nil, nil
	}
	return []rules.Sample{{Labels: labels.FromStrings("expr", expr), Value: float64(at.Unix()), Time: at}}, nil
}

// TestFaults: each kind does what it says from its beginning to its end, to the query that it names and to no other.
func TestFaults(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tt := range []struct {
		kind     string
		expr     string
		lookback time.Duration
		want     []string // at 59s, 1m, 3m, 10m
	}{
		{faultError, "value", 0, []string{"1059", "error", "error", "1600"}},
		{faultSlow, "value", 0, []string{"1059", "deadline", "deadline", "1600"}},
		{faultEmpty, "value", 0, []string{"1059", "nothing", "nothing", "1600"}},
		{faultNaN, "value", 0, []string{"1059", "NaN", "NaN", "1600"}},
		{faultStale, "value", time.Minute, []string{"1059", "1060", "nothing", "1600"}}, // silent for longer than it may be
		{faultStale, "age", 0, []string{"1059", "1060", "1060", "1600"}},
		{faultError, "age", 0, []string{"1059", "1060", "1180", "1600"}},
	} {
		t.Run(tt.kind+" of "+tt.expr, func(t *testing.T) {
			f := &faulty{echo{}, "value", start, []Fault{{Kind: tt.kind, From: model.Duration(time.Minute), To: model.Duration(10 * time.Minute)}}}
			var got []string
			for _, after := range []time.Duration{59 * time.Second, time.Minute, 3 * time.Minute, 10 * time.Minute} {
				samples, err := f.Query(t.Context(), tt.expr, start.Add(after), tt.lookback)
				switch {
				case errors.Is(err, context.DeadlineExceeded):
					got = append(got, "deadline")
				case err != nil:
					got = append(got, "error")
				case len(samples) == 0:
					got = append(got, "nothing")
				default:
					if !samples[0].Time.Equal(start.Add(after)) {
						t.Errorf("at %s the answer is of %s", after, samples[0].Time)
					}
					got = append(got, fmt.Sprint(samples[0].Value))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	none := &faulty{echo{}, "none", start, []Fault{{Kind: faultNaN}}}
	if samples, err := none.Query(t.Context(), "none", start, 0); err != nil || len(samples) != 1 || !math.IsNaN(samples[0].Value) {
		t.Errorf("NaN of nothing is %v, %v", samples, err)
	}
	for _, tt := range []struct {
		fault       Fault
		rule, query string
		want        bool
	}{
		{Fault{Query: "demand"}, "chat", "demand", true},
		{Fault{Query: "demand"}, "chat", "demand@10s", true}, // what a panic asks
		{Fault{Query: "demand"}, "chat", "demands", false},
		{Fault{Query: "demand", Rule: "chat"}, "chat", "demand", true},
		{Fault{Query: "demand", Rule: "fleet"}, "chat", "demand", false},
	} {
		if got := tt.fault.hits(tt.rule, tt.query); got != tt.want {
			t.Errorf("%+v hits %s of %s: %v", tt.fault, tt.query, tt.rule, got)
		}
	}
}

// scale is a scale rule with such queries.
func scale(name string, queries ...string) *rules.Scale {
	s := &rules.Scale{Name: name, Queries: map[string]*rules.Query{}}
	for _, q := range queries {
		s.Queries[q] = &rules.Query{}
	}
	return s
}

// TestInvariants: which rules an invariant is for, when it is asked, and whether it holds.
func TestInvariants(t *testing.T) {
	scales := []*rules.Scale{scale("chat", "demand", "demand@10s"), scale("embed", "rps", "p95")}
	value := 42.0
	decision := rules.Decision{
		Rule: "chat", Target: "process/chat", From: 2, To: 5, Action: rules.Up, Result: rules.Applied, Confidence: 0.75,
		Reasons: []rules.Reason{rules.AboveTarget, rules.ScaleUpRate}, LimitedBy: []rules.Reason{rules.ScaleUpRate},
		Replicas: rules.Replicas{Spec: 2, Ready: 1, Pending: 1, Min: 1, Max: 8}, Labels: map[string]string{"model": "m"},
		Queries: []rules.Answer{{Name: "demand", Value: &value, AgeSeconds: 3, Series: 2}}, Cost: &rules.CostRecord{AfterUSDPerHour: 10},
	}
	missing := decision
	missing.Queries = []rules.Answer{{Name: "demand", Fault: rules.MetricMissing}}
	other := rules.Decision{Rule: "embed", Target: "process/embed", To: 1}
	for _, tt := range []struct {
		text string
		of   string // the rules that it is for
		want string // of decision, missing and other
	}{
		{"desired == 5 && current == 2 && ready == 1 && pending == 1", "chat embed", "yes yes no"},
		{"min <= desired && desired <= max", "chat embed", "yes yes no"},
		{`action == "up" and result == "applied" and target == "process/chat"`, "chat embed", "yes yes no"},
		{`"AboveTarget" in reasons && "ScaleUpRate" in limited_by && len(reasons) == 2`, "chat embed", "yes yes no"},
		{`confidence == 0.75 && labels.model == "m" && elapsed == 90 && cost == 10`, "chat embed", "yes yes no"},
		{"demand == 42", "chat", "yes - -"},
		{"desired * 10 >= demand", "chat", "yes - -"},
		{"q.demand.ok && q.demand.age == 3 && q.demand.n == 2", "chat", "yes no -"},
		{`action != "up" || q.demand.ok`, "chat", "yes no -"},
		{"let d = desired; d > 4", "chat embed", "yes yes no"},
		{"p95 < 1 || rps == 0", "embed", "- - -"}, // no answers
		{`rule != "embed" || desired == 1`, "chat embed", "yes yes yes"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			d := decoder(t)
			inv := compileInvariant(d, "tests", tt.text, scales)
			if err := d.Err(); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(inv.of, " "); got != tt.of {
				t.Errorf("it is for %q, want %q", got, tt.of)
			}
			var got []string
			for _, of := range []*rules.Decision{&decision, &missing, &other} {
				holds, asked, err := inv.holds(of, 90*time.Second)
				switch {
				case err != nil:
					got = append(got, err.Error())
				case !asked:
					got = append(got, "-")
				case holds:
					got = append(got, "yes")
				default:
					got = append(got, "no")
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func decoder(t *testing.T) *source.Decoder {
	t.Helper()
	f, err := source.Parse("test.yml", []byte("tests: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	return f.Decoder()
}

func TestDifference(t *testing.T) {
	for _, tt := range []struct{ want, got, diff string }{
		{"", "", ""},
		{"a b c", "a b c", "  a|  b|  c"},
		{"a b c", "a c", "  a|- b|  c"},
		{"a c", "a b c d", "  a|+ b|  c|+ d"},
		{"a", "b", "- a|+ b"},
		{"", "b", "+ b"},
	} {
		if got := strings.Join(difference(strings.Fields(tt.want), strings.Fields(tt.got)), "|"); got != tt.diff {
			t.Errorf("from %q to %q: %q, want %q", tt.want, tt.got, got, tt.diff)
		}
	}
}

// TestInput: samples come in the order of their times, and up to a time once.
func TestInput(t *testing.T) {
	f, parsed, err := parse("test.yml", []byte("tests:\n- interval: 10s\n  start_timestamp: 100\n  input_series:\n"+
		"  - {series: a, values: 1 _ 3 stale}\n  - {series: b, values: 5+1x2}\n"))
	if err != nil {
		t.Fatal(err)
	}
	d := parsed.Decoder()
	in := f.Tests[0].parseInput(d, "tests[0]")
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, till := range []int64{99, 100, 115, 115, 1000} {
		line := fmt.Sprint(till, ":")
		for _, s := range in.till(time.Unix(till, 0)) {
			line += fmt.Sprintf(" %s@%d=%g", s.Labels.Get("__name__"), s.Time.Unix(), s.Value)
		}
		got = append(got, line)
	}
	if diff := cmp.Diff([]string{"99:", "100: a@100=1 b@100=5", "115: b@110=6", "115:", "1000: a@120=3 b@120=7 a@130=NaN"}, got); diff != "" {
		t.Error(diff)
	}
	if end := in.end(time.Unix(100, 0)); end.Unix() != 130 {
		t.Errorf("the series end at %d", end.Unix())
	}
}

// FuzzParse: no test file makes reading it panic, and what is wrong has its place in it.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*/*.yml", "../../examples/*/*_test.yml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal(pattern, err)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Add([]byte("tests: [{input_series: [{series: a, values: 1x99999999999999999999}], invariant: ['((((']}]"))
	scales := []*rules.Scale{scale("digits", "demand")}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, parsed, err := parse("test.yml", text)
		if err != nil {
			if _, ok := errors.AsType[source.Errors](err); !ok {
				t.Fatalf("%T: %s", err, err)
			}
			return
		}
		for i := range file.Tests {
			test, d, path := &file.Tests[i], parsed.Decoder(), fmt.Sprintf("tests[%d]", i)
			if repeats(string(text)) < 100_000 { // else a short text stands for a large test
				test.parseInput(d, path)
			}
			r := &run{test: test, path: path}
			r.check(d, scales)
			newTargets(d, path+".target_model", test.TargetModel, scales, test.start())
			for j, invariant := range test.Invariant {
				compileInvariant(d, fmt.Sprintf("%s.invariant[%d]", path, j), invariant, scales)
			}
		}
	})
}

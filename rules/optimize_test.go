package rules

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

const optimizing = `groups:
- name: advice
  rules:
  - optimize: quantize
    model: digits
    queries: {kv: kv_cache_ratio, util: busy_ratio}
    if: kv > 0.85 && util < 0.5
    for: 10m
    goal: memory
    constraints: {max_accuracy_loss: 0.01}
    recommend: quantize the weights to 8 bits
`

// gpu is a Querier over two values, and over what the rule itself wrote.
type gpu struct {
	kv, util float64
	err      error
	written  *[]Sample // by the last evaluation
}

func (g *gpu) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]Sample, error) {
	switch {
	case expr == `last_over_time(flyball_optimize_recommended{rule="quantize"}[1d])`:
		return *g.written, nil
	case g.err != nil:
		return nil, g.err
	case strings.Contains(expr, "timestamp("):
		return []Sample{{Value: float64(at.Unix()), Time: at}}, nil
	case expr == "kv_cache_ratio":
		return []Sample{{Value: g.kv, Time: at}}, nil
	case expr == "busy_ratio":
		return []Sample{{Value: g.util, Time: at}}, nil
	}
	return nil, fmt.Errorf("unexpected query %s", expr)
}

// TestOptimize: a recommendation is made once, when its condition has held for long enough, with what it was made of; it
// stands while the condition holds, over data that is missing and over a restart, and is made again when it comes back.
func TestOptimize(t *testing.T) {
	f, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(optimizing))
	if err != nil {
		t.Fatal(err)
	}
	var (
		written []Sample
		data    = &gpu{written: &written}
		journal = &pages{}
		metrics = NewMetrics(prometheus.NewRegistry())
		at      = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
		start   = func() *Optimizer {
			return NewOptimizer(f.Groups[0].Rules[0].Optimize, ScalerOptions{Querier: data, Journal: journal, Metrics: metrics})
		}
		rule = start()
	)
	for i, tt := range []struct {
		name     string
		kv, util float64
		err      error
		journal  error
		restart  bool
		minutes  int
		standing float64 // whether it is recommended after that
		made     int     // recommendations so far
	}{
		{name: "not yet for long enough", kv: 0.9, util: 0.3, minutes: 10},
		{name: "data that is missing: the time begins anew", err: errors.New("away"), minutes: 1},
		{name: "not yet again", kv: 0.9, util: 0.3, minutes: 10},
		{name: "the journal cannot be written: not recommended", kv: 0.9, util: 0.3, journal: errors.New("disk full"), minutes: 1},
		{name: "recommended", kv: 0.92, util: 0.3, minutes: 1, standing: 1, made: 1},
		{name: "once", kv: 0.95, util: 0.2, minutes: 60, standing: 1, made: 1},
		{name: "missing data does not end it", err: errors.New("away"), minutes: 30, standing: 1, made: 1},
		{name: "nor does it begin again", kv: 0.9, util: 0.2, minutes: 30, standing: 1, made: 1},
		{name: "nor does a restart", kv: 0.9, util: 0.2, restart: true, minutes: 30, standing: 1, made: 1},
		{name: "it ends with its condition", kv: 0.5, util: 0.2, minutes: 1, made: 1},
		{name: "and comes again with it", kv: 0.9, util: 0.2, minutes: 11, standing: 1, made: 2},
	} {
		data.kv, data.util, data.err, journal.err = tt.kv, tt.util, tt.err, tt.journal
		if tt.restart {
			rule = start()
		}
		for range tt.minutes {
			samples, err := rule.Eval(t.Context(), at)
			if tt.journal == nil && err != nil || tt.journal != nil && !errors.Is(err, tt.journal) {
				t.Fatalf("%s: %v", tt.name, err)
			}
			written = samples
			at = at.Add(time.Minute)
		}
		if len(written) != 1 || written[0].Value != tt.standing || len(journal.kept) != tt.made {
			t.Errorf("step %d: %s: recommended %v, %d made, want %g and %d", i, tt.name, written, len(journal.kept), tt.standing, tt.made)
		}
	}
	d := journal.kept[0]
	if diff := cmp.Diff("digits: quantize the weights to 8 bits, within max_accuracy_loss 0.01, because kv > 0.85 && util < 0.5 for 10m: kv 0.92, util 0.3", d.Text); diff != "" {
		t.Error(diff)
	}
	if d.Result != Recommended || len(d.Queries) != 2 || d.Queries[0].Expr != "kv_cache_ratio" || *d.Queries[0].Value != 0.92 || !d.Steps[0].Fired {
		t.Errorf("evidence: %+v", d)
	}
	if got := written[0].Labels.String(); got != `{__name__="flyball_optimize_recommended", goal="memory", model="digits", rule="quantize"}` {
		t.Error(got)
	}
}

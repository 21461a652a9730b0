package rulestest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"flyball/rules"
)

// Fault makes a query of scale rules go wrong for a time: from From, and before To.
type Fault struct {
	Query string         `yaml:"query"`
	Rule  string         `yaml:"rule"` // empty: all that have a query of the name
	From  model.Duration `yaml:"from"`
	To    model.Duration `yaml:"to"` // 0: to the end of the test
	Kind  string         `yaml:"kind"`
}

// Kinds of faults.
const (
	faultError = "error" // the query fails
	faultEmpty = "empty" // it has no answer
	faultNaN   = "nan"   // each of its values is NaN
	faultStale = "stale" // the data behind it stops at From, and grows old
	faultSlow  = "slow"  // it takes longer than the engine waits
)

var faultKinds = []string{faultError, faultEmpty, faultNaN, faultStale, faultSlow}

// hits says that the fault is one of a rule's query. The short forms that panics ask are faulty with the query itself.
func (f *Fault) hits(rule, query string) bool {
	name, _, _ := strings.Cut(query, "@")
	return (f.Rule == "" || f.Rule == rule) && f.Query == name
}

// at says that the fault is there at a time since the start of the test.
func (f *Fault) at(elapsed time.Duration) bool {
	return elapsed >= time.Duration(f.From) && (f.To == 0 || elapsed < time.Duration(f.To))
}

// faulty is the Querier of one query that has faults.
type faulty struct {
	rules.Querier
	expr   string // of the query; anything else that is asked is the age of its data
	start  time.Time
	faults []Fault
}

// Query implements rules.Querier.
func (f *faulty) Query(ctx context.Context, expr string, at time.Time, lookback time.Duration) ([]rules.Sample, error) {
	for i := range f.faults {
		fault := &f.faults[i]
		if !fault.at(at.Sub(f.start)) {
			continue
		}
		value := expr == f.expr
		switch {
		case fault.Kind == faultStale:
			return f.stale(ctx, expr, at, lookback, f.start.Add(time.Duration(fault.From)))
		case !value:
		case fault.Kind == faultError:
			return nil, errors.New("a fault of the test")
		case fault.Kind == faultSlow:
			return nil, fmt.Errorf("a fault of the test: %w", context.DeadlineExceeded)
		case fault.Kind == faultEmpty:
			return nil, nil
		case fault.Kind == faultNaN:
			samples, err := f.Querier.Query(ctx, expr, at, lookback)
			if len(samples) == 0 {
				samples = []rules.Sample{{Time: at}}
			}
			for i := range samples {
				samples[i].Value = math.NaN()
			}
			return samples, err
		}
	}
	return f.Querier.Query(ctx, expr, at, lookback)
}

// lookbackDelta is for how long the engine takes the last sample of a series for its present value.
const lookbackDelta = 5 * time.Minute

// stale answers as when the data stopped: with what there was then, for as long as a series that is silent counts.
func (f *faulty) stale(ctx context.Context, expr string, at time.Time, lookback time.Duration, stopped time.Time) ([]rules.Sample, error) {
	if lookback == 0 {
		lookback = lookbackDelta
	}
	if at.Sub(stopped) >= lookback {
		return nil, nil
	}
	samples, err := f.Querier.Query(ctx, expr, stopped, lookback)
	for i := range samples {
		samples[i].Time = at
	}
	return samples, err
}

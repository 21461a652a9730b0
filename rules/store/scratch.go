package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	promrules "github.com/prometheus/prometheus/rules"
)

// Scratch is a Store that is thrown away: for tests of rules, which evaluate the groups of production at times of their own
// making by EvalGroups. It lies in a temporary directory, which Close removes, has no write-ahead log and compacts nothing.
type Scratch struct {
	*Store
}

// ScratchSample is one value of one series at one time: Value, or Histogram where that is not nil.
type ScratchSample struct {
	Labels    labels.Labels
	Time      time.Time
	Value     float64
	Histogram *histogram.FloatHistogram
}

// RuleFailure is what the last evaluation of a rule failed with.
type RuleFailure struct {
	Group, Rule string
	Evaluator   bool // it is no record or alert rule
	Err         error
}

// OpenScratch opens an empty store. Of the options it does not take Dir, Retention and MaxBytes.
func OpenScratch(opts Options) (*Scratch, error) {
	dir, err := os.MkdirTemp("", "flyball-scratch-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	opts.Dir, opts.scratch = dir, true
	s, err := Open(opts)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s.db.DisableCompactions()
	return &Scratch{s}, nil
}

// Append writes samples, all or none. Those of one series must be in the order of their times and after what it has.
func (s *Scratch) Append(ctx context.Context, samples []ScratchSample) error {
	s.use.RLock()
	defer s.use.RUnlock()
	if s.closed {
		return ErrClosed
	}
	// The earliest first: it is what an empty store takes the range of times that it accepts from.
	samples = slices.Clone(samples)
	slices.SortStableFunc(samples, func(a, b ScratchSample) int { return a.Time.Compare(b.Time) })
	app := s.db.Appender(ctx)
	for _, sample := range samples {
		var err error
		if at := timestamp.FromTime(sample.Time); sample.Histogram != nil {
			_, err = app.AppendHistogram(0, sample.Labels, at, nil, sample.Histogram)
		} else {
			_, err = app.Append(0, sample.Labels, at, sample.Value)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("append %s: %w", sample.Labels, err), app.Rollback())
		}
	}
	if err := app.Commit(); err != nil {
		return fmt.Errorf("append samples: %w", err)
	}
	return nil
}

// Vector answers a PromQL instant query as Query does, and native histograms as well.
func (s *Scratch) Vector(ctx context.Context, expr string, at time.Time) ([]ScratchSample, error) {
	s.use.RLock()
	defer s.use.RUnlock()
	if s.closed {
		return nil, ErrClosed
	}
	q, err := s.engine.NewInstantQuery(ctx, s.db, nil, expr, at)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, s.queryError(ctx, res.Err)
	}
	switch v := res.Value.(type) {
	case promql.Scalar:
		return []ScratchSample{{Time: at, Value: v.V}}, nil
	case promql.Vector:
		samples := make([]ScratchSample, 0, len(v))
		for _, sample := range v {
			if sample.H != nil {
				sample.H = sample.H.Copy()
			}
			samples = append(samples, ScratchSample{Labels: sample.Metric, Time: at, Value: sample.F, Histogram: sample.H})
		}
		return samples, nil
	}
	return nil, fmt.Errorf("it gives a %s: a test needs numbers", res.Value.Type())
}

// Failures are the rules whose last evaluation failed, in the order of their evaluation.
func (s *Scratch) Failures() (failed []RuleFailure) {
	s.mu.Lock()
	runners := slices.Clone(s.runners)
	s.mu.Unlock()
	for _, r := range runners {
		for _, rule := range r.group.Rules() {
			if err := rule.LastError(); err != nil && rule.Health() == promrules.HealthBad {
				_, evaluator := rule.(*evaluatorRule)
				failed = append(failed, RuleFailure{r.spec.Name, rule.Name(), evaluator, err})
			}
		}
	}
	return failed
}

// Close closes the store and removes it from the disk. A second call does nothing.
func (s *Scratch) Close() error {
	return errors.Join(s.Store.Close(), os.RemoveAll(s.opts.Dir))
}

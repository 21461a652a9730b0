package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	promrules "github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"flyball/rules"
)

// evaluatorRule runs an Evaluator as a rule in a group of Prometheus's, which appends what it returns and marks stale what
// it no longer returns.
type evaluatorRule struct {
	evaluator  rules.Evaluator
	labels     map[string]string // the group's
	appendable storage.Appendable
	written    []labels.Labels // by the last evaluation that succeeded; used by one evaluation at a time

	mu       sync.Mutex // guards what follows: the status page reads it during an evaluation
	health   promrules.RuleHealth
	err      error
	duration time.Duration
	at       time.Time
}

func newEvaluatorRule(e rules.Evaluator, groupLabels map[string]string, a storage.Appendable) *evaluatorRule {
	return &evaluatorRule{evaluator: e, labels: groupLabels, appendable: a, health: promrules.HealthUnknown}
}

// Eval implements promrules.Rule. What it returns carries the evaluation's own time: a sample with another would be out
// of order as soon as the next evaluation wrote one, whatever the Evaluator says of when its value was taken.
func (r *evaluatorRule) Eval(ctx context.Context, offset time.Duration, ts time.Time, _ promrules.QueryFunc, _ *url.URL, limit int) (promql.Vector, error) {
	at := ts.Add(-offset)
	samples, err := r.evaluator.Eval(ctx, at)
	if err != nil {
		return nil, r.fail(ctx, at, err)
	}
	vector, err := r.vector(samples, at)
	if err != nil {
		return nil, r.fail(ctx, at, err)
	}
	if limit > 0 && len(vector) > limit {
		return nil, r.fail(ctx, at, fmt.Errorf("it gave %d series where the group's limit is %d", len(vector), limit))
	}
	r.written = r.written[:0]
	for _, s := range vector {
		r.written = append(r.written, s.Metric)
	}
	return vector, nil
}

// vector checks the samples and puts the group's labels on them.
func (r *evaluatorRule) vector(samples []rules.Sample, at time.Time) (promql.Vector, error) {
	vector := make(promql.Vector, 0, len(samples))
	seen := make(map[uint64]struct{}, len(samples))
	b := labels.NewBuilder(labels.EmptyLabels())
	for _, s := range samples {
		ls := s.Labels
		if len(r.labels) > 0 {
			b.Reset(s.Labels)
			for name, v := range r.labels {
				if !s.Labels.Has(name) {
					b.Set(name, v)
				}
			}
			ls = b.Labels()
		}
		if !ls.Has(model.MetricNameLabel) {
			return nil, fmt.Errorf("it gave the series %s, which has no metric name", ls)
		}
		if !ls.IsValid(model.UTF8Validation) {
			return nil, fmt.Errorf("it gave the series %s, which has an invalid name or label", ls)
		}
		if ls.WithoutEmpty().Len() != ls.Len() {
			ls = ls.WithoutEmpty()
		}
		h := ls.Hash()
		if _, ok := seen[h]; ok {
			return nil, fmt.Errorf("it gave the series %s twice", ls)
		}
		seen[h] = struct{}{}
		vector = append(vector, promql.Sample{T: timestamp.FromTime(at), F: s.Value, Metric: ls})
	}
	return vector, nil
}

// fail takes away the series of the last success, which would otherwise be seen for the whole lookback: a decision that
// could not be made anew must not look as if it still held. An evaluation that was cut off by the end of the process
// says nothing about them.
func (r *evaluatorRule) fail(ctx context.Context, at time.Time, cause error) error {
	if ctx.Err() != nil {
		return cause
	}
	written := r.written
	r.written = nil
	if err := markStale(ctx, r.appendable, written, at); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}

// markStale ends the series at the time at. A series that already has a later sample is left as it is.
func markStale(ctx context.Context, a storage.Appendable, series []labels.Labels, at time.Time) error {
	if len(series) == 0 {
		return nil
	}
	app := a.Appender(ctx)
	app.SetOptions(&storage.AppendOptions{DiscardOutOfOrder: true})
	for _, ls := range series {
		_, err := app.Append(0, ls, timestamp.FromTime(at), math.Float64frombits(value.StaleNaN))
		if err == nil || errors.Is(err, storage.ErrOutOfOrderSample) || errors.Is(err, storage.ErrTooOldSample) ||
			errors.Is(err, storage.ErrDuplicateSampleForTimestamp) || errors.Is(err, storage.ErrOutOfBounds) {
			continue
		}
		return errors.Join(fmt.Errorf("mark %s stale: %w", ls, err), app.Rollback())
	}
	if err := app.Commit(); err != nil {
		return fmt.Errorf("mark series stale: %w", err)
	}
	return nil
}

// Name, Labels and String implement promrules.Rule.
func (r *evaluatorRule) Name() string          { return r.evaluator.Name() }
func (r *evaluatorRule) Labels() labels.Labels { return labels.FromMap(r.labels) }
func (r *evaluatorRule) String() string        { return r.evaluator.Name() }

// Query implements promrules.Rule. An Evaluator has no expression of its own, and those that walk the one they get do not
// expect nil: a literal is an expression that depends on no series.
func (r *evaluatorRule) Query() parser.Expr { return &parser.StringLiteral{Val: r.evaluator.Name()} }

// SetLastError and the rest hold what the group tells about the rule.
func (r *evaluatorRule) SetLastError(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *evaluatorRule) LastError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *evaluatorRule) SetHealth(h promrules.RuleHealth) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.health = h
}

func (r *evaluatorRule) Health() promrules.RuleHealth {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.health
}

func (r *evaluatorRule) SetEvaluationDuration(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.duration = d
}

func (r *evaluatorRule) GetEvaluationDuration() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.duration
}

func (r *evaluatorRule) SetEvaluationTimestamp(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = t
}

func (r *evaluatorRule) GetEvaluationTimestamp() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

// The dependencies between rules serve to evaluate some of them at once. The store never does: it does not know what an
// Evaluator queries, and says so.
func (r *evaluatorRule) SetDependentRules([]promrules.Rule)  {}
func (r *evaluatorRule) NoDependentRules() bool              { return false }
func (r *evaluatorRule) DependentRules() []promrules.Rule    { return nil }
func (r *evaluatorRule) SetDependencyRules([]promrules.Rule) {}
func (r *evaluatorRule) NoDependencyRules() bool             { return false }
func (r *evaluatorRule) DependencyRules() []promrules.Rule   { return nil }

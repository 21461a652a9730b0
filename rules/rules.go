package rules

import (
	"context"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// Sample is one value of one series. Time is when the value was taken: for a query answered by an engine, the time at
// which the query was evaluated, not the age of the data behind it.
type Sample struct {
	Labels labels.Labels
	Value  float64
	Time   time.Time
}

// Querier answers PromQL instant queries. An answer without series is an empty slice, not an error; a scalar is one
// sample without labels. Series that have been silent for longer than lookback are not in it; 0 is what the engine does.
type Querier interface {
	Query(ctx context.Context, expr string, at time.Time, lookback time.Duration) ([]Sample, error)
}

// Evaluator is a rule of ours that a group evaluates beside Prometheus's own record and alert rules, at the same
// timestamp and after the rules above it. The samples that Eval returns are appended to the store, and marked stale when
// a later evaluation no longer returns them.
type Evaluator interface {
	Name() string
	Eval(ctx context.Context, at time.Time) ([]Sample, error)
}

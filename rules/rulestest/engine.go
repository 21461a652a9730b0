package rulestest

import (
	"context"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

// Engine is a store that is empty at first and thrown away by Close, and the groups in it. It is used by one goroutine.
type Engine interface {
	rules.Querier
	rules.RangeQuerier

	// SetGroups says which groups EvalGroups evaluates, in their order.
	SetGroups(groups []Group) error

	// Append writes samples, which may come in any order but not before those of an earlier call.
	Append(ctx context.Context, samples []Sample) error

	// EvalGroups evaluates each group at a time, and returns the rules that failed.
	EvalGroups(ctx context.Context, at time.Time) (failed []RuleFailure, err error)

	// Firing returns the alerts that fire.
	Firing() []Alert

	// Vector answers a PromQL instant query, with native histograms.
	Vector(ctx context.Context, expr string, at time.Time) ([]Sample, error)

	Close() error
}

// EngineOptions are what a test says of its engine.
type EngineOptions struct {
	EvaluationInterval time.Duration // of all groups, and the step of subqueries that have none
	ExternalLabels     labels.Labels
	ExternalURL        string
}

// Group is one group to evaluate, with the evaluators of those of its rules that decide.
type Group struct {
	File      *rules.File
	Group     *rules.Group
	Evaluator func(*rules.Rule) rules.Evaluator // nil for a rule of Prometheus's
}

// Sample is one value of one series at one time: Value, or Histogram where that is not nil.
type Sample struct {
	Labels    labels.Labels
	Time      time.Time
	Value     float64
	Histogram *histogram.FloatHistogram
}

// RuleFailure is what the evaluation of a rule failed with.
type RuleFailure struct {
	Group, Rule string
	Evaluator   bool // it is no record or alert rule
	Err         error
}

// Alert is an alert that fires, with the label alertname.
type Alert struct {
	Labels, Annotations labels.Labels
}

package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/annotations"

	"flyball/rules"
)

// maxPoints is how many steps a range query may have: Prometheus's own limit, enough for a point a minute over a week.
const maxPoints = 11_000

// ErrClosed is what a query gets after Close.
var ErrClosed = errors.New("the store is closed")

// Point is one value of a series at one time.
type Point = rules.Point

// Series is one series of the answer to a range query, its points in order of time.
type Series = rules.Series

// Query answers a PromQL instant query at the time at: a sample per series, each with Time at. A scalar is one sample
// without labels, no series an empty slice. A query that gives a range vector, a string or native histograms is an error,
// and so is one that passes the limits of Options. A lookback other than 0 takes the place of the engine's.
func (s *Store) Query(ctx context.Context, expr string, at time.Time, lookback time.Duration) ([]rules.Sample, error) {
	s.use.RLock()
	defer s.use.RUnlock()
	if s.closed {
		return nil, ErrClosed
	}
	q, err := s.engine.NewInstantQuery(ctx, s.db, promql.NewPrometheusQueryOpts(false, lookback), expr, at)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", brief(expr), err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, fmt.Errorf("query %s: %w", brief(expr), s.queryError(ctx, res.Err))
	}
	s.logWarnings(ctx, expr, res.Warnings)
	switch v := res.Value.(type) {
	case promql.Scalar:
		return []rules.Sample{{Value: v.V, Time: at}}, nil
	case promql.Vector:
		samples := make([]rules.Sample, 0, len(v))
		for _, sample := range v {
			if sample.H != nil {
				return nil, fmt.Errorf("query %s: %s is a native histogram: take a number from it, for example with histogram_quantile", brief(expr), sample.Metric)
			}
			samples = append(samples, rules.Sample{Labels: sample.Metric, Value: sample.F, Time: at})
		}
		return samples, nil
	case promql.Matrix:
		return nil, fmt.Errorf("query %s: it gives a range of samples for each series: make one value of them, for example with rate or avg_over_time", brief(expr))
	default:
		return nil, fmt.Errorf("query %s: it gives a %s: a query must give numbers", brief(expr), res.Value.Type())
	}
}

// QueryRange answers a PromQL query at each step from start to end. Series come sorted by their labels.
func (s *Store) QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) ([]Series, error) {
	if step < time.Millisecond {
		return nil, fmt.Errorf("query %s: a step of %s is too short: give 1ms or more", brief(expr), step)
	}
	if end.Before(start) {
		return nil, fmt.Errorf("query %s: the range ends before it starts", brief(expr))
	}
	if n := int64(end.Sub(start)/step) + 1; n > maxPoints {
		return nil, fmt.Errorf("query %s: %d points a series are more than %d: give a longer step or a shorter range", brief(expr), n, maxPoints)
	}
	s.use.RLock()
	defer s.use.RUnlock()
	if s.closed {
		return nil, ErrClosed
	}
	q, err := s.engine.NewRangeQuery(ctx, s.db, nil, expr, start, end, step)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", brief(expr), err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, fmt.Errorf("query %s: %w", brief(expr), s.queryError(ctx, res.Err))
	}
	s.logWarnings(ctx, expr, res.Warnings)
	matrix, ok := res.Value.(promql.Matrix)
	if !ok {
		return nil, fmt.Errorf("query %s: it gives a %s: a query must give numbers", brief(expr), res.Value.Type())
	}
	series := make([]Series, 0, len(matrix))
	for _, m := range matrix {
		if len(m.Histograms) > 0 {
			return nil, fmt.Errorf("query %s: %s is a native histogram: take a number from it, for example with histogram_quantile", brief(expr), m.Metric)
		}
		points := make([]Point, 0, len(m.Floats)) // a copy: Close gives the engine's own back to its pool
		for _, p := range m.Floats {
			points = append(points, Point{Time: time.UnixMilli(p.T).UTC(), Value: p.F})
		}
		series = append(series, Series{Labels: m.Metric, Points: points})
	}
	return series, nil
}

// queryError says what the user can do about an error of the engine, which names its limits only in general.
func (s *Store) queryError(ctx context.Context, err error) error {
	var (
		timeout  promql.ErrQueryTimeout
		canceled promql.ErrQueryCanceled
		samples  promql.ErrTooManySamples
		storage  promql.ErrStorage
	)
	switch {
	case ctx.Err() != nil: // the caller's own end, whatever the engine makes of it
		return context.Cause(ctx)
	case errors.As(err, &timeout):
		return fmt.Errorf("it took longer than %s", s.opts.QueryTimeout)
	case errors.As(err, &canceled):
		return context.Canceled
	case errors.As(err, &samples):
		return fmt.Errorf("it needs more than %d samples at once: select fewer series or a shorter range", s.opts.MaxSamples)
	case errors.As(err, &storage):
		return fmt.Errorf("reading the store: %w", storage.Err)
	default:
		return err
	}
}

func (s *Store) logWarnings(ctx context.Context, expr string, warnings annotations.Annotations) {
	for _, w := range warnings {
		s.logger.DebugContext(ctx, "query gave a warning", "query", expr, "warning", w)
	}
}

// brief shortens an expression for an error's text.
func brief(expr string) string {
	const limit = 120
	r := []rune(expr)
	if len(r) <= limit {
		return expr
	}
	return string(r[:limit]) + "..."
}

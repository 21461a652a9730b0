package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	promrules "github.com/prometheus/prometheus/rules"

	"flyball/rules"
)

var _ rules.Querier = Router{}

// Router answers each query where its series are: here, or by Config.Remote where there is one; see rules.Own.
type Router struct{ s *Store }

// Router returns the Querier for what the groups evaluate. It follows each change of the configuration.
func (s *Store) Router() Router { return Router{s} }

// Query implements rules.Querier.
func (r Router) Query(ctx context.Context, expr string, at time.Time) ([]rules.Sample, error) {
	remote, err := r.s.route.Load().side(r.s.parser, expr)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", brief(expr), err)
	}
	if remote == nil {
		return r.s.Query(ctx, expr, at)
	}
	if r.s.isClosed() {
		return nil, ErrClosed
	}
	return remote.Query(ctx, expr, at)
}

// route says which side answers. It does not change: another one takes its place.
type route struct {
	remote rules.Querier // nil: all is answered here
	own    rules.Own     // what is answered here all the same
}

// newRoute checks that one side can answer each query of the record and alert rules. What an Evaluator queries is not
// known here; it may say what it writes by a method Writes.
func newRoute(p parser.Parser, remote rules.Querier, groups []Group) (*route, error) {
	if remote == nil {
		return &route{}, nil
	}
	own := rules.Own{}
	for _, g := range groups {
		for _, r := range g.Rules {
			switch {
			case r.Record != nil:
				own[r.Record.Name] = true
			case r.Alert != nil:
				own.Alerts()
			}
			if writer, ok := r.Evaluator.(interface{ Writes() []string }); ok {
				for _, name := range writer.Writes() {
					own[name] = true
				}
			}
		}
	}
	rt := &route{remote: remote, own: own}
	var errs []error
	for _, g := range groups {
		for i, r := range g.Rules {
			if r.Evaluator != nil {
				continue
			}
			if _, err := rt.side(p, r.format().Expr); err != nil {
				errs = append(errs, fmt.Errorf("group %s: rules[%d]: %s: %w", g.Key(), i, r.name(), err))
			}
		}
	}
	return rt, errors.Join(errs...)
}

// side returns who answers an expression, nil for the store itself.
func (r *route) side(p parser.Parser, expr string) (rules.Querier, error) {
	if r.remote == nil {
		return nil, nil
	}
	parsed, err := p.ParseExpr(expr)
	if err != nil {
		return nil, err
	}
	remote, err := r.own.Remote(parsed)
	if err != nil || !remote {
		return nil, err
	}
	return r.remote, nil
}

// queryFunc is how record and alert rules, and the templates of alerts, query: as Prometheus's do, with errors that name
// the limits, and each on its side.
func (s *Store) queryFunc() promrules.QueryFunc {
	local := promrules.EngineQueryFunc(s.engine, s.db)
	return func(ctx context.Context, expr string, at time.Time) (promql.Vector, error) {
		remote, err := s.route.Load().side(s.parser, expr)
		if err != nil {
			return nil, err
		}
		if remote == nil {
			v, err := local(ctx, expr, at)
			if err != nil {
				return nil, s.queryError(ctx, err)
			}
			return v, nil
		}
		samples, err := remote.Query(ctx, expr, at)
		if err != nil {
			return nil, err
		}
		vector := make(promql.Vector, 0, len(samples))
		for _, sample := range samples {
			vector = append(vector, promql.Sample{Metric: sample.Labels, F: sample.Value, T: timestamp.FromTime(at)})
		}
		return vector, nil
	}
}

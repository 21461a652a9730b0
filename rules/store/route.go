package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	promrules "github.com/prometheus/prometheus/rules"

	"flyball/rules"
	"flyball/rules/promapi"
)

var (
	_ rules.Querier      = Router{}
	_ rules.RangeQuerier = Router{}
)

// Elsewhere is a Prometheus that is not this one.
type Elsewhere interface {
	// Query answers what rules ask.
	rules.Querier

	// Forward answers what users of Prometheus's API ask, at a path below /api/v1/. Its errors are *promapi.Error, and its
	// data promapi.Raw.
	Forward(ctx context.Context, path string, form url.Values) (*promapi.Result, error)
}

// Router answers each query where its series are: here, or by Config.Remote where there is one; see rules.Own.
type Router struct {
	s    *Store
	here bool // nothing is asked elsewhere
}

// Router returns the Querier for what the groups evaluate, which answers Prometheus's API too. It follows each change of the
// configuration.
func (s *Store) Router() Router { return Router{s: s} }

// Here returns the Router that answers what the store has, and for the rest says that it does not ask elsewhere: for
// requests that came from another flyball, which might go in a circle.
func (r Router) Here() Router { return Router{r.s, true} }

// Query implements rules.Querier.
func (r Router) Query(ctx context.Context, expr string, at time.Time, lookback time.Duration) ([]rules.Sample, error) {
	remote, err := r.s.route.Load().side(r.s.parser, expr)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", brief(expr), err)
	}
	if remote == nil {
		return r.s.Query(ctx, expr, at, lookback)
	}
	if r.s.isClosed() {
		return nil, ErrClosed
	}
	return remote.Query(ctx, expr, at, lookback)
}

// QueryRange implements rules.RangeQuerier, in the turns of the API: the past is not in the way of what is decided now.
func (r Router) QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) ([]Series, error) {
	return r.ShowRange(ctx, expr, start, end, step)
}

// route says which side answers. It does not change: another one takes its place.
type route struct {
	remote Elsewhere // nil: all is answered here
	own    rules.Own // what is answered here all the same
}

// newRoute checks that one side can answer each query of the record and alert rules. What an Evaluator queries is not
// known here; it may say what it writes by a method Writes.
func newRoute(p parser.Parser, remote Elsewhere, groups []Group) (*route, error) {
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
func (r *route) side(p parser.Parser, expr string) (Elsewhere, error) {
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
		samples, err := remote.Query(ctx, expr, at, 0)
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

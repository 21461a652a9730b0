package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/stats"

	"flyball/rules/promapi"
)

// The methods of this file and of those beside it whose names begin with api answer Prometheus's HTTP API. Their errors
// are *promapi.Error, with Prometheus's own texts, and a Result must be closed: until then it holds one of
// Options.APIConcurrency places, and the store open.

const (
	// maxAnnotations is how many warnings, and how many infos, an answer carries: Prometheus's number.
	maxAnnotations = 10

	// checkEvery is how many series are listed between two looks at whether anybody still wants them.
	checkEvery = 128
)

var errTruncated = errors.New("results truncated due to limit")

// QueryInstant answers an instant query of any type.
func (s *Store) QueryInstant(ctx context.Context, q promapi.Query) (*promapi.Result, error) {
	return s.query(ctx, q.Expr, q.Limit, q.Stats, func(ctx context.Context) (promql.Query, error) {
		return s.engine.NewInstantQuery(ctx, s.db, promql.NewPrometheusQueryOpts(false, q.Lookback), q.Expr, q.Time)
	})
}

// QuerySteps answers a query at each step from start to end.
func (s *Store) QuerySteps(ctx context.Context, q promapi.Range) (*promapi.Result, error) {
	if err := checkSteps(q); err != nil {
		return nil, err
	}
	return s.query(ctx, q.Expr, q.Limit, q.Stats, func(ctx context.Context) (promql.Query, error) {
		return s.engine.NewRangeQuery(ctx, s.db, promql.NewPrometheusQueryOpts(false, q.Lookback), q.Expr, q.Start, q.End, q.Step)
	})
}

// checkSteps is an error where a series would have too many points: 60 s steps for a week, or an hour's for a year, are fine.
func checkSteps(q promapi.Range) error {
	if q.End.Sub(q.Start)/q.Step > maxPoints {
		return &promapi.Error{Type: promapi.BadData, Err: errors.New("exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)")}
	}
	return nil
}

func (s *Store) query(ctx context.Context, expr string, limit int, withStats bool, prepare func(context.Context) (promql.Query, error)) (*promapi.Result, error) {
	ctx, done, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	q, err := prepare(ctx)
	if err != nil {
		done()
		return nil, promapi.InvalidParameter("query", err)
	}
	release := sync.OnceFunc(func() {
		q.Close()
		done()
	})
	answered := false
	defer func() {
		if !answered { // an error, or a panic
			release()
		}
	}()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, apiError(res.Err)
	}
	warnings := res.Warnings
	if truncate(res, limit) {
		warnings = warnings.Add(errTruncated)
	}
	data := queryData{value: res.Value}
	if withStats {
		data.stats = stats.NewQueryStats(q.Stats())
	}
	answered = true
	return result(data, warnings, expr, release), nil
}

// truncate cuts a vector or a matrix to limit series, and tells whether it did.
func truncate(res *promql.Result, limit int) bool {
	switch v := res.Value.(type) {
	case promql.Matrix:
		if limit > 0 && len(v) > limit {
			res.Value = v[:limit]
			return true
		}
	case promql.Vector:
		if limit > 0 && len(v) > limit {
			res.Value = v[:limit]
			return true
		}
	}
	return false
}

// Exemplars checks the expression; the store keeps no exemplars, so there are none.
func (s *Store) Exemplars(expr string) (*promapi.Result, error) {
	parsed, err := s.parser.ParseExpr(expr)
	if err != nil {
		return nil, &promapi.Error{Type: promapi.BadData, Err: err}
	}
	if len(parser.ExtractSelectors(parsed)) == 0 {
		return &promapi.Result{}, nil // Prometheus answers without content
	}
	return &promapi.Result{Data: promapi.JSON([]struct{}{})}, nil
}

// FormatExpr returns an expression in the form that Prometheus gives long ones.
func (s *Store) FormatExpr(expr string) (*promapi.Result, error) {
	parsed, err := s.parser.ParseExpr(expr)
	if err != nil {
		return nil, promapi.InvalidParameter("query", err)
	}
	return &promapi.Result{Data: promapi.JSON(parsed.Pretty(0))}, nil
}

// LabelNames lists the names of labels.
func (s *Store) LabelNames(ctx context.Context, sel promapi.Selection) (*promapi.Result, error) {
	return s.list(ctx, sel, labelNames)
}

// LabelValues lists the values of one label.
func (s *Store) LabelValues(ctx context.Context, name string, sel promapi.Selection) (*promapi.Result, error) {
	return s.list(ctx, sel, labelValues(name))
}

// listFunc lists the names or values that one selector finds.
type listFunc func(context.Context, storage.Querier, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error)

func labelNames(ctx context.Context, q storage.Querier, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.LabelNames(ctx, h, ms...)
}

func labelValues(name string) listFunc {
	return func(ctx context.Context, q storage.Querier, h *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
		return q.LabelValues(ctx, name, h, ms...)
	}
}

func (s *Store) list(ctx context.Context, sel promapi.Selection, find listFunc) (*promapi.Result, error) {
	sets, err := s.matchers(sel.Match)
	if err != nil {
		return nil, &promapi.Error{Type: promapi.BadData, Err: err}
	}
	if len(sets) == 0 {
		sets = []selector{nil} // everything
	}
	return s.listOf(ctx, sel, sets, find)
}

// listOf lists what any of the selectors finds, of which there is at least one.
func (s *Store) listOf(ctx context.Context, sel promapi.Selection, sets []selector, find listFunc) (*promapi.Result, error) {
	return s.read(ctx, sel, func(ctx context.Context, q storage.Querier) (promapi.Data, annotations.Annotations, error) {
		var (
			all      []string
			warnings annotations.Annotations
		)
		for _, ms := range sets {
			found, w, err := find(ctx, q, &storage.LabelHints{Limit: hintLimit(sel.Limit)}, ms...)
			if err != nil {
				return nil, nil, apiError(err)
			}
			warnings.Merge(w)
			all = append(all, found...)
		}
		all, cut := union(all, sel.Limit)
		if cut {
			warnings.Add(errTruncated)
		}
		return promapi.Strings(all), warnings, nil
	})
}

// union sorts texts, each once and at most limit of them, and tells whether that left some out.
func union(all []string, limit int) (_ []string, cut bool) {
	slices.Sort(all)
	all = slices.Compact(all)
	if limit > 0 && len(all) > limit {
		return all[:limit], true
	}
	return all, false
}

// ListSeries lists the label sets of series. At least one selector must be given.
func (s *Store) ListSeries(ctx context.Context, sel promapi.Selection) (*promapi.Result, error) {
	if len(sel.Match) == 0 {
		return nil, &promapi.Error{Type: promapi.BadData, Err: errors.New("no match[] parameter provided")}
	}
	sets, err := s.matchers(sel.Match)
	if err != nil {
		return nil, promapi.InvalidParameter("match[]", err)
	}
	return s.seriesOf(ctx, sel, sets)
}

// seriesOf lists the series that any of the selectors finds, of which there is at least one.
func (s *Store) seriesOf(ctx context.Context, sel promapi.Selection, sets []selector) (*promapi.Result, error) {
	return s.read(ctx, sel, func(ctx context.Context, q storage.Querier) (promapi.Data, annotations.Annotations, error) {
		hints := &storage.SelectHints{
			Start: timestamp.FromTime(sel.Start), End: timestamp.FromTime(sel.End),
			Func: "series", Limit: hintLimit(sel.Limit), // "series": no samples are wanted
		}
		var found []storage.SeriesSet
		for _, ms := range sets {
			found = append(found, q.Select(ctx, len(sets) > 1, hints, ms...)) // a merge needs them in order
		}
		set := found[0]
		if len(found) > 1 {
			set = storage.NewMergeSeriesSet(found, 0, storage.ChainedSeriesMerge)
		}
		var (
			all      labelSets
			warnings annotations.Annotations
		)
		warnings.Merge(set.Warnings())
		for i := 1; set.Next(); i++ {
			if i%checkEvery == 0 && ctx.Err() != nil {
				return nil, nil, apiError(ctx.Err())
			}
			if sel.Limit > 0 && len(all) == sel.Limit {
				warnings.Add(errTruncated)
				break
			}
			all = append(all, set.At().Labels())
		}
		if err := set.Err(); err != nil {
			return nil, nil, apiError(err)
		}
		return all, warnings, nil
	})
}

// read lets f read the database. What f returns may hold on to the querier's memory: it lives until the Result is closed.
func (s *Store) read(ctx context.Context, sel promapi.Selection, f func(context.Context, storage.Querier) (promapi.Data, annotations.Annotations, error)) (*promapi.Result, error) {
	ctx, done, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	q, err := s.db.Querier(timestamp.FromTime(sel.Start), timestamp.FromTime(sel.End))
	if err != nil {
		done()
		return nil, apiError(err)
	}
	release := sync.OnceFunc(func() {
		if err := q.Close(); err != nil {
			s.logger.Warn("close a querier", "err", err)
		}
		done()
	})
	answered := false
	defer func() {
		if !answered {
			release()
		}
	}()
	data, warnings, err := f(ctx, q)
	if err != nil {
		return nil, err
	}
	answered = true
	return result(data, warnings, "", release), nil
}

// enter waits for one of the places that the API has, at most as long as a query may take, and keeps the store open until
// done is called. The rules never wait here: they query the engine themselves.
func (s *Store) enter(ctx context.Context) (_ context.Context, done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.QueryTimeout)
	if err := s.wait(ctx); err != nil {
		cancel()
		return nil, nil, err
	}
	s.use.RLock()
	done = func() {
		s.use.RUnlock()
		<-s.places
		cancel()
	}
	if s.closed {
		done()
		return nil, nil, &promapi.Error{Type: promapi.Unavailable, Err: ErrClosed}
	}
	return ctx, done, nil
}

func (s *Store) wait(ctx context.Context) error {
	if ctx.Err() == nil {
		select {
		case s.places <- struct{}{}:
			return nil
		case <-ctx.Done():
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return apiError(promql.ErrQueryCanceled("query queue"))
	}
	return apiError(promql.ErrQueryTimeout("query queue"))
}

// selector is what a series must match, all of it.
type selector = []*labels.Matcher

// matchers parses selectors, each of which must select something.
func (s *Store) matchers(selectors []string) ([]selector, error) {
	sets, err := s.parser.ParseMetricSelectors(selectors)
	if err != nil {
		return nil, err
	}
	for _, ms := range sets {
		if !narrows(ms) {
			return nil, errors.New("match[] must contain at least one non-empty matcher")
		}
	}
	return sets, nil
}

// narrows says whether a selector leaves anything out.
func narrows(ms selector) bool {
	return slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return m != nil && !m.Matches("") })
}

// hintLimit asks for one more than is wanted, to know whether there is more.
func hintLimit(limit int) int {
	if limit > 0 && limit < math.MaxInt {
		return limit + 1
	}
	return limit
}

func result(data promapi.Data, warnings annotations.Annotations, expr string, release func()) *promapi.Result {
	w, i := warnings.AsStrings(expr, maxAnnotations, maxAnnotations)
	return &promapi.Result{Data: data, Warnings: w, Infos: i, Release: release}
}

// apiError gives an error of the engine or the database its type.
func apiError(err error) error {
	var (
		canceled promql.ErrQueryCanceled
		timeout  promql.ErrQueryTimeout
		storage  promql.ErrStorage
	)
	kind := promapi.Execution
	switch {
	case errors.As(err, &canceled), errors.Is(err, context.Canceled):
		kind = promapi.Canceled
	case errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		kind = promapi.Timeout
	case errors.As(err, &storage):
		kind = promapi.Internal
		err = fmt.Errorf("reading the store: %w", storage.Err)
	}
	return &promapi.Error{Type: kind, Err: err}
}

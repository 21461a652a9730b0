package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"

	"flyball/cmd/flyball/web"
	"flyball/rules"
)

// figures are what the store knows of the models behind batching proxies. They are asked for only while somebody looks at
// the page, and at most once a second however many do.
type figures struct {
	queries web.Queries // nil: there are none

	mu     sync.Mutex // guards what follows, and has those who ask wait for one answer
	asked  time.Time
	answer modelFigures
	err    error
}

// modelFigures are the values of each query by model.
type modelFigures struct {
	window time.Duration // that the rates are over; 0: there are none
	names  []string
	values map[string]map[string]float64 // by query, then model
	demand map[string][]web.Point
}

// The time of the small chart beside each model, and its points: one for each two of its pixels.
const (
	demandTime   = 10 * time.Minute
	demandPoints = 60
)

// What a page waits for a store that does not answer, and for how long pages after it do not ask again.
const (
	figuresTimeout = 5 * time.Second
	figuresRetry   = 10 * time.Second
	figuresAtOnce  = 4 // queries: a page takes as long as a few of them where each is a request to a Prometheus elsewhere
)

// modelQueries are what is asked of each model, over a window.
func modelQueries(window time.Duration) map[string]string {
	w := model.Duration(window).String()
	rate := func(name, by string) string {
		return "sum by (" + by + ") (rate(flyball_batchproxy_" + name + "[" + w + "]))"
	}
	sum := func(name string) string { return "sum by (model) (flyball_batchproxy_" + name + ")" }
	return map[string]string{
		"rate":    rate("requests_total", "model"),
		"errors":  rate(`requests_total{code=~"`+rules.ErrorCodes+`"}`, "model") + " / " + rate("requests_total", "model"),
		"p50":     "histogram_quantile(0.5, " + rate("request_duration_seconds_bucket", "model, le") + ")",
		"p99":     "histogram_quantile(0.99, " + rate("request_duration_seconds_bucket", "model, le") + ")",
		"batch":   rate("batch_size_sum", "model") + " / " + rate("batch_size_count", "model"),
		"waiting": sum("requests_waiting"),
		"running": sum("requests_running"),
		"ready":   sum("replicas_ready"),
		"demand":  rate("arrivals_total", "model"),
	}
}

// at returns the figures of now, or those of less than a second ago. With an error come those that could be had.
func (f *figures) at(ctx context.Context, now time.Time, scrapeInterval time.Duration) (modelFigures, error) {
	if f.queries == nil {
		return modelFigures{}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	keep := time.Second
	if f.err != nil {
		keep = figuresRetry
	}
	if age := now.Sub(f.asked); !f.asked.IsZero() && age >= 0 && age < keep {
		return f.answer, f.err
	}
	// Who asked first may go; the others want the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), figuresTimeout)
	defer cancel()
	// Four scrapes, so that a rate survives one that failed; but a latency's 99th percentile needs a few requests.
	f.answer, f.err = f.ask(ctx, now, max(4*scrapeInterval, 15*time.Second))
	f.asked = now
	return f.answer, f.err
}

func (f *figures) ask(ctx context.Context, now time.Time, window time.Duration) (modelFigures, error) {
	exprs := modelQueries(window)
	found := modelFigures{window: window, values: map[string]map[string]float64{}, demand: map[string][]web.Point{}}
	known := func(name string) {
		if name != "" && !slices.Contains(found.names, name) {
			found.names = append(found.names, name)
		}
	}
	var answers errgroup.Group
	answers.SetLimit(figuresAtOnce)
	var mu sync.Mutex // guards found.values
	for query, expr := range exprs {
		answers.Go(func() error {
			samples, err := f.queries.Query(ctx, expr, now)
			if err != nil {
				return fmt.Errorf("%s: %w", query, err)
			}
			mu.Lock()
			defer mu.Unlock()
			found.values[query] = byModel(samples)
			return nil
		})
	}
	failed := answers.Wait()
	for _, values := range found.values {
		for name := range values {
			known(name)
		}
	}
	slices.Sort(found.names)
	if failed != nil {
		return found, failed
	}
	series, err := f.queries.QueryRange(ctx, exprs["demand"], now.Add(-demandTime), now, demandTime/demandPoints)
	if err != nil {
		return found, fmt.Errorf("demand: %w", err)
	}
	for _, s := range series {
		found.demand[s.Labels.Get("model")] = s.Points
	}
	return found, nil
}

func byModel(samples []rules.Sample) map[string]float64 {
	values := map[string]float64{}
	for _, s := range samples {
		values[s.Labels.Get("model")] = s.Value
	}
	return values
}

// model is what is known of one model; a figure that is not is NaN, a count 0.
func (m modelFigures) model(name string) web.Model {
	value := func(query string) float64 {
		if v, known := m.values[query][name]; known {
			return v
		}
		return math.NaN()
	}
	count := func(query string) int {
		if v := value(query); v > 0 && v < math.MaxInt32 {
			return int(v)
		}
		return 0
	}
	errors := value("errors")
	if math.IsNaN(errors) && value("rate") > 0 {
		errors = 0 // there is no series of a status that no answer had
	}
	return web.Model{
		Name: name, Rate: value("rate"), Errors: errors, P50: value("p50"), P99: value("p99"), BatchSize: value("batch"),
		Queued: count("waiting"), Running: count("running"), Ready: count("ready"), Demand: m.demand[name],
	}
}

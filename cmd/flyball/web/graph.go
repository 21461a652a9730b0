package web

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

const (
	maxExpr     = 10_000 // bytes
	seriesShown = 250    // of a query's answer; nobody reads more
)

// graph is what the template graph.html shows: one expression, its value now as a table and, by script, over time. It is
// where the links in alerts point, so it reads the parameters of Prometheus's own page.
type graph struct {
	frame
	Expr      string
	Range     time.Duration
	RangeText string
	End       time.Time // zero: now
	EndText   string
	Faults    []string
	Samples   []rules.Sample
	Total     int // of the answer, of which Samples are the first
	Took      time.Duration
	Asked     bool
}

// RangeSeconds and EndUnix are for the script.
func (g graph) RangeSeconds() int { return int(g.Range / time.Second) }

// EndUnix is the end of the chart in Unix seconds, 0 for now.
func (g graph) EndUnix() int64 {
	if g.End.IsZero() {
		return 0
	}
	return g.End.Unix()
}

func (s *site) graph(w http.ResponseWriter, r *http.Request) {
	if s.Queries == nil {
		Text(w, http.StatusNotFound, "this process has no store to query: it runs without the role rules.\n")
		return
	}
	q := r.URL.Query()
	g := &graph{
		frame: s.frame(), Expr: q.Get("g0.expr"), Range: defaultRange, RangeText: model.Duration(defaultRange).String(),
	}
	fault := func(format string, args ...any) { g.Faults = append(g.Faults, fmt.Sprintf(format, args...)) }
	if len(g.Expr) > maxExpr {
		fault("g0.expr: %d bytes long: expected an expression of at most %d", len(g.Expr), maxExpr)
		g.Expr = ""
	}
	if text := q.Get("g0.range_input"); text != "" {
		d, err := model.ParseDuration(text)
		if at := time.Duration(d); err != nil || at < time.Second || at > 366*24*time.Hour {
			fault("g0.range_input: %q: expected a duration from 1s to 366d, such as 1h", line(text, 40))
		} else {
			g.Range, g.RangeText = at, text
		}
	}
	for _, name := range []string{"g0.end_input", "g0.moment_input"} { // both are the time to look at
		if text := q.Get(name); text != "" {
			at, err := parseMoment(text)
			if err != nil {
				fault("%s: %q: expected a time such as 2026-11-22 15:04:05 (UTC), RFC 3339 or Unix seconds", name, line(text, 40))
				continue
			}
			g.End, g.EndText = at, at.UTC().Format(time.DateTime)
		}
	}
	if g.Expr != "" {
		s.ask(r.Context(), g, fault)
	}
	code := http.StatusOK
	if len(g.Faults) > 0 {
		code = http.StatusBadRequest
	}
	s.send(w, r, code, "graph.html", g)
}

func (s *site) ask(ctx context.Context, g *graph, fault func(string, ...any)) {
	at := g.End
	if at.IsZero() {
		at = g.Now
	}
	begin := time.Now()
	samples, err := s.Queries.Query(ctx, g.Expr, at)
	g.Took, g.Asked = time.Since(begin), true
	if err != nil {
		fault("%s", err)
		return
	}
	g.Total, g.Samples = len(samples), samples[:min(len(samples), seriesShown)]
}

// parseMoment takes the form of Prometheus's page and those of the API.
func parseMoment(text string) (time.Time, error) {
	for _, layout := range []string{time.DateTime, "2006-01-02 15:04"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return parseTime(text)
}

// name is the metric's name of a series, empty when the expression leaves none.
func name(ls labels.Labels) string { return ls.Get(labels.MetricName) }

// full is a value with all its digits.
func full(v float64) string {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Sprint(v)
	}
	return fmt.Sprintf("%.10g", v)
}

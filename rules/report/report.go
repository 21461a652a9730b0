package report

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"flyball/rules/source"
)

// Source answers PromQL over time.
type Source interface {
	// QueryRange answers an expression at each step from start to end. A series that it names and does not have is no error.
	QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) (Answer, error)

	// LabelValues lists the values of a label among the series that any of the selectors finds, within a time; with zero
	// times, ever.
	LabelValues(ctx context.Context, label string, selectors []string, start, end time.Time) ([]string, error)
}

// Answer is what a Source says.
type Answer struct {
	Series   []Series
	Warnings []string // such as those of a Thanos that does not reach all its stores
}

// Series is one series of an Answer, its points in order of time.
type Series struct {
	Labels map[string]string
	Points []Point
}

// Point is a value at a time.
type Point struct {
	Time  time.Time
	Value float64
}

// Options say what to report on.
type Options struct {
	Model      string        // the value of the label model
	Start, End time.Time     // the report's times are in the zone of End
	Step       time.Duration // between two points

	// Scale is the name of the scale rule that sizes the model. Empty: the one that has the model's name, or whose target has.
	Scale string

	// GPUs are matchers, such as gpu="0", of the GPUs that serve it. Empty: those that flyball_model_gpu_info names.
	GPUs string

	// BatchSize is the most rows that a batch may have. 0: what the metrics say.
	BatchSize float64

	// Scrape is the interval at which the metrics were scraped: no rate is taken over less than four of it. 0: 15 s.
	Scrape time.Duration

	// Reversals of direction within Window, on top of which a target flaps. 0: 2 in 30 minutes, a scale rule's default.
	Reversals int
	Window    time.Duration

	// Progress, if not nil, is called after each query, by one goroutine at a time.
	Progress func(done, of int)
}

// Report is how a model did.
type Report struct {
	Model    string      `json:"model"`
	Start    time.Time   `json:"start"`
	End      time.Time   `json:"end"`
	Step     float64     `json:"step_seconds"`
	Times    []time.Time `json:"times"` // of the points of all metrics; each stands for the step before it
	Metrics  []Metric    `json:"metrics"`
	Breaches Breaches    `json:"breaches"`
	Checks   []Check     `json:"checks"` // what was looked for, found or not
	Warnings []string    `json:"warnings,omitempty"`
}

// Metric is a chart: some lines of one unit.
type Metric struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Unit  string `json:"unit"`
	Lines []Line `json:"lines,omitempty"`

	// NotMeasured says why there are no lines.
	NotMeasured string `json:"not_measured,omitempty"`
}

// Line is a value over time. Where there is none it is NaN, in JSON null.
type Line struct {
	Name   string `json:"name"`
	Query  string `json:"query,omitempty"` // empty: made of other lines
	Values Values `json:"values"`
}

// Values are those of a line. NaN is none.
type Values []float64

// MarshalJSON writes what is no number as null.
func (v Values) MarshalJSON() ([]byte, error) {
	b := []byte{'['}
	for i, f := range v {
		if i > 0 {
			b = append(b, ',')
		}
		if math.IsNaN(f) || math.IsInf(f, 0) {
			b = append(b, "null"...)
			continue
		}
		b = strconv.AppendFloat(b, f, 'g', -1, 64)
	}
	return append(b, ']'), nil
}

// Span is a time from its start to its end.
type Span struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// MaxPoints is how many points a report may have: what Prometheus gives of a series.
const MaxPoints = 11_000

const (
	finePoints = 5_000 // of what is looked at more closely than at each step: alerts and sizes
	together   = 4     // queries at once: what a small server's API answers at a time
)

// NotFoundError says that there is nothing to report on.
type NotFoundError struct{ text string }

func (e *NotFoundError) Error() string { return e.text }

// maker makes one report.
type maker struct {
	Options
	source  Source
	report  *Report
	scale   string // matchers of the series of the scale rule; empty: there is none
	rule    string // its name
	window  string // of rates
	fine    time.Duration
	metrics map[string]*Metric

	mu       sync.Mutex // guards what follows
	done, of int
	warnings []string
}

// Make makes the report. The error is a *NotFoundError where the model, or anything of it within the time, is not there; any
// other is that of the Source, or says which option is wrong.
func Make(ctx context.Context, src Source, o Options) (*Report, error) {
	if o.Step < time.Second || o.End.Sub(o.Start) < 2*o.Step {
		return nil, fmt.Errorf("from %s to %s at a step of %s: expected two steps of a second or more", o.Start, o.End, o.Step)
	}
	if n := o.End.Sub(o.Start) / o.Step; n > MaxPoints {
		return nil, fmt.Errorf("%d points are more than %d: give a longer step or a shorter time", n, MaxPoints)
	}
	if o.Scrape == 0 {
		o.Scrape = 15 * time.Second
	}
	if o.Reversals == 0 {
		o.Reversals = 2
	}
	if o.Window == 0 {
		o.Window = 30 * time.Minute
	}
	m := &maker{Options: o, source: src, metrics: map[string]*Metric{}}
	zone := o.End.Location()
	n := int(o.End.Sub(o.Start) / o.Step)
	m.Start, m.End = o.End.Add(-time.Duration(n)*o.Step), o.End
	m.window = prometheusDuration(max(o.Step, 4*o.Scrape))
	m.fine = max(time.Second, (m.End.Sub(m.Start)/finePoints).Truncate(time.Second)+time.Second)
	m.report = &Report{Model: o.Model, Start: m.Start.In(zone), End: m.End, Step: o.Step.Seconds()}
	for i := range n {
		m.report.Times = append(m.report.Times, m.Start.Add(time.Duration(i+1)*o.Step).In(zone))
	}
	if err := m.find(ctx); err != nil {
		return nil, err
	}
	if err := m.findScale(ctx); err != nil {
		return nil, err
	}
	if err := m.measure(ctx); err != nil {
		return nil, err
	}
	slices.Sort(m.warnings)
	m.report.Warnings = slices.Compact(m.warnings)
	return m.report, nil
}

// measured are what tells that a model is there.
var measured = []string{"flyball_batchproxy_arrivals_total", "flyball_batchproxy_requests_total", "flyball_model_requests_total", "flyball_model_info"}

// find sees that the model is there.
func (m *maker) find(ctx context.Context) error {
	known, err := m.source.LabelValues(ctx, "model", measured, m.Start, m.End)
	if err != nil {
		return err
	}
	if slices.Contains(known, m.Model) {
		return nil
	}
	ever, err := m.source.LabelValues(ctx, "model", measured, time.Time{}, time.Time{})
	if err != nil {
		return err
	}
	switch {
	case slices.Contains(ever, m.Model):
		return m.nothing()
	case len(known) == 0 && len(ever) == 0:
		return &NotFoundError{"no model is measured there: none of " + strings.Join(measured, ", ") + " has series with the label model"}
	case len(known) == 0:
		known = ever
	}
	return &NotFoundError{fmt.Sprintf("no model %q%s: there are %s", m.Model, source.DidYouMean(m.Model, known), some(known))}
}

func (m *maker) nothing() error {
	return &NotFoundError{fmt.Sprintf("nothing was measured of model %q from %s to %s: it is there at other times", m.Model, m.report.Start.Format(time.RFC3339), m.report.End.Format(time.RFC3339))}
}

// some are the first of many names.
func some(names []string) string {
	const most = 10
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// findScale finds the scale rule of the model.
func (m *maker) findScale(ctx context.Context) error {
	const sizes = "flyball_scale_desired_replicas"
	names, err := m.source.LabelValues(ctx, "rule", []string{sizes}, m.Start, m.End)
	if err != nil {
		return err
	}
	m.rule = m.Scale
	if m.rule == "" {
		m.rule = m.Model
	}
	switch {
	case slices.Contains(names, m.rule):
		m.scale = "rule=" + strconv.Quote(m.rule)
		return nil
	case m.Scale != "":
		return &NotFoundError{fmt.Sprintf("no scale rule %q%s: there are %s", m.Scale, source.DidYouMean(m.Scale, names), some(names))}
	}
	target := "target=~" + strconv.Quote("(.+/)?"+regexpQuote(m.Model))
	if names, err = m.source.LabelValues(ctx, "rule", []string{sizes + "{" + target + "}"}, m.Start, m.End); err != nil {
		return err
	}
	m.rule = ""
	if len(names) > 0 {
		m.rule, m.scale = names[0], target
	}
	return nil
}

// measure asks for all that there is and judges it.
func (m *maker) measure(ctx context.Context) error {
	metrics := m.metricSpecs()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	results := make([][][]Line, len(metrics))
	var b breaches
	var sizes fineSizes
	work := append(m.breachWork(&b), m.sizeWork(&sizes)...)
	for i := range metrics {
		results[i] = make([][]Line, len(metrics[i].lines))
		for j := range metrics[i].lines {
			work = append(work, func(ctx context.Context) (err error) {
				results[i][j], err = m.lines(ctx, metrics[i].lines[j])
				return err
			})
		}
	}
	m.of = len(work)
	for _, w := range work {
		g.Go(func() error {
			if err := w(ctx); err != nil {
				return err
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.done++
			if m.Progress != nil {
				m.Progress(m.done, m.of)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, spec := range metrics {
		metric := Metric{Name: spec.name, Title: spec.title, Unit: spec.unit}
		for _, lines := range results[i] {
			metric.Lines = append(metric.Lines, lines...)
		}
		if len(metric.Lines) == 0 {
			metric.NotMeasured = spec.missing
		}
		m.report.Metrics = append(m.report.Metrics, metric)
	}
	m.derive()
	for i := range m.report.Metrics {
		m.metrics[m.report.Metrics[i].Name] = &m.report.Metrics[i]
	}
	if len(m.metrics["requests"].Lines) == 0 && len(m.metrics["concurrency"].Lines) == 0 {
		return m.nothing()
	}
	m.report.Breaches = b.result(m)
	m.report.Checks = m.check(&sizes)
	return nil
}

// ask answers a query at each step, or at another distance.
func (m *maker) ask(ctx context.Context, expr string, step time.Duration) ([]Series, error) {
	answer, err := m.source.QueryRange(ctx, expr, m.Start.Add(step), m.End, step)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", expr, err)
	}
	m.mu.Lock()
	m.warnings = append(m.warnings, answer.Warnings...)
	m.mu.Unlock()
	return answer.Series, nil
}

// values puts the points of a series at the report's times.
func (m *maker) values(points []Point) Values {
	v := make(Values, len(m.report.Times))
	for i := range v {
		v[i] = math.NaN()
	}
	for _, p := range points {
		if i := int(p.Time.Sub(m.Start)/m.Step) - 1; i >= 0 && i < len(v) {
			v[i] = p.Value
		}
	}
	return v
}

// clock is a time for a reader, with its day where the report is of more than one.
func clock(t, start, end time.Time) string {
	t, start = t.In(end.Location()), start.In(end.Location())
	form := time.TimeOnly
	if t.Second() == 0 {
		form = "15:04"
	}
	if y, mo, d := start.Date(); time.Date(y, mo, d, 0, 0, 0, 0, end.Location()).AddDate(0, 0, 1).Compare(end) <= 0 {
		form = "Jan 2 " + form
	}
	return t.Format(form)
}

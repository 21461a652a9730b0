package report

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"time"
)

//go:embed report.html
var pageText string

//go:embed report.css
var style string

// Sizes of a chart, in its own units.
const (
	chartWidth, chartHeight = 640.0, 120.0
	chartColours            = 6 // that the style has
)

// WriteHTML writes the report as one page that needs nothing else: no script, no image, no font. Its policy, which a server
// need not repeat, lets nothing in but its own style, by hash.
func (r *Report) WriteHTML(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"charts":    r.charts,
		"when":      func(s []Span) string { return when(s, r) },
		"objective": func(o Objective) string { return o.text(r) },
		"threshold": func(t Threshold) string { return t.text(r) },
		"alert":     func(a Alert) string { return a.text(r) },
		"date":      func(t time.Time) string { return t.Format(time.RFC3339) },
		"step":      func() string { return length(time.Duration(r.Step * float64(time.Second))) },
		"style":     func() template.CSS { return template.CSS(style) }, //nolint:gosec // it is ours
		"policy": func() string {
			sum := sha256.Sum256([]byte(style))
			return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'"
		},
	}).Parse(pageText)
	if err != nil {
		return fmt.Errorf("page of the report: %w", err)
	}
	return t.Execute(w, r)
}

// chart is a metric as it is drawn.
type chart struct {
	Metric
	Height, Width float64
	Top           string // the figure at the upper edge; zero is the lower one
	From, To      string // the times at the edges
	Drawn         []drawn
	Alerts        []box // while an alert fired
}

type drawn struct {
	Colour                 int // of the style
	Name, Query            string
	Least, Mean, Most, End string
	Paths                  []string // the points of each unbroken part
}

type box struct{ X, Width float64 }

// charts are the metrics that were measured.
func (r *Report) charts() (all []chart) {
	var fired []Span
	for _, a := range r.Breaches.Alerts {
		fired = append(fired, a.Fired...)
	}
	for _, m := range r.Metrics {
		if len(m.Lines) == 0 {
			continue
		}
		c := chart{Metric: m, Height: chartHeight, Width: chartWidth, From: clock(r.Start, r.Start, r.End), To: clock(r.End, r.Start, r.End)}
		top := 0.0
		for _, l := range m.Lines {
			if most := l.max(); most > top {
				top = most
			}
		}
		c.Top = figure(top, m.Unit) + shownUnit(m.Unit)
		for _, s := range fired {
			x := r.x(s.Start)
			c.Alerts = append(c.Alerts, box{x, max(r.x(s.End)-x, 1)})
		}
		for i, l := range m.Lines {
			least, mean, most, last := l.summary()
			d := drawn{
				Colour: i % chartColours, Name: l.Name, Query: l.Query,
				Least: figure(least, m.Unit), Mean: figure(mean, m.Unit), Most: figure(most, m.Unit), End: figure(last, m.Unit),
			}
			var path strings.Builder
			flush := func() {
				if path.Len() > 0 {
					d.Paths = append(d.Paths, path.String())
					path.Reset()
				}
			}
			for j, v := range l.Values {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					flush()
					continue
				}
				y := chartHeight
				if top > 0 {
					y -= max(v, 0) / top * (chartHeight - 4)
				}
				if path.Len() == 0 { // a point that stands alone is as wide as its step
					fmt.Fprintf(&path, "%.1f,%.1f ", r.x(r.Times[j].Add(-time.Duration(r.Step*float64(time.Second)))), y)
				}
				fmt.Fprintf(&path, "%.1f,%.1f ", r.x(r.Times[j]), y)
			}
			flush()
			c.Drawn = append(c.Drawn, d)
		}
		all = append(all, c)
	}
	return all
}

// x is where a time is in a chart.
func (r *Report) x(t time.Time) float64 {
	share := float64(t.Sub(r.Start)) / float64(r.End.Sub(r.Start))
	return math.Round(min(max(share, 0), 1)*chartWidth*10) / 10
}

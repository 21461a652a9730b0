package web

import (
	"fmt"
	"html/template"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// functions are those that templates call.
func (s *site) functions() template.FuncMap {
	return template.FuncMap{
		"asset": func(name string) string { return s.assets.address[name] },
		"clock": func(t time.Time) string { return clock(s.now(), t) },
		"ago":   func(t time.Time) string { return ago(s.now(), t) },
		"rfc":   func(t time.Time) string { return t.Format(time.RFC3339) },
		"zone":  func(t time.Time) string { return t.Format("MST") },
		"age":   func(seconds float64) string { return short(time.Duration(seconds * float64(time.Second))) },
		"late":  func(g Group) bool { return late(g, s.now()) },
		"short": short, "figure": figure, "seconds": seconds, "percent": percent, "positive": func(v float64) bool { return v > 0 }, // gt takes NaN for more
		"unsure": func(confidence float64) bool { return confidence < 1 },
		"above":  func(a, b float64) bool { return a > b }, "ratio": func(a, b float64) float64 { return a / b },
		"stages": stages, "stepState": stepState, "outcome": outcome, "meaning": meaning, "faulty": faulty, "badness": badness,
		"graphLink": graphLink, "spark": func(points []Point) string { return spark(s.now(), points) }, "pairs": pairs, "deref": func(v *float64) float64 { return *v },
		"full": full, "name": name, "skill": skill, "leading": leading, "levelName": levelName, "orNaN": orNaN,
		"forecastLink": func(name string) string { return forecastState{Name: name, Refresh: defaultRefresh}.link() },
		"duration":     func(seconds float64) string { return short(time.Duration(seconds * float64(time.Second))) },
		"offset":       func(t time.Time) int { _, seconds := t.Zone(); return seconds },
	}
}

// clock is a time of today on the clock face of now, with its date when it is of another day.
func clock(now, t time.Time) string {
	t = t.In(now.Location())
	if now.YearDay() == t.YearDay() && now.Year() == t.Year() {
		return t.Format(time.TimeOnly)
	}
	return t.Format("Jan 2 15:04:05")
}

func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	switch {
	case d < time.Second: // a clock that is a little ahead included
		return "now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// short is a duration with the digits that matter.
func short(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return model.Duration(d.Round(time.Second)).String()
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d > 0:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	}
	return "0 s"
}

// seconds is a latency; none is a dash.
func seconds(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	return short(time.Duration(v * float64(time.Second)))
}

// percent is a share from 0 to 1; none is a dash.
func percent(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case v == 0:
		return "0 %"
	case v < 0.001:
		return "<0.1 %"
	case v < 0.1:
		return fmt.Sprintf("%.1f %%", v*100)
	}
	return fmt.Sprintf("%.0f %%", v*100)
}

// figure is a number as a person would write it: three digits that matter, and all of those before the point; none is a
// dash.
func figure(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 0):
		return strings.Replace(fmt.Sprint(v), "Inf", "∞", 1)
	case a >= 1e15 || a > 0 && a < 1e-4:
		return strconv.FormatFloat(v, 'g', 3, 64)
	case a >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// pairs are labels in their order, without the metric's name.
func pairs(ls labels.Labels) (all []labels.Label) {
	ls.Range(func(l labels.Label) {
		if l.Name != labels.MetricName {
			all = append(all, l)
		}
	})
	return all
}

// graphLink is an expression's page.
func graphLink(expr string) string {
	return "/graph?" + url.Values{"g0.expr": {expr}, "g0.tab": {"1"}}.Encode()
}

// sparkTime is what the small chart beside a model shows; its heading says so.
const sparkTime = 10 * time.Minute

// spark is an SVG path, 100 wide and 20 high, over the time before now; where points are missing, there is a gap.
func spark(now time.Time, points []Point) string {
	finite := slices.DeleteFunc(slices.Clone(points), func(p Point) bool { return math.IsNaN(p.Value) || math.IsInf(p.Value, 0) })
	if len(finite) < 2 {
		return ""
	}
	top, step := 0.0, sparkTime
	for i, p := range finite {
		top = max(top, p.Value)
		if i > 0 {
			step = min(step, p.Time.Sub(finite[i-1].Time))
		}
	}
	if top == 0 {
		top = 1
	}
	var out strings.Builder
	for i, p := range finite {
		to := 'L'
		if i == 0 || p.Time.Sub(finite[i-1].Time) > step+step/2 {
			to = 'M'
		}
		fmt.Fprintf(&out, "%c%.1f,%.1f", to, 100-100*now.Sub(p.Time).Seconds()/sparkTime.Seconds(), 19-18*p.Value/top)
	}
	return out.String()
}

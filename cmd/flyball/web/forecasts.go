package web

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

// forecastsShown is how many series of forecasts the overview lists; a forecast's own page has all of its own.
const forecastsShown = 30

// forecastRow is one series of a forecast rule in the overview, or the rule where it has none yet.
type forecastRow struct {
	Rule   *rules.ForecastStatus
	Series *rules.ForecastSeries // nil: none yet
	UsedBy []string              // scale rules
}

// forecastRows are the series of the forecast rules, those that are wrong first, then those that a scale rule waits for.
func forecastRows(all []rules.ForecastStatus, scalers []Rule) (rows []forecastRow) {
	for i := range all {
		f := &all[i]
		used := usedBy(f.Name, scalers)
		for j := range f.Series {
			rows = append(rows, forecastRow{f, &f.Series[j], used})
		}
		if len(f.Series) == 0 {
			rows = append(rows, forecastRow{f, nil, used})
		}
	}
	slices.SortStableFunc(rows, func(a, b forecastRow) int {
		return cmp.Or(
			first(a.Rule.Error != "", b.Rule.Error != ""), first(a.waits(), b.waits()), cmp.Compare(a.Rule.Name, b.Rule.Name))
	})
	return rows
}

// usedBy are the scale rules with a signal of the forecast, each once.
func usedBy(forecast string, scalers []Rule) (names []string) {
	for _, r := range scalers {
		if slices.Contains(r.Forecasts, forecast) && !slices.Contains(names, r.Name) {
			names = append(names, r.Name)
		}
	}
	slices.Sort(names)
	return names
}

// waits says whether a scale rule would use the series, which is not armed.
func (f forecastRow) waits() bool { return len(f.UsedBy) > 0 && (f.Series == nil || !f.Series.Armed) }

// Link is the page of the forecast.
func (f forecastRow) Link() string {
	if f.Series == nil || len(f.Rule.Series) == 1 {
		return forecastState{Name: f.Rule.Name, Refresh: defaultRefresh}.link()
	}
	return forecastState{Name: f.Rule.Name, Series: f.Series.Text(), Refresh: defaultRefresh}.link()
}

// Now is the last value, NaN where it is missing.
func (f forecastRow) Now() float64 {
	if n := len(f.Series.Recent); n > 0 {
		return orNaN(f.Series.Recent[n-1].Value)
	}
	return math.NaN()
}

// top is the largest quantile that a rule gives, NaN where it gives none.
func top(levels []float64) float64 {
	if len(levels) == 0 {
		return math.NaN()
	}
	return slices.Max(levels)
}

// Ahead is what the value is not expected to exceed once what is asked for now is ready.
func (f forecastRow) Ahead() float64 { return f.Series.At(leadTime(f.Rule), top(f.Rule.Levels)) }

// TopLevel is the quantile of Ahead and Covered, in words.
func (f forecastRow) TopLevel() string { return levelName(top(f.Rule.Levels)) }

// Covered is how often values stayed at or below that quantile.
func (f forecastRow) Covered() float64 { return covered(f.Series, top(f.Rule.Levels)) }

func leadTime(f *rules.ForecastStatus) time.Time {
	return f.Evaluated.Add(time.Duration(f.LeadSeconds * float64(time.Second)))
}

func covered(s *rules.ForecastSeries, level float64) float64 {
	return orNaN(s.Coverage[strconv.FormatFloat(level, 'f', -1, 64)])
}

func orNaN(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}

// levelName is a quantile as people say it: p90, p97.5.
func levelName(level float64) string {
	if math.IsNaN(level) {
		return ""
	}
	return "p" + strconv.FormatFloat(math.Round(level*1e6)/1e4, 'f', -1, 64)
}

// skill is by how much a forecast is better than the simplest ones, in words; none is a dash.
func skill(v *float64) string {
	if v == nil {
		return "–"
	}
	return strings.Replace(fmt.Sprintf("%.0f %%", *v*100), "-", "−", 1)
}

// leading is the model with the most weight.
func leading(s *rules.ForecastSeries) string {
	best := rules.ModelWeight{}
	for _, m := range s.Weights {
		if m.Weight > best.Weight {
			best = m
		}
	}
	return best.Model
}

// forecastState is what the path and the query string of a forecast's page say.
type forecastState struct {
	Name, Series string        // Series is empty for the first one
	Range        time.Duration // of the chart; 0: as the horizon asks for
	Refresh      time.Duration // 0: off
}

func (st forecastState) link() string {
	q := url.Values{}
	if st.Series != "" {
		q.Set("series", st.Series)
	}
	if st.Range != 0 {
		q.Set("range", model.Duration(st.Range).String())
	}
	switch st.Refresh {
	case defaultRefresh:
	case 0:
		q.Set("refresh", "off")
	default:
		q.Set("refresh", model.Duration(st.Refresh).String())
	}
	at := "/forecasts/" + url.PathEscape(st.Name)
	if len(q) > 0 {
		at += "?" + q.Encode()
	}
	return at
}

// ForSeries, ForRange and ForRefresh are links to the page in another state.
func (st forecastState) ForSeries(text string) string { st.Series = text; return st.link() }

// ForRange is the page with a chart over another time.
func (st forecastState) ForRange(d time.Duration) string { st.Range = d; return st.link() }

// ForRefresh is the page that refreshes that often, or never.
func (st forecastState) ForRefresh(d time.Duration) string { st.Refresh = d; return st.link() }

// RefreshSeconds is how often the page is asked for again, 0 for never.
func (st forecastState) RefreshSeconds() int { return int(st.Refresh / time.Second) }

// forecastPage is what the template forecast.html shows.
type forecastPage struct {
	frame
	forecastState
	Faults    []string
	Rule      *rules.ForecastStatus // nil: there is none of that name
	Of        *rules.ForecastSeries // the series that is shown; nil: there is none
	Rows      []forecastRow         // all series, where there are several
	UsedBy    []string              // scale rules
	Shown     time.Duration         // of the chart
	Offered   []time.Duration       // times that it may show
	Chart     forecastChart
	Reached   []forecastMark // what it says at the lead and at the horizon
	Anomalies []labelled     // how many there were, by kind
}

// forecastMark is what a forecast says for a time.
type forecastMark struct {
	Name  string // lead, or the horizon
	Ahead time.Duration
	Time  time.Time
	At    []float64 // by the rule's levels
}

// labelled is a number with its name.
type labelled struct {
	Name string
	N    int64
}

// forecastChart is one series over time: what it was, what was forecast of it a lead before, and what comes.
type forecastChart struct {
	Query, Past string // PromQL: the values, and what was forecast for the same times
	Rows        []forecastLine
	Error       string
}

// forecastLine is one time in the table beside the chart, NaN where there is nothing.
type forecastLine struct {
	Time     time.Time
	Ahead    bool // it is yet to come
	Value    float64
	Forecast []float64 // by the rule's levels
}

func (s *site) forecast(w http.ResponseWriter, r *http.Request) {
	if s.Forecasts == nil {
		Text(w, http.StatusNotFound, "this process has no forecasts: it runs without the role rules.\n")
		return
	}
	general, faults := readState(r)
	v := &forecastPage{frame: s.frame(), Faults: faults}
	v.Name, v.Series, v.Refresh = r.PathValue("name"), r.URL.Query().Get("series"), general.Refresh
	if r.URL.Query().Has("range") {
		v.Range = general.Range
	}
	code := http.StatusOK
	if len(faults) > 0 {
		code = http.StatusBadRequest
	}
	all := s.Forecasts()
	at := slices.IndexFunc(all, func(f rules.ForecastStatus) bool { return f.Name == v.Name })
	if at < 0 {
		v.Faults = append(v.Faults, fmt.Sprintf("no forecast is called %q%s", line(v.Name, 80), among(all, func(f rules.ForecastStatus) string { return f.Name })))
		s.send(w, r, http.StatusNotFound, "forecast.html", v)
		return
	}
	v.Rule = &all[at]
	scalers := s.Status(r.Context()).Rules
	v.UsedBy = usedBy(v.Name, scalers)
	if len(v.Rule.Series) > 1 {
		v.Rows = forecastRows(all[at:at+1], scalers)
	}
	v.pick()
	v.Offered, v.Shown = chartTimes(time.Duration(v.Rule.HorizonSeconds*float64(time.Second)), v.Range)
	if v.Of != nil {
		v.mark()
		if s.Queries != nil {
			v.Chart = s.forecastChart(r.Context(), v)
		}
	}
	s.send(w, r, code, "forecast.html", v)
}

// pick finds the series that is shown.
func (v *forecastPage) pick() {
	if len(v.Rule.Series) == 0 {
		return
	}
	v.Of = &v.Rule.Series[0]
	if v.Series == "" {
		return
	}
	at := slices.IndexFunc(v.Rule.Series, func(s rules.ForecastSeries) bool { return s.Text() == v.Series })
	if at < 0 {
		v.Faults = append(v.Faults, fmt.Sprintf("series: %s has no series %s%s", v.Name, line(v.Series, 80), among(v.Rule.Series, func(s rules.ForecastSeries) string { return s.Text() })))
		return
	}
	v.Of = &v.Rule.Series[at]
}

// mark looks up what is forecast for the lead and for the horizon.
func (v *forecastPage) mark() {
	for _, m := range []struct {
		name    string
		seconds float64
	}{{"lead", v.Rule.LeadSeconds}, {"horizon", v.Rule.HorizonSeconds}} {
		ahead := time.Duration(m.seconds * float64(time.Second))
		mark := forecastMark{Name: m.name, Ahead: ahead, Time: v.Rule.Evaluated.Add(ahead)}
		for _, level := range v.Rule.Levels {
			mark.At = append(mark.At, v.Of.At(mark.Time, level))
		}
		v.Reached = append(v.Reached, mark)
	}
	for _, kind := range slices.Sorted(maps.Keys(v.Of.Anomalies)) {
		v.Anomalies = append(v.Anomalies, labelled{strings.ReplaceAll(kind, "_", " "), v.Of.Anomalies[kind]})
	}
}

// chartTimes are those that the chart of a forecast offers, and the one that it shows: by the horizon, if none is asked for.
func chartTimes(horizon, asked time.Duration) (offered []time.Duration, shown time.Duration) {
	for _, d := range []time.Duration{
		time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, maxRange,
	} {
		if d < 4*horizon && d != maxRange || len(offered) == 4 {
			continue
		}
		offered = append(offered, d)
		if shown == 0 && (d >= 12*horizon || d == maxRange) {
			shown = d
		}
	}
	if asked == 0 {
		return offered, shown
	}
	if !slices.Contains(offered, asked) {
		offered = append(offered, asked)
	}
	return offered, asked
}

// RangeText is the chart's time as a person would write it, and RangeSeconds in seconds.
func (v *forecastPage) RangeText() string { return model.Duration(v.Shown).String() }

// RangeSeconds is for the script.
func (v *forecastPage) RangeSeconds() int { return int(v.Shown / time.Second) }

// LevelNames are the rule's quantiles as people say them.
func (v *forecastPage) LevelNames() (names []string) {
	for _, level := range v.Rule.Levels {
		names = append(names, levelName(level))
	}
	return names
}

// forecastCoverage is what a quantile promises and what it held.
type forecastCoverage struct {
	Level    string
	Promised float64
	Held     float64
}

// Coverage is by the rule's levels.
func (v *forecastPage) Coverage() (all []forecastCoverage) {
	for _, level := range v.Rule.Levels {
		all = append(all, forecastCoverage{levelName(level), level, covered(v.Of, level)})
	}
	return all
}

// Weights are the models that have a part in the forecast, the largest first.
func (v *forecastPage) Weights() []rules.ModelWeight {
	all := slices.Clone(v.Of.Weights)
	slices.SortStableFunc(all, func(a, b rules.ModelWeight) int { return cmp.Compare(b.Weight, a.Weight) })
	return all
}

// forecastChart asks for the rows of the table beside the chart, and says what a script asks for.
func (s *site) forecastChart(ctx context.Context, v *forecastPage) forecastChart {
	c := forecastChart{Query: v.Rule.Query, Past: pastForecasts(v.Rule, v.Of)}
	ctx, cancel := context.WithTimeout(ctx, chartTimeout)
	defer cancel()
	step := max(time.Second, v.Shown/tableRows)
	if least := time.Duration(v.Rule.StepSeconds * float64(time.Second)); step < least {
		step = least
	}
	end := v.Now.Truncate(time.Second)
	start := end.Add(-v.Shown.Truncate(step))
	byTime := map[int64]*forecastLine{}
	line := func(at time.Time) *forecastLine {
		if byTime[at.UnixMilli()] == nil {
			byTime[at.UnixMilli()] = &forecastLine{Time: at, Value: math.NaN(), Forecast: nothing(len(v.Rule.Levels))}
		}
		return byTime[at.UnixMilli()]
	}
	ask := func(expr string, put func(ls labels.Labels, l *forecastLine, value float64)) {
		if c.Error != "" {
			return
		}
		series, err := s.Queries.QueryRange(ctx, expr, start, end, step)
		if err != nil {
			c.Error = err.Error()
			return
		}
		for _, one := range series {
			if !isOf(one.Labels, v.Of.Labels) {
				continue
			}
			for _, p := range one.Points {
				put(one.Labels, line(p.Time), p.Value)
			}
		}
	}
	ask(c.Query, func(_ labels.Labels, l *forecastLine, value float64) { l.Value = value })
	ask(c.Past, func(ls labels.Labels, l *forecastLine, value float64) {
		level, err := strconv.ParseFloat(ls.Get("quantile"), 64)
		if i := slices.Index(v.Rule.Levels, level); err == nil && i >= 0 {
			l.Forecast[i] = value
		}
	})
	for _, l := range byTime {
		c.Rows = append(c.Rows, *l)
	}
	every := max(1, (len(v.Of.Points)+tableRows-1)/tableRows)
	for i, p := range v.Of.Points {
		if i%every != every-1 && i != len(v.Of.Points)-1 || !p.Time.After(v.Now) {
			continue
		}
		l := forecastLine{Time: p.Time, Ahead: true, Value: math.NaN(), Forecast: nothing(len(v.Rule.Levels))}
		for j, level := range v.Rule.Levels {
			if q, ok := p.Quantiles[strconv.FormatFloat(level, 'f', -1, 64)]; ok {
				l.Forecast[j] = q
			}
		}
		c.Rows = append(c.Rows, l)
	}
	slices.SortFunc(c.Rows, func(a, b forecastLine) int { return b.Time.Compare(a.Time) })
	return c
}

func nothing(n int) []float64 {
	all := make([]float64, n)
	for i := range all {
		all[i] = math.NaN()
	}
	return all
}

// isOf says whether a series is that of a forecast: it has the same labels, but for its name and those that a forecast sets.
func isOf(ls labels.Labels, of map[string]string) bool {
	n, same := 0, true
	ls.Range(func(l labels.Label) {
		switch l.Name {
		case labels.MetricName, "quantile", "horizon", "forecast":
			return
		}
		n++
		same = same && of[l.Name] == l.Value
	})
	return same && n == len(of)
}

var plainLabel = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// pastForecasts is PromQL for what was forecast of a series for a time, a lead before it.
func pastForecasts(f *rules.ForecastStatus, s *rules.ForecastSeries) string {
	matchers := []string{`horizon="lead"`}
	for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
		value := strconv.Quote(s.Labels[name])
		if !plainLabel.MatchString(name) {
			name = strconv.Quote(name)
		}
		matchers = append(matchers, name+"="+value)
	}
	expr := fmt.Sprintf("%s{%s}", f.Name, strings.Join(matchers, ","))
	if lead := model.Duration(f.LeadSeconds * float64(time.Second)); lead > 0 {
		expr += " offset " + lead.String()
	}
	return expr
}

package rules

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/forecast"
)

// track is one series of a forecast rule: its forecaster, and what is known of how good that is.
type track struct {
	labels labels.Labels
	f      *forecast.Forecaster

	detector *forecast.Detector // nil where no anomalies are looked for
	spread   forecast.Spread
	offs     []float64 // the last residuals, which the spread is made of after a restart

	begun  bool
	heard  int64     // the last step that had a value
	last   int64     // the last step that was seen
	recent []float64 // of the last steps, for charts; as many as the horizon twice has, 288 at most

	missing   int64 // steps without a value
	anomalies map[forecast.Kind]int64
	score     float64
	anomaly   *Anomaly // the last one
	fitted    time.Time

	// What follows is made of the forecaster at each step.
	explained forecast.Explanation
	coverage  []float64 // of the rule's levels, at about the lead; NaN: not known
	skill     float64
	armed     bool
	points    []forecast.Point // from last+1 on

	// A fit in the background is of a copy; what comes meanwhile is kept for it.
	fitting bool
	since   []late
	retry   time.Time // when a fit that took too long is tried again
	pause   time.Duration
}

// late is a value that a copy in the background has not seen yet.
type late struct {
	step int64
	y    float64
	x    []float64 // of the regressors
}

// Anomaly is a value that was not as it was forecast.
type Anomaly struct {
	Time  time.Time `json:"time"`
	Kind  string    `json:"kind"`  // spike, dip, level_shift, flatline or missing
	Score float64   `json:"score"` // standard deviations off its forecast
	Value *float64  `json:"value"` // null: it is missing
}

// spreadValues is how many residuals it takes to know how far values usually are off.
const spreadValues = 30

func (p *Predictor) newTrack(ls labels.Labels) (*track, error) {
	f, err := p.forecaster()
	if err != nil {
		return nil, err
	}
	t := &track{labels: ls, f: f, anomalies: map[forecast.Kind]int64{}}
	return t, t.detect(p, nil)
}

// detect begins to look for anomalies, if the rule does, with the residuals of before.
func (t *track) detect(p *Predictor, offs []float64) (err error) {
	if !p.rule.Anomalies.Enabled {
		return nil
	}
	t.detector, err = forecast.NewDetector(forecast.DetectorOptions{
		Step: time.Duration(p.rule.Step), Sensitivity: p.rule.Anomalies.Sensitivity, Realert: time.Duration(p.rule.Anomalies.Realert),
	})
	for _, r := range offs {
		t.spread.Observe(r)
	}
	t.offs = offs
	return err
}

// take is the value of a step, NaN where there is none, and those of what drives it.
func (t *track) take(p *Predictor, step int64, y float64, x []float64) {
	if math.IsInf(y, 0) {
		y = math.NaN()
	}
	switch {
	case !math.IsNaN(y):
		t.heard = step
	case !t.begun:
		return
	default:
		t.missing++
	}
	if t.fitting || p.history.loading {
		t.since = append(t.since, late{step, y, x})
	}
	if math.IsNaN(y) && p.rule.Missing == missingZero {
		y = 0
	}
	t.judge(p, step, y, false)
	t.f.ObserveWith(p.time(step), y, x)
	for t.last > 0 && t.last < step-1 && len(t.recent) > 0 { // steps that nobody asked for
		t.last++
		t.recent = append(t.recent, math.NaN())
	}
	t.begun, t.last = true, step
	t.recent = append(t.recent, y)
	if n := len(t.recent) - p.kept(); n > 0 {
		t.recent = slices.Delete(t.recent, 0, n)
	}
}

// kept is how many values are kept for charts.
func (p *Predictor) kept() int { return min(max(2*int(p.rule.Horizon/p.rule.Step), 12), 288) }

// judge says whether the value is out of the ordinary, by what was forecast of it a step before. Of the past it is only
// learned how far values usually are off: an incident of then must not be what keeps one of now from being told.
func (t *track) judge(p *Predictor, step int64, y float64, past bool) {
	if t.detector == nil {
		return
	}
	residual, deviation := math.NaN(), 0.0
	if ahead := t.f.Forecast(1, nil); len(ahead) > 0 {
		residual, deviation = y-ahead[0].Mean, t.spread.Deviation(ahead[0].Mean)
	}
	t.spread.Observe(residual)
	if !math.IsNaN(residual) {
		t.offs = append(t.offs, residual)
		t.offs = t.offs[max(0, len(t.offs)-spreadValues):]
	}
	if past {
		return
	}
	at := p.time(step)
	found := t.detector.Observe(at, y, residual, deviation)
	t.score = found.Score
	if !found.Alert {
		return
	}
	t.anomalies[found.Kind]++
	t.anomaly = &Anomaly{Time: at, Kind: string(found.Kind), Score: found.Score}
	if !math.IsNaN(y) {
		t.anomaly.Value = &y
	}
	p.log.Warn("an anomaly", "series", t.labels.String(), "kind", found.Kind, "at", at, "value", y, "standard_deviations", math.Round(10*found.Score)/10)
}

// refresh makes what is told of the forecaster anew.
func (t *track) refresh(p *Predictor) {
	if !t.begun {
		return
	}
	t.points = t.points[:0]
	t.explained = t.f.Explain()
	t.skill = t.f.Skill()
	t.cover(p)
	t.arm(p)
}

// fresh says whether the last value, which a step without one is too where it counts as 0, is within the horizon: of a series
// that is gone, or was not asked for, nobody knows what comes, and its forecast must not keep a target large.
func (t *track) fresh(p *Predictor, at time.Time) bool {
	seen := t.heard
	if p.rule.Missing == missingZero {
		seen = t.last
	}
	return at.Sub(p.time(seen)) <= time.Duration(p.rule.Horizon)
}

// cover looks up how often the values stayed below each level, at the horizon that is next to the lead.
func (t *track) cover(p *Predictor) {
	t.coverage = slices.Grow(t.coverage[:0], len(p.rule.Levels))[:len(p.rule.Levels)]
	ahead := int(p.leads / time.Duration(p.rule.Step))
	all := t.f.Coverage()
	for i, level := range p.rule.Levels {
		t.coverage[i] = math.NaN()
		nearest := math.MaxInt
		for _, c := range all {
			if off := max(c.Horizon-ahead, ahead-c.Horizon); c.Level == level && c.Errors > 0 && off < nearest {
				nearest, t.coverage[i] = off, c.Realized
			}
		}
	}
}

// isScored says whether enough forecasts were compared with what came to say whether they are of use.
func (t *track) isScored(p *Predictor) bool {
	return t.explained.LiveErrors >= scored*max(1, int64(p.rule.Horizon/p.rule.Step))
}

// arming is from which skill on a forecast is used: a twentieth, beyond what chance gives a mean of n errors, of which those
// within a horizon are much alike. Chance alone reached 0.05 on skewed noise in steps of five minutes and 0.14 where a season
// of 24 steps is named, and 0.2 on a random walk after five horizons; this asks for 0.10, 0.18 and more than that.
func (t *track) arming(p *Predictor) float64 {
	n := max(1, min(t.explained.LiveErrors, p.day))
	return 0.05 + 0.25*math.Sqrt(float64(max(1, p.rule.Horizon/p.rule.Step))/float64(n))
}

// arm arms the forecast where it is clearly better than the last value and an exponential mean, and disarms it where half of
// what that takes is gone: between the two it stays as it is, so that it does not come and go. Below 0 would be too late: what
// was foreseen once, and is noise now, is forecast by its mean, a little better than by an exponential one, for good.
func (t *track) arm(p *Predictor) {
	switch {
	case !t.isScored(p), t.skill < t.arming(p)/2:
		t.armed = false
	case t.skill >= t.arming(p):
		t.armed = true
	}
}

// armedWords say why the forecast is used, or is not.
func (t *track) armedWords(p *Predictor) string {
	switch {
	case !t.fresh(p, p.at):
		return fmt.Sprintf("its last value is of %s, more than the horizon ago: nothing is written", p.time(t.heard).Format(time.RFC3339))
	case !t.isScored(p):
		return fmt.Sprintf("%d of its forecasts have been compared with what came: %d are needed", t.explained.LiveErrors, scored*max(1, int64(p.rule.Horizon/p.rule.Step)))
	case t.armed:
		return "its error is " + timesOf(t.skill)
	}
	return fmt.Sprintf("its error is %s: it takes one of %s to rely on it", timesOf(t.skill), figure(1-t.arming(p)))
}

// timesOf is an error beside those of the simplest forecasts.
func timesOf(skill float64) string { return figure(1-skill) + " times that of the last value" }

// reach makes points up to a time.
func (t *track) reach(p *Predictor, until time.Time) {
	n := int(p.stepOf(until)-t.last) + 1
	if len(t.points) >= n && len(t.points) > 0 {
		return
	}
	t.points = t.f.AppendForecast(t.points[:0], max(n, 1), p.rule.Levels)
}

// quantile is what a level of the rule is at a time: of one between two steps the larger of both, since a replica that is
// there too early costs less than one that is late.
func (t *track) quantile(p *Predictor, at time.Time, level int) float64 {
	if len(t.points) == 0 {
		return math.NaN()
	}
	i := int(p.stepOf(at)-t.last) - 1
	before := t.points[min(max(i, 0), len(t.points)-1)].Quantiles[level]
	if p.time(p.stepOf(at)).Equal(at) {
		return before
	}
	return max(before, t.points[min(max(i+1, 0), len(t.points)-1)].Quantiles[level])
}

func figureExact(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

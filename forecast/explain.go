package forecast

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explanation says in words and numbers why a forecast is what it is.
type Explanation struct {
	// Model is "auto" or the name of the one that was asked for.
	Model string
	// Members are the models that the forecast is made of, and those that it is compared with, by weight.
	Members []Member
	// Seasons are the candidates, shortest first. It is empty before the first fit.
	Seasons []Season
	// Values is how many were seen, Missing how many steps had none, Ignored how many values came late or twice.
	Values, Missing, Ignored int64
	// Error is the recent mean absolute error up to the horizon, NaiveError that of the last value, SmoothError that of an
	// exponential mean. They are of forecasts made before their values were known; all are 0 until LiveErrors is not.
	Error, NaiveError, SmoothError float64
	LiveErrors                     int64
	// Events and Regressors are those of the options, and what was learned of them.
	Events     []EventLift
	Regressors []RegressorEffect
	// Reason is one sentence for a human.
	Reason string
}

// Member is a model of the pool.
type Member struct {
	Name   string // as Models has it, and its seasons: "ets_ar_mae 24h+168h"
	Weight float64
	Error  float64 // recent mean absolute error up to the horizon
}

// Season says of a season whether models with it are used, and why.
type Season struct {
	Period   time.Duration
	Used     bool
	Strength float64 // autocorrelation one season later, without the trend
	Gain     float64 // by how much the recent error is smaller with it, as a ratio
	Reason   string
}

// Explain says what the next forecast is made of.
func (f *Forecaster) Explain() Explanation {
	e := Explanation{
		Model:  f.o.Model,
		Values: f.seen, Missing: f.missing, Ignored: f.ignored,
		Seasons:    slices.Clone(f.found),
		LiveErrors: int64(f.record().n[0]),
		Error:      f.pool.mean(&f.record().own),
		NaiveError: f.pool.mean(&f.record().naive), SmoothError: f.pool.mean(&f.record().smooth),
	}
	if f.extra != nil {
		e.Events, e.Regressors = f.extra.eventLifts(), f.extra.effects(&f.pool)
	}
	for i := range f.serving().members {
		m := &f.serving().members[i]
		e.Members = append(e.Members, Member{Name: f.label(m), Weight: m.weight, Error: f.pool.mean(&m.err)})
	}
	slices.SortStableFunc(e.Members, func(a, b Member) int {
		switch {
		case a.Weight > b.Weight:
			return -1
		case a.Weight < b.Weight:
			return 1
		}
		return 0
	})
	e.Reason = f.reason(&e)
	return e
}

// Skill is by how much the forecasts up to the horizon were better lately than the better of the last value and an
// exponential mean: 1 - error/error, so 1 is perfect and 0 or less of no use. It is 0 before there are live errors at each
// of the horizons. Whoever acts on a forecast should first see some: on noise it is about 0, though the error is three
// tenths below the last value's.
func (f *Forecaster) Skill() float64 {
	l := f.record()
	for a := range f.pool.heads {
		if l.n[a] == 0 {
			return 0
		}
	}
	other := min(f.pool.mean(&l.naive), f.pool.mean(&l.smooth))
	if other == 0 {
		return 0
	}
	return 1 - f.pool.mean(&l.own)/other
}

func (f *Forecaster) reason(e *Explanation) string {
	if f.seen == 0 {
		return "no values yet"
	}
	var s []string
	switch lead := e.Members[0]; {
	case f.o.Model != "auto":
		s = append(s, lead.Name)
		if name, _, _ := strings.Cut(lead.Name, " "); name != f.o.Model {
			s[0] += " for want of a season or of values for " + f.o.Model
		}
	case f.seen < few && len(e.Members) == 2: // no season yet
		s = append(s, fmt.Sprintf("%d values: the last one and an exponential mean of them until there are %d", f.seen, few))
	default:
		s = append(s, fmt.Sprintf("%s leads %d models with %.0f%% of the weight", lead.Name, len(e.Members), 100*lead.Weight))
	}
	if e.NaiveError > 0 {
		if r := e.Error / e.NaiveError; r <= 1 {
			s = append(s, fmt.Sprintf("error %.0f%% below the last value's", 100*(1-r)))
		} else {
			s = append(s, fmt.Sprintf("error %.0f%% above the last value's", 100*(r-1)))
		}
	}
	for _, q := range e.Seasons {
		not := ""
		if !q.Used {
			not = "no "
		}
		text := fmt.Sprintf("%sseason of %s", not, short(q.Period))
		if q.Reason != "" {
			text += ": " + q.Reason
		}
		s = append(s, text)
	}
	for _, v := range e.Events {
		s = append(s, fmt.Sprintf("event %s: %.3g times demand without it (%.3g expected, %d seen)", v.Name, v.Lift, v.Prior, v.Occurrences))
	}
	if n := len(e.Regressors); n > 0 {
		r := e.Regressors[0]
		not := ""
		if !r.Used {
			not = "not "
		}
		s = append(s, fmt.Sprintf("regressors %sused: error %.3g with them, %.3g without", not, r.Error, r.ErrorWithout))
	}
	return strings.Join(s, "; ")
}

// label is the member's name with its seasons.
func (f *Forecaster) label(m *member) string {
	if len(m.seasons) == 0 {
		return m.name
	}
	var s []string
	for _, n := range m.seasons {
		s = append(s, short(time.Duration(n)*f.o.Step))
	}
	return m.name + " " + strings.Join(s, "+")
}

// short is a duration without what is zero: 24h, not 24h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Coverage is how often values stayed at or below a quantile, of forecasts made before their values were known.
type Coverage struct {
	Horizon int     // steps
	Level   float64 // promised
	// Realized is the share over the last weeks; it starts at Level with the weight of twenty errors.
	Realized float64
	Errors   int64 // that it is made of, in all
}

// Coverage says, for the horizons at which errors are tracked and for every level, whether the promise was kept.
func (f *Forecaster) Coverage() []Coverage {
	var out []Coverage
	v := &f.serving().intervals
	for a, h := range v.heads {
		for i, l := range v.levels {
			out = append(out, Coverage{Horizon: h, Level: l, Realized: v.rows[a].below[i], Errors: int64(v.rows[a].live)})
		}
	}
	return out
}

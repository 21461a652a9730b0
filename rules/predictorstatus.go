package rules

import (
	"fmt"
	"math"
	"strings"
	"time"

	"flyball/forecast"
)

// ForecastStatus is how a forecast rule stands.
type ForecastStatus struct {
	Name           string    `json:"name"` // the metric that it writes
	Query          string    `json:"query"`
	StepSeconds    float64   `json:"step_seconds"`
	HorizonSeconds float64   `json:"horizon_seconds"`
	LeadSeconds    float64   `json:"lead_seconds"` // 0 before the first evaluation
	Lead           string    `json:"lead"`         // what the lead is made of, in words
	Levels         []float64 `json:"levels"`
	Evaluated      time.Time `json:"evaluated,omitzero"`
	Error          string    `json:"error,omitempty"` // of the last evaluation

	HistorySteps  int64  `json:"history_steps"` // that had a value when the history was loaded
	HistoryOf     int64  `json:"history_of"`    // that were asked for
	HistoryLoaded bool   `json:"history_loaded"`
	HistoryError  string `json:"history_error,omitempty"`

	Series []ForecastSeries `json:"series"`
}

// ForecastSeries is one series of a forecast rule.
type ForecastSeries struct {
	Labels  map[string]string `json:"labels"`
	Model   string            `json:"model"` // auto, or the name of one
	Weights []ModelWeight     `json:"weights"`
	Seasons []SeasonStatus    `json:"seasons"`

	Events     []EventStatus     `json:"events"`     // of the rule's calendar
	Regressors []RegressorStatus `json:"regressors"` // in the order of their names

	Reason string `json:"reason"` // one sentence for a human

	Skill     *float64 `json:"skill"` // null until enough forecasts were compared with what came
	Armed     bool     `json:"armed"`
	ArmedText string   `json:"armed_text"` // why, or why not
	Scored    int64    `json:"scored"`     // forecasts that were compared

	Coverage map[string]*float64 `json:"coverage"` // by level; null: not known yet
	Values   int64               `json:"history_samples"`
	Missing  int64               `json:"missing_samples"`
	Fitted   time.Time           `json:"last_fit,omitzero"`

	AnomalyScore float64          `json:"anomaly_score"`
	Anomalies    map[string]int64 `json:"anomalies"`    // how many there were, by kind; empty where none are looked for
	LastAnomaly  *Anomaly         `json:"last_anomaly"` // null: none yet

	Recent []ForecastValue `json:"recent"` // the last values, oldest first
	Points []ForecastPoint `json:"points"` // what comes next, up to the horizon or the lead
}

// ModelWeight is the part that a model has in a forecast.
type ModelWeight struct {
	Model  string  `json:"model"`
	Weight float64 `json:"weight"`
	Error  float64 `json:"error"`
}

// SeasonStatus says of a season whether it is used, and why.
type SeasonStatus struct {
	Seconds float64 `json:"seconds"`
	Used    bool    `json:"used"`
	Reason  string  `json:"reason"`
}

// EventStatus is what was learned of an event: Lift is what demand is while it is on over what it is else, Prior what the rule
// says that it is, 1 where it says nothing.
type EventStatus struct {
	Name        string  `json:"name"`
	Lift        float64 `json:"lift"`
	Prior       float64 `json:"prior"`
	Occurrences int     `json:"occurrences"` // that were seen
}

// RegressorStatus is what was learned of a regressor, and whether the forecast uses it with the others.
type RegressorStatus struct {
	Name         string  `json:"name"`
	Coefficient  float64 `json:"coefficient"` // by how much the value is higher where the regressor is higher by 1
	Used         bool    `json:"used"`
	Error        float64 `json:"error"`         // with all regressors
	ErrorWithout float64 `json:"error_without"` // without any
}

// ForecastValue is what was there at a time; null where it was missing.
type ForecastValue struct {
	Time  time.Time `json:"time"`
	Value *float64  `json:"value"`
}

// ForecastPoint is what is forecast for a time.
type ForecastPoint struct {
	Time      time.Time          `json:"time"`
	Mean      float64            `json:"mean"`
	Quantiles map[string]float64 `json:"quantiles"` // by level
}

// Status says how the rule stands.
func (p *Predictor) Status() ForecastStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.history
	s := ForecastStatus{
		Name: p.rule.Name, Query: p.rule.Query, StepSeconds: time.Duration(p.rule.Step).Seconds(),
		HorizonSeconds: time.Duration(p.rule.Horizon).Seconds(), LeadSeconds: p.leads.Seconds(), Lead: p.leadFrom,
		Levels: p.rule.Levels, Evaluated: p.at, Error: p.err,
		HistorySteps: h.steps, HistoryOf: h.of, HistoryLoaded: h.loaded, HistoryError: h.failed,
		Series: []ForecastSeries{},
	}
	for _, key := range sortedKeys(p.tracks) {
		if t := p.tracks[key]; t.begun {
			t.reach(p, latest(p.at, p.time(t.last)).Add(max(p.leads, time.Duration(p.rule.Horizon)))) // a fit may have ended since
			s.Series = append(s.Series, t.status(p))
		}
	}
	return s
}

func (t *track) status(p *Predictor) ForecastSeries {
	s := ForecastSeries{
		Labels: t.labels.Map(), Model: t.explained.Model, Reason: t.explained.Reason, Weights: []ModelWeight{}, Seasons: []SeasonStatus{},
		Events: []EventStatus{}, Regressors: []RegressorStatus{},
		Armed: t.armed && t.fresh(p, p.at), ArmedText: t.armedWords(p), Scored: t.explained.LiveErrors, Coverage: map[string]*float64{},
		Values: t.explained.Values, Missing: t.missing, Fitted: t.fitted, AnomalyScore: t.score, LastAnomaly: t.anomaly, Anomalies: map[string]int64{},
		Recent: []ForecastValue{}, Points: []ForecastPoint{},
	}
	if t.isScored(p) {
		s.Skill = known(t.skill)
	}
	for _, m := range t.explained.Members {
		s.Weights = append(s.Weights, ModelWeight{m.Name, m.Weight, m.Error})
	}
	for _, q := range t.explained.Seasons {
		s.Seasons = append(s.Seasons, SeasonStatus{q.Period.Seconds(), q.Used, q.Reason})
	}
	for _, e := range t.explained.Events {
		s.Events = append(s.Events, EventStatus{e.Name, e.Lift, e.Prior, e.Occurrences})
	}
	for _, r := range t.explained.Regressors {
		s.Regressors = append(s.Regressors, RegressorStatus{r.Name, r.Coefficient, r.Used, r.Error, r.ErrorWithout})
	}
	for i, level := range p.rule.Levels {
		s.Coverage[levelText(level)] = known(t.coverage[i])
	}
	if p.rule.Anomalies.Enabled {
		for _, kind := range forecast.Kinds() {
			s.Anomalies[string(kind)] = t.anomalies[kind]
		}
	}
	for i, v := range t.recent {
		s.Recent = append(s.Recent, ForecastValue{p.time(t.last - int64(len(t.recent)-1-i)), known(v)})
	}
	for _, point := range t.points {
		one := ForecastPoint{Time: point.Time, Mean: point.Mean, Quantiles: map[string]float64{}}
		for i, level := range p.rule.Levels {
			one.Quantiles[levelText(level)] = point.Quantiles[i]
		}
		s.Points = append(s.Points, one)
	}
	return s
}

// Text is the series in one text, as PromQL writes it.
func (s *ForecastSeries) Text() string {
	var pairs []string
	for _, name := range sortedKeys(s.Labels) {
		pairs = append(pairs, fmt.Sprintf("%s=%q", name, s.Labels[name]))
	}
	return "{" + strings.Join(pairs, ", ") + "}"
}

// At is what is forecast of a level at a time: of one between two steps the larger of both. It is NaN where there is no forecast.
func (s *ForecastSeries) At(at time.Time, level float64) float64 {
	v := math.NaN()
	for _, point := range s.Points {
		q, given := point.Quantiles[levelText(level)]
		if !given {
			return math.NaN()
		}
		if point.Time.Before(at) {
			v = q
			continue
		}
		if math.IsNaN(v) || point.Time.Equal(at) {
			return q
		}
		return max(v, q)
	}
	return v
}

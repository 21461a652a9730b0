package rules

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"

	"flyball/forecast"
	"flyball/rules/source"
)

// ForecastRule describes a forecast of a query's value, of each series of it by itself. Predictor evaluates it.
type ForecastRule struct {
	Name    string         `yaml:"forecast"` // the metric that it writes
	Query   string         `yaml:"query"`
	Step    model.Duration `yaml:"step"`    // between the values that it is made from
	History model.Duration `yaml:"history"` // how far back those go
	Horizon model.Duration `yaml:"horizon"` // how far ahead it looks
	Lead    string         `yaml:"lead"`    // auto, or how long before a replica is ready it must be asked for

	Seasons    Seasons           `yaml:"seasons"` // auto, none or their lengths
	Model      string            `yaml:"model"`   // auto, or its name
	Levels     []float64         `yaml:"levels"`  // the quantiles that it gives
	Timezone   string            `yaml:"timezone"`
	Events     []CalendarEvent   `yaml:"events"`     // what comes at known times and changes demand
	Regressors map[string]string `yaml:"regressors"` // PromQL of what drives the value
	Missing    string            `yaml:"missing"`    // what a gap is taken for: interpolate or zero
	Anomalies  Anomalies         `yaml:"anomalies"`
	Limit      int               `yaml:"limit"` // series that the query may give; more are an error
}

// Anomalies say what is out of the ordinary in the values of a forecast rule.
type Anomalies struct {
	Enabled bool `yaml:"-"`

	// Sensitivity is how many standard deviations a value is off its forecast to be a spike or a dip. 0: 5.
	Sensitivity float64 `yaml:"sensitivity"`

	// Realert is for how long after an anomaly there is no other: one incident is one. 0: 2h.
	Realert model.Duration `yaml:"realert"`
}

// DecodeNode takes true, false or how anomalies are found.
func (a *Anomalies) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.ScalarNode {
		if n.Tag != "!!bool" || n.Decode(&a.Enabled) != nil {
			d.Fault(n, "anomalies: %q: expected true, false, or {sensitivity: 5, realert: 2h}", n.Value)
		}
		return
	}
	type plain Anomalies // without this method
	d.DecodeNode(n, path, (*plain)(a))
	a.Enabled = true
}

// Values of ForecastRule.Missing.
const (
	missingInterpolate = "interpolate"
	missingZero        = "zero"
)

// Seasons are the lengths of the seasons that a forecast knows.
type Seasons struct {
	Auto    bool
	Lengths []time.Duration
}

// DecodeNode takes auto, none or a list of durations.
func (s *Seasons) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	switch n.Value {
	case "auto":
		s.Auto = true
		return
	case "none":
		s.Auto = false
		return
	}
	var lengths []model.Duration
	d.DecodeNode(n, path, &lengths)
	s.Auto = false
	for _, l := range lengths {
		if l <= 0 {
			d.Fault(n, "seasons: %s: expected more than 0", l)
		}
		s.Lengths = append(s.Lengths, time.Duration(l))
	}
}

// maxRegressors is how many a forecast takes.
const maxRegressors = 8

// DefaultForecast returns a forecast with what its file need not name: a fortnight in steps of a minute, half an hour ahead.
func DefaultForecast() *ForecastRule {
	return &ForecastRule{
		Step: model.Duration(time.Minute), History: model.Duration(14 * 24 * time.Hour), Horizon: model.Duration(30 * time.Minute),
		Lead: "auto", Seasons: Seasons{Auto: true}, Model: "auto", Levels: []float64{0.5, 0.9}, Missing: missingInterpolate,
		Limit: defaultSeries,
	}
}

func (f *ForecastRule) validate(d *source.Decoder, path string) {
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	before := d.Len()
	if !model.LegacyValidation.IsValidMetricName(f.Name) {
		fault("forecast", "forecast is %q: expected the name of the metric that it writes", f.Name)
	}
	checkNumbers(d, path+".query", f.Query)
	for key, v := range map[string]model.Duration{"step": f.Step, "history": f.History, "horizon": f.Horizon} {
		if v <= 0 {
			fault(key, "%s is %s: expected more than 0", key, v)
		}
	}
	if f.Step > 0 && f.Horizon > 0 && f.Horizon < f.Step {
		fault("horizon", "horizon is %s, shorter than step, which is %s", f.Horizon, f.Step)
	}
	if f.Step > 0 && f.History > 0 && f.History < 2*f.Step {
		fault("history", "history is %s: expected many times step, which is %s", f.History, f.Step)
	}
	if f.Lead != "auto" {
		if lead, err := model.ParseDuration(f.Lead); err != nil || lead <= 0 {
			fault("lead", "lead is %q: expected auto, or a duration", f.Lead)
		} else if lead > f.Horizon {
			fault("lead", "lead is %s, beyond horizon, which is %s", lead, f.Horizon)
		}
	}
	if len(f.Levels) == 0 {
		fault("levels", "levels: none: expected a quantile at least, such as 0.9")
	}
	for i, level := range f.Levels {
		if !(level > 0 && level < 1) || slices.Contains(f.Levels[:i], level) {
			fault("levels", "levels: %g: expected quantiles between 0 and 1, each once", level)
		}
	}
	if _, err := time.LoadLocation(f.Timezone); err != nil || f.Timezone == "Local" {
		fault("timezone", "timezone is %q: expected the name of a time zone, such as Europe/Berlin", f.Timezone)
	}
	validateEvents(d, path+".events", f.Events, f.Timezone)
	if len(f.Regressors) > maxRegressors {
		fault("regressors", "regressors: %d of them: expected %d at most", len(f.Regressors), maxRegressors)
	}
	for _, name := range sortedKeys(f.Regressors) {
		checkNumbers(d, path+".regressors."+name, f.Regressors[name])
	}
	oneOf(d, path+".missing", f.Missing, missingInterpolate, missingZero)
	if a := f.Anomalies; a.Sensitivity < 0 || math.IsNaN(a.Sensitivity) {
		fault("anomalies.sensitivity", "sensitivity is %g: expected more than 0 standard deviations", a.Sensitivity)
	} else if a.Realert < 0 {
		fault("anomalies.realert", "realert is %s: expected more than 0", a.Realert)
	}
	if f.Limit < 1 || f.Limit > maxSeries {
		fault("limit", "limit is %d: expected 1 to %d series", f.Limit, maxSeries)
	}
	if strings.HasPrefix(f.Name, "flyball_") {
		fault("forecast", "forecast is %q: names that begin with flyball_ are flyball's own", f.Name)
	}
	if before == d.Len() {
		f.validateOptions(d, path)
	}
}

// checkNumbers checks PromQL that must give numbers at a time.
func checkNumbers(d *source.Decoder, path, expr string) {
	if parsed := checkPromQL(d, path, expr); parsed != nil {
		if t := parsed.Type(); t != parser.ValueTypeVector && t != parser.ValueTypeScalar {
			d.FaultAt(path, 0, "PromQL: a query must give an instant vector or a scalar, this gives a %s", t)
		}
	}
}

// validateOptions has what forecasts say what it cannot do.
func (f *ForecastRule) validateOptions(d *source.Decoder, path string) {
	o, err := f.options()
	if err == nil {
		_, err = forecast.New(o)
	}
	if err == nil {
		return
	}
	for text := range strings.Lines(err.Error()) {
		text = strings.TrimSpace(text)
		key := "forecast"
		for word, of := range map[string]string{"step": "step", "horizon": "horizon", "season": "seasons", "level": "levels", "model": "model"} {
			if first, _, _ := strings.Cut(text, ":"); strings.Contains(first, word) {
				key = of
			}
		}
		d.FaultAt(path+"."+key, 0, "%s", text)
	}
}

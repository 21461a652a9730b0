package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/prometheus/common/model"

	"flyball/rules"
)

// explainForecast says how a forecast rule stands, if there is one of that name.
func explainForecast(ctx context.Context, stdout io.Writer, o explainOptions) (told bool, err error) {
	var found []rules.ForecastStatus
	if err := o.ask(ctx, "forecasts?"+url.Values{"name": {o.rule}}.Encode(), &found); err != nil {
		return false, fmt.Errorf("explain %s: %w", o.rule, err)
	}
	if len(found) == 0 {
		return false, nil
	}
	if o.output == "json" {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return true, e.Encode(found)
	}
	return true, writeForecast(stdout, &found[0])
}

func seconds(s float64) model.Duration { return model.Duration(s * float64(time.Second)) }

// writeForecast writes how a forecast stands for a reader.
func writeForecast(w io.Writer, f *rules.ForecastStatus) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	line("%s  %s  %s", f.Evaluated.Local().Format(time.RFC3339), f.Name, f.Query)
	if f.Error != "" {
		line("\terror: %s", f.Error)
	}
	line("")
	line("step\t%s\thorizon %s", seconds(f.StepSeconds), seconds(f.HorizonSeconds))
	line("lead\t%s\t%s", seconds(f.LeadSeconds), f.Lead)
	switch {
	case f.HistoryLoaded:
		line("history\t%d of %d steps", f.HistorySteps, f.HistoryOf)
	case f.HistoryError != "":
		line("history\tnot loaded: %s", f.HistoryError)
	default:
		line("history\tbeing loaded")
	}
	for i := range f.Series {
		writeForecastSeries(line, f, &f.Series[i])
	}
	return t.Flush()
}

func writeForecastSeries(line func(format string, args ...any), f *rules.ForecastStatus, s *rules.ForecastSeries) {
	line("")
	line("series\t%s\t%d values, %d missing", s.Text(), s.Values, s.Missing)
	armed := "not armed"
	if s.Armed {
		armed = "armed"
	}
	line("%s\t%s", armed, s.ArmedText)
	line("reason\t%s", s.Reason)
	for _, m := range s.Weights {
		if m.Weight >= 0.01 {
			line("model\t%s\t%.0f%%\terror %.4g", m.Model, 100*m.Weight, m.Error)
		}
	}
	for _, q := range s.Seasons {
		used := "not used"
		if q.Used {
			used = "used"
		}
		line("season\t%s\t%s\t%s", seconds(q.Seconds), used, q.Reason)
	}
	for _, e := range s.Events {
		line("event\t%s\t%.3g times the demand, seen %d times", e.Name, e.Lift, e.Occurrences)
	}
	for _, r := range s.Regressors {
		used := "not used"
		if r.Used {
			used = "used"
		}
		line("regressor\t%s\t%s\t%.4g for each 1 of it; error %.4g with regressors, %.4g without", r.Name, used, r.Coefficient, r.Error, r.ErrorWithout)
	}
	if !s.Fitted.IsZero() {
		line("fitted\t%s", s.Fitted.Local().Format(time.RFC3339))
	}
	if a := s.LastAnomaly; a != nil {
		line("anomaly\t%s\t%s\t%.3g standard deviations off", a.Time.Local().Format(time.RFC3339), a.Kind, a.Score)
	}
	for _, level := range f.Levels {
		name := strconv.FormatFloat(level, 'f', -1, 64)
		covered := "not known yet"
		if c := s.Coverage[name]; c != nil {
			covered = fmt.Sprintf("%.1f%% of values were at or below it", 100**c)
		}
		at := func(ahead float64) string {
			v := s.At(f.Evaluated.Add(time.Duration(ahead*float64(time.Second))), level)
			if math.IsNaN(v) {
				return "none"
			}
			return fmt.Sprintf("%.6g", v)
		}
		line("quantile %s\t%s at the lead\t%s at the horizon\t%s", name, at(f.LeadSeconds), at(f.HorizonSeconds), covered)
	}
}

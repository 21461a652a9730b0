package eval

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"flyball/forecast"
)

// number is null in JSON where it is not one.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	if v := float64(n); math.IsNaN(v) || math.IsInf(v, 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

func levelName(level float64) string { return strconv.FormatFloat(level, 'f', -1, 64) }

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

type scoreJSON struct {
	MASE     number            `json:"mase"`
	SMAPE    number            `json:"smape"`
	RelMAE   number            `json:"rel_mae"`
	WIS      number            `json:"wis"`
	Coverage map[string]number `json:"coverage"`
}

func (s Score) json() scoreJSON {
	j := scoreJSON{MASE: number(s.MASE), SMAPE: number(s.SMAPE), RelMAE: number(s.RelMAE), WIS: number(s.WIS), Coverage: map[string]number{}}
	for _, c := range s.Coverage {
		j.Coverage[levelName(c.Level)] = number(c.Ratio)
	}
	return j
}

// WriteResultsJSON writes {"series": [{"series", "mase", "smape", "rel_mae", "wis", "coverage": {LEVEL: RATIO}, "baselines":
// {NAME: the same}}], "gmean_rel_mae": x}. wis is in the unit of the series; what cannot be told is null.
func WriteResultsJSON(w io.Writer, results []Result) error {
	type seriesJSON struct {
		Series string `json:"series"`
		scoreJSON
		Baselines map[string]scoreJSON `json:"baselines"`
	}
	var out struct {
		Series      []seriesJSON `json:"series"`
		GMeanRelMAE number       `json:"gmean_rel_mae"`
	}
	var ratios []float64
	for _, r := range results {
		one := seriesJSON{r.Series, r.json(), map[string]scoreJSON{}}
		for name, score := range r.Baselines {
			one.Baselines[name] = score.json()
		}
		out.Series = append(out.Series, one)
		ratios = append(ratios, r.RelMAE)
	}
	out.GMeanRelMAE = number(GMean(ratios))
	return writeJSON(w, out)
}

// WriteResultsText writes a table of the results, the baselines below each, and what they come to.
func WriteResultsText(w io.Writer, model string, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(series, name string, s Score) {
		fmt.Fprintf(t, "%s\t%s\t%.3f\t%.2f\t%.3f\t%.4g\t", series, name, s.MASE, s.SMAPE, s.RelMAE, s.WIS)
		for _, c := range s.Coverage {
			fmt.Fprintf(t, "%.3f\t", c.Ratio)
		}
		fmt.Fprintln(t)
	}
	for i, r := range results {
		if i == 0 {
			fmt.Fprint(t, "series\tforecast\tMASE\tsMAPE\trel MAE\tWIS\t")
			for _, c := range r.Coverage {
				fmt.Fprintf(t, "≤ p%s\t", percent(c.Level))
			}
			fmt.Fprintln(t)
		}
		row(r.Series, model, r.Score)
		for _, name := range Baselines() {
			row("", name, r.Baselines[name])
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	s := Summarize(results, func(r Result) Score { return r.Score })
	verdict := "better"
	if s.GMeanRelMAE >= 1 {
		verdict = "not better"
	}
	_, err := fmt.Fprintf(w, "\nThe error is %.3f of that of the last value (geometric mean over the series): %s than it.\n", s.GMeanRelMAE, verdict)
	return err
}

func percent(level float64) string {
	return strconv.FormatFloat(math.Round(level*1e4)/100, 'f', -1, 64)
}

// Forecast is what is said of one series.
type Forecast struct {
	Series Series
	Levels []float64
	Points []Point
	// Model is its name, Weights what each member has of it, Seasons what it has found.
	Model   string
	Weights map[string]float64
	Seasons []time.Duration
	// Events and Regressors are what was learned of them.
	Events     []forecast.EventLift
	Regressors []forecast.RegressorEffect
	// Reason says in words why this model.
	Reason string
	// Anomalies are those of the past; see Detect.
	Anomalies []Detected
}

type anomalyJSON struct {
	Time  string        `json:"time"`
	Value number        `json:"value"`
	Score number        `json:"score"`
	Kind  forecast.Kind `json:"kind"`
}

// alertsJSON has one entry an incident.
func alertsJSON(found []Detected) []anomalyJSON {
	out := []anomalyJSON{}
	for _, v := range found {
		if v.Alert {
			out = append(out, anomalyJSON{stamp(v.Time), number(v.Value), number(v.Score), v.Kind})
		}
	}
	return out
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// WriteForecastsJSON writes {"series": [{"series", "step_seconds", "points": [{"time", "mean", "quantiles": {LEVEL: VALUE}}],
// "model", "weights": {NAME: WEIGHT}, "seasons": [DURATION], "events": [{"name", "lift", "prior", "occurrences"}],
// "regressors": [{"name", "coefficient", "used", "error", "error_without"}], "anomalies": [{"time", "value", "score", "kind"}],
// "generated_at", "reason"}]}. The anomalies are those with an alert: one an incident.
func WriteForecastsJSON(w io.Writer, forecasts []Forecast, now time.Time) error {
	type pointJSON struct {
		Time      string            `json:"time"`
		Mean      number            `json:"mean"`
		Quantiles map[string]number `json:"quantiles"`
	}
	type eventJSON struct {
		Name        string `json:"name"`
		Lift        number `json:"lift"`
		Prior       number `json:"prior"`
		Occurrences int    `json:"occurrences"`
	}
	type regressorJSON struct {
		Name         string `json:"name"`
		Coefficient  number `json:"coefficient"`
		Used         bool   `json:"used"`
		Error        number `json:"error"`
		ErrorWithout number `json:"error_without"`
	}
	type seriesJSON struct {
		Series      string             `json:"series"`
		StepSeconds float64            `json:"step_seconds"`
		Points      []pointJSON        `json:"points"`
		Model       string             `json:"model"`
		Weights     map[string]float64 `json:"weights"`
		Seasons     []string           `json:"seasons"`
		Events      []eventJSON        `json:"events"`
		Regressors  []regressorJSON    `json:"regressors"`
		Anomalies   []anomalyJSON      `json:"anomalies"`
		GeneratedAt string             `json:"generated_at"`
		Reason      string             `json:"reason"`
	}
	var out struct {
		Series []seriesJSON `json:"series"`
	}
	for _, f := range forecasts {
		one := seriesJSON{
			Series: f.Series.Name, StepSeconds: f.Series.Step.Seconds(), Points: []pointJSON{}, Model: f.Model, Weights: f.Weights,
			Seasons: []string{}, Events: []eventJSON{}, Regressors: []regressorJSON{}, Anomalies: alertsJSON(f.Anomalies), GeneratedAt: stamp(now.Truncate(time.Second)), Reason: f.Reason,
		}
		for _, s := range f.Seasons {
			one.Seasons = append(one.Seasons, shortDuration(s))
		}
		for _, e := range f.Events {
			one.Events = append(one.Events, eventJSON{e.Name, number(e.Lift), number(e.Prior), e.Occurrences})
		}
		for _, r := range f.Regressors {
			one.Regressors = append(one.Regressors, regressorJSON{r.Name, number(r.Coefficient), r.Used, number(r.Error), number(r.ErrorWithout)})
		}
		for _, p := range f.Points {
			j := pointJSON{stamp(p.Time), number(p.Mean), map[string]number{}}
			for i, l := range f.Levels {
				j.Quantiles[levelName(l)] = number(p.Quantiles[i])
			}
			one.Points = append(one.Points, j)
		}
		out.Series = append(out.Series, one)
	}
	return writeJSON(w, out)
}

// shortDuration is a duration without the units that are 0: 24h.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// maxPoints is how many forecast values text has in full.
const maxPoints = 24

// WriteForecastText plots one forecast, after what was there before, and lists it.
func WriteForecastText(w io.Writer, f Forecast) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s   %d values, one every %s\n%s\n\n", f.Series.Name, len(f.Series.Values), shortDuration(f.Series.Step), f.Reason)
	plot(&b, f)
	b.WriteString("\n")
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "time\tmean\t")
	for _, l := range f.Levels {
		fmt.Fprintf(t, "p%s\t", percent(l))
	}
	fmt.Fprintln(t)
	for i, p := range f.Points {
		if i == maxPoints {
			break
		}
		fmt.Fprintf(t, "%s\t%.4g\t", p.Time.UTC().Format(time.DateTime), p.Mean)
		for _, q := range p.Quantiles {
			fmt.Fprintf(t, "%.4g\t", q)
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if more := len(f.Points) - maxPoints; more > 0 {
		fmt.Fprintf(&b, "and %d more: -o json has all\n", more)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// The size of a plot, beside its axis, in characters; a character is one step or the mean of several.
const (
	plotWidth  = 66
	plotHeight = 12
)

// plot draws what was there as dots, and what is forecast as a line in the band of the outermost quantiles.
func plot(b *strings.Builder, f Forecast) {
	const past, median, band = '•', '─', '░'
	per := 1 + (4*len(f.Points)-1)/plotWidth // steps a column: the forecast is a quarter of the width at most
	ahead := (len(f.Points) + per - 1) / per
	before := plotWidth - ahead
	history := f.Series.Values[max(len(f.Series.Values)-before*per, 0):]

	type column struct{ low, mid, high float64 }
	var columns []column
	mean := func(n int, at func(i int) float64) float64 {
		sum, known := 0.0, 0
		for i := range n {
			if v := at(i); !math.IsNaN(v) {
				sum += v
				known++
			}
		}
		return sum / float64(known) // NaN of none
	}
	offset := len(history) % per // the last column is whole
	for i := offset; i < len(history); i += per {
		v := mean(per, func(k int) float64 { return history[i+k] })
		columns = append(columns, column{v, v, v})
	}
	split := len(columns)
	for i := 0; i < len(f.Points); i += per {
		some := f.Points[i:min(i+per, len(f.Points))]
		c := column{mid: mean(len(some), func(k int) float64 { return some[k].Mean })}
		c.low, c.high = c.mid, c.mid
		if len(f.Levels) > 0 {
			c.low = mean(len(some), func(k int) float64 { return slices.Min(some[k].Quantiles) })
			c.high = mean(len(some), func(k int) float64 { return slices.Max(some[k].Quantiles) })
		}
		columns = append(columns, c)
	}
	low, high := math.Inf(1), math.Inf(-1)
	for _, c := range columns {
		if !math.IsNaN(c.mid) {
			low, high = min(low, c.low), max(high, c.high)
		}
	}
	if low > high {
		low, high = 0, 1
	}
	if low > 0 && low < high/2 {
		low = 0
	}
	if high-low < 1e-9*max(1, math.Abs(high)) {
		high = low + max(1, math.Abs(low))
	}
	row := func(v float64) int {
		return min(max(int(math.Round((high-v)/(high-low)*(plotHeight-1))), 0), plotHeight-1)
	}
	canvas := make([][]rune, plotHeight)
	for i := range canvas {
		canvas[i] = []rune(strings.Repeat(" ", len(columns)))
	}
	for x, c := range columns {
		if math.IsNaN(c.mid) {
			continue
		}
		if x < split {
			canvas[row(c.mid)][x] = past
			continue
		}
		for y := row(c.high); y <= row(c.low); y++ {
			canvas[y][x] = band
		}
		canvas[row(c.mid)][x] = median
	}
	for i, line := range canvas {
		label := ""
		if i == 0 || i == plotHeight-1 || i == plotHeight/2 {
			label = fmt.Sprintf("%.4g", high-(high-low)*float64(i)/(plotHeight-1))
		}
		text := strings.TrimRight(string(line), " ")
		fmt.Fprintf(b, "%10s │%s\n", label, text)
	}
	first := f.Series.Time(len(f.Series.Values) - (len(history) - offset))
	from, now := first.UTC().Format("01-02 15:04"), f.Series.Time(len(f.Series.Values)-1).UTC().Format("01-02 15:04")
	fmt.Fprintf(b, "%10s └%s\n", "", strings.Repeat("─", plotWidth))
	fmt.Fprintf(b, "%10s  %s%s%s\n", "", from, strings.Repeat(" ", max(split-len(from)-len(now)+5, 1)), now)
}

// WriteDetectedCSV writes time,value,score,anomaly,kind, a line a value. anomaly is true where there is an alert, once an
// incident; kind is what is out of the ordinary there, and after an alert goes on being so.
func WriteDetectedCSV(w io.Writer, found []Detected) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"time", "value", "score", "anomaly", "kind"}) // Error has what went wrong
	for _, v := range found {
		value := ""
		if !math.IsNaN(v.Value) {
			value = strconv.FormatFloat(v.Value, 'g', -1, 64)
		}
		_ = c.Write([]string{stamp(v.Time), value, strconv.FormatFloat(v.Score, 'g', 6, 64), strconv.FormatBool(v.Alert), string(v.Kind)})
	}
	c.Flush()
	return c.Error()
}

// Anomalies is what was found of one series.
type Anomalies struct {
	Series Series
	Model  string
	Found  []Detected
}

// WriteAnomaliesJSON writes {"series": [{"series", "step_seconds", "model", "anomalies": [{"time", "value", "score",
// "kind"}]}]}, an anomaly an incident.
func WriteAnomaliesJSON(w io.Writer, all []Anomalies) error {
	type seriesJSON struct {
		Series      string        `json:"series"`
		StepSeconds float64       `json:"step_seconds"`
		Model       string        `json:"model"`
		Anomalies   []anomalyJSON `json:"anomalies"`
	}
	var out struct {
		Series []seriesJSON `json:"series"`
	}
	for _, a := range all {
		out.Series = append(out.Series, seriesJSON{a.Series.Name, a.Series.Step.Seconds(), a.Model, alertsJSON(a.Found)})
	}
	return writeJSON(w, out)
}

// WriteAnomaliesText lists incidents: when one began, what it was, and how long what was out of the ordinary went on.
func WriteAnomaliesText(w io.Writer, all []Anomalies) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, a := range all {
		n := 0
		for i, v := range a.Found {
			if !v.Alert {
				continue
			}
			n++
			values := 0 // that were out of the ordinary until the next alert
			for k := i; k < len(a.Found) && (k == i || !a.Found[k].Alert); k++ {
				if a.Found[k].Kind != "" {
					values++
				}
			}
			off := fmt.Sprintf("%.1f deviations off", v.Score)
			if v.Kind == forecast.Missing {
				off = ""
			}
			fmt.Fprintf(t, "%s\t%s\t%s\tvalue %s\tforecast %s\t%s\t%s\n", v.Time.UTC().Format(time.DateTime), a.Series.Name, v.Kind,
				short(v.Value), short(v.Expected), off, counted(values, "value"))
		}
		if n == 0 {
			fmt.Fprintf(t, "%s\tnothing out of the ordinary in %s\n", a.Series.Name, counted(len(a.Found), "value"))
		}
	}
	return t.Flush()
}

func short(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.4g", v)
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

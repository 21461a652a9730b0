package rules

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
)

func TestLeastOffset(t *testing.T) {
	for expr, want := range map[string]time.Duration{
		"signups":                                               0,
		"signups offset 10m":                                    10 * time.Minute,
		"rate(signups[5m] offset 10m)":                          10 * time.Minute,
		"signups offset 10m + other":                            0,
		"signups offset 1h + other offset 20m":                  20 * time.Minute,
		"max_over_time((signups offset 5m)[10m:1m] offset 10m)": 15 * time.Minute,
		"signups offset -10m":                                   0,
		"signups @ 1609746000 offset 10m":                       0,
		"hour()":                                                math.MaxInt64,
		"vector(1)":                                             math.MaxInt64,
	} {
		parsed, err := promQL.ParseExpr(expr)
		if err != nil {
			t.Fatal(err)
		}
		if got := leastOffset(parsed); got != want {
			t.Errorf("%s: %s, want %s", expr, got, want)
		}
	}
}

// sources answers each query by a function of time for each series.
type sources struct {
	of    map[string]map[string]func(time.Time) float64 // by query and label
	from  time.Time
	fails string // a query that does
	ends  map[string]time.Time
}

func (s *sources) Query(ctx context.Context, expr string, at time.Time, _ time.Duration) (all []Sample, err error) {
	series, err := s.QueryRange(ctx, expr, at, at, time.Second)
	for _, one := range series {
		all = append(all, Sample{Labels: one.Labels, Value: one.Points[0].Value, Time: at})
	}
	return all, err
}

func (s *sources) QueryRange(_ context.Context, expr string, start, end time.Time, step time.Duration) (all []Series, err error) {
	if expr == s.fails {
		return nil, errors.New("refused")
	}
	if end.After(s.ends[expr]) {
		s.ends[expr] = end
	}
	for _, name := range sortedKeys(s.of[expr]) {
		one := Series{}
		if name != "" {
			one.Labels = labels.FromStrings("model", name)
		}
		for at := start; !at.After(end); at = at.Add(step) {
			if v := s.of[expr][name](at); !math.IsNaN(v) && !at.Before(s.from) {
				one.Points = append(one.Points, Point{at, v})
			}
		}
		if one.Points != nil {
			all = append(all, one)
		}
	}
	return all, nil
}

// steps is what no history foresees: another value each quarter of an hour.
func steps(seed uint64) func(time.Time) float64 {
	return func(at time.Time) float64 {
		return float64(rand.New(rand.NewPCG(seed, uint64(at.UnixMilli()/900_000))).IntN(100))
	}
}

// TestRegressors: what drives the demand a quarter of an hour ahead is known that far ahead, by the offset of its query, and
// each series goes by its own.
func TestRegressors(t *testing.T) {
	const ahead = 15 * time.Minute
	signups := map[string]func(time.Time) float64{"a": steps(1), "b": steps(2)}
	s := &sources{from: midnight.Add(-48 * time.Hour), ends: map[string]time.Time{}, of: map[string]map[string]func(time.Time) float64{
		"demand": {}, "signups offset 15m": {}, "signups": signups,
	}}
	for name, f := range signups {
		s.of["demand"][name] = func(at time.Time) float64 { return 50 + 2*f(at.Add(-ahead)) }
		s.of["signups offset 15m"][name] = func(at time.Time) float64 { return f(at.Add(-ahead)) }
	}
	errs := map[string]float64{}
	for _, regressor := range []string{"signups offset 15m", "signups", ""} {
		keys := "query: demand, step: 1m, history: 2d, horizon: 15m, lead: 12m, seasons: none, levels: [0.5]"
		if regressor != "" {
			keys += ", regressors: {signups: " + regressor + "}"
		}
		clear(s.ends)
		o := PredictorOptions{Querier: s, Metrics: NewMetrics(prometheus.NewRegistry())}
		p := NewPredictor(forecastRule(t, keys), o)
		n := 0
		for at := midnight; at.Before(midnight.Add(6 * time.Hour)); at = at.Add(time.Minute) {
			out, err := p.Eval(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			if regressor == "signups offset 15m" {
				if want := at.Add(ahead); !s.ends[regressor].Equal(want) {
					t.Fatalf("at %s asked up to %s, want %s", at, s.ends[regressor], want)
				}
			}
			for _, sample := range out {
				if sample.Labels.Get("horizon") == leadLabel {
					errs[regressor] += math.Abs(sample.Value - s.of["demand"][sample.Labels.Get("model")](at.Add(12*time.Minute)))
					n++
				}
			}
		}
		if n != 720 {
			t.Fatalf("%d forecasts, want two each minute of six hours", n)
		}
		if end := s.ends["signups"]; regressor == "signups" && end.After(midnight.Add(6*time.Hour)) {
			t.Errorf("what has no offset was asked for up to %s, which is still to come", end)
		}
		errs[regressor] /= float64(n)
	}
	t.Logf("mean error: %v", errs)
	if known, without := errs["signups offset 15m"], errs[""]; !(known < without/3) {
		t.Errorf("the error is %.1f where what drives it is known, %.1f without", known, without)
	}
	if now, without := errs["signups"], errs[""]; !(now < 1.15*without) {
		t.Errorf("the error is %.1f with what is known too late, %.1f without", now, without)
	}
}

// TestRegressorFails: a regressor that cannot be asked for has no effect, and the forecast goes on.
func TestRegressorFails(t *testing.T) {
	s := &sources{from: midnight.Add(-6 * time.Hour), ends: map[string]time.Time{}, of: map[string]map[string]func(time.Time) float64{
		"demand": {"a": wave}, "signups": {"": steps(1)},
	}}
	p := NewPredictor(forecastRule(t, "query: demand, step: 1m, history: 6h, horizon: 10m, lead: 5m, seasons: [1h], levels: [0.5], regressors: {signups: signups}"),
		PredictorOptions{Querier: s, Metrics: NewMetrics(prometheus.NewRegistry())})
	play(t, p, midnight, time.Minute, time.Hour)
	s.fails = "signups"
	out := play(t, p, midnight.Add(61*time.Minute), time.Minute, time.Hour)
	if got, want := value(out, `{__name__="ahead", horizon="lead", quantile="0.5"}`), wave(midnight.Add(126*time.Minute)); !(math.Abs(got-want) < 15) {
		t.Errorf("the forecast is %.1f, want about %.1f", got, want)
	}
}

// TestForecastEvents: demand triples at two hours of days that no season has, and the rule's calendar says which.
func TestForecastEvents(t *testing.T) {
	var dates []string
	on := map[int64]bool{}
	for _, day := range []int{-12, -11, -8, -6, -5, -1, 0} {
		at := midnight.AddDate(0, 0, day)
		dates = append(dates, at.Format(time.DateOnly)+"T09:00")
		on[at.Unix()] = true
	}
	demand := func(at time.Time) float64 {
		if h := at.Hour(); on[at.Truncate(24*time.Hour).Unix()] && (h == 9 || h == 10) {
			return 300
		}
		return 100
	}
	s := &sources{from: midnight.AddDate(0, 0, -14), ends: map[string]time.Time{}, of: map[string]map[string]func(time.Time) float64{"demand": {"a": demand}}}
	keys := "query: demand, step: 5m, history: 14d, horizon: 30m, lead: 15m, seasons: none, levels: [0.5]"
	for _, c := range []struct {
		keys string
		want float64
	}{{keys, 100}, {keys + ", events: [{name: launch, dates: [" + strings.Join(dates, ", ") + "], duration: 2h, lift: 1.5}]", 280}} {
		p := NewPredictor(forecastRule(t, c.keys), PredictorOptions{Querier: s, Metrics: NewMetrics(prometheus.NewRegistry())})
		play(t, p, midnight, 5*time.Minute, 8*time.Hour+45*time.Minute)
		out := play(t, p, midnight.Add(8*time.Hour+50*time.Minute), 5*time.Minute, 0)
		if got := value(out, `{__name__="ahead", horizon="lead", quantile="0.5"}`); !(math.Abs(got-c.want) < 20) {
			t.Errorf("%s: ten minutes before the launch the forecast for five minutes after it began is %.1f, want about %.0f", c.keys, got, c.want)
		}
	}
}

// TestRegressorOfMany: of a regressor that nobody aggregated what has no forecast is not kept, and is not taken for that of all.
func TestRegressorOfMany(t *testing.T) {
	s := &sources{from: midnight.Add(-time.Hour), ends: map[string]time.Time{}, of: map[string]map[string]func(time.Time) float64{"demand": {"b": wave}, "pods": {}, "one": {"z": wave}}}
	for _, name := range []string{"a", "b", "c", "d"} {
		s.of["pods"][name] = steps(1)
	}
	p := NewPredictor(forecastRule(t, "query: demand, step: 1m, history: 1h, horizon: 10m, regressors: {one: one, pods: pods}"),
		PredictorOptions{Querier: s, Metrics: NewMetrics(prometheus.NewRegistry())})
	key := func(name string) string { k, _ := identity(labels.FromStrings("model", name)); return k }
	first := midnight.UnixMilli()/60_000 - 10
	d, err := p.askDrive(t.Context(), first, 10, func(k string) bool { return k == key("b") })
	if err != nil {
		t.Fatal(err)
	}
	if len(d.of[0]) != 1 || len(d.of[1]) != 1 {
		t.Errorf("of %d and %d series the values are kept, want one of each", len(d.of[0]), len(d.of[1]))
	}
	at := p.time(first + 3)
	for name, want := range map[string][]float64{"b": {wave(at), steps(1)(at)}, "other": {wave(at), math.NaN()}} {
		if diff := cmp.Diff(want, d.at(nil, key(name), first+3), cmpopts.EquateNaNs()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

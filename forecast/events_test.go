package forecast

import (
	"bytes"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// every is an event that begins at first and again after each period.
func every(name string, lift float64, first time.Time, period, length time.Duration) Event {
	return Event{Name: name, Lift: lift, Occurrences: func(from, to time.Time) (all []Occurrence) {
		n := max(int64(from.Sub(first)-length)/int64(period)-1, 0)
		for at := first.Add(time.Duration(n) * period); at.Before(to); at = at.Add(period) {
			if at.Add(length).After(from) {
				all = append(all, Occurrence{at, at.Add(length)})
			}
		}
		return all
	}}
}

// at is an event with the given starts.
func at(name string, lift float64, length time.Duration, starts ...time.Time) Event {
	return Event{Name: name, Lift: lift, Occurrences: func(from, to time.Time) (all []Occurrence) {
		for _, s := range starts {
			if s.Before(to) && s.Add(length).After(from) {
				all = append(all, Occurrence{s, s.Add(length)})
			}
		}
		return all
	}}
}

// lifted is demand of n steps from start on: a daily wave with noise, times lift for the share of a step that e has.
func lifted(n int, start time.Time, step time.Duration, noise float64, seed uint64, lift float64, e Event) []float64 {
	r := rand.New(rand.NewPCG(seed, 3))
	y := make([]float64, n)
	for i := range y {
		from := start.Add(time.Duration(i) * step)
		to := from.Add(step)
		share := 0.0
		for _, o := range e.Occurrences(from, to) {
			lo, hi := o.Start, o.End
			if lo.Before(from) {
				lo = from
			}
			if hi.After(to) {
				hi = to
			}
			share += float64(hi.Sub(lo)) / float64(step)
		}
		day := float64(from.Sub(start)) / float64(24*time.Hour)
		base := 100 + 40*math.Sin(2*math.Pi*day) + noise*r.NormFloat64()
		y[i] = base * (1 + (lift-1)*share)
	}
	return y
}

// errorOf is the mean absolute error of forecasts 6 steps ahead while f sees y from start on, refitted when that is due, and
// that of the values that an occurrence of e has a part of.
func errorOf(t testing.TB, f *Forecaster, e Event, start time.Time, y []float64, x [][]float64, known int) (all, during float64) {
	t.Helper()
	var n, m float64
	for i, v := range y {
		when := start.Add(time.Duration(i) * f.o.Step)
		var row []float64
		var ahead [][]float64
		for _, c := range x {
			row = append(row, c[i])
			ahead = append(ahead, c[min(i+1, len(c)):min(i+1+known, len(c))])
		}
		f.ObserveWith(when, v, row)
		f.Ahead(ahead)
		if f.Due() && i%48 == 0 {
			if err := f.Refit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for h, p := range f.Forecast(6, nil) {
			if i+1+h >= len(y) {
				break
			}
			d := math.Abs(y[i+1+h] - p.Mean)
			all += d
			n++
			if e.Occurrences != nil && len(e.Occurrences(p.Time, p.Time.Add(f.o.Step))) > 0 {
				during += d
				m++
			}
		}
	}
	return all / n, during / max(m, 1)
}

// A weekly launch is learned from those that were: how large it is, and what comes at the next one.
func TestEventIsLearned(t *testing.T) {
	const step, weeks = time.Hour, 9
	tuesday := monday.AddDate(0, 0, 1).Add(9 * time.Hour)
	for _, tt := range []struct {
		name         string
		lift, prior  float64
		first        time.Time
		period, long time.Duration
		seasons      []time.Duration
		online       bool
		within       float64
	}{
		{name: "a launch each Tuesday", lift: 2.5, prior: 1.5, first: tuesday, period: 7 * 24 * time.Hour, long: 3 * time.Hour, within: 0.06},
		{name: "nothing known of it", lift: 2.5, first: tuesday, period: 7 * 24 * time.Hour, long: 3 * time.Hour, within: 0.06},
		{name: "seen as it happens", lift: 2.5, prior: 1.5, first: tuesday, period: 7 * 24 * time.Hour, long: 3 * time.Hour, online: true, within: 0.06},
		{
			name: "each 60 hours, which is no season", lift: 2.5, prior: 1.5, first: tuesday, period: 60 * time.Hour, long: 4 * time.Hour,
			within: 0.06,
		},
		{name: "20 minutes after the hour", lift: 2.5, prior: 1.5, first: tuesday.Add(20 * time.Minute), period: 7 * 24 * time.Hour, long: 90 * time.Minute, within: 0.06},
		{name: "demand halves", lift: 0.5, prior: 1.5, first: tuesday, period: 7 * 24 * time.Hour, long: 8 * time.Hour, within: 0.1},
		{name: "no more than else", lift: 1, prior: 3, first: tuesday, period: 7 * 24 * time.Hour, long: 3 * time.Hour, within: 0.2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := every("launch", tt.prior, tt.first, tt.period, tt.long)
			y := lifted(24*7*(weeks+1), monday, step, 2, 7, tt.lift, e)
			n := 24 * 7 * weeks
			f := newForecaster(t, Options{Step: step, Horizon: 6, Events: []Event{e}})
			plain := newForecaster(t, Options{Step: step, Horizon: 6})
			if tt.online {
				errorOf(t, f, e, monday, y[:n], nil, 0)
				errorOf(t, plain, e, monday, y[:n], nil, 0)
			} else {
				f.Fit(y[:n], monday)
				plain.Fit(y[:n], monday)
			}
			x := f.Explain()
			got := x.Events[0]
			if math.Abs(got.Lift/tt.lift-1) > tt.within {
				t.Errorf("lift %.3f after %d occurrences, want %.2f", got.Lift, got.Occurrences, tt.lift)
			}
			all, during := errorOf(t, f, e, monday.AddDate(0, 0, 7*weeks), y[n:], nil, 0)
			plainAll, plainDuring := errorOf(t, plain, e, monday.AddDate(0, 0, 7*weeks), y[n:], nil, 0)
			t.Logf("lift %.3f; error %.2f, during %.2f; without the event %.2f, %.2f; %s", got.Lift, all, during, plainAll, plainDuring, f.Explain().Members[0].Name)
			if during > 0.1*100*tt.lift+2 {
				t.Errorf("error %.1f while it is on", during)
			}
			if all > plainAll*1.05 || tt.lift > 1 && during > plainDuring/2 {
				t.Errorf("error %.2f, %.2f while it is on; without the event %.2f, %.2f", all, during, plainAll, plainDuring)
			}
		})
	}
}

// An event at the same time each day, or always on, is a season or a level as well: it counts once.
func TestEventCountsOnce(t *testing.T) {
	for _, tt := range []struct {
		name         string
		period, long time.Duration
	}{
		{"each day", 24 * time.Hour, 3 * time.Hour},
		{"most of each day", 24 * time.Hour, 20 * time.Hour},
		{"each week, longer than a day", 7 * 24 * time.Hour, 60 * time.Hour},
		{"always", 1000 * 24 * time.Hour, 1000 * 24 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := every("batch", 1.5, monday.Add(-24*time.Hour).Add(9*time.Hour), tt.period, tt.long)
			y := lifted(24*7*5, monday, time.Hour, 2, 8, 2.5, e)
			f := newForecaster(t, Options{Step: time.Hour, Horizon: 6, Events: []Event{e}})
			f.Fit(y[:24*28], monday)
			all, during := errorOf(t, f, e, monday.AddDate(0, 0, 28), y[24*28:], nil, 0)
			t.Logf("lift %.2f; error %.2f, %.2f", f.Explain().Events[0].Lift, all, during)
			if all > 12 || during > 16 {
				t.Errorf("error %.2f, %.2f while it is on, of demand around 250", all, during)
			}
		})
	}
}

// Of what never came before the forecast is the prior's; it is of each step as much as the event has of it.
func TestEventThatNeverCame(t *testing.T) {
	day := monday.AddDate(0, 0, 7)
	f := newForecaster(t, Options{
		Step: time.Hour, Horizon: 6, Model: "ses", Seasons: []time.Duration{},
		Events: []Event{
			at("launch", 3, 80*time.Minute, day.Add(2*time.Hour+40*time.Minute)),
			at("sale", 2, time.Hour, day.Add(3*time.Hour)),
			at("outage", 0.5, time.Hour, day.Add(5*time.Hour)),
			{Name: "unknown"},
		},
	})
	y := make([]float64, 24*7)
	for i := range y {
		y[i] = 10
	}
	f.Fit(y, monday)
	var got []float64
	for _, p := range f.Forecast(7, []float64{0.5}) {
		got = append(got, math.Round(p.Mean*100)/100)
	}
	// 20 of the 60 minutes from 02:00 on have a launch; from 03:00 on launch and sale add up.
	if d := cmp.Diff([]float64{10, 10, 16.67, 40, 10, 5, 10}, got); d != "" {
		t.Error(d)
	}
	want := []EventLift{{"launch", 3, 3, 0}, {"sale", 2, 2, 0}, {"outage", 0.5, 0.5, 0}, {"unknown", 1, 1, 0}}
	if d := cmp.Diff(want, f.Explain().Events); d != "" {
		t.Error(d)
	}
}

// A holiday that moves is found by its dates.
func TestEventThatMoves(t *testing.T) {
	var days []time.Time
	for _, d := range []int{3, 9, 20, 26, 33, 45, 59} {
		days = append(days, monday.AddDate(0, 0, d))
	}
	e := at("holiday", 0, 24*time.Hour, days...)
	y := lifted(24*61, monday, time.Hour, 2, 9, 0.4, e)
	f := newForecaster(t, Options{Step: time.Hour, Horizon: 24, Events: []Event{e}})
	f.Fit(y[:24*59], monday)
	if got := f.Explain().Events[0]; math.Abs(got.Lift-0.4) > 0.04 || got.Occurrences != 6 {
		t.Errorf("%+v: want 0.4 after six", got)
	}
	for i, p := range f.Forecast(24, nil) {
		if want := y[24*59+i]; math.Abs(p.Mean-want) > 0.2*want+3 {
			t.Errorf("%d h: %.1f, want %.1f", i, p.Mean, want)
		}
	}
}

// What a quantile promises holds while an event is on: the spread is larger as demand is.
func TestEventSpread(t *testing.T) {
	e := every("launch", 2.5, monday.Add(33*time.Hour), 60*time.Hour, 5*time.Hour)
	y := lifted(24*7*16, monday, time.Hour, 6, 10, 2.5, e)
	f := newForecaster(t, Options{Step: time.Hour, Horizon: 2, Events: []Event{e}})
	n := 24 * 7 * 8
	f.Fit(y[:n], monday)
	in, below, above, wide, narrow := 0.0, 0.0, 0.0, 0.0, 0.0
	for i, v := range y[n:] {
		p := f.Forecast(1, []float64{0.1, 0.9})[0]
		if p.Quantiles[1] < p.Quantiles[0] {
			t.Fatal("quantiles cross")
		}
		if len(e.Occurrences(p.Time, p.Time.Add(time.Hour))) > 0 {
			in++
			if v < p.Quantiles[0] {
				below++
			}
			if v > p.Quantiles[1] {
				above++
			}
			wide += p.Quantiles[1] - p.Quantiles[0]
		} else {
			narrow += p.Quantiles[1] - p.Quantiles[0]
		}
		f.Observe(monday.Add(time.Duration(n+i)*time.Hour), v)
	}
	wide, narrow = wide/in, narrow/(float64(len(y)-n)-in)
	t.Logf("%.3f below the 10%% quantile, %.3f above the 90%% one, of %.0f; width %.1f and %.1f", below/in, above/in, in, wide, narrow)
	if c := 1 - (below+above)/in; c < 0.68 || c > 0.92 {
		t.Errorf("the 80%% band covers %.2f while an event is on", c)
	}
	if r := wide / narrow; r < 2 || r > 3 {
		t.Errorf("the band is %.2f times as wide while the event is on, want 2.5", r)
	}
}

// Nothing that a calendar or values do makes a forecast that is not one.
func TestEventsHostile(t *testing.T) {
	wrong := func(from, to time.Time) []Occurrence {
		return []Occurrence{
			{to, from},
			{time.Unix(-1<<40, 0), time.Unix(1<<40, 0)},
			{from.Add(time.Minute), from.Add(2 * time.Minute)},
			{},
		}
	}
	events := []Event{
		{Name: "wrong", Lift: 20, Occurrences: wrong},
		every("closed", 0.0001, monday, 26*time.Hour, 5*time.Hour),
		every("again", 20, monday, 50*time.Minute, 40*time.Minute),
		every("long", 2, monday.Add(time.Hour), 40*24*time.Hour, 35*24*time.Hour),
	}
	for _, y := range [][]float64{
		make([]float64, 500), seasonal(500, 24, 5, 1), withGaps(seasonal(500, 24, 5, 1), 0.5, 2),
		lifted(500, monday, time.Hour, 5, 3, 0, every("", 0, monday, 26*time.Hour, 5*time.Hour)), slices.Repeat([]float64{1e12, 0}, 250),
	} {
		f := newForecaster(t, Options{Step: time.Hour, Horizon: 5, Events: events, Seasons: []time.Duration{24 * time.Hour}})
		f.Fit(y[:300], monday)
		check(t, f)
		for i, v := range y[300:] {
			when := monday.Add(time.Duration(300+i) * time.Hour)
			if i > 60 && i < 80 {
				when = when.AddDate(0, 0, -3)
			}
			f.Observe(when, v)
			if i%40 == 0 {
				check(t, f)
				roundTrip(t, f)
				if err := f.Refit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		check(t, f)
		for _, e := range f.Explain().Events {
			if !(e.Lift >= 0 && e.Lift <= maxLift) {
				t.Errorf("%+v", e)
			}
		}
	}
}

// An event of 09:00 in Berlin comes an hour earlier in UTC from summer time on.
func TestEventOverSummerTime(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	start := time.Date(2026, 3, 2, 0, 0, 0, 0, berlin)
	e := Event{Name: "standup", Lift: 1.5, Occurrences: func(from, to time.Time) (all []Occurrence) {
		y, m, d := from.In(berlin).Date()
		for i := -1; ; i++ {
			nine := time.Date(y, m, d+i, 9, 0, 0, 0, berlin)
			if !nine.Before(to) {
				return all
			}
			if w := nine.Weekday(); w%2 == 1 && nine.Add(2*time.Hour).After(from) { // Monday, Wednesday, Friday
				all = append(all, Occurrence{nine, nine.Add(2 * time.Hour)})
			}
		}
	}}
	y := lifted(24*35, start, time.Hour, 2, 11, 2.5, e)
	f := newForecaster(t, Options{Step: time.Hour, Horizon: 24, Location: berlin, Events: []Event{e}})
	sunday := time.Date(2026, 3, 29, 0, 0, 0, 0, berlin)
	n := int(sunday.Sub(start) / time.Hour)
	f.Fit(y[:n], start)
	for i, p := range f.Forecast(48, nil) {
		on := e.Occurrences(p.Time, p.Time.Add(time.Hour)) != nil
		if r := p.Mean / (100 + 40*math.Sin(2*math.Pi*float64(n+i)/24)); on != (r > 1.7) {
			t.Errorf("%s: %.2f times the base, event %t", p.Time.In(berlin), r, on)
		}
	}
}

// TestEventsFarOut: what is a value still is none where an event makes a twentieth of it: no fit fails for that.
func TestEventsFarOut(t *testing.T) {
	start := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	always := at("always", 0.05, 1000*time.Hour, start.Add(-time.Hour))
	f, err := New(Options{Step: time.Minute, Events: []Event{always}, Regressors: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	y, x := make([]float64, 600), make([]float64, 600)
	for i := range y {
		y[i], x[i] = 9e29*float64(i%2), float64(i%3)
	}
	f.FitWith(y, start, [][]float64{x})
	for _, p := range f.Forecast(5, []float64{0.5}) {
		if math.IsNaN(p.Mean) || math.IsInf(p.Mean, 0) {
			t.Errorf("%+v", p)
		}
	}
}

// endsAfter is a context that ends when it was asked for its end so often.
type endsAfter struct {
	context.Context
	n int
}

func (c *endsAfter) Err() error {
	if c.n--; c.n < 0 {
		return context.Canceled
	}
	return nil
}

// TestRefitEnds: whenever a fit is ended, events and regressors are as they were.
func TestRefitEnds(t *testing.T) {
	start := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	e := every("e", 3, start.Add(5*time.Hour), 23*time.Hour, 90*time.Minute)
	f, err := New(Options{Step: 5 * time.Minute, Horizon: 12, Events: []Event{e}, Regressors: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	y := lifted(1500, start, 5*time.Minute, 3, 1, 3, e)
	for i, v := range y {
		f.ObserveWith(start.Add(time.Duration(i)*5*time.Minute), v, []float64{float64(i % 9)})
	}
	want, due := f.Forecast(600, []float64{0.5}), f.Due()
	state, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n = 2*n + 1 {
		if err := f.Refit(&endsAfter{t.Context(), n}); err == nil {
			break
		}
		if diff := cmp.Diff(want, f.Forecast(600, []float64{0.5})); diff != "" {
			t.Fatalf("ended after %d looks: %s", n, diff)
		}
		if got, err := f.MarshalBinary(); err != nil || !bytes.Equal(got, state) || f.Due() != due {
			t.Fatalf("ended after %d looks: the state is another, %v, due %t", n, err, f.Due())
		}
	}
}

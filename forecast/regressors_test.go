package forecast

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// driven is a daily wave with noise and n columns of which what drive says moves it.
func driven(n, columns int, seed uint64, drive func(x []float64) float64) (y []float64, x [][]float64) {
	r := rand.New(rand.NewPCG(seed, 5))
	x = make([][]float64, columns)
	last := make([]float64, columns)
	for i := range n {
		for c := range x {
			last[c] = 0.8*last[c] + r.NormFloat64()
			x[c] = append(x[c], 1000+50*last[c])
		}
		row := make([]float64, columns)
		for c := range x {
			row[c] = last[c]
		}
		y = append(y, 200+40*math.Sin(2*math.Pi*float64(i)/24)+3*r.NormFloat64()+drive(row))
	}
	return y, x
}

func names(n int) (all []string) {
	for i := range n {
		all = append(all, string(rune('a'+i)))
	}
	return all
}

// A regressor that is known three steps ahead takes half of the error away, and more where all of it is known.
func TestRegressorHelps(t *testing.T) {
	y, x := driven(24*42, 1, 1, func(x []float64) float64 { return 20 * x[0] })
	n := 24 * 28
	run := func(o Options, x [][]float64, known int) (float64, *Forecaster) {
		o.Step, o.Horizon = time.Hour, 6
		f := newForecaster(t, o)
		if len(x) == 0 {
			f.Fit(y[:n], monday)
			e, _ := errorOf(t, f, Event{}, monday.Add(time.Duration(n)*time.Hour), y[n:], nil, 0)
			return e, f
		}
		f.Ahead([][]float64{make([]float64, known)})
		f.FitWith(y[:n], monday, [][]float64{x[0][:n]})
		e, _ := errorOf(t, f, Event{}, monday.Add(time.Duration(n)*time.Hour), y[n:], [][]float64{x[0][n:]}, known)
		return e, f
	}
	plain, _ := run(Options{}, nil, 0)
	none, f := run(Options{Regressors: []string{"queued"}}, x, 0)
	three, f3 := run(Options{Regressors: []string{"queued"}}, x, 3)
	all, _ := run(Options{Regressors: []string{"queued"}}, x, 6)
	t.Logf("error %.2f without, %.2f, %.2f, %.2f with it known 0, 3, 6 ahead; %+v", plain, none, three, all, f3.Explain().Regressors[0])
	if none > 1.03*plain {
		t.Errorf("error %.2f with a regressor that is not known ahead, %.2f without: %s", none, plain, f.Explain().Reason)
	}
	if three > 0.55*plain || all > plain/2 {
		t.Errorf("error %.2f and %.2f with a regressor that is known 3 and 6 steps ahead, %.2f without", three, all, plain)
	}
	if c := f3.Explain().Regressors[0]; math.Abs(c.Coefficient-0.4) > 0.04 || !c.Used {
		t.Errorf("%+v, want 0.4", c)
	}
}

// A column that drives nothing, or eight that are the same, change nothing by more than a few percent.
func TestRegressorsThatDoNot(t *testing.T) {
	for _, tt := range []struct {
		name  string
		drive func(x []float64) float64
		same  bool
		most  float64
	}{
		{"noise", func([]float64) float64 { return 0 }, false, 1.03},
		{"eight the same", func(x []float64) float64 { return 20 * x[0] }, true, 0.6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			y, x := driven(24*42, 8, 2, tt.drive)
			if tt.same {
				for i, v := range x[0] {
					for c := range x {
						x[c][i] = v*float64(c+1)/3 + float64(c)
					}
				}
			}
			n := 24 * 28
			f := newForecaster(t, Options{Step: time.Hour, Horizon: 6, Regressors: names(8)})
			plain := newForecaster(t, Options{Step: time.Hour, Horizon: 6})
			var past, rest, known [][]float64
			for c := range x {
				past, rest, known = append(past, x[c][:n]), append(rest, x[c][n:]), append(known, make([]float64, 6))
			}
			f.Ahead(known)
			f.FitWith(y[:n], monday, past)
			plain.Fit(y[:n], monday)
			at := monday.Add(time.Duration(n) * time.Hour)
			with, _ := errorOf(t, f, Event{}, at, y[n:], rest, 6)
			without, _ := errorOf(t, plain, Event{}, at, y[n:], nil, 0)
			sum := 0.0
			for i, e := range f.Explain().Regressors {
				sum += e.Coefficient * float64(i+1) / 3
			}
			t.Logf("error %.2f with, %.2f without; %s", with, without, f.Explain().Reason)
			if !(with <= tt.most*without) {
				t.Errorf("error %.2f with, %.2f without", with, without)
			}
			if tt.same && math.Abs(sum-0.4) > 0.06 {
				t.Errorf("together the columns count %.3f, want 0.4", sum)
			}
		})
	}
}

// What is first said to be known ahead after a fit makes one due, and only once.
func TestAheadIsDue(t *testing.T) {
	y, x := driven(24*20, 1, 6, func(x []float64) float64 { return 20 * x[0] })
	f := newForecaster(t, Options{Step: time.Hour, Horizon: 3, Regressors: names(1)})
	n := len(y) - 3
	f.FitWith(y[:n], monday, [][]float64{x[0][:n]})
	if f.Due() {
		t.Fatal("a refit is due right after a fit")
	}
	f.Ahead([][]float64{x[0][n:]})
	if !f.Due() {
		t.Fatal("a refit is not due")
	}
	if err := f.Refit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Ahead([][]float64{x[0][n:]})
	if f.Due() || !f.Explain().Regressors[0].Used {
		t.Errorf("due %t, %s", f.Due(), f.Explain().Reason)
	}
	for h, p := range f.Forecast(3, nil) {
		if d := p.Mean - y[n+h]; math.Abs(d) > 12 {
			t.Errorf("%d steps ahead %.1f is off by %.1f", h+1, p.Mean, d)
		}
	}
}

// What is missing, infinite, constant or very large in a column has no effect that is not bounded.
func TestRegressorsHostile(t *testing.T) {
	y, x := driven(600, 6, 3, func(x []float64) float64 { return 20 * x[0] })
	for i := range y {
		if i%3 == 0 {
			x[1][i] = math.NaN()
		}
		x[2][i] = math.Inf(1 - i%2*2)
		x[3][i] = 7
		x[4][i] *= 1e25
		if i == 450 {
			x[0][i], x[5][i] = 1e29, -1e29
		}
	}
	for _, o := range []Options{{}, {Events: []Event{every("launch", 2, monday, 60*time.Hour, 3*time.Hour)}}} {
		o.Step, o.Horizon, o.Regressors, o.Seasons = time.Hour, 5, names(6), []time.Duration{24 * time.Hour}
		f := newForecaster(t, o)
		past := make([][]float64, 6)
		for c := range x {
			past[c] = x[c][:300]
		}
		f.FitWith(y[:300], monday, past)
		check(t, f)
		for i := 300; i < len(y); i++ {
			row := make([]float64, 0, 6)
			for c := range x {
				row = append(row, x[c][i])
			}
			when := monday.Add(time.Duration(i) * time.Hour)
			if i > 500 && i < 520 {
				when = when.AddDate(0, 0, -3)
			}
			f.ObserveWith(when, y[i], row[:i%7%(len(row)+1)])
			f.Ahead([][]float64{{math.NaN(), 1e300}, nil, {5}})
			if i%30 == 0 {
				check(t, f)
				roundTrip(t, f)
				if i%90 == 0 {
					if err := f.Refit(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		check(t, f)
		for _, p := range f.Forecast(5, []float64{0.1, 0.9}) {
			if p.Mean > 2000 {
				t.Errorf("a mean of %v where values are around 200", p.Mean)
			}
		}
	}
}

// A restart changes nothing of events and regressors, down to the bit; events are found again by name.
func TestFactorsSurvive(t *testing.T) {
	e := every("launch", 1.5, monday.Add(33*time.Hour), 60*time.Hour, 5*time.Hour)
	y, x := driven(24*42, 2, 4, func(x []float64) float64 { return 20 * x[1] })
	o := Options{Step: time.Hour, Horizon: 6, Events: []Event{e}, Regressors: names(2)}
	f := newForecaster(t, o)
	n := 24 * 28
	f.FitWith(y[:n], monday, [][]float64{x[0][:n], x[1][:n]})
	g := newForecaster(t, o)
	restart := func(i int) {
		b, err := f.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if err := g.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		c, err := g.MarshalBinary()
		if err != nil || string(b) != string(c) {
			t.Fatalf("step %d: a state read and written again differs (%v)", i, err)
		}
	}
	restart(n)
	for i := n; i < len(y); i++ {
		for _, z := range []*Forecaster{f, g} {
			z.ObserveWith(monday.Add(time.Duration(i)*time.Hour), y[i], []float64{x[0][i], x[1][i]})
			z.Ahead([][]float64{x[0][i+1 : min(i+4, len(y))], x[1][i+1 : min(i+4, len(y))]})
			if i%100 == 0 {
				if err := z.Refit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		a, b := f.Forecast(7, []float64{0.1, 0.9}), g.Forecast(7, []float64{0.1, 0.9})
		for h := range a {
			if a[h].Mean != b[h].Mean || a[h].Quantiles[1] != b[h].Quantiles[1] {
				t.Fatalf("step %d: %v and %v after a restart", i, a[h], b[h])
			}
		}
		if i%37 == 0 {
			restart(i)
		}
	}
	// Another calendar: what was learned of launches stays, what is new begins with its prior.
	o.Events = []Event{{Name: "sale", Lift: 3}, {Name: "launch", Lift: 1.5}}
	h := newForecaster(t, o)
	b, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	was, got := f.Explain().Events[0], h.Explain().Events
	if len(got) != 2 || got[0].Lift != 3 || got[1].Occurrences != was.Occurrences || math.Abs(got[1].Lift-was.Lift) > 0.2 {
		t.Errorf("%+v, want what was learned: %+v", got, was)
	}
}

func TestFactorsRefused(t *testing.T) {
	_, err := New(Options{
		Step: time.Hour, Events: append(make([]Event, 15), Event{Name: "a", Lift: 21}, Event{Name: "a", Lift: math.NaN()}),
		Regressors: append(names(8), "a"),
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"17 events: 16 at most", `event "": each has a name of its own`, `event "a": lift 21: it is from 0 to 20`,
		`event "a": lift NaN: it is from 0 to 20`, "9 regressors: 8 at most", `regressor "a": each has a name of its own`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q has no %q", err, want)
		}
	}
}

package forecast

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// seasonal is demand with a day of m steps, a slow trend and noise; the same for the same seed.
func seasonal(n, m int, noise float64, seed uint64) []float64 {
	r := rand.New(rand.NewPCG(seed, 1))
	y := make([]float64, n)
	for i := range y {
		y[i] = 100 + 0.01*float64(i) + 30*math.Sin(2*math.Pi*float64(i)/float64(m)) + noise*r.NormFloat64()
	}
	return y
}

// withGaps leaves out a share of y.
func withGaps(y []float64, share float64, seed uint64) []float64 {
	r := rand.New(rand.NewPCG(seed, 2))
	out := make([]float64, len(y))
	for i := range y {
		if out[i] = y[i]; r.Float64() < share {
			out[i] = math.NaN()
		}
	}
	return out
}

var specs = []Spec{
	{},
	{Trend: true},
	{Trend: true, Damped: true},
	{AR: true},
	{Seasons: []int{24}},
	{Trend: true, Damped: true, Seasons: []int{24}},
	{AR: true, Seasons: []int{24}},
	{Trend: true, Damped: true, AR: true, Seasons: []int{24, 168}},
	{Trend: true, Multiplicative: true, Seasons: []int{24}},
}

func (s Spec) String() string {
	return fmt.Sprintf("trend=%t damped=%t seasons=%v mult=%t ar=%t", s.Trend, s.Damped, s.Seasons, s.Multiplicative, s.AR)
}

// With R's parameters mapped, R's recursion and the innovations form are one.
func TestModelIsHoltWinters(t *testing.T) {
	for _, s := range readR(t) {
		for kind, r := range map[Seasonal]*rAnswers{Additive: s.Additive, Multiplicative: s.Multiplicative} {
			if r == nil {
				continue
			}
			t.Run(s.Series+"/"+kind.String(), func(t *testing.T) {
				from := &rHoltWinters{y: s.Values, m: s.M, seasonal: kind, trend: true}
				if err := from.startValues(); err != nil {
					t.Fatal(err)
				}
				f := r.Fixed
				p := Params{Alpha: f.Alpha, Beta: f.Alpha * f.Beta, Phi: 1, Gamma: [2]float64{(1 - f.Alpha) * f.Gamma}}
				if kind == Multiplicative {
					p.Gamma[0] = f.Gamma
				}
				m, err := NewModel(Spec{Trend: true, Seasons: []int{s.M}, Multiplicative: kind == Multiplicative}, p)
				if err != nil {
					t.Fatal(err)
				}
				m.started, m.level, m.slope = true, from.level, from.slope
				copy(m.season[0], from.season)
				m.SetPosition(int64(from.from))
				sse := 0.0
				for _, y := range s.Values[from.from:] {
					u := m.Update(y)
					sse += u * u
				}
				near(t, "SSE", sse, f.SSE, 0, 1e-9)
				near(t, "level", m.Level(), f.Level, 0, 1e-9)
				near(t, "slope", m.Slope(), f.Trend, 0, 1e-9)
				for i, v := range m.Season(0) {
					near(t, "season", v, f.Season[i], 0, 1e-9)
				}
				for i, v := range m.Forecast(len(f.Forecast)) {
					near(t, "forecast", v, f.Forecast[i], 0, 1e-9)
				}
			})
		}
	}
}

func TestNaiveForecastsAreMembers(t *testing.T) {
	y := []float64{3, 1, 4, 1, 5, 9, 2, 6}
	for _, tt := range []struct {
		name string
		spec Spec
		p    Params
		want []float64
	}{
		{"naive", Spec{}, Params{Alpha: 1, Phi: 1}, []float64{6, 6, 6, 6, 6}},
		{"seasonal naive", Spec{Seasons: []int{3}}, Params{Phi: 1, Gamma: [2]float64{1}}, []float64{9, 2, 6, 9, 2}},
		{"drift", Spec{Trend: true}, Params{Alpha: 1, Beta: 1, Phi: 1}, []float64{10, 14, 18, 22, 26}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := NewModel(tt.spec, tt.p)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range y {
				m.Update(v)
			}
			for i, v := range m.Forecast(len(tt.want)) {
				near(t, fmt.Sprintf("step %d", i+1), v, tt.want[i], 1, 1e-12)
			}
		})
	}
	ses, err := SES(y, 0.3)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := NewModel(Spec{}, Params{Alpha: 0.3, Phi: 1})
	for _, v := range y {
		m.Update(v)
	}
	near(t, "SES level", m.Level(), ses.Level, 0, 1e-12)
}

func TestMissingValues(t *testing.T) {
	y := seasonal(24*7*4, 24, 3, 1)
	for _, s := range specs {
		t.Run(s.String(), func(t *testing.T) {
			m, err := s.Fit(y, FitOptions{Horizon: 6})
			if err != nil {
				t.Fatal(err)
			}
			before := m.Forecast(200)
			one, many := m.clone(), m.clone()
			for h := 1; h <= 100; h++ {
				near(t, fmt.Sprintf("Mean(%d)", h), m.Mean(h), before[h-1], 0, 1e-12)
				// What is missing is taken to be as it was forecast.
				near(t, fmt.Sprintf("%d missing", h-1), one.Mean(1), before[h-1], 0, 1e-9)
				if u := one.Update(math.NaN()); !math.IsNaN(u) {
					t.Errorf("the error of a missing value is %v", u)
				}
			}
			many.Skip(100)
			near(t, "after Skip(100)", many.Mean(7), one.Mean(7), 0, 1e-9)
			near(t, "residual", many.residual, one.residual, 1, 1e-9)
		})
	}
}

// What a fit minimizes is the errors that the model then makes.
func TestLossIsTheModels(t *testing.T) {
	y := withGaps(seasonal(24*7*4, 24, 5, 2), 0.2, 2)
	seeks := []seek{{0, 5}, {301, 305}, {402, 408}} // the clock goes back, then forward by two
	p := Params{Alpha: 0.2, Beta: 0.03, Phi: 0.95, Gamma: [2]float64{0.3, 0.1}, Rho: 0.6}
	for _, s := range specs {
		for _, loss := range []Loss{SSE, MAE} {
			t.Run(fmt.Sprintf("%v loss=%d", s, loss), func(t *testing.T) {
				f, err := newFitter(s, y, seeks, FitOptions{Loss: loss, Horizon: 12})
				if err != nil {
					t.Fatal(err)
				}
				q := f.unpack(f.pack(p))
				m := f.model(q)
				want, next := 0.0, 0
				for i, v := range y {
					if next < len(seeks) && seeks[next].index == i {
						m.SetPosition(seeks[next].position)
						next++
					}
					u := m.Update(v)
					switch {
					case i < f.from:
					case loss == SSE && u == u:
						want += u * u
					case loss == MAE && i%2 == 0:
						for _, h := range f.heads {
							if i+h < len(y) && (next == len(seeks) || i+h < seeks[next].index) {
								if d := math.Abs(y[i+h] - m.Mean(h)); d == d {
									want += d
								}
							}
						}
					}
				}
				// Forecasts over a change of the clock are few, and not worth exactness in the loss.
				near(t, "loss", f.at(q), want, 0, map[Loss]float64{SSE: 1e-9, MAE: 0.05}[loss])
			})
		}
	}
}

func TestFitFindsTheParameters(t *testing.T) {
	for _, s := range specs {
		for _, loss := range []Loss{SSE, MAE} {
			t.Run(fmt.Sprintf("%v loss=%d", s, loss), func(t *testing.T) {
				f, err := newFitter(s, seasonal(24*7*6, 24, 5, 3), []seek{{0, 0}}, FitOptions{Loss: loss, Horizon: 12})
				if err != nil {
					t.Fatal(err)
				}
				got, err := f.fit(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				found := f.at(got)
				// No random parameters within the bounds are better by more than the tolerance of the search.
				r := rand.New(rand.NewPCG(4, 4))
				for range 500 {
					x := make([]float64, len(f.pack(got)))
					for i := range x {
						x[i] = 3 * r.NormFloat64()
					}
					if p := f.unpack(x); f.at(p) < found*0.98 {
						t.Fatalf("fitted %+v has loss %g, %+v has %g", got, found, p, f.at(p))
					}
				}
				if got.Beta > got.Alpha || got.Gamma[0] > 1-got.Alpha || got.Phi < phiLow || got.Phi > 1 || got.Rho > rhoHigh {
					t.Errorf("%+v is out of bounds", got)
				}
			})
		}
	}
}

// A second season explains what the first does not: half-hourly electricity demand has a day and a week.
func TestTwoSeasons(t *testing.T) {
	for _, s := range readR(t) {
		if s.Series != "taylor48" {
			continue
		}
		train, test := s.Values[:len(s.Values)-336], s.Values[len(s.Values)-336:]
		mae := func(seasons ...int) float64 {
			m, err := Spec{Seasons: seasons, AR: true}.Fit(train, FitOptions{Loss: MAE, Horizon: 48})
			if err != nil {
				t.Fatal(err)
			}
			sum := 0.0
			for i, v := range m.Forecast(len(test)) {
				sum += math.Abs(test[i]-v) / float64(len(test))
			}
			return sum
		}
		day, both := mae(48), mae(48, 336)
		if both > 0.5*day {
			t.Errorf("a week ahead the mean absolute error is %.0f with day and week, %.0f with the day alone", both, day)
		}
		return
	}
	t.Error("taylor48 is not in testdata")
}

func TestFitFails(t *testing.T) {
	nan := math.NaN()
	for _, tt := range []struct {
		name string
		spec Spec
		y    []float64
		want string
	}{
		{"nothing", Spec{}, nil, "0 values: 3 are needed"},
		{"nothing there", Spec{}, []float64{nan, nan, nan, 1, 2}, "2 values: 3 are needed"},
		{"infinite", Spec{}, []float64{1, 2, math.Inf(-1), 4}, "value -Inf is out of range: it is NaN if it is missing"},
		{"one season", Spec{Seasons: []int{4}}, make([]float64, 7), "7 values: two seasons of 4 are needed"},
		{"three seasons", Spec{Seasons: []int{2, 3, 4}}, make([]float64, 20), "3 seasons: a model has two at most"},
		{"a season of one", Spec{Seasons: []int{1}}, make([]float64, 20), "a season of 1 steps: it needs 2 at least"},
		{
			"multiplicative without a season",
			Spec{Multiplicative: true},
			make([]float64, 20),
			"a multiplicative model has one season and no AR, not 0 and AR false",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.spec.Fit(tt.y, FitOptions{}); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
	if _, err := NewModel(Spec{}, Params{Alpha: 1.5}); err == nil {
		t.Error("NewModel took an alpha of 1.5")
	}
}

func TestMinimize(t *testing.T) {
	rosenbrock := func(x []float64) float64 {
		return 100*math.Pow(x[1]-x[0]*x[0], 2) + math.Pow(1-x[0], 2)
	}
	x := []float64{-1.2, 1}
	v, evals := minimize(rosenbrock, x, 0.5, 1e-12, 1000)
	if math.Abs(x[0]-1) > 1e-3 || math.Abs(x[1]-1) > 1e-3 {
		t.Errorf("the minimum is at %v (%g after %d evaluations), want 1, 1", x, v, evals)
	}
	n := 0
	count := func(x []float64) float64 { n++; return rosenbrock(x) }
	if _, evals := minimize(count, []float64{-1.2, 1}, 0.5, 0, 50); evals != n || n > 50+2 {
		t.Errorf("%d evaluations, said %d, of a budget of 50", n, evals)
	}
	nan := func([]float64) float64 { return math.NaN() }
	if v, _ := minimize(nan, []float64{1, 2}, 0.5, 1e-6, 50); !math.IsInf(v, 1) {
		t.Errorf("the minimum of NaN is %v, want +Inf", v)
	}
}

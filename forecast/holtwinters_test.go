package forecast

import (
	"encoding/json"
	"math"
	"os"
	"testing"
)

// rSeries is a published series and R's answers for it; see testdata/README.md.
type rSeries struct {
	Series         string
	M              int
	Values         []float64
	Additive       *rAnswers
	Multiplicative *rAnswers
	Holt, SES      struct {
		Alpha, Beta, SSE, Level, Trend float64
		Forecast                       []float64
	}
}

type rAnswers struct {
	Fixed struct {
		Alpha, Beta, Gamma, SSE, Level, Trend float64
		Season, Forecast                      []float64
	}
	Fitted struct {
		Alpha, Beta, Gamma, SSE, Level, Trend        float64
		Season, Forecast, Lwr80, Upr80, Lwr95, Upr95 []float64
	}
}

func readR(t testing.TB) []rSeries {
	t.Helper()
	b, err := os.ReadFile("testdata/r.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Series []rSeries }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Series
}

// near fails unless got is want within tol, relative to the larger of want and scale.
func near(t *testing.T, what string, got, want, scale, tol float64) {
	t.Helper()
	if d := math.Abs(got - want); !(d <= tol*max(math.Abs(want), scale)) {
		t.Errorf("%s is %.12g, R has %.12g (off by %.2g)", what, got, want, d)
	}
}

func TestHoltWintersIsRs(t *testing.T) {
	n := 0
	for _, s := range readR(t) {
		for kind, r := range map[Seasonal]*rAnswers{Additive: s.Additive, Multiplicative: s.Multiplicative} {
			if r == nil {
				continue
			}
			n++
			t.Run(s.Series+"/"+kind.String(), func(t *testing.T) {
				f := r.Fixed
				hw, err := HoltWinters(s.Values, s.M, kind, &Smoothing{f.Alpha, f.Beta, f.Gamma})
				if err != nil {
					t.Fatal(err)
				}
				const tol = 1e-9
				near(t, "SSE", hw.SSE, f.SSE, 0, tol)
				near(t, "level", hw.Level, f.Level, 0, tol)
				near(t, "trend", hw.Trend, f.Trend, 0, tol)
				if len(hw.Season) != len(f.Season) {
					t.Fatalf("%d seasons, R has %d", len(hw.Season), len(f.Season))
				}
				for i := range f.Season {
					near(t, "season", hw.Season[i], f.Season[i], 0, tol)
				}
				for i, v := range hw.Forecast(len(f.Forecast)) {
					near(t, "forecast", v, f.Forecast[i], 0, tol)
				}

				fitted, err := HoltWinters(s.Values, s.M, kind, nil)
				if err != nil {
					t.Fatal(err)
				}
				if fitted.SSE > 1.001*r.Fitted.SSE {
					t.Errorf("fitted %+v has SSE %.8g, R's %.8g with %v", fitted.Smoothing, fitted.SSE, r.Fitted.SSE,
						[]float64{r.Fitted.Alpha, r.Fitted.Beta, r.Fitted.Gamma})
				}

				// At R's own optimum: its intervals.
				at := r.Fitted
				hw, err = HoltWinters(s.Values, s.M, kind, &Smoothing{at.Alpha, at.Beta, at.Gamma})
				if err != nil {
					t.Fatal(err)
				}
				sd := hw.Deviation(len(at.Forecast))
				for i, v := range hw.Forecast(len(at.Forecast)) {
					near(t, "forecast at R's optimum", v, at.Forecast[i], 0, 1e-7)
					if kind == Multiplicative {
						continue // R's limits are not those of the paper, see Deviation
					}
					near(t, "80% limit", v+1.2815515655446004*sd[i], at.Upr80[i], math.Abs(v), 1e-7)
					near(t, "95% limit", v-1.959963984540054*sd[i], at.Lwr95[i], math.Abs(v), 1e-7)
				}
				sum, sq, n := 0.0, 0.0, float64(len(hw.residuals))
				for _, e := range hw.residuals {
					sum, sq = sum+e, sq+e*e
				}
				near(t, "deviation one step ahead", sd[0], math.Sqrt((sq-sum*sum/n)/(n-1)), 0, 1e-9)
				for i := 1; i < len(sd) && kind == Additive; i++ {
					if sd[i] < sd[i-1] {
						t.Errorf("the deviation falls from %g to %g at %d steps", sd[i-1], sd[i], i+1)
					}
				}
			})
		}
	}
	if n != 16 {
		t.Errorf("compared %d, want eight series, additive and multiplicative", n)
	}
}

func TestHoltAndSESAreRs(t *testing.T) {
	for _, s := range readR(t) {
		if s.Series != "Nile" {
			continue
		}
		hw, err := HoltWinters(s.Values, 0, None, &Smoothing{Alpha: s.Holt.Alpha, Beta: s.Holt.Beta})
		if err != nil {
			t.Fatal(err)
		}
		near(t, "Holt SSE", hw.SSE, s.Holt.SSE, 0, 1e-9)
		near(t, "Holt level", hw.Level, s.Holt.Level, 0, 1e-9)
		near(t, "Holt trend", hw.Trend, s.Holt.Trend, 0, 1e-9)
		for i, v := range hw.Forecast(len(s.Holt.Forecast)) {
			near(t, "Holt forecast", v, s.Holt.Forecast[i], 0, 1e-9)
		}
		ses, err := SES(s.Values, s.SES.Alpha)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "SES SSE", ses.SSE, s.SES.SSE, 0, 1e-9)
		near(t, "SES level", ses.Level, s.SES.Level, 0, 1e-9)

		if hw, err = HoltWinters(s.Values, 0, None, nil); err != nil || hw.SSE > 1.001*s.Holt.SSE {
			t.Errorf("Holt fitted: SSE %g, R has %g (%v)", hw.SSE, s.Holt.SSE, err)
		}
		if ses, err = SES(s.Values, math.NaN()); err != nil || ses.SSE > 1.001*s.SES.SSE {
			t.Errorf("SES fitted: SSE %g, R has %g (%v)", ses.SSE, s.SES.SSE, err)
		}
		return
	}
	t.Error("the Nile is not in testdata")
}

func TestHoltWintersFails(t *testing.T) {
	ok := []float64{1, 2, 3, 4, 1, 2, 3, 4}
	for _, tt := range []struct {
		name     string
		y        []float64
		m        int
		seasonal Seasonal
		want     string
	}{
		{"one season", ok[:7], 4, Additive, "7 values: two seasons of 4 are needed for start values"},
		{"a season of one", ok, 1, Additive, "a season of 1 values: it needs 2 at least"},
		{"missing", []float64{1, math.NaN(), 3}, 0, None, "value 1 is NaN: R's recursion has no missing values; use New"},
		{"infinite", []float64{1, 2, math.Inf(1)}, 0, None, "value 2 is +Inf: R's recursion has no missing values; use New"},
		{"two values", ok[:2], 0, None, "2 values: Holt's linear method needs 3"},
		{"all zero", make([]float64, 8), 4, Multiplicative, "season 0 starts with NaN: a multiplicative one needs values other than 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := HoltWinters(tt.y, tt.m, tt.seasonal, nil); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
	if _, err := SES([]float64{1}, 0.5); err == nil {
		t.Error("SES took one value")
	}
}

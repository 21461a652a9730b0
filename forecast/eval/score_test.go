package eval_test

import (
	"math"
	"testing"

	"flyball/forecast/eval"
)

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-12*max(1, math.Abs(want)) && !(math.IsNaN(got) && math.IsNaN(want)) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestScale(t *testing.T) {
	for _, tt := range []struct {
		name   string
		y      []float64
		season int
		want   float64
	}{
		{"one step", []float64{1, 3, 2, 6}, 1, (2.0 + 1 + 4) / 3},
		{"a season of two", []float64{1, 3, 2, 6}, 2, (1.0 + 3) / 2},
		{"missing values leave their pairs out", []float64{1, nan, 2, 6, 4}, 2, (1.0 + 2) / 2},
		{"a season that is too long is a step", []float64{1, 3, 2}, 24, (2.0 + 1) / 2},
		{"flat: a thousandth of the level", []float64{5, 5, 5}, 1, 0.005},
		{"zero", []float64{0, 0, 0}, 1, 1e-9},
		{"nothing to compare", []float64{1, nan}, 1, nan},
	} {
		near(t, tt.name, eval.Scale(tt.y, tt.season), tt.want)
	}
}

func TestSMAPE(t *testing.T) {
	for _, tt := range []struct{ actual, forecast, want float64 }{
		{100, 110, 200 * 10.0 / 210}, {110, 100, 200 * 10.0 / 210}, {0, 5, 200}, {0, 0, 0}, {-1, 1, 200},
	} {
		near(t, "sMAPE", eval.SMAPE(tt.actual, tt.forecast), tt.want)
	}
}

// TestWIS compares with the definition by intervals: a median of 10, 80 % from 8 to 13 and 95 % from 5 to 20.
func TestWIS(t *testing.T) {
	levels, quantiles := []float64{0.025, 0.1, 0.5, 0.9, 0.975}, []float64{5, 8, 10, 13, 20}
	for _, tt := range []struct{ y, want float64 }{
		{11, (0.5*1 + 0.1*5 + 0.025*15) / 2.5},                         // within both
		{15, (0.5*5 + 0.1*(5+2/0.2*2) + 0.025*15) / 2.5},               // above the 80 %
		{2, (0.5*8 + 0.1*(5+2/0.2*6) + 0.025*(15+2/0.05*3)) / 2.5},     // below both
		{30, (0.5*20 + 0.1*(5+2/0.2*17) + 0.025*(15+2/0.05*10)) / 2.5}, // above both
	} {
		near(t, "WIS", eval.WIS(levels, quantiles, tt.y), tt.want)
	}
	// A median alone is the absolute error; one quantile is twice its pinball loss.
	near(t, "WIS", eval.WIS([]float64{0.5}, []float64{3}, 7), 4)
	near(t, "pinball", eval.Pinball(0.9, 10, 12), 1.8)
	near(t, "pinball", eval.Pinball(0.9, 12, 10), 0.2)
}

func TestGMean(t *testing.T) {
	near(t, "geometric mean", eval.GMean([]float64{0.5, 2, 8}), 2)
	near(t, "geometric mean", eval.GMean([]float64{nan, 4, -1, math.Inf(1), 9}), 6)
	near(t, "geometric mean", eval.GMean([]float64{0, 1}), math.Sqrt(1e-3))
	near(t, "geometric mean", eval.GMean(nil), nan)
}

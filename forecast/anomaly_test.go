package forecast_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/forecast"
)

// found runs values of a minute each, of which 10 is what is forecast and 1 what it is usually off by, through a detector,
// and says what was found of each: an upper-case letter is an alert.
func found(t *testing.T, o forecast.DetectorOptions, values ...float64) string {
	t.Helper()
	o.Step = time.Minute
	d, err := forecast.NewDetector(o)
	if err != nil {
		t.Fatal(err)
	}
	letters := map[forecast.Kind]string{"": ".", forecast.Spike: "s", forecast.Dip: "d", forecast.LevelShift: "l", forecast.Flatline: "f", forecast.Missing: "m"}
	var said strings.Builder
	for i, y := range values {
		f := d.Observe(time.Unix(int64(i)*60, 0), y, y-10, 1)
		letter := letters[f.Kind]
		if f.Alert {
			letter = strings.ToUpper(letter)
		}
		said.WriteString(letter)
		if f.Alert && f.Kind == "" || f.Residual > 4 && f.Kind != forecast.LevelShift && !f.Adopt {
			t.Errorf("value %d: %+v", i, f)
		}
	}
	return said.String()
}

// wave is n values around 10, no two neighbours the same.
func wave(n int) (y []float64) {
	for i := range n {
		y = append(y, 10+float64(i%2)/2)
	}
	return y
}

func TestDetector(t *testing.T) {
	same := func(v float64, n int) (y []float64) {
		for range n {
			y = append(y, v)
		}
		return y
	}
	join := func(parts ...[]float64) (y []float64) {
		for _, p := range parts {
			y = append(y, p...)
		}
		return y
	}
	minutes := forecast.DetectorOptions{Realert: 5 * time.Minute}
	for _, tt := range []struct {
		name   string
		o      forecast.DetectorOptions
		values []float64
		want   string
	}{
		{"nothing", minutes, wave(8), "........"},
		{"spikes and dips, one alert in five minutes", minutes, join([]float64{10, 16, 10, 4, 10, 10, 16}), ".S.d..S"},
		{"the default is two hours", forecast.DetectorOptions{}, join([]float64{16}, wave(118), []float64{16, 16}), "S" + strings.Repeat(".", 118) + "sS"},
		{"and a day if there is a daily pattern", forecast.DetectorOptions{Seasonal: true}, join([]float64{16}, wave(1438), []float64{16, 16}), "S" + strings.Repeat(".", 1438) + "sS"},
		{"more sensitive", forecast.DetectorOptions{Sensitivity: 2, Realert: time.Minute}, []float64{10, 12.5, 10, 7.5}, ".S.D"},
		{"less", forecast.DetectorOptions{Sensitivity: 8}, []float64{10, 17, 10}, "..."},
		{"the sixth in a row is a new level, and six more are it", minutes, same2(10, 16, 14), ".SssssL......S"},
		{"a run that ends is none", minutes, []float64{16, 17, 16, 17, 16, 10, 16, 17}, "Sssss.Ss"},
		{"a run on both sides is none", minutes, []float64{16, 17, 16, 4, 3, 4, 16}, "SssddDs"},
		{"after five up six down are", minutes, []float64{16, 17, 16, 17, 16, 4, 3, 4, 3, 4, 3}, "SssssDddddL"},
		{"three missing", minutes, []float64{10, nan, nan, 11, nan, nan, nan, nan, 10}, "......Mm."},
		{"flat, longer than an hour, and than ever before", minutes, join(wave(9), same(9, 3), wave(5), same(11, 64)), strings.Repeat(".", 17+60) + "Ffff"},
		{"what is often flat is not found flat", minutes, join(wave(9), same(9, 59), wave(5), same(9, 118)), strings.Repeat(".", 9+59+5+116) + "Ff"},
		{"what was never anything else is flat", minutes, same(10, 300), strings.Repeat(".", 300)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, found(t, tt.o, tt.values...)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// same2 is one value a and then n values that differ a little, around b.
func same2(a, b float64, n int) []float64 {
	y := []float64{a}
	for i := range n - 1 {
		y = append(y, b+float64(i%2)/2)
	}
	return y
}

func TestDetectorScoreIsBounded(t *testing.T) {
	d, err := forecast.NewDetector(forecast.DetectorOptions{Step: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	got := d.Observe(time.Unix(0, 0), 1e12, 1e12, 1e-9)
	if diff := cmp.Diff(forecast.Finding{Score: 1000, Kind: forecast.Spike, Alert: true, Residual: 4e-9}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// How much is usual is not known yet: there is nothing to judge by, and all to learn from.
	if diff := cmp.Diff(forecast.Finding{Residual: 50}, d.Observe(time.Unix(60, 0), 60, 50, 0)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDetectorFails(t *testing.T) {
	for _, tt := range []struct {
		o    forecast.DetectorOptions
		want string
	}{
		{forecast.DetectorOptions{}, "step 0s: it is above 0"},
		{forecast.DetectorOptions{Step: time.Minute, Realert: -1, Sensitivity: math.NaN()}, "realert -1ns: it is not below 0\nsensitivity NaN: it is not below 0"},
	} {
		if _, err := forecast.NewDetector(tt.o); err == nil || err.Error() != tt.want {
			t.Errorf("error %v, want %s", err, tt.want)
		}
	}
}

// TestSpread has the deviation of normal noise found, with wrong values in it, and after the noise has changed.
func TestSpread(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var s forecast.Spread
	if s.Deviation(10) != 0 {
		t.Error("a deviation is known of nothing")
	}
	for range 3000 {
		s.Observe(3 * rnd.NormFloat64())
	}
	if d := s.Deviation(0); d < 2.7 || d > 3.5 {
		t.Errorf("the deviation is %.2f, want 3", d)
	}
	for i := range 3000 {
		r := 3 * rnd.NormFloat64()
		if i%100 == 0 {
			r = 1e6
		}
		s.Observe(r)
	}
	if d := s.Deviation(0); d < 2.7 || d > 4.5 {
		t.Errorf("with one value in a hundred beyond all measure the deviation is %.2f, want little more than 3", d)
	}
	for range 3000 {
		s.Observe(0.1 * rnd.NormFloat64())
	}
	if d := s.Deviation(0); d < 0.08 || d > 0.13 {
		t.Errorf("the deviation is %.3f, want 0.1", d)
	}
	if d := s.Deviation(1e6); d != 1000 {
		t.Errorf("at a level of a million the deviation is %.3f, want a thousandth", d)
	}
	var flat forecast.Spread
	for range 100 {
		flat.Observe(0)
	}
	for range 2000 {
		flat.Observe(5)
	}
	if d := flat.Deviation(0); d < 5 {
		t.Errorf("after it was 0 for long, and then 5, the deviation is %v", d)
	}
}

// TestSpreadOfHeavyTails has a series of bursts be found anomalous less often than by the median alone.
func TestSpreadOfHeavyTails(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 1))
	var s forecast.Spread
	beyond, n := 0, 0
	for i := range 20_000 {
		r := rnd.NormFloat64() * math.Exp(1.2*rnd.NormFloat64())
		if i > 1000 {
			n++
			if math.Abs(r) > 5*s.Deviation(0) {
				beyond++
			}
		}
		s.Observe(r)
	}
	if share := float64(beyond) / float64(n); share > 0.04 || share == 0 { // by the median alone it is 0.086
		t.Errorf("%.4f of the values are beyond five deviations", share)
	}
}

func FuzzDetector(f *testing.F) {
	f.Add([]byte{10, 10, 200, 255, 255, 255, 254, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := forecast.NewDetector(forecast.DetectorOptions{Step: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		var s forecast.Spread
		for i, b := range in {
			y := float64(b)
			switch b {
			case 255:
				y = nan
			case 254:
				y = math.Inf(1)
			case 253:
				y = 1e300
			}
			got := d.Observe(time.Unix(int64(i), 0), y, y-100, s.Deviation(100))
			s.Observe(y - 100)
			if math.IsNaN(got.Score) || got.Score < 0 || got.Score > 1000 || math.IsNaN(got.Residual) {
				t.Errorf("%v: %+v", y, got)
			}
		}
	})
}

func BenchmarkDetector(b *testing.B) {
	d, err := forecast.NewDetector(forecast.DetectorOptions{Step: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	var s forecast.Spread
	t, i := time.Unix(0, 0), 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		t = t.Add(time.Minute)
		r := float64(i%7) - 3
		d.Observe(t, 100+r, r, s.Deviation(100))
		s.Observe(r)
	}
}

func ExampleDetector() {
	d, err := forecast.NewDetector(forecast.DetectorOptions{Step: time.Minute})
	if err != nil {
		panic(err)
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, y := range []float64{101, 99, 180, 175, 100} { // 100 are forecast, and it is usually 10 off
		f := d.Observe(start.Add(time.Duration(i)*time.Minute), y, y-100, 10)
		fmt.Println(y, f.Score, f.Kind, f.Alert)
	}
	// Output:
	// 101 0.1  false
	// 99 0.1  false
	// 180 8 spike true
	// 175 7.5 spike false
	// 100 0  false
}

package forecast_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/forecast"
)

var nan = math.NaN()

// airPassengers is monthly airline passengers, 1949 to 1960, in thousands (Box and Jenkins, "Time Series Analysis:
// Forecasting and Control", 1976).
func airPassengers() []float64 {
	return []float64{
		112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118, 115, 126, 141, 135, 125, 149, 170, 170, 158, 133, 114, 140,
		145, 150, 178, 163, 172, 178, 199, 199, 184, 162, 146, 166, 171, 180, 193, 181, 183, 218, 230, 242, 209, 191, 172, 194,
		196, 196, 236, 235, 229, 243, 264, 272, 237, 211, 180, 201, 204, 188, 235, 227, 234, 264, 302, 293, 259, 229, 203, 229,
		242, 233, 267, 269, 270, 315, 364, 347, 312, 274, 237, 278, 284, 277, 317, 313, 318, 374, 413, 405, 355, 306, 271, 306,
		315, 301, 356, 348, 355, 422, 465, 467, 404, 347, 305, 336, 340, 318, 362, 348, 363, 435, 491, 505, 404, 359, 310, 337,
		360, 342, 406, 396, 420, 472, 548, 559, 463, 407, 362, 405, 417, 391, 419, 461, 472, 535, 622, 606, 508, 461, 390, 432,
	}
}

// TestCleanFindsWhatWasPutIn has three values missing and two wrong, as the check of R's tsclean does that the figures in
// the comments are from. R replaces the two as well, and four true ones (116, 128, 139 and 140, counted from 1): the
// peaks of a series that multiplies.
func TestCleanFindsWhatWasPutIn(t *testing.T) {
	y := airPassengers()
	truth := slices.Clone(y)
	for _, i := range []int{29, 30, 74} {
		y[i] = nan
	}
	y[99] *= 3
	y[49] = 0
	c := forecast.Clean(y, 12)
	if diff := cmp.Diff([]int{29, 30, 74}, c.Filled); diff != "" {
		t.Errorf("filled (-want +got)\n%s", diff)
	}
	changed := 0
	for _, i := range c.Outliers {
		if i != 49 && i != 99 {
			changed++
		}
	}
	if !slices.Contains(c.Outliers, 49) || !slices.Contains(c.Outliers, 99) || changed > 1 {
		t.Errorf("outliers are %v, want 49, 99 and at most one more", c.Outliers)
	}
	for _, i := range []int{29, 30, 74, 49, 99} { // R: 197.1, 231.7, 275.8, 192.6, 348.2
		if off := math.Abs(c.Values[i]/truth[i] - 1); off > 0.1 {
			t.Errorf("the value at %d is %.1f, truly %.0f", i, c.Values[i], truth[i])
		}
	}
	for i, v := range c.Values {
		if v != truth[i] && !slices.Contains(c.Filled, i) && !slices.Contains(c.Outliers, i) {
			t.Errorf("the value at %d was changed from %v to %v", i, truth[i], v)
		}
	}
}

// daily is a pattern of a day of 48 steps, some noise and a trend.
func daily(days int, seed uint64) []float64 {
	rnd := rand.New(rand.NewPCG(seed, 7))
	y := make([]float64, days*48)
	for i := range y {
		y[i] = 200 + 0.05*float64(i) + 60*math.Sin(2*math.Pi*float64(i)/48) + 5*rnd.NormFloat64()
	}
	return y
}

func TestClean(t *testing.T) {
	for _, tt := range []struct {
		name             string
		change           func(y []float64)
		filled, outliers []int
	}{
		{"nothing is wrong", func([]float64) {}, nil, nil},
		{"a gap of three", func(y []float64) { y[100], y[101], y[102] = nan, nan, nan }, []int{100, 101, 102}, nil},
		{"a gap of four stays", func(y []float64) { y[100], y[101], y[102], y[103] = nan, nan, nan, nan }, nil, nil},
		{"gaps at both ends", func(y []float64) { y[0], y[479] = nan, nan }, []int{0, 479}, nil},
		{"a spike beside a gap", func(y []float64) { y[200], y[201] = 1e6, nan }, []int{201}, []int{200}},
		{"a spike beside a gap of three", func(y []float64) { y[200], y[201], y[202], y[203] = 1e6, nan, nan, nan }, []int{201, 202, 203}, []int{200}},
		{"spikes and dips", func(y []float64) { y[50], y[51], y[300] = 0, 0, 900 }, nil, []int{50, 51, 300}},
		{"a spike beyond all measure", func(y []float64) { y[300] = 1e99 }, nil, []int{300}},
		{"six in a row are a new level", func(y []float64) {
			for i := 200; i < 206; i++ {
				y[i] += 400
			}
		}, nil, nil},
		{"five are not", func(y []float64) {
			for i := 200; i < 205; i++ {
				y[i] += 400
			}
		}, nil, []int{200, 201, 202, 203, 204}},
		{"what is often there is no outlier", func(y []float64) {
			for i := 0; i < len(y); i += 9 {
				y[i] += 400
			}
		}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			truth := daily(10, 1)
			y := slices.Clone(truth)
			tt.change(y)
			before := slices.Clone(y)
			c := forecast.Clean(y, 48)
			if diff := cmp.Diff(tt.filled, c.Filled); diff != "" {
				t.Errorf("filled (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tt.outliers, c.Outliers); diff != "" {
				t.Errorf("outliers (-want +got)\n%s", diff)
			}
			for _, i := range slices.Concat(tt.filled, tt.outliers) {
				if math.Abs(c.Values[i]-truth[i]) > 25 {
					t.Errorf("the value at %d is %.1f, truly %.1f", i, c.Values[i], truth[i])
				}
			}
			if fmt.Sprint(before) != fmt.Sprint(y) {
				t.Error("the series that was given is not the same any more")
			}
		})
	}
}

// TestCleanOfTwoDays has a wrong value found where its place in the season was seen only twice.
func TestCleanOfTwoDays(t *testing.T) {
	truth := daily(2, 5)
	y := slices.Clone(truth)
	y[60] += 500
	c := forecast.Clean(y, 48)
	if diff := cmp.Diff([]int{60}, c.Outliers); diff != "" {
		t.Errorf("outliers (-want +got)\n%s", diff)
	}
	if math.Abs(c.Values[60]-truth[60]) > 25 {
		t.Errorf("the value is %.1f, truly %.1f", c.Values[60], truth[60])
	}
}

func TestCleanOfLittle(t *testing.T) {
	for _, y := range [][]float64{nil, {1}, {nan}, {nan, nan, nan, nan, nan}, {1, nan, 2}, slices.Repeat([]float64{0}, 50), slices.Repeat([]float64{7}, 50)} {
		c := forecast.Clean(y, 1, 2, 24)
		if len(c.Values) != len(y) || len(c.Outliers) > 0 {
			t.Errorf("%v became %+v", y, c)
		}
	}
	if got := forecast.Clean([]float64{1, nan, 2}).Values; got[1] != 1.5 {
		t.Errorf("between 1 and 2 is %v", got[1])
	}
	flat := slices.Repeat([]float64{7}, 50)
	flat[20] = 8
	if got := forecast.Clean(flat); !slices.Equal(got.Outliers, []int{20}) || got.Values[20] != 7 {
		t.Errorf("one 8 among sevens: %+v", got)
	}
}

func TestDecompose(t *testing.T) {
	y := daily(10, 2)
	d := forecast.Decompose(y, 48)
	if d.Multiplicative {
		t.Error("a pattern that does not grow with the level is taken to multiply")
	}
	for i := range y {
		if math.Abs(y[i]-d.Trend[i]-d.Seasonal[i]-d.Residual[i]) > 1e-9 {
			t.Fatalf("the parts at %d do not add up", i)
		}
		if want := 200 + 0.05*float64(i); i > 24 && i < len(y)-24 && math.Abs(d.Trend[i]-want) > 6 {
			t.Errorf("the trend at %d is %.1f, want %.1f", i, d.Trend[i], want)
		}
		if want := 60 * math.Sin(2*math.Pi*float64(i)/48); math.Abs(d.Seasonal[i]-want) > 10 {
			t.Errorf("the season at %d is %.1f, want %.1f", i, d.Seasonal[i], want)
		}
	}
	if !forecast.Decompose(airPassengers(), 12).Multiplicative {
		t.Error("the airline's passengers are not taken to multiply")
	}
}

func FuzzClean(f *testing.F) {
	f.Add([]byte{1, 2, 3, 255, 4, 5, 0, 0, 9}, 3)
	f.Add([]byte{255, 255}, 1)
	f.Fuzz(func(t *testing.T, in []byte, season int) {
		y := make([]float64, len(in))
		for i, b := range in {
			switch y[i] = float64(b); b {
			case 255:
				y[i] = nan
			case 254:
				y[i] = 1e99
			case 253:
				y[i] = -1e99
			}
		}
		c := forecast.Clean(y, season)
		if len(c.Values) != len(y) {
			t.Fatalf("%d values became %d", len(y), len(c.Values))
		}
		for i, v := range c.Values {
			if math.IsInf(v, 0) || math.IsNaN(v) && !math.IsNaN(y[i]) {
				t.Errorf("%v at %d became %v", y[i], i, v)
			}
		}
	})
}

func BenchmarkClean(b *testing.B) {
	y := daily(42, 3) // 2,016 values
	b.ReportAllocs()
	for b.Loop() {
		forecast.Clean(y, 48, 336)
	}
}

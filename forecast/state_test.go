package forecast

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// roundTrip fails unless f survives a restart bit for bit.
func roundTrip(t testing.TB, f *Forecaster) *Forecaster {
	t.Helper()
	b, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var g Forecaster
	if err := g.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if c, err := g.MarshalBinary(); err != nil || !bytes.Equal(b, c) {
		t.Fatalf("a state read and written again differs (%v)", err)
	}
	return &g
}

func TestStateSurvives(t *testing.T) {
	y := withGaps(seasonal(144*10, 144, 4, 18), 0.05, 3)
	tokyo, err := time.LoadLocation("Asia/Tokyo")
	if err != nil {
		t.Skip(err)
	}
	for _, o := range []Options{
		{},
		{Model: "holt_winters_multiplicative"},
		{Seasons: []time.Duration{}, Levels: []float64{0.33}},
		{Seasons: []time.Duration{12 * time.Hour, 24 * time.Hour}, Horizon: 10, AllowNegative: true, Location: tokyo},
	} {
		f := newForecaster(t, o)
		roundTrip(t, f)
		f.Fit(y[:144*8], monday)
		g := roundTrip(t, f)
		for i, v := range y[144*8:] {
			for _, x := range []*Forecaster{f, g} {
				x.Observe(monday.Add(time.Duration(144*8+i)*x.o.Step), v)
				if x.Due() {
					if err := x.Refit(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		levels := []float64{0.1, 0.9}
		if d := cmp.Diff(f.Forecast(12, levels), g.Forecast(12, levels)); d != "" {
			t.Errorf("a forecaster that was restarted forecasts otherwise: %s", d)
		}
		if d := cmp.Diff(f.Explain(), g.Explain()); d != "" {
			t.Error(d)
		}
	}
}

func TestStateIsRefused(t *testing.T) {
	f := newForecaster(t, Options{})
	feed(f, monday, seasonal(100, 144, 4, 19))
	b, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(b)
	flipped[len(b)/2] ^= 1
	newer := f.resealed(b, func(b []byte) { b[len(stateMagic)] = 9 })
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "not the state of a forecaster"},
		{"something else", []byte("synthetic data that is no state at all"), "not the state of a forecaster"},
		{"cut short", b[:len(b)-9], "state of a forecaster: damaged or cut short"},
		{"a bit flipped", flipped, "state of a forecaster: damaged or cut short"},
		{"another version", newer, "state of a forecaster: version 9, this is 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newForecaster(t, Options{Step: time.Hour})
			before, _ := g.MarshalBinary()
			if err := g.UnmarshalBinary(tt.b); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if after, _ := g.MarshalBinary(); !bytes.Equal(before, after) {
				t.Error("a state that was refused changed something")
			}
		})
	}
	if _, err := newForecaster(t, Options{Location: time.FixedZone("nowhere", 3600)}).MarshalBinary(); err == nil {
		t.Error("a location that cannot be loaded was saved")
	}
}

// A series with a day and a week of 5-minute steps stays under 100 KB.
func TestSize(t *testing.T) {
	y := seasonal(6048, 288, 3, 20)
	for i := range y {
		if i/288%7 >= 5 {
			y[i] /= 2
		}
	}
	f := newForecaster(t, Options{Step: 5 * time.Minute})
	f.Fit(y, monday)
	if e := f.Explain(); !strings.Contains(e.Members[0].Name, "168h") {
		t.Errorf("%s leads on days that differ by weekday", e.Members[0].Name)
	}
	b, err := f.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	size := len(b) + len(f.pool.members)*int(unsafe.Sizeof(member{})) + int(unsafe.Sizeof(*f))
	if size > 100_000 {
		t.Errorf("a series takes %d bytes", size)
	}
}

package forecast

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"
	"testing"
	"time"
)

// resealed is a state changed by edit, with its checksum right again.
func (f *Forecaster) resealed(b []byte, edit func([]byte)) []byte {
	b = slices.Clone(b)
	n := len(b) - 4
	edit(b[:n])
	binary.LittleEndian.PutUint32(b[n:], crc32.ChecksumIEEE(b[:n]))
	return b
}

// FuzzObserve lets a forecaster see any values at any times: each nine bytes are what the time does and a value.
func FuzzObserve(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	var long []byte
	for i, v := range withGaps(seasonal(60, 6, 5, 1), 0.1, 1) {
		long = append(long, byte(i%11/10))
		long = binary.LittleEndian.AppendUint64(long, math.Float64bits(v))
	}
	f.Add(long, uint8(0))
	f.Add(long, uint8(200))
	f.Add(long, uint8(128))
	f.Add(long, uint8(255))
	for _, v := range []float64{0, math.Inf(1), math.NaN(), 1e12, 1e300, -5, math.SmallestNonzeroFloat64} {
		f.Add(append(slices.Clone(long), binary.LittleEndian.AppendUint64([]byte{7}, math.Float64bits(v))...), uint8(9))
	}
	f.Fuzz(func(t *testing.T, b []byte, model uint8) {
		name := "auto"
		if int(model) < len(Models()) {
			name = Models()[model]
		}
		o := Options{Step: time.Hour, Horizon: 5, Model: name, Seasons: []time.Duration{6 * time.Hour, 12 * time.Hour}}
		if model >= 128 {
			o.Events = []Event{
				every("launch", float64(model-128)/8, monday, 17*time.Hour, 100*time.Minute),
				every("sale", 0, monday.Add(time.Hour), 30*24*time.Hour, 9*24*time.Hour),
			}
			o.Regressors = names(int(model) % 9)
		}
		fc, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		at := monday
		for i := 0; i+9 <= len(b) && i < 9*200; i += 9 {
			switch d := b[i]; {
			case d < 100:
				at = at.Add(time.Hour)
			case d < 110: // again
			case d < 180:
				at = at.Add(time.Duration(d-109) * 37 * time.Minute)
			case d < 250:
				at = at.Add(-time.Duration(d-179) * 37 * time.Minute)
			case d < 254:
				at = at.AddDate(int(d)-249, 0, 0)
			default:
				at = at.AddDate(-1, 0, 0)
			}
			v := math.Float64frombits(binary.LittleEndian.Uint64(b[i+1:]))
			fc.ObserveWith(at, v, []float64{math.Float64frombits(binary.LittleEndian.Uint64(b[i+1:]) * 0x9e3779b97f4a7c15), v, float64(b[i])})
			if b[i]%16 == 3 {
				fc.Ahead([][]float64{{v, 1}, {2, float64(b[i])}})
			}
			if fc.Due() && i%270 == 0 {
				if err := fc.Refit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if i%180 == 0 {
				check(t, fc)
			}
		}
		check(t, fc)
		roundTrip(t, fc)
	})
}

// FuzzUnmarshal changes states behind a right checksum: they are refused or good for forecasts.
func FuzzUnmarshal(f *testing.F) {
	y := seasonal(100, 24, 5, 1)
	fc, err := New(Options{
		Step: time.Hour, Horizon: 5, Seasons: []time.Duration{24 * time.Hour}, Regressors: names(2),
		Events: []Event{every("launch", 1.5, monday, 17*time.Hour, 100*time.Minute)},
	})
	if err != nil {
		f.Fatal(err)
	}
	fc.FitWith(y, monday, [][]float64{y, y[:50]})
	fc.Ahead([][]float64{{1, 2}, {3}})
	b, err := fc.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(20, uint64(1), 0)
	f.Add(200, uint64(math.MaxUint64), 3)
	f.Add(1000, math.Float64bits(math.NaN()), 10)
	f.Fuzz(func(t *testing.T, at int, v uint64, short int) {
		c := fc.resealed(b, func(b []byte) {
			if at >= 0 && at+8 <= len(b) {
				binary.LittleEndian.PutUint64(b[at:], v)
			}
		})
		if short > 0 && short < len(c)-4 {
			c = fc.resealed(c[:len(c)-short], func([]byte) {})
		}
		var g Forecaster
		if at%2 == 1 {
			g.o = fc.o
		}
		if g.UnmarshalBinary(c) != nil {
			return
		}
		for i := range 20 {
			g.ObserveWith(monday.AddDate(0, 0, 4).Add(time.Duration(i)*time.Hour), 5, []float64{1, float64(i)})
		}
		g.Forecast(10, []float64{0.1, 0.9})
		_ = g.Refit(t.Context())
		roundTrip(t, &g)
	})
}

package gpu

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAccumulator(t *testing.T) {
	const gib = 1 << 30
	pcie := accumulator{rate: maxPCIe, wraps: true}
	type reading struct {
		after  time.Duration // the reading before
		raw    float64
		reload bool // the driver was loaded again before it
		want   float64
	}
	for _, tt := range []struct {
		name     string
		a        accumulator
		readings []reading
	}{
		{"it counts from the first reading", accumulator{rate: maxPower}, []reading{{0, 5000, false, 0}, {5 * time.Second, 5500, false, 500}, {5 * time.Second, 5500, false, 500}}},
		{"one that begins again", accumulator{rate: maxPower}, []reading{{0, 5000, false, 0}, {5 * time.Second, 6000, false, 1000}, {time.Minute, 700, false, 1700}, {5 * time.Second, 900, false, 1900}}},
		{"a jump that no GPU can make", accumulator{rate: maxPower}, []reading{{0, 5000, false, 0}, {5 * time.Second, 9e9, false, 0}, {5 * time.Second, 9e9 + 100, false, 100}}},
		{"begins again and a jump", accumulator{rate: maxPower}, []reading{{0, 9e9, false, 0}, {5 * time.Second, 8e9, false, 0}, {5 * time.Second, 8e9 + 5, false, 5}}},
		{"no worker for an hour", accumulator{rate: maxPower}, []reading{{0, 0, false, 0}, {time.Hour, 2.5e6, false, 2.5e6}}},
		{"a clock that goes back", accumulator{rate: maxPower}, []reading{{time.Hour, 0, false, 0}, {-time.Minute, 300, false, 300}}},
		{"a wrap at 32 bits", pcie, []reading{{0, 4*gib - 1000, false, 0}, {5 * time.Second, 500, false, 1500}, {5 * time.Second, 700, false, 1700}}},
		{"a wrap at 42 bits", pcie, []reading{{0, 1<<42 - 3*gib, false, 0}, {5 * time.Second, 2 * gib, false, 5 * gib}}},
		{"too far from the top of 42 bits to have wrapped", pcie, []reading{{0, 100 * gib, false, 0}, {time.Second, 2 * gib, false, 2 * gib}}},
		{"it was beyond 32 bits before", pcie, []reading{{0, 5 * gib, false, 0}, {5 * time.Second, 1 * gib, false, gib}, {5 * time.Second, gib / 2, false, gib + gib/2}}},
		{"beyond 42 bits it begins again", pcie, []reading{{0, 1 << 50, false, 0}, {5 * time.Second, 1000, false, 1000}}},
		{"a driver that was loaded again does not wrap", pcie, []reading{{0, 3 * gib, false, 0}, {30 * time.Second, 1000, true, 1000}, {5 * time.Second, 500, false, 1000 + 4*gib - 1000 + 500}}},
		{"a driver that was not, though it was thought", pcie, []reading{{0, 3 * gib, false, 0}, {30 * time.Second, 3*gib + 10, true, 10}}},
		{"energy does not wrap", accumulator{rate: maxPower}, []reading{{0, 1<<32 - 10, false, 0}, {5 * time.Second, 90, false, 90}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at, a := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), tt.a
			var got, want []float64
			for _, r := range tt.readings {
				at = at.Add(r.after)
				a.reloaded = a.reloaded || r.reload
				got, want = append(got, a.add(r.raw, at)), append(want, r.want)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("counter (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLinkTotals: each link has a counter of its own, also where there are more than before, or one is not told for a while.
func TestLinkTotals(t *testing.T) {
	at, totals := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), newTotals()
	links := func(values ...int) (list []NVLinkBytes) {
		for _, v := range values {
			if v < 0 {
				list = append(list, NVLinkBytes{})
				continue
			}
			list = append(list, NVLinkBytes{new(uint64(v)), new(uint64(2 * v))})
		}
		return list
	}
	for i, tt := range []struct {
		raw, want []NVLinkBytes
		reload    bool
	}{
		{links(5, 100), links(0, 0), false},
		{links(6, 103), links(1, 3), false},
		{links(7, -1, 40), links(2, -1, 0), false},
		{links(8, 110, 41), links(3, 10, 1), false},
		{links(2, 0, 0), links(5, 10, 1), true},
		{nil, nil, false},
		{links(3, 1, 1), links(6, 11, 2), false},
	} {
		if at = at.Add(time.Second); tt.reload {
			totals.reload()
		}
		d := Device{NVLink: &NVLink{Links: tt.raw}}
		raw := d.NVLink
		totals.apply(&d, at)
		if diff := cmp.Diff(&NVLink{Links: tt.want}, d.NVLink); diff != "" {
			t.Errorf("reading %d (-want +got):\n%s", i, diff)
		}
		if diff := cmp.Diff(&NVLink{Links: tt.raw}, raw); diff != "" {
			t.Errorf("reading %d: what was read is changed (-want +got):\n%s", i, diff)
		}
	}
}

// FuzzAccumulator: whatever is read, the counter never goes back and never gains more than a GPU can do.
func FuzzAccumulator(f *testing.F) {
	f.Add(uint64(1<<32-1), uint64(5), uint64(7), int64(5e9), true)
	f.Fuzz(func(t *testing.T, first, second, third uint64, apart int64, wraps bool) {
		a := accumulator{rate: maxPCIe, wraps: wraps}
		at, before := time.Now(), 0.0
		for _, raw := range []uint64{first, second, third} {
			total := a.add(float64(raw), at)
			if most := maxPCIe * (max(time.Duration(apart).Seconds(), 0) + 1); total < before || total-before > most {
				t.Fatalf("from %g to %g, at most %g more", before, total, most)
			}
			before, at = total, at.Add(time.Duration(apart))
		}
	})
}

// TestTotals: what is published is counted, what the worker said is left as it was.
func TestTotals(t *testing.T) {
	energy, tx := 1000.0, uint64(1<<32-100)
	raw := Device{Energy: &energy, PCIe: &PCIe{Transmitted: &tx, Generation: map[string]int{"max": 5}}, NVLink: &NVLink{Received: &tx}}
	totals, at := newTotals(), time.Now()
	first := raw
	totals.apply(&first, at)
	energy2, tx2, rx2 := 1600.0, uint64(100), uint64(1<<32)
	second := Device{Energy: &energy2, PCIe: &PCIe{Transmitted: &tx2}, NVLink: &NVLink{Received: &rx2}}
	totals.apply(&second, at.Add(5*time.Second))
	got := []float64{*first.Energy, float64(*first.PCIe.Transmitted), *second.Energy, float64(*second.PCIe.Transmitted), float64(*second.NVLink.Received)}
	if diff := cmp.Diff([]float64{0, 0, 600, 200, 100}, got); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if *raw.Energy != 1000 || *raw.PCIe.Transmitted != 1<<32-100 || first.PCIe.Generation["max"] != 5 || first.PCIe.Received != nil {
		t.Errorf("what was read was changed, or what was not read invented: %+v", raw)
	}
}

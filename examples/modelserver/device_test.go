package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestAcceleratorCost(t *testing.T) {
	for _, tt := range []struct {
		text, string, err string
		want              acceleratorCost
	}{
		{text: "40ms+2ms", want: acceleratorCost{Fixed: 40 * time.Millisecond, PerItem: 2 * time.Millisecond}, string: "40ms+2ms"},
		{text: "0s+1.5ms", want: acceleratorCost{PerItem: 1500 * time.Microsecond}, string: "0s+1.5ms"},
		{text: "none", string: "none"},
		{text: "", string: "none"},
		{text: "40ms", err: `"40ms" is not FIXED+PERITEM: give two durations such as 40ms+2ms`},
		{text: "40+2ms", err: `"40+2ms": fixed part: "40" is not a duration: give one such as 40ms`},
		{text: "40ms+", err: `"40ms+": part per item: "" is not a duration: give one such as 40ms`},
		{text: "40ms+-2ms", err: `"40ms+-2ms": part per item: -2ms is negative: give 0s or more`},
	} {
		t.Run(tt.text, func(t *testing.T) {
			var got acceleratorCost
			if err := got.Set(tt.text); err != nil {
				if err.Error() != tt.err {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if tt.err != "" || got != tt.want || got.String() != tt.string {
				t.Errorf("%v (%s), want %v (%s) or the error %q", got, got, tt.want, tt.string, tt.err)
			}
		})
	}
}

// bubbleDevice is a device in the time of a test's bubble.
func bubbleDevice(cutOff context.Context, cost acceleratorCost, m *metrics) *device {
	d := newDevice(cutOff, cost, m)
	d.hold = timerUntil
	return d
}

// TestPreciseUntil: it is never early, and is broken off by its context, before it began and after.
func TestPreciseUntil(t *testing.T) {
	for _, length := range []time.Duration{-time.Second, 0, 250 * time.Microsecond, 3 * time.Millisecond} {
		until := time.Now().Add(length)
		if err := preciseUntil(t.Context(), until); err != nil {
			t.Errorf("%v: %v", length, err)
		}
		if early := time.Until(until); early > 0 {
			t.Errorf("%v: early by %v", length, early)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- preciseUntil(ctx, time.Now().Add(time.Hour)) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("broken off: %v", err)
	}
	if err := preciseUntil(ctx, time.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
		t.Errorf("broken off before: %v", err)
	}
}

// BenchmarkHold is a hold of 8.25 ms; late-us/op is by how much it is late.
func BenchmarkHold(b *testing.B) {
	for name, hold := range map[string]func(context.Context, time.Time) error{"precise": preciseUntil, "timer": timerUntil} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var late time.Duration
			for b.Loop() {
				until := time.Now().Add(8250 * time.Microsecond)
				if err := hold(b.Context(), until); err != nil {
					b.Fatal(err)
				}
				late += time.Since(until)
			}
			b.ReportMetric(float64(late.Microseconds())/float64(b.N), "late-us/op")
		})
	}
}

// TestDeviceQueue: one batch at a time, in the order of coming; who gives up while waiting costs no time.
func TestDeviceQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics()
		d := bubbleDevice(t.Context(), acceleratorCost{Fixed: 40 * time.Millisecond, PerItem: 2 * time.Millisecond}, m)
		began := time.Now()
		since := func() time.Duration { return time.Since(began) }

		var mu sync.Mutex // guards log
		var log []string
		note := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			log = append(log, fmt.Sprintf("%v ", since())+fmt.Sprintf(format, args...))
		}
		var wg sync.WaitGroup
		submit := func(name string, ctx context.Context, n int) {
			wg.Go(func() {
				err := d.run(ctx, n, func() { note("%s begins", name) })
				note("%s ends: %v", name, err)
			})
			synctest.Wait() // so that the order of coming is the order here
		}
		gone, leave := context.WithCancel(t.Context())
		submit("a", t.Context(), 1)
		submit("b", gone, 30)
		submit("c", t.Context(), 5)
		submit("d", t.Context(), 10)
		if got := testutil.ToFloat64(m.waiting); got != 3 {
			t.Errorf("%v waiting, want 3", got)
		}
		if got := testutil.ToFloat64(m.running); got != 1 {
			t.Errorf("%v running, want 1", got)
		}
		time.Sleep(10 * time.Millisecond)
		leave()
		synctest.Wait()
		if got := testutil.ToFloat64(m.waiting); got != 2 {
			t.Errorf("%v waiting after one left, want 2", got)
		}
		wg.Wait()
		submit("late", gone, 1) // its client had gone before it came

		want := []string{
			"0s a begins",
			"10ms b ends: context canceled",
			"42ms a ends: <nil>",
			"42ms c begins",
			"92ms c ends: <nil>",
			"92ms d begins",
			"152ms d ends: <nil>",
			"152ms late ends: context canceled",
		}
		wg.Wait()
		// What ends and what begins in the same instant may be noted in either order.
		if diff := cmp.Diff(want, endsFirst(log)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := testutil.ToFloat64(m.deviceBusy); got != 0.152 {
			t.Errorf("busy for %v s, want 0.152", got)
		}
		if waiting, running := testutil.ToFloat64(m.waiting), testutil.ToFloat64(m.running); waiting != 0 || running != 0 {
			t.Errorf("%v waiting, %v running at the end", waiting, running)
		}
	})
}

// endsFirst swaps neighbours of one instant where the begin of one was noted before the end of the other.
func endsFirst(log []string) []string {
	for i := 1; i < len(log); i++ {
		var at, before string
		var name, what string
		fmt.Sscan(log[i], &at, &name, &what)
		var beforeName, beforeWhat string
		fmt.Sscan(log[i-1], &before, &beforeName, &beforeWhat)
		if at == before && what == "ends:" && beforeWhat == "begins" {
			log[i-1], log[i] = log[i], log[i-1]
		}
	}
	return log
}

// TestDeviceKeepsWhatBegan: a client that leaves while its batch is on the device does not free the device early.
func TestDeviceKeepsWhatBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubbleDevice(t.Context(), acceleratorCost{Fixed: time.Second}, newMetrics())
		ctx, leave := context.WithCancel(t.Context())
		began := time.Now()
		if err := d.run(ctx, 1, leave); err != nil {
			t.Error(err)
		}
		if got := time.Since(began); got != time.Second {
			t.Errorf("held for %v, want 1s", got)
		}
	})
}

// TestDeviceCutOff: a server that ends does not wait for a long batch.
func TestDeviceCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cutOff, cut := context.WithCancel(t.Context())
		d := bubbleDevice(cutOff, acceleratorCost{Fixed: time.Hour}, newMetrics())
		if err := d.run(t.Context(), 1, cut); !errors.Is(err, errCutOff) {
			t.Errorf("error %v, want %v", err, errCutOff)
		}
	})
}

// TestNoDevice: without a cost, batches run beside each other and nothing waits.
func TestNoDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics()
		d := bubbleDevice(t.Context(), acceleratorCost{}, m)
		both := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := d.run(t.Context(), 1, func() { <-both }); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if running := testutil.ToFloat64(m.running); running != 2 {
			t.Errorf("%v running, want 2", running)
		}
		close(both)
		wg.Wait()
		if busy := testutil.ToFloat64(m.deviceBusy); busy != 0 {
			t.Errorf("an emulated accelerator that is not there was busy for %v s", busy)
		}
	})
}

package store

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

func TestSkip(t *testing.T) {
	const interval = 15 * time.Second
	for _, tt := range []struct {
		name       string
		now        time.Duration // after the slot
		at         time.Duration // after the slot
		wantMissed int
	}{
		{name: "on time", now: 0, at: 0},
		{name: "a little late", now: 14 * time.Second, at: 0},
		{name: "one whole interval", now: interval, at: interval, wantMissed: 1},
		{name: "slept for a day", now: 24*time.Hour + time.Second, at: 24 * time.Hour, wantMissed: 5760},
		{name: "timer a little early", now: -time.Millisecond, at: 0},
		{name: "clock set back", now: -time.Hour - time.Second, at: -time.Hour},
		{name: "clock set back to a slot", now: -time.Hour, at: -time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at, missed := skip(t0, t0.Add(tt.now), interval)
			if want := t0.Add(tt.at); !at.Equal(want) || missed != tt.wantMissed {
				t.Errorf("%s, missed %d, want %s, missed %d", at, missed, want, tt.wantMissed)
			}
		})
	}
}

// inBubble runs f with a store in a synctest bubble. The directory is made outside, where t has its own.
func inBubble(t *testing.T, reg prometheus.Registerer, f func(t *testing.T, s *Store)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		opts := DefaultOptions()
		opts.Dir, opts.Metrics = dir, reg
		s, err := Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		f(t, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSlots has groups evaluated at their slots, at an interval of a second as well, and the same slots after a restart.
func TestSlots(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, s *Store) {
		at := map[string][]time.Time{}
		group := func(name string, interval time.Duration) Group {
			return Group{Name: name, Interval: interval, Rules: []Rule{{Evaluator: &evaluator{name: "e", eval: func(_ context.Context, now time.Time) ([]rules.Sample, error) {
				if late := time.Since(now); late < 0 || late >= time.Millisecond {
					t.Errorf("%s: evaluated %s after its time", name, late)
				}
				at[name] = append(at[name], now)
				return nil, nil
			}}}}}
		}
		setGroups(t, s, group("second", time.Second), group("quarter", 15*time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := len(at["second"]); n != 3600 {
			t.Errorf("%d evaluations each second in an hour", n)
		}
		if n := len(at["quarter"]); n != 240 {
			t.Errorf("%d evaluations each 15 seconds in an hour", n)
		}
		offset := func(ts time.Time) time.Duration { return time.Duration(ts.UnixNano() % int64(15*time.Second)) }
		for _, ts := range at["quarter"] {
			if offset(ts) != offset(at["quarter"][0]) {
				t.Errorf("%s is not at the group's offset", ts)
			}
		}
	})
}

// TestMissed has an evaluation that takes 2.5 intervals: it is never joined by a second, and what it overran is counted.
func TestMissed(t *testing.T) {
	reg := prometheus.NewRegistry()
	inBubble(t, reg, func(t *testing.T, s *Store) {
		var at []time.Duration
		var first time.Time
		busy := false
		setGroups(t, s, Group{Name: "slow", Interval: 10 * time.Second, Rules: []Rule{{Evaluator: &evaluator{name: "e", eval: func(_ context.Context, now time.Time) ([]rules.Sample, error) {
			if busy {
				t.Error("two evaluations at once")
			}
			busy = true
			defer func() { busy = false }()
			if first.IsZero() {
				first = now
			}
			at = append(at, now.Sub(first))
			if len(at) == 1 {
				time.Sleep(25 * time.Second)
			}
			return nil, nil
		}}}}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(61 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := []time.Duration{0, 20 * time.Second, 30 * time.Second, 40 * time.Second, 50 * time.Second}
		if len(at) < len(want) {
			t.Fatalf("evaluated at %v", at)
		}
		if diff := cmp.Diff(want, at[:len(want)]); diff != "" {
			t.Error(diff)
		}
	})
	const metrics = `
# HELP flyball_rule_group_iterations_missed_total Evaluations of the group that were left out because the one before took too long, or the clock was set forward.
# TYPE flyball_rule_group_iterations_missed_total counter
flyball_rule_group_iterations_missed_total{group="slow"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(metrics), "flyball_rule_group_iterations_missed_total"); err != nil {
		t.Error(err)
	}
}

// TestClockSet has the engine evaluate a group under a clock that is set an hour forward, and an hour back, between two
// evaluations and during one: it goes on within an interval, at its slots, as often as before; the slots that there never
// were are counted as missed; the log says it once.
func TestClockSet(t *testing.T) {
	const interval = 10 * time.Second
	for _, tt := range []struct {
		name   string
		by     time.Duration
		during bool // an evaluation
		missed float64
		log    string
	}{
		{name: "forward", by: time.Hour, missed: 360, log: "the clock was set forward"},
		{name: "forward, not by whole intervals", by: time.Hour + 4*time.Second, missed: 360, log: "the clock was set forward"},
		{name: "forward during an evaluation", by: time.Hour, during: true, missed: 359, log: "the clock was set forward"},
		{name: "back", by: -time.Hour, log: "the clock was set back"},
		{name: "back, not by whole intervals", by: -time.Hour + 4*time.Second, log: "the clock was set back"},
		{name: "back during an evaluation", by: -time.Hour, during: true, log: "the clock was set back"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, s *Store) {
				var log bytes.Buffer
				var set atomic.Int64
				s.clock.now = func() time.Time { return time.Now().Add(time.Duration(set.Load())) }
				s.clock.logger = slog.New(slog.NewTextHandler(&log, nil))
				began := time.Now()
				type evaluation struct {
					passed time.Duration // that passes evenly
					at     time.Time     // the slot
				}
				var all []evaluation
				setGroups(t, s,
					Group{Name: "g", Interval: interval, Rules: []Rule{record("r", "vector(1)"), {Evaluator: &evaluator{name: "e", eval: func(_ context.Context, at time.Time) ([]rules.Sample, error) {
						all = append(all, evaluation{time.Since(began), at})
						if late := s.clock.now().Sub(at); late < 0 || late >= interval {
							t.Errorf("evaluated %s after its slot", late)
						}
						if tt.during && len(all) == 6 {
							set.Store(int64(tt.by))
						}
						return nil, nil
					}}}}},
					Group{Name: "other", Interval: time.Minute, Rules: []Rule{record("o", "vector(1)")}}) // the log says it once for all
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- s.Run(ctx) }()
				time.Sleep(61 * time.Second)
				if !tt.during {
					set.Store(int64(tt.by))
				}
				time.Sleep(2 * time.Minute)
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}

				if n := len(all); n < 17 || n > 20 {
					t.Errorf("%d evaluations in 3 minutes", n)
				}
				slow := 0
				for i, e := range all[1:] {
					before := all[i]
					if gap := e.passed - before.passed; gap > 2*interval {
						t.Errorf("evaluated %s after the one before", gap)
					} else if gap != interval {
						slow++
					}
					if off := e.at.Sub(before.at) % interval; off != 0 {
						t.Errorf("%s is no slot of the group", e.at)
					}
				}
				if slow > 1 {
					t.Errorf("%d intervals are not what they should be", slow)
				}
				if n := strings.Count(log.String(), tt.log); n != 1 || strings.Count(log.String(), "clock was set") != 1 || !strings.Contains(log.String(), "by="+tt.by.String()) {
					t.Errorf("the log is %s", log.String())
				}
				if missed := testutil.ToFloat64(s.metrics.missed.WithLabelValues("g")); missed != tt.missed {
					t.Errorf("%g are counted as missed, want %g", missed, tt.missed)
				}
			})
		})
	}
}

// TestStopGrace has an evaluation that does not end: it is given time, then cut off, and its series are left alone.
func TestStopGrace(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, s *Store) {
		n := 0
		began := make(chan struct{})
		setGroups(t, s, Group{Name: "g", Interval: time.Second, Rules: []Rule{{Evaluator: &evaluator{name: "e", eval: func(ctx context.Context, _ time.Time) ([]rules.Sample, error) {
			if n++; n == 2 {
				close(began)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return []rules.Sample{{Labels: labels.FromStrings("__name__", "e"), Value: 1}}, nil
		}}}}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		<-began
		stopped := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(stopped); took != stopGrace {
			t.Errorf("it took %s to stop, want %s", took, stopGrace)
		}
		if got := ask(t, s, "e", time.Now()); got == "" {
			t.Error("being cut off took the series away")
		}
	})
}

// TestReloadWhileRunning has a changed group go on at once, a removed one stop, and its series end two intervals later.
func TestReloadWhileRunning(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, s *Store) {
		group := func(name, expr string) Group {
			return Group{Name: name, Interval: 10 * time.Second, Rules: []Rule{record(name, expr)}}
		}
		setGroups(t, s, group("a", "vector(1)"), group("b", "vector(1)"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(25 * time.Second)
		setGroups(t, s, group("a", "vector(2)"), group("c", "vector(3)"))
		time.Sleep(10 * time.Second)
		if got := ask(t, s, "a", time.Now()); got != `{__name__="a"} 2` {
			t.Errorf("the changed group gives %q", got)
		}
		if got := ask(t, s, "c", time.Now()); got != `{__name__="c"} 3` {
			t.Errorf("the new group gives %q", got)
		}
		time.Sleep(15 * time.Second)
		if got := ask(t, s, "b", time.Now()); got != "" {
			t.Errorf("the series of the removed group stays: %q", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

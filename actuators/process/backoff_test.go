package process

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStreak(t *testing.T) {
	const low, high = 0, 0.999999999
	type step struct {
		readyFor time.Duration
		chance   float64
		want     time.Duration
	}
	for _, tt := range []struct {
		name     string
		min, max time.Duration
		steps    []step
	}{
		{
			name: "least", min: time.Second, max: time.Minute,
			steps: []step{
				{0, low, time.Second},
				{0, low, 2 * time.Second},
				{0, low, 4 * time.Second},
				{0, low, 8 * time.Second},
				{0, low, 16 * time.Second},
				{0, low, 30 * time.Second},
				{0, low, 30 * time.Second},
			},
		},
		{
			name: "most", min: time.Second, max: time.Minute,
			steps: []step{
				{0, high, 2 * time.Second},
				{0, high, 4 * time.Second},
				{0, high, 8 * time.Second},
				{0, high, 16 * time.Second},
				{0, high, 32 * time.Second},
				{0, high, time.Minute},
				{0, high, time.Minute},
			},
		},
		{
			name: "forgotten after a minute ready", min: time.Second, max: time.Hour,
			steps: []step{
				{0, low, time.Second},
				{0, low, 2 * time.Second},
				{59 * time.Second, low, 4 * time.Second},
				{60 * time.Second, low, time.Second},
				{0, low, 2 * time.Second},
			},
		},
		{
			name: "forgotten after the longest pause ready", min: time.Second, max: 4 * time.Second,
			steps: []step{
				{0, low, time.Second},
				{3 * time.Second, low, 2 * time.Second},
				{4 * time.Second, low, time.Second},
			},
		},
		{
			name: "always the same", min: time.Second, max: time.Second,
			steps: []step{{0, low, time.Second}, {0, high, time.Second}, {0, 0.5, time.Second}},
		},
		{
			name: "less than double", min: 2 * time.Second, max: 3 * time.Second,
			steps: []step{{0, low, 2 * time.Second}, {0, high, 3 * time.Second}, {0, low, 2 * time.Second}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := streak{min: tt.min, max: tt.max}
			for i, step := range tt.steps {
				if got := s.next(step.readyFor, step.chance).Round(time.Millisecond); got != step.want {
					t.Errorf("failure %d: pause %s, want %s", i+1, got, step.want)
				}
			}
		})
	}
}

// TestStreakOverTime is an hour of a replica that always fails at once.
func TestStreakOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := streak{min: time.Second, max: time.Minute}
		starts := 0
		for began := time.Now(); time.Since(began) < time.Hour; starts++ {
			time.Sleep(s.next(0, 0))
		}
		// 1+2+4+8+16 s, then one every 30 s: 5 + ceil(3569/30) starts.
		if starts != 124 {
			t.Errorf("%d starts in an hour, want 124", starts)
		}
	})
}

func FuzzStreak(f *testing.F) {
	f.Add(int64(time.Second), int64(time.Minute), uint16(3), 0.5)
	f.Add(int64(1), int64(1<<62), uint16(500), 0.999)
	f.Fuzz(func(t *testing.T, low, high int64, failures uint16, chance float64) {
		if low <= 0 || high < low || !(chance >= 0 && chance < 1) {
			t.Skip()
		}
		s := streak{min: time.Duration(low), max: time.Duration(high)}
		for range failures % 1000 {
			if got := s.next(0, chance); got < s.min || got > s.max {
				t.Fatalf("pause %s is not from %s to %s", got, s.min, s.max)
			}
		}
	})
}

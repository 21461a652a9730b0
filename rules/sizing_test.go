package rules

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestErlang compares with the theory's values of P(W > 2 s) for servers of one request a second, as published with the
// simulations of the design's evaluation, to four digits: one server fewer waits longer, and so does any smaller miss.
func TestErlang(t *testing.T) {
	for _, tt := range []struct {
		servers   int
		busy      float64
		waits     float64
		precision float64
	}{
		{1, 0.8, 0.5363, 0.00005},
		{4, 0.8, 0.1204, 0.00005},
		{10, 0.8, 0.0075, 0.00005},
		{10, 0.9, 0.0905, 0.00005},
	} {
		arrivals := tt.busy * float64(tt.servers)
		if n := erlangReplicas(arrivals, 1, 2, tt.waits+tt.precision, 1); n != tt.servers {
			t.Errorf("%d servers %g busy: %d are needed for %g", tt.servers, tt.busy, n, tt.waits)
		}
		if n := erlangReplicas(arrivals, 1, 2, tt.waits-tt.precision, 1); n != tt.servers+1 {
			t.Errorf("%d servers %g busy: %d are needed for less than %g", tt.servers, tt.busy, n, tt.waits)
		}
	}
	for _, tt := range []struct {
		arrivals    float64
		concurrency int
		want        int
	}{
		{0, 1, 0},
		{-1, 1, 0},
		{math.NaN(), 1, 0},
		{1e-9, 1, 1},
		{100, 1, 12}, // ten that are busy all the time, and two
		{100, 8, 11}, // eight at once in each wait less for one another
		{math.Inf(1), 1, maxProposal},
		{1e300, 1, maxProposal},
	} {
		if n := erlangReplicas(tt.arrivals, 10, 0.2, 0.05, tt.concurrency); n != tt.want {
			t.Errorf("%g a second, %d at once: %d replicas, want %d", tt.arrivals, tt.concurrency, n, tt.want)
		}
	}
}

// TestSizeMonotone: whatever the way to size by, more of a value never gets fewer replicas, and neither does it where the
// exact computation ends.
func TestSizeMonotone(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		s := sizing{tolerance: rng.Float64() * 0.5}
		switch rng.IntN(3) {
		case 0:
			s.perReplica = rng.Float64() * 100
		case 1:
			s.utilization = 0.1 + 0.9*rng.Float64()
		default:
			s.rate, s.wait, s.miss, s.concurrency = 0.1+rng.Float64()*20, rng.Float64(), 0.001+rng.Float64()/4, 1+rng.IntN(8)
		}
		current := rng.IntN(30)
		ready := rng.IntN(current + 1)
		before, step := 0, rng.Float64()*20
		for v := 0.0; v < 40*step; v += step {
			n := s.size(v, current, ready)
			if n < before {
				t.Fatalf("%+v of %d, %d ready: %d at %g, %d before", s, current, ready, n, v, before)
			}
			if p := s.projected(v, ready); p > max(n, current) {
				t.Fatalf("%+v of %d, %d ready: sized %d at %g, which would ask for %d", s, current, ready, n, v, p)
			}
			before = n
		}
	}
	below, above := erlangReplicas(maxErlang-1, 1, 1, 0.01, 1), erlangReplicas(maxErlang+1, 1, 1, 0.01, 1)
	if below > above || above > below+5 {
		t.Errorf("%d below the end of the exact computation, %d above", below, above)
	}
}

// TestUtilizationCountsWhatIsReady: only replicas that are ready are busy.
func TestUtilizationCountsWhatIsReady(t *testing.T) {
	s := sizing{utilization: 0.5, tolerance: 0.1}
	for _, tt := range []struct {
		busy           float64
		current, ready int
		want           int
	}{{0.9, 8, 4, 8}, {0.9, 4, 4, 8}, {0.3, 8, 4, 3}, {1, 3, 0, 3}} {
		if got := s.size(tt.busy, tt.current, tt.ready); got != tt.want {
			t.Errorf("%g busy, %d of %d ready: %d, want %d", tt.busy, tt.ready, tt.current, got, tt.want)
		}
	}
	if got := s.projected(0.44, 10); got != 8 { // which are then 0.55 busy, within the tolerance
		t.Errorf("projected %d", got)
	}
}

// TestPolicyPercentages: a policy by percent allows a part of a replica up as a whole one, and so it does down.
func TestPolicyPercentages(t *testing.T) {
	text := strings.Replace(two("[{name: x, value: a, target_per_replica: 1}]", ""), "up: {policies: []}, down: {window: 0s, policies: []}",
		"up: {policies: [{percent: 10, period: 1m}]}, down: {window: 0s, policies: [{percent: 10, period: 1m}]}", 1)
	for v, want := range map[float64]int{90: 6, 1: 4} {
		if d, _ := Decide(parseScale(t, text), observed(noon, 5, named("a", v), named("b", 0)), State{}); d.To != want {
			t.Errorf("%s, want %d", story(d), want)
		}
	}
}

// TestSelectPolicy: of several policies the one that allows most or least counts, and a direction can be disabled, but for
// what is absolute. The sizes are those of the HPA for selectPolicy Max, Min and Disabled.
func TestSelectPolicy(t *testing.T) {
	for _, tt := range []struct {
		policy        string
		current       int
		up, down      int    // to which size, when asked for 90, and for 1
		said, saidToo string // why
	}{
		{"max", 10, 20, 5, "up at most 100% in 1m", "down at most 50% in 1m"},
		{"min", 10, 14, 6, "up at most 4 in 1m", "down at most 4 in 1m"},
		{"max", 3, 7, 1, "up at most 4 in 1m", ""},
		{"min", 3, 6, 1, "up at most 100% in 1m", ""},
		{"min", 5, 9, 2, "up at most 4 in 1m", "down at most 50% in 1m"},
		{"disabled", 10, 10, 10, "up is disabled", "down is disabled"},
		{"disabled", 0, 1, 1, "up is disabled, min is 1", "up is disabled, min is 1"},
	} {
		policies := "policies: [{replicas: 4, period: 1m}, {percent: 100, period: 1m}], select_policy: " + tt.policy
		text := strings.Replace(two("[{name: x, value: a, target_per_replica: 1}]", ""), "up: {policies: []}, down: {window: 0s, policies: []}",
			"up: {"+policies+"}, down: {window: 0s, "+strings.Replace(policies, "100", "50", 1)+"}", 1)
		r := parseScale(t, text)
		for _, want := range []struct {
			v    float64
			to   int
			said string
		}{{90, tt.up, tt.said}, {1, tt.down, tt.saidToo}} {
			if d, _ := Decide(r, observed(noon, tt.current, named("a", want.v), named("b", 0)), State{}); d.To != want.to || !strings.HasSuffix(d.Text, want.said) {
				t.Errorf("%s: %s, want %d: %s", tt.policy, story(d), want.to, want.said)
			}
		}
	}
}

// TestToleranceAtItsEdge: a load that is exactly a tenth off is within a tolerance of a tenth, as the HPA has it, though
// 11.0/10-1 is a little more than 0.1.
func TestToleranceAtItsEdge(t *testing.T) {
	for _, tt := range []struct {
		value, target float64
		current, want int
	}{{11, 10, 1, 1}, {22, 10, 2, 2}, {18, 10, 2, 2}, {33, 10, 3, 3}, {77, 70, 1, 1}, {11.01, 10, 1, 2}, {17.9, 10, 2, 2}} {
		s := sizing{perReplica: tt.target, tolerance: 0.1}
		if got := s.size(tt.value, tt.current, tt.current); got != tt.want {
			t.Errorf("%g at %g a replica of %d: %d, want %d", tt.value, tt.target, tt.current, got, tt.want)
		}
	}
	s := sizing{utilization: 0.5, tolerance: 0.1}
	if got := s.size(0.55, 10, 10); got != 10 {
		t.Errorf("0.55 busy where 0.5 should be: %d of 10", got)
	}
}

// TestPercentages: a percentage up is rounded up and down is rounded down, and moves by a replica at least.
func TestPercentages(t *testing.T) {
	for do, want := range map[string]int{"+25%": 13, "+1%": 11, "-25%": 8, "-1%": 9, "-19%": 9, "+2": 12, "-11": 0, "=3": 3} {
		parsed, err := parseDo(do)
		if got := parsed.from(10, 1); err != nil || got != want {
			t.Errorf("%s of 10: %d, want %d (%v)", do, got, want, err)
		}
	}
}

func BenchmarkErlang(b *testing.B) {
	for _, arrivals := range []float64{10, 1000, maxErlang} {
		b.Run(fmt.Sprint(arrivals), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				erlangReplicas(arrivals, 1, 0.5, 0.01, 1)
			}
		})
	}
}

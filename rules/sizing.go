package rules

import (
	"fmt"
	"math"
	"strconv"
)

// maxProposal bounds what a signal may ask for before max does, so that a huge value cannot overflow.
const maxProposal = 1_000_000

// sizing is how a signal turns its value into a size.
type sizing struct {
	perReplica  float64 // of the value, or 0
	utilization float64 // or 0
	rate        float64 // of service, or 0
	wait        float64 // in seconds
	miss        float64 // share of requests that may wait longer
	concurrency int
	tolerance   float64
}

// size is how many replicas a value needs, unless the replicas that there are come within the tolerance: the HPA's
// arithmetic for an average value or a utilization, or the queueing model's. A larger value never gets a smaller size.
func (s *sizing) size(v float64, current, ready int) int {
	ready = max(ready, 1) // without any there is nothing to go by but the value itself
	switch {
	case s.rate > 0:
		if current > 0 && s.need(v/(1+s.tolerance)) <= current && current <= s.need(v/(1-s.tolerance)) {
			return current
		}
	case s.utilization > 0:
		if current > 0 && s.tolerates(v/s.utilization) {
			return current
		}
		n := s.ceil(v / s.utilization * float64(ready)) // only replicas that are ready are busy
		if v > s.utilization {
			n = max(n, current)
		}
		return n
	case current > 0 && s.tolerates(v/(s.perReplica*float64(current))):
		return current
	}
	return s.need(v)
}

// tolerates says that a load, of which 1 is what is meant, is within the tolerance. It compares as the HPA does, to whom 11
// where 10 is the target is within a tenth: 11.0/10-1 is a little more than 0.1 in floating point.
func (s *sizing) tolerates(load float64) bool { return load >= 1-s.tolerance && load <= 1+s.tolerance }

// need is how many replicas serve a value.
func (s *sizing) need(v float64) int {
	if s.rate > 0 {
		return erlangReplicas(v, s.rate, s.wait, s.miss, s.concurrency)
	}
	return s.ceil(v / s.perReplica)
}

// ceil rounds up. What a sum of floating-point rates is off by must not buy a replica.
func (s *sizing) ceil(n float64) int {
	return int(math.Max(0, math.Min(math.Ceil(n-1e-9), maxProposal)))
}

// projected is the least size at which the value would not ask for more at once.
func (s *sizing) projected(v float64, ready int) int {
	if s.utilization > 0 {
		return s.ceil(v / (s.utilization * (1 + s.tolerance)) * float64(max(ready, 1)))
	}
	return s.need(v / (1 + s.tolerance))
}

// sized says that there is a way to size by.
func (s *sizing) sized() bool { return s.perReplica > 0 || s.utilization > 0 || s.rate > 0 }

func (s *sizing) words(name string, v float64, n int) string {
	switch {
	case s.utilization > 0:
		return fmt.Sprintf("%s %s at %s needs %d", name, figure(v), figure(s.utilization), n)
	case s.rate > 0:
		return fmt.Sprintf("%s %s at %s/s a replica and %ss wait needs %d", name, figure(v), figure(s.rate), figure(s.wait), n)
	}
	return name + " " + figure(v) + " at " + figure(s.perReplica) + " a replica needs " + strconv.Itoa(n)
}

// erlangReplicas is the smallest number of replicas, each of which works on so many requests at once and completes rate of
// them in a second, at which a request of a Poisson stream waits longer than wait seconds with a probability of at most
// miss. Arrivals are in requests a second. The model is M/M/c: P(W > t) = C(c,a) e^-(cμ-λ)t with Erlang's C (L. Kleinrock,
// Queueing Systems I, 1975, section 3.5); C comes from the recursion of Erlang's B, which does not overflow.
//
// For the same miss more arrivals never need fewer replicas, and the size grows as the load and a square root of it.
func erlangReplicas(arrivals, rate, wait, miss float64, concurrency int) int {
	if !(arrivals > 0) {
		return 0
	}
	servers := float64(max(concurrency, 1))
	mu := rate / servers // of one place that a request is worked on
	load := arrivals / mu
	if !(load <= maxErlang) {
		n := float64(erlangReplicas(maxErlang*mu, rate, wait, miss, concurrency))
		return int(math.Min(math.Ceil(n*(load/maxErlang)), maxProposal))
	}
	blocked := 1.0 // Erlang's B of no places
	for c := 1.0; ; c++ {
		blocked = load * blocked / (c + load*blocked)
		if c <= load || math.Mod(c, servers) != 0 {
			continue // it would never catch up, or a replica would be there in part
		}
		waits := blocked / (1 - load/c*(1-blocked)) // Erlang's C
		if waits*math.Exp(-(c*mu-arrivals)*wait) <= miss {
			return int(c / servers)
		}
	}
}

// maxErlang is the load, in places that are busy all the time, above which sizes grow in proportion: the square root is
// then one in a hundred. It bounds what one decision may compute.
const maxErlang = 100_000

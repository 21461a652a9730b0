package batchproxy

import (
	"net/http/httputil"
	"net/url"
	"time"
)

// replica is one upstream of a model. Its model's mutex guards it, except for what never changes.
type replica struct {
	from    source // the list that it came from, the zero value for one given by URL
	address string // host:port
	url     *url.URL
	forward *httputil.ReverseProxy

	batches  int // in flight
	calls    int // other requests in flight
	draining bool
	left     bool      // no longer in its list
	bench    time.Time // not sent to before this time, because it could not be reached
	refusals int       // without a success between them
	idle     chan struct{}
}

// ready reports whether the replica can be sent to.
func (r *replica) ready(now time.Time) bool {
	return !r.draining && !r.left && !now.Before(r.bench)
}

// A replica that cannot be reached is left alone for 50 ms, then twice as long each time, up to a second: a restart
// takes longer than the first, and nobody waits long for one that is back.
const (
	shortestBench = 50 * time.Millisecond
	longestBench  = time.Second
)

// refuse puts the replica on the bench.
func (r *replica) refuse(now time.Time) {
	r.bench = now.Add(min(shortestBench<<min(r.refusals, 10), longestBench))
	r.refusals++
}

// settle tells those who wait for the replica to be idle, if it is.
func (r *replica) settle() {
	if r.idle != nil && r.batches == 0 && r.calls == 0 {
		close(r.idle)
		r.idle = nil
	}
}

// picker chooses among a model's replicas: the one with the least in flight, in turn where several are equal.
type picker struct {
	replicas []*replica
	inflight int // batches at once per replica
	turn     int
}

// forBatch is a ready replica with room for a batch, or nil. One other than avoid is chosen wherever there is another
// that is ready, even if that one has no room yet.
func (p *picker) forBatch(now time.Time, avoid *replica) *replica {
	best := p.least(now, func(r *replica) bool { return r.batches < p.inflight && r != avoid })
	if best != nil || avoid == nil {
		return best
	}
	if p.least(now, func(r *replica) bool { return r != avoid }) != nil {
		return nil
	}
	return p.least(now, func(r *replica) bool { return r.batches < p.inflight })
}

// forCall is a ready replica for a request that is not batched, or nil.
func (p *picker) forCall(now time.Time) *replica {
	return p.least(now, func(*replica) bool { return true })
}

func (p *picker) least(now time.Time, fits func(*replica) bool) *replica {
	var best *replica
	at := 0
	for i := range p.replicas {
		i = (p.turn + i) % len(p.replicas)
		r := p.replicas[i]
		if r.ready(now) && fits(r) && (best == nil || r.batches+r.calls < best.batches+best.calls) {
			best, at = r, i
		}
	}
	if best != nil {
		p.turn = at + 1
	}
	return best
}

// ready is the number of replicas that can be sent to.
func (p *picker) ready(now time.Time) int {
	n := 0
	for _, r := range p.replicas {
		if r.ready(now) {
			n++
		}
	}
	return n
}

// wake is when the next replica leaves the bench, zero if none is on it.
func (p *picker) wake(now time.Time) time.Time {
	var next time.Time
	for _, r := range p.replicas {
		if now.Before(r.bench) && (next.IsZero() || r.bench.Before(next)) {
			next = r.bench
		}
	}
	return next
}

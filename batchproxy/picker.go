package batchproxy

import (
	"math"
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

	batches   int      // in flight
	answered  int      // of them, whose answers are here and are being handed out
	rows      int      // in those that are not answered
	calls     int      // other requests in flight
	seats     int      // of calls, those that the limiter has a say in: not what is no POST, such as a WebSocket that stays for hours
	limiter   *limiter // of them; nil where they have no limit that is learned
	draining  bool
	left      bool      // no longer in its list
	bench     time.Time // not sent to before this time, because it could not be reached
	refusals  int       // without a success between them
	unreached error     // the last of them
	idle      chan struct{}

	picked    uint64 // when it was chosen last, by the picker's count
	slow      peak
	outlier   outlier
	checks    checks
	extension extension
	listed    int       // the index of its upstream in the configuration
	since     time.Time // new, or back after an ejection; zero if it was there from the start
	credit    float64   // of choices while it starts slowly
}

// ready reports whether the replica can be sent to.
func (r *replica) ready(now time.Time) bool {
	return r.healthy(now) && !r.draining && (!r.outlier.halfOpen || r.outstanding() == 0)
}

// healthy reports whether nothing that was seen of the replica speaks against sending to it.
func (r *replica) healthy(now time.Time) bool {
	return r.reachable(now) && !now.Before(r.outlier.until)
}

// reachable reports whether the replica is there and says that it is well, whatever became of its answers.
func (r *replica) reachable(now time.Time) bool {
	return !r.left && !now.Before(r.bench) && !r.checks.failed
}

// working is the batches that it has and has not answered.
func (r *replica) working() int { return r.batches - r.answered }

// outstanding is the rows and requests that are with the replica.
func (r *replica) outstanding() int { return r.rows + r.calls }

// A replica that cannot be reached is left alone for 50 ms, then twice as long each time, up to a second: a restart
// takes longer than the first, and nobody waits long for one that is back.
const (
	shortestBench = 50 * time.Millisecond
	longestBench  = time.Second
)

// toldRefusals is how many times one after the other a replica cannot be reached before that is told of: a restart is over by then.
const toldRefusals = 5

// refuse puts a replica on the bench that could not be reached.
func (m *model) refuse(r *replica, now time.Time, err error) {
	r.bench = now.Add(min(shortestBench<<min(r.refusals, 10), longestBench))
	r.unreached = err
	if r.refusals++; r.refusals == toldRefusals {
		m.proxy.logger.Warn("a replica cannot be reached", "model", m.config.Name, "replica", r.address, "err", err)
	}
}

// reached takes note of an answer.
func (m *model) reached(r *replica) {
	if r.refusals >= toldRefusals {
		m.proxy.logger.Info("a replica can be reached again", "model", m.config.Name, "replica", r.address)
	}
	r.refusals, r.unreached = 0, nil
}

// settle tells those who wait for the replica to be idle, if it is.
func (r *replica) settle() {
	if r.idle != nil && r.batches == 0 && r.calls == 0 {
		close(r.idle)
		r.idle = nil
	}
}

// peak is how many times as long as the fitted S(n) a replica takes: a mean that forgets over peakTime, except that it
// takes over what is larger at once, so that a replica that becomes slow is noticed with its first answer. Without
// answers it goes back to 1, so that it is tried again. The zero value is 1.
type peak struct {
	over float64 // 1
	at   time.Time
}

// peakTime is that of Finagle's peak EWMA.
const peakTime = 10 * time.Second

func (p *peak) value(now time.Time) float64 {
	return 1 + p.over*math.Exp(-max(now.Sub(p.at), 0).Seconds()/peakTime.Seconds())
}

// add takes a measurement, as part of what was expected.
func (p *peak) add(now time.Time, ratio float64) {
	old := p.value(now) - 1
	if ratio-1 > old {
		p.over = ratio - 1
	} else {
		keep := math.Exp(-min(max(now.Sub(p.at).Seconds(), 0.01), 1) / peakTime.Seconds())
		p.over = old*keep + (ratio-1)*(1-keep)
	}
	p.at = now
}

// picker chooses among a model's replicas, by the power of two choices: of two at random the one with the lower
//
//	(outstanding rows + 1) · peak of latency/S(n)
//
// Taking the best of all would send everything that comes between two answers to the same one. Scores within closeBy of
// each other are equal, and the one that was chosen longer ago is taken.
type picker struct {
	replicas  []*replica
	inflight  int           // batches at once per replica
	slowStart time.Duration // 0 without
	random    func(n int) int
	turn      uint64
	wanted    *replica // for the next batch, which it has a part of; nil where it is all the same
}

// closeBy is within what measurements of equal replicas differ.
const closeBy = 1.25

// forBatch is a ready replica with room for a batch, or nil; sent is to be told where it is sent one. One other than avoid is chosen wherever
// there is another that is ready, even if that one has no room yet; and one with nothing in flight before others.
func (p *picker) forBatch(now time.Time, avoid *replica) *replica {
	room := func(r *replica) bool { return r.working() < p.inflight }
	if r := p.wanted; r != nil && avoid == nil && r.ready(now) && room(r) { // not for what is sent once more
		return r
	}
	if best := p.choose(now, avoid, func(r *replica) bool { return room(r) && r.outstanding() == 0 }); best != nil {
		return best
	}
	if best := p.choose(now, avoid, room); best != nil || avoid == nil {
		return best
	}
	for _, r := range p.replicas {
		if r != avoid && r.ready(now) {
			return nil
		}
	}
	return p.choose(now, nil, room)
}

// forCall is a ready replica for a request that is not batched, or nil, which has its turn by that. One that has so many such requests already
// has no room; 0 is without limit, and Auto is that which was learned of each.
func (p *picker) forCall(now time.Time, most Count) *replica {
	r := p.choose(now, nil, func(r *replica) bool {
		return most == 0 || most > 0 && r.calls < int(most) || most == Auto && r.seats < r.limiter.now()
	})
	if r != nil {
		p.take(now, r)
	}
	return r
}

// sent notes that a replica has the batch that it was chosen for. Choices of which nothing came do not count: turns would depend on how often
// there was nothing to send.
func (p *picker) sent(now time.Time, r *replica) {
	if r == p.wanted { // which was taken when it was chosen
		p.wanted = nil
		return
	}
	p.take(now, r)
}

// choose is one of the replicas that fit other than avoid, nil where there is none.
func (p *picker) choose(now time.Time, avoid *replica, fits func(*replica) bool) *replica {
	n, established := 0, false
	for _, r := range p.replicas {
		if r == avoid || !r.ready(now) {
			continue
		}
		established = established || !p.starting(now, r)
		if fits(r) {
			if r.outlier.halfOpen { // nobody knows of it before somebody tries
				return r
			}
			n++
		}
	}
	may := func(r *replica) bool {
		return r != avoid && r.ready(now) && fits(r) && (!established || !p.starting(now, r) || r.credit >= 1)
	}
	if p.slowStart > 0 && established {
		n = 0
		for _, r := range p.replicas {
			if may(r) {
				n++
			}
		}
	}
	first, second := 0, 1
	switch {
	case n == 0:
		return nil
	case n > 2:
		first = p.random(n)
		if second = p.random(n - 1); second >= first {
			second++
		}
	}
	var a, b *replica
	for i, at := 0, 0; i < len(p.replicas); i++ {
		if r := p.replicas[i]; may(r) {
			switch at {
			case first:
				a = r
			case second:
				b = r
			}
			at++
		}
	}
	if b != nil && better(now, b, a) {
		a = b
	}
	return a
}

// better reports whether a is to be taken rather than b.
func better(now time.Time, a, b *replica) bool {
	x, y := a.score(now), b.score(now)
	if x < y*closeBy && y < x*closeBy {
		return a.picked < b.picked
	}
	return x < y
}

func (r *replica) score(now time.Time) float64 {
	return float64(r.outstanding()+1) * r.slow.value(now)
}

// take notes a choice.
func (p *picker) take(now time.Time, r *replica) {
	p.turn++
	r.picked = p.turn
	if p.slowStart == 0 {
		return
	}
	if p.starting(now, r) {
		r.credit = max(r.credit-1, 0)
		return
	}
	established := 0
	for _, other := range p.replicas {
		if other.ready(now) && !p.starting(now, other) {
			established++
		}
	}
	for _, other := range p.replicas {
		if p.starting(now, other) {
			share := max(now.Sub(other.since).Seconds()/p.slowStart.Seconds(), firstShare)
			other.credit = min(other.credit+share/float64(max(established, 1)), 2)
		}
	}
}

// firstShare is what a replica that starts slowly has from the first, as part of what each of the others has.
const firstShare = 0.1

// starting reports whether a replica starts slowly: until it has been there for slowStart it is chosen less often than the
// others, by a share that rises with time. Where there are no others, nothing is held back for it.
func (p *picker) starting(now time.Time, r *replica) bool {
	return p.slowStart > 0 && !r.since.IsZero() && now.Sub(r.since) < p.slowStart
}

// ready is the number of replicas that can be sent to.
func (p *picker) ready(now time.Time) int {
	n := 0
	for _, r := range p.replicas {
		if r.healthy(now) && !r.draining {
			n++
		}
	}
	return n
}

// wake is when the next replica leaves the bench, may be tried again or has started, zero if none will.
func (p *picker) wake(now time.Time) time.Time {
	var next time.Time
	for _, r := range p.replicas {
		times := []time.Time{r.bench, r.outlier.until}
		if p.starting(now, r) {
			times = append(times, r.since.Add(p.slowStart))
		}
		for _, at := range times {
			if now.Before(at) && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	return next
}

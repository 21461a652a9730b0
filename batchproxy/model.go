package batchproxy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// model is one model's queue and replicas. Everything that happens (a request comes or goes, a batch returns, a replica
// appears, the timer fires) takes the mutex, tells the batcher or the picker, and lets pump send what can be sent.
type model struct {
	proxy   *Proxy
	config  ModelConfig
	network *network
	ignore  map[string]bool // headers that are not part of a lane's key
	demand  func(protocol string, class int) *demand
	// classes are those of priority, of which normal is the index of the one for requests that name none.
	classes      []Class
	normal       int
	urgent       []int         // indexes of classes, the most urgent first
	tenantHeader string        // in its canonical form, empty where tenants are not told apart
	trust        trust         // in what clients say of priority and tenant
	number       atomic.Uint64 // of batches, for their ids
	wg           sync.WaitGroup
	ready        prometheus.Gauge              // replicas that can be sent to
	released     map[string]prometheus.Counter // batches, by reason
	upstream     prometheus.Observer           // seconds of a call

	mu       sync.Mutex
	batcher  *Batcher[*request]
	picker   picker
	leaving  []*replica // left the list with something in flight
	callers  callers    // wait for room, where the model has a limit
	callRate rate       // of requests that are not batched
	callTime callTime   // of these
	again    []*batch   // to be sent once more, as they are
	running  int
	rate     rate
	budget   budget               // of calls beyond the first for each batch
	widens   bool                 // see mayWiden
	lonely   int                  // requests, one after the other, that found no other
	wholes   map[string]time.Time // lanes whose large requests are not cut, and until when
	learned  learned
	solos    soloLanes
	earlier  pause              // of requests that were sent early
	noBinary pause              // of large requests that could not be in binary
	coming   *request           // is being queued, by a handler that is willing to send it
	healthy  []prometheus.Gauge // by upstream
	limits   []prometheus.Gauge // by upstream; none without a limit
	counts   []int              // for showHealthy
	renewed  bool               // no replica that was measured is left
	flush    bool               // nothing is held any more
	closed   bool               // nothing is sent any more
	timer    *time.Timer
	wakeAt   time.Time // when the timer fires, zero if it does not
}

func newModel(p *Proxy, c ModelConfig) *model {
	m := &model{
		proxy:  p,
		config: c,
		ignore: make(map[string]bool, len(c.Batch.IgnoreHeaders)),
		batcher: NewBatcher[*request](Rule{
			Mode:         c.Batch.Mode,
			MaxSize:      c.Batch.MaxSize,
			MinSize:      c.Batch.MinSize,
			AllowedSizes: c.Batch.AllowedSizes,
			MaxWait:      time.Duration(c.Batch.MaxWait),
			Timeout:      time.Duration(c.Timeout),
			SLO:          time.Duration(c.Batch.SLO),
			Objective:    c.Batch.Objective,
			MaxQueue:     p.config.Limits.MaxQueue,
			Classes:      c.classes(),
			Normal:       normalOf(c.classes()),
			Tenants:      c.Queue.TenantHeader != "",
			Weights:      c.Queue.Weights,
			TenantLimit:  c.Queue.TenantLimit,
			LearnDepth:   c.Inflight == Auto,
			Widens:       c.mayWiden(),
		}),
		picker:  picker{inflight: max(int(c.Inflight), 1), slowStart: time.Duration(c.SlowStart), random: rand.IntN},
		budget:  newBudget(),
		widens:  c.mayWiden(),
		network: p.metrics.networkOf(c.Name),
		demand:  p.metrics.demands(c),

		classes: c.classes(), normal: normalOf(c.classes()), urgent: byUrgency(c.classes()), trust: c.Queue.TrustHeaders.read(),
	}
	if h := c.Queue.TenantHeader; h != "" {
		m.tenantHeader = http.CanonicalHeaderKey(h)
	}
	for _, name := range c.Batch.IgnoreHeaders {
		m.ignore[http.CanonicalHeaderKey(name)] = true
	}
	for i, u := range c.Upstreams {
		m.healthy = append(m.healthy, p.metrics.healthy.WithLabelValues(c.Name, u.label()))
		if c.Limit.Concurrent != 0 {
			m.limits = append(m.limits, p.metrics.limit.WithLabelValues(c.Name, u.label()))
		}
		if u.URL != "" {
			if at, err := parseUpstream(u.URL); err == nil { // the configuration was validated
				r := m.newReplica(source{}, at)
				r.listed = i
				m.picker.replicas = append(m.picker.replicas, r)
			}
		}
	}
	m.counts = make([]int, len(m.healthy))
	for _, reason := range EjectionReasons() {
		p.metrics.ejections.WithLabelValues(c.Name, reason)
	}
	m.showHealthy(time.Now())
	m.showLimits()
	m.timer = time.AfterFunc(time.Hour, m.tick)
	m.timer.Stop()
	m.ready = p.metrics.ready.WithLabelValues(c.Name)
	m.ready.Set(float64(len(m.picker.replicas)))
	m.upstream = p.metrics.upstream.WithLabelValues(c.Name)
	m.released = make(map[string]prometheus.Counter)
	for _, reason := range Reasons() {
		m.released[reason] = p.metrics.batches.WithLabelValues(c.Name, reason)
	}
	p.metrics.poisoned.WithLabelValues(c.Name)
	p.metrics.binary.WithLabelValues(c.Name)
	p.metrics.binaryRefused.WithLabelValues(c.Name)
	p.metrics.solo.WithLabelValues(c.Name)
	for _, parameter := range Parameters() {
		p.metrics.changes.WithLabelValues(c.Name, parameter)
	}
	m.learned = learned{
		intercept: p.metrics.intercept.WithLabelValues(c.Name), slope: p.metrics.slope.WithLabelValues(c.Name),
		gain: p.metrics.gain.WithLabelValues(c.Name), effective: p.metrics.effective.WithLabelValues(c.Name),
		depth: p.metrics.depth.WithLabelValues(c.Name),
	}
	m.show()
	for _, reason := range []string{"queue_full", "bytes", "timeout", "draining", string(TenantLimit), string(PredictedLate), string(PastDeadline)} {
		p.metrics.shed.WithLabelValues(c.Name, reason)
	}
	return m
}

func (m *model) newReplica(from source, at *url.URL) *replica {
	r := &replica{from: from, address: at.Host, url: at}
	r.forward = m.forwarder(r)
	if m.config.Limit.Concurrent == Auto {
		r.limiter = newLimiter(m.config.Limit.bounds())
	}
	return r
}

// enqueue queues a request. It returns the answer where the request is not taken.
func (m *model) enqueue(r *request) *answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now() // under the mutex, so that requests come in the order of their times
	if m.closed {
		return &answer{code: http.StatusServiceUnavailable, message: "the proxy is shutting down", retryAfter: time.Second}
	}
	m.meet()
	m.batcher.Replicas(m.slots(now))
	var why Refusal
	if r.unread {
		m.batcher.Alone(r.key, now.Add(aloneTime))
	}
	if r.entry, why = m.batcher.Admit(now, r.key, r.parsed.Items, r, r.terms); why != "" {
		return m.refusal(now, why)
	}
	if r.ride != nil {
		r.ride.since = now
	}
	r.demand.waiting.Inc()
	if r.early != nil && r.early.conn != nil {
		m.picker.wanted = r.early.to
	}
	if r.willing {
		m.coming = r
	}
	m.pump(now)
	m.picker.wanted, m.coming = nil, nil
	return nil
}

// quit takes out a request whose client has gone, and returns where it was: queued or in_batch. The request's state says that
// it has gone already.
func (m *model) quit(r *request) (stage string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.left = true
	stage = "in_batch"
	if m.batcher.Gone(r.entry) {
		stage = "queued"
		r.demand.waiting.Dec()
		r.came(nil)
		r.body.release()
	} else if b := r.batch; b != nil {
		if b.alive--; b.alive == 0 {
			if m.config.Cancel != cancelDrain {
				b.cancel()
			}
			m.pump(time.Now()) // drops it if it waits to be sent again
		}
	}
	return stage
}

func (m *model) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wakeAt = time.Time{}
	m.pump(time.Now())
}

// pump sends what can be sent, and sets the timer for what cannot yet.
func (m *model) pump(now time.Time) {
	if m.closed {
		return
	}
	for _, e := range m.batcher.Expired(now) {
		m.lose(now, e)
	}
	m.serveCallers(now)
	m.picker.inflight = m.inflight()
	m.pumpAgain(now)
	free := false
	for {
		m.picker.inflight = m.inflight() // what leaves may have been what waited
		to := m.picker.forBatch(now, nil)
		if to == nil {
			break
		}
		m.batcher.Replicas(m.slots(now))
		out, ok := m.batcher.Next(now, m.flush)
		for _, e := range m.batcher.Lost() {
			m.lose(now, e)
		}
		if !ok {
			free = true
			break
		}
		// One request tries a replica, and the others wait for the next one; and what is unread cannot be merged, whatever became of its
		// lane while it waited.
		unread := out.Entries[0].Request.unread
		if len(out.Entries) > 1 && (unread || to.outlier.halfOpen) {
			rest := slices.Clone(out.Entries[1:])
			out.Entries = out.Entries[:1]
			out.Items = out.Entries[0].Items
			if unread {
				m.batcher.Alone(rest[0].Request.key, now.Add(aloneTime))
			}
			m.batcher.Back(now, rest[0].Request.key, rest)
		}
		b := &batch{members: make([]*request, len(out.Entries)), reason: out.Reason}
		for i, e := range out.Entries {
			b.members[i] = e.Request
			e.Request.demand.waiting.Dec()
			e.Request.queued, e.Request.sent = now.Sub(e.Arrived), now
			observe(e.Request.demand.queueDuration, e.Request.queued, sampledTrace(e.Request.incoming.Header))
		}
		m.released[out.Reason].Inc()
		b.members[0].demand.batchSize.Observe(float64(out.Items))
		m.budget.earn()
		m.picker.sent(now, to)
		m.start(b, to)
	}
	m.arm(now, free)
	if m.proxy.successor.Load() == nil { // which has the same series
		m.ready.Set(float64(m.picker.ready(now)))
		m.showHealthy(now)
	}
}

// pumpAgain sends the batches that are to be sent once more.
func (m *model) pumpAgain(now time.Time) {
	m.again = slices.DeleteFunc(m.again, func(b *batch) bool {
		if b.alive == 0 || !now.Before(b.until) {
			m.fail(b.members, b.failure)
			return true
		}
		to := m.picker.forBatch(now, b.avoid)
		if to == nil {
			return false
		}
		m.proxy.metrics.retries.WithLabelValues(m.config.Name).Inc()
		m.picker.sent(now, to)
		m.start(b, to)
		return true
	})
}

// start gives a batch to a replica.
func (m *model) start(b *batch, to *replica) {
	b.replica = to
	b.alive = 0
	b.ctx, b.cancel = context.WithCancel(m.proxy.base)
	for _, r := range b.members {
		r.batch = b
		r.demand.running.Inc()
		if !r.left { // rather than gone: quit is still to come for one that went just now, and counts it out
			b.alive++
		}
	}
	b.rows = itemsOf(b.members)
	if m.config.Inflight == Auto && m.picker.inflight < math.MaxInt {
		b.others = to.working()
	}
	b.crowded = m.picker.inflight == math.MaxInt || b.others > 0 || b.members[0].unread
	to.batches++
	to.rows += b.rows
	m.running += len(b.members)
	count := len(b.members)
	run := func() {
		defer b.cancel()
		left, failure := m.resolve(b, b.members)
		if b.span != nil {
			b.span.End()
		}
		m.returned(b, count, left, failure)
	}
	if r := m.coming; r != nil && count == 1 && b.members[0] == r {
		m.wg.Add(1)
		r.send = func() {
			defer m.wg.Done()
			run()
		}
		return
	}
	m.wg.Go(run)
}

// answered tells the batcher of members of a batch that a replica has answered, before their clients are. Took is 0 where the time says
// nothing of how long such batches take. Where they are the whole batch, the replica is free: it gets the next one before
// the answer is split and handed out, which would keep it waiting.
func (m *model) answered(b *batch, members []*request, took time.Duration, whole bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if b.crowded {
		if whole && took > 0 && b.others > 0 {
			m.batcher.Crowded(b.others, b.rows, took)
		}
		took = 0
	}
	for _, r := range members {
		m.batcher.Lasted(now, r.entry.Arrived, r.parsed.Items)
	}
	m.batcher.Answered(now, members[0].key, itemsOf(members), took)
	m.note()
	if whole {
		b.answered = true
		b.replica.answered++
		b.replica.rows -= b.rows
		m.pump(now)
	}
}

// unanswer takes back that a batch is answered, whose members are to be sent once more by themselves.
func (m *model) unanswer(b *batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b.answered {
		b.answered = false
		b.replica.answered--
		b.replica.rows += b.rows
	}
}

// tooLarge tells the batcher of a batch that a replica refused for its size.
func (m *model) tooLarge(members []*request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batcher.TooLarge(time.Now(), itemsOf(members))
	m.note()
}

// learned are the series of what the batcher has learned.
type learned struct{ intercept, slope, gain, effective, depth prometheus.Gauge }

// note publishes what the batcher has learned, and what it has changed by that.
func (m *model) note() {
	m.show()
	for _, c := range m.batcher.Changes() {
		m.proxy.metrics.changes.WithLabelValues(m.config.Name, c.Parameter).Inc()
		s := m.batcher.service
		m.proxy.logger.Info("a parameter of batching changed", "model", m.config.Name, "parameter", c.Parameter, "before", c.Before, "after", c.After,
			"service_time_intercept_seconds", s.b, "service_time_slope_seconds", s.a, "batch_gain_ratio", s.gain(m.config.Batch.MaxSize))
	}
}

// show sets the gauges of what the batcher knows.
func (m *model) show() {
	if m.proxy.successor.Load() != nil { // which has the same series
		return
	}
	s := m.batcher.service
	m.learned.intercept.Set(s.b)
	m.learned.slope.Set(s.a)
	m.learned.gain.Set(s.gain(m.config.Batch.MaxSize))
	m.learned.effective.Set(float64(m.batcher.largest()))
	if m.config.Inflight == Auto {
		m.learned.depth.Set(float64(m.batcher.depth.kept))
	} else {
		m.learned.depth.Set(float64(m.config.Inflight))
	}
}

// explain is what the batcher knows and has decided.
func (m *model) explain() Explanation {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.batcher.Explain(showLane)
	x.Model = m.config.Name
	x.Binary = m.takesBinary(time.Now(), false)
	for _, r := range m.picker.replicas {
		if l := r.limiter; l != nil {
			x.Limits = append(x.Limits, LimitExplanation{Replica: r.address, Limit: l.now(), Requests: r.seats, Base: l.base, Probing: l.probing})
		}
	}
	return x
}

// showLane names a lane by its protocol and path, and by a part of its hash: headers and queries have what is nobody's
// business.
func showLane(key string) string {
	protocol, rest, _ := strings.Cut(key, "\x00")
	path, _, _ := strings.Cut(rest, "?")
	sum := sha256.Sum256([]byte(key))
	return fmt.Sprintf("%s %s #%x", protocol, path, sum[:4])
}

// returned takes note of a batch that is over, with the requests that have no answer yet and why.
func (m *model) returned(b *batch, count int, left []*request, failure *failure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	b.replica.batches--
	if b.answered {
		b.replica.answered--
	} else {
		b.replica.rows -= b.rows
	}
	m.settle(b.replica)
	m.running -= count
	m.rate.add(now, count-len(left))
	switch {
	case failure != nil && !failure.sent:
		m.refuse(b.replica, now, failure.err)
	case b.heard: // rather than that nobody waited any longer
		m.reached(b.replica)
	}
	again := failure != nil && m.busy(now, b.replica, failure)
	left = stillThere(left)
	for _, r := range left {
		r.demand.running.Dec()
	}
	switch {
	case len(left) == 0:
	case m.closed || failure.sent && (b.attempt > 0 && !again || !m.budget.take(1)):
		m.fail(left, failure)
	case !failure.sent && b.attempt == 0:
		entries := make([]*Entry[*request], len(left))
		for i, r := range left {
			entries[i] = r.entry
			r.batch = nil
			r.back(now, failure)
			r.demand.waiting.Inc()
		}
		m.batcher.Back(now, left[0].key, entries)
	default:
		once := &batch{members: left, reason: b.reason, attempt: b.attempt + 1, avoid: b.replica, failure: failure, until: b.until, alive: len(left), cancel: func() {}}
		if b.attempt == 0 {
			once.until = now.Add(time.Duration(m.config.Timeout))
		}
		for _, r := range left {
			r.batch = once
		}
		m.again = append(m.again, once)
	}
	m.pump(now)
}

// mostAway is how long a replica is left alone that says when to come again.
const mostAway = 10 * time.Second

// busy leaves a replica alone that answered 429 or 503 with Retry-After, where there is another, and reports whether.
func (m *model) busy(now time.Time, r *replica, f *failure) bool {
	if f.code == 0 || f.retryAfter <= 0 {
		return false
	}
	for _, other := range m.picker.replicas {
		if other != r && other.ready(now) {
			if until := now.Add(min(f.retryAfter, mostAway)); until.After(r.bench) {
				r.bench = until
			}
			return true
		}
	}
	return false
}

// fail answers requests that no replica answered.
func (m *model) fail(members []*request, failure *failure) {
	for _, r := range members {
		r.answerWith(failure.answer(m.config.Name, m.closed))
	}
}

func (m *model) whyWaited(now time.Time) string {
	why := "all replicas are busy"
	if m.picker.ready(now) == 0 {
		why = "no replica is ready"
		for _, r := range m.picker.replicas {
			if r.unreached != nil && now.Before(r.bench) {
				why = fmt.Sprintf("no replica is ready (%s: %s)", r.address, plainError(r.unreached))
				break
			}
		}
	}
	return fmt.Sprintf("model %q: waited %s to be sent: %s", m.config.Name, m.config.Timeout, why)
}

// arm sets the timer to the next time at which something is due without another event.
func (m *model) arm(now time.Time, free bool) {
	next := m.batcher.Wake(free)
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, b := range m.again {
		sooner(b.until)
	}
	sooner(m.picker.wake(now))
	if m.solos.some.Load() {
		sooner(m.showSolo(now))
	}
	if next.IsZero() || !m.wakeAt.IsZero() && !next.Before(m.wakeAt) {
		return // nothing, or the timer fires before; it then looks again
	}
	m.wakeAt = next
	m.timer.Reset(next.Sub(now))
}

// setReplicas makes the replicas of a source those at the addresses.
func (m *model) setReplicas(from source, addresses []string) {
	if !slices.ContainsFunc(m.config.Upstreams, func(u Upstream) bool { return u.source() == from }) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	listed := slices.IndexFunc(m.config.Upstreams, func(u Upstream) bool { return u.source() == from })
	var kept []*replica
	for _, r := range m.picker.replicas {
		if r.from != from || slices.Contains(addresses, r.address) {
			kept = append(kept, r)
			continue
		}
		r.left = true
		if r.batches+r.calls > 0 {
			m.leaving = append(m.leaving, r)
		}
	}
	for _, address := range addresses {
		if slices.ContainsFunc(kept, func(r *replica) bool { return r.from == from && r.address == address }) {
			continue
		}
		at, err := parseUpstream("http://" + address)
		if err != nil {
			m.proxy.logger.Warn("a replica's address is not one", "model", m.config.Name, "of", from.String(), "err", err)
			continue
		}
		r := m.newReplica(from, at)
		r.listed, r.since = listed, now
		kept = append(kept, r)
	}
	// Replicas that share none with those before are of another version or on other machines.
	m.renewed = m.renewed || len(m.picker.replicas) > 0 && !slices.ContainsFunc(m.picker.replicas, func(r *replica) bool { return slices.Contains(kept, r) })
	m.picker.replicas = kept
	m.showLimits()
	if m.renewed && len(kept) > 0 {
		m.renewed = false
		m.batcher.Forget(now)
		m.note()
	}
	m.pump(now)
}

// drainReplica takes a replica out of service, and returns what is closed when nothing is in flight to it.
func (m *model) drainReplica(target, address string) []<-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	var waits []<-chan struct{}
	for _, r := range slices.Concat(m.picker.replicas, m.leaving) {
		if r.from != (source{"target", target}) || r.address != address {
			continue
		}
		r.draining = true
		if r.batches+r.calls > 0 {
			if r.idle == nil {
				r.idle = make(chan struct{})
			}
			waits = append(waits, r.idle)
		}
	}
	m.pump(time.Now())
	return waits
}

// settle tells who waits for a replica that it is idle, if so.
func (m *model) settle(r *replica) {
	r.settle()
	if r.left && r.batches+r.calls == 0 {
		m.leaving = slices.DeleteFunc(m.leaving, func(l *replica) bool { return l == r })
	}
}

// takeForCall is a ready replica for a request that is not batched, to be given back by giveCall; nil if there is none.
func (m *model) takeForCall() *replica {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.picker.forCall(time.Now(), 0)
	if r != nil {
		r.calls++
		m.running++
	}
	return r
}

func (m *model) giveCall(at seat) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.give(at)
}

// give is giveCall with the mutex held.
func (m *model) give(at seat) {
	at.to.calls--
	if at.limited {
		at.to.seats--
	}
	m.running--
	m.settle(at.to)
	now := time.Now()
	if m.config.Limit.Concurrent != 0 {
		m.callRate.add(now, 1)
	}
	if m.batcher.Len() > 0 || len(m.again) > 0 { // for which a replica may be ready that was tried with this call
		m.pump(now) // serves those that wait too
		return
	}
	m.serveCallers(now)
}

// refused puts a replica on the bench that could not be reached.
func (m *model) refused(r *replica, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.refuse(r, now, err)
	m.pump(now)
}

// flushNow lets everything queued leave as soon as a replica is free.
func (m *model) flushNow() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flush = true
	m.pump(time.Now())
}

// close answers what is still queued with 503 and waits for the batches in flight, whose context has ended.
func (m *model) close() {
	m.mu.Lock()
	m.closed = true
	m.timer.Stop()
	for {
		now := time.Now()
		out, ok := m.batcher.Next(now, true)
		for _, e := range m.batcher.Lost() {
			m.lose(now, e)
		}
		if !ok {
			break
		}
		for _, e := range out.Entries {
			e.Request.demand.waiting.Dec()
			m.fail([]*request{e.Request}, nil)
		}
	}
	for _, b := range m.again {
		m.fail(b.members, b.failure)
	}
	m.again = nil
	m.mu.Unlock()
	m.wg.Wait()
}

func (m *model) status() ModelStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	queued := m.batcher.Len() + len(m.callers)
	for _, b := range m.again {
		queued += len(b.members)
	}
	return ModelStatus{Name: m.config.Name, Ready: m.picker.ready(time.Now()), Queued: queued, Running: m.running}
}

// rate is the number of requests answered per second, each weighing less the longer ago it was.
type rate struct {
	perSecond float64
	at        time.Time
}

// rateWindow is how far back the rate looks: long enough to smooth batches, short enough to follow a scale-up.
const rateWindow = 10 * time.Second

func (r *rate) now(now time.Time) float64 {
	return r.perSecond * math.Exp(-now.Sub(r.at).Seconds()/rateWindow.Seconds())
}

func (r *rate) add(now time.Time, requests int) {
	r.perSecond = r.now(now) + float64(requests)/rateWindow.Seconds()
	r.at = now
}

// wait is how long a queue of so many requests takes, between 1 s and a minute; 1 s where nothing is known.
func (r *rate) wait(now time.Time, queued int) time.Duration {
	perSecond := r.now(now)
	if perSecond < 1e-3 {
		return time.Second
	}
	seconds := min(max(float64(queued)/perSecond, 1), 60)
	return time.Duration(seconds * float64(time.Second))
}

package batchproxy

import (
	"errors"
	"net/http"
	"slices"
	"time"
)

// outlier is what speaks for a replica being worse than the others of its model. The model's mutex guards it.
type outlier struct {
	errors   int // answers 5xx, broken off or too late, one after the other
	slow     int // answers that took much longer than those of others, one after the other
	mean     float64
	measured int // of mean: how many times as long as S(n) it takes

	until    time.Time // ejected until then
	halfOpen bool      // ejected, and may be tried with one request
	why      string    // the reason of the last ejection
	times    int       // that it was ejected, since it last stayed for long
	back     time.Time // when it was last taken back
	worked   time.Time // when it last answered
}

const (
	// slowAnswers one after the other eject: one is a pause, as of a garbage collector or a compiler.
	slowAnswers = 5
	// longestEjection is how many times OutlierConfig.BaseEject an ejection lasts at most.
	longestEjection = 10
	// rehabilitated is after how many times BaseEject without an ejection the earlier ones no longer count.
	rehabilitated = 10
	// meanWeight is the weight of a measurement in outlier.mean.
	meanWeight = 0.2
)

// The reasons of ejections.
const (
	ejected5xx     = "5xx"     // consecutive answers 5xx, or that broke off
	ejectedLatency = "latency" // consecutive answers much slower than those of others
	ejectedTimeout = "timeout" // none within the timeout, while others answered
)

// EjectionReasons are all values of the label reason of flyball_batchproxy_ejections_total.
func EjectionReasons() []string { return []string{ejected5xx, ejectedLatency, ejectedTimeout} }

// outcome is how a call to a replica ended.
type outcome int

const (
	worked   outcome = iota
	erred            // 5xx, or the answer broke off
	timedOut         // no answer within the timeout
	unknown          // the client went, or it was never sent
)

// judge takes note of how a call ended. Ratio is how many times as long as was expected it took, 0 where that says
// nothing; began is when the call did.
func (m *model) judge(now time.Time, r *replica, how outcome, ratio float64, began time.Time) {
	o := &r.outlier
	if how == unknown || how != worked && now.Before(o.until) {
		return
	}
	if how == worked {
		o.errors = 0
		o.worked = now
		if ratio > 0 {
			r.slow.add(now, ratio)
			o.mean += (ratio - o.mean) * max(meanWeight, 1/float64(o.measured+1))
			o.measured++
		}
		if now.Before(o.until) {
			return // it was with the replica when that was ejected
		}
		if o.halfOpen {
			*o = outlier{times: o.times, back: now, worked: now}
			r.since = now
			m.proxy.logger.Info("a replica that was ejected is back", "model", m.config.Name, "replica", r.address)
			return
		}
	} else {
		o.errors++
	}
	if o.halfOpen {
		m.eject(now, r, ejected5xx)
		return
	}
	c := m.config.Outlier
	if factor := c.LatencyFactor; ratio > 0 && factor > 0 {
		if median := m.medianOfOthers(r); median > 0 && ratio > factor*median {
			o.slow++
		} else {
			o.slow = 0
		}
	}
	switch {
	case how == timedOut && c.Consecutive5xx > 0 && m.anotherWorked(r, began):
		m.eject(now, r, ejectedTimeout)
	case c.Consecutive5xx > 0 && o.errors >= c.Consecutive5xx:
		m.eject(now, r, ejected5xx)
	case o.slow >= slowAnswers:
		m.eject(now, r, ejectedLatency)
	}
}

// medianOfOthers is the median of how many times as long as expected the other replicas take, 0 where none was measured.
func (m *model) medianOfOthers(r *replica) float64 {
	var means []float64
	for _, other := range m.picker.replicas {
		if other != r && other.outlier.measured >= slowAnswers {
			means = append(means, other.outlier.mean)
		}
	}
	if len(means) == 0 {
		return 0
	}
	slices.Sort(means)
	return means[(len(means)-1)/2]
}

// anotherWorked reports whether another replica has answered since a time.
func (m *model) anotherWorked(r *replica, since time.Time) bool {
	return slices.ContainsFunc(m.picker.replicas, func(other *replica) bool { return other != r && other.outlier.worked.After(since) })
}

// eject takes a replica out for a time that grows with each ejection, unless too many are out already or it is the last. One that
// fails takes the place of one that is out because it is slow.
func (m *model) eject(now time.Time, r *replica, why string) {
	o := &r.outlier
	o.errors, o.slow = 0, 0
	c := m.config.Outlier
	out, others := 1, 0
	var slow *replica // that is out as such, and is better than one that fails
	for _, other := range m.picker.replicas {
		switch {
		case other == r:
		case now.Before(other.outlier.until) || other.outlier.halfOpen:
			out++
			if other.outlier.why == ejectedLatency && why != ejectedLatency && other.reachable(now) {
				slow = other
			}
		case other.healthy(now) && !other.draining:
			others++
		}
	}
	if slow != nil && !r.left && (others == 0 || out*100 > c.MaxPercent*len(m.picker.replicas)) {
		slow.outlier = outlier{times: slow.outlier.times, back: now, worked: slow.outlier.worked}
		m.proxy.logger.Warn("a replica that was ejected as slow is taken back, in the place of one that fails", "model", m.config.Name, "replica", slow.address)
		out, others = out-1, others+1
	}
	if r.left || !o.halfOpen && (others == 0 || out*100 > c.MaxPercent*len(m.picker.replicas)) {
		return
	}
	if o.halfOpen && others == 0 { // better one that fails now and then than none
		o.halfOpen = false
		return
	}
	base := time.Duration(c.BaseEject)
	if !o.back.IsZero() && !o.halfOpen && now.Sub(o.back) > rehabilitated*base {
		o.times = 0
	}
	o.times = min(o.times+1, longestEjection)
	o.until, o.halfOpen, o.why = now.Add(time.Duration(o.times)*base), true, why
	m.proxy.metrics.ejections.WithLabelValues(m.config.Name, why).Inc()
	m.proxy.logger.Warn("a replica is ejected", "model", m.config.Name, "replica", r.address, "reason", why, "for", time.Duration(o.times)*base)
}

// sighting is what is known of a call for a batch.
type sighting struct {
	first  bool // the whole batch, rather than a part of one that failed
	shared bool // the replica had another batch before
	rows   int
	began  time.Time
	took   time.Duration
	late   bool // it was given up because it took too long
	gone   bool // it was given up for another reason
}

// saw takes note of how a call for a batch ended. A failure counts once a batch: one bad request that is looked for by
// halves says no more of the replica with each of them.
func (m *model) saw(r *replica, resp *response, err error, s sighting) {
	m.mu.Lock()
	defer m.mu.Unlock()
	how, ratio := worked, 0.0
	switch {
	case s.late:
		how = timedOut
	case s.gone || unsent(err) || errors.Is(err, errTooLarge):
		how = unknown
	case err != nil || resp.code >= 500 && !saysWhen(resp.code, resp.header):
		how = erred
	}
	if how != worked && !s.first {
		return
	}
	// An error may be quick, and says nothing then; a timeout was at least as slow as it is.
	if t := m.batcher.service; t.known && (how == timedOut || !s.shared && err == nil && resp.code == http.StatusOK) {
		ratio = s.took.Seconds() / max(t.at(s.rows), 1e-6)
	}
	m.judge(time.Now(), r, how, ratio, s.began)
}

// sawCall takes note of how a call that was passed on ended; gone says that the client ended it.
func (m *model) sawCall(r *replica, rec *recorder, began time.Time, gone bool) {
	how := worked
	switch {
	case gone || rec.err != nil && unsent(rec.err):
		how = unknown
	case !rec.whole || rec.code >= 500 && !saysWhen(rec.code, rec.Header()):
		how = erred
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now, tried := time.Now(), r.outlier.halfOpen
	if how == worked {
		m.reached(r)
		m.callTime.add(now.Sub(began))
	}
	m.judge(now, r, how, 0, began)
	if tried != r.outlier.halfOpen || how != worked {
		m.pump(now)
	}
}

// saysWhen reports whether an answer is that of a server which is well and busy.
func saysWhen(code int, header http.Header) bool {
	return code == http.StatusServiceUnavailable && header.Get("Retry-After") != ""
}

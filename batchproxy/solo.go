package batchproxy

import (
	"crypto/sha256"
	"maps"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// A request that a replica refuses costs its batch up to 2·log2(n) calls until it is found. A tenant whose requests do that
// again and again rides alone for a while, so that it costs the others nothing. A tenant is told by the model's tenant header
// (X-Flyball-Tenant where there is none), if it is believed, or else by its Authorization, and in both cases by the address that it
// connects from: so nobody is set apart for what others send in his name. Only addresses that are listed as trusted are taken to
// speak for many, and to tell who they are. A request that says nothing is told by its address alone where trusted ones are
// listed, and this is not one of them; else it cannot be told from the others, and is not set apart: all of them would be.

const (
	// poisonings within poisonTime set a tenant apart, for soloTime.
	poisonings = 3
	poisonTime = time.Minute
	soloTime   = time.Minute
	// maxPoisoners bounds the memory for tenants whose requests were refused of late.
	maxPoisoners = 1024
)

// poisonerID is a part of the hash of what a tenant is told by.
type poisonerID [16]byte

// poisonerOf is who a request is from, and false where that cannot be told.
func (m *model) poisonerOf(r *http.Request) (poisonerID, bool) {
	name, who := m.soloHeader(r), ""
	if value := r.Header.Get(name); value != "" {
		who = name + ":" + value
	}
	vouched := m.trust.listed(r)
	if who == "" && (vouched || len(m.trust.from) == 0) {
		return poisonerID{}, false
	}
	if !vouched {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		who += "\x00" + host
	}
	sum := sha256.Sum256([]byte(who))
	return poisonerID(sum[:16]), true
}

// soloHeader is the header that tells who a request is from.
func (m *model) soloHeader(r *http.Request) string {
	name := m.tenantHeader
	if name == "" {
		name = "X-Flyball-Tenant"
	}
	if r.Header.Get(name) != "" && m.trust.believes(r) {
		return name
	}
	return "Authorization"
}

// soloLanes are the tenants whose requests were refused in batches of late. The model's mutex guards it, except for some.
type soloLanes struct {
	some    atomic.Bool // there is a tenant; so that requests look for theirs only where it could be
	tenants map[poisonerID]*poisoner
}

type poisoner struct {
	times [poisonings]time.Time // the latest, in no order
	until time.Time             // rides alone until then
}

// alone is until when a tenant rides alone, zero if it does not.
func (s *soloLanes) alone(now time.Time, t poisonerID) time.Time {
	if p := s.tenants[t]; p != nil && now.Before(p.until) {
		return p.until
	}
	return time.Time{}
}

// poisoned takes note of a request that had to be looked for, and reports whether its tenant rides alone from now on.
func (s *soloLanes) poisoned(now time.Time, t poisonerID) bool {
	p := s.tenants[t]
	if p == nil {
		if len(s.tenants) >= maxPoisoners {
			s.sweep(now)
		}
		if len(s.tenants) >= maxPoisoners {
			return false
		}
		if s.tenants == nil {
			s.tenants = make(map[poisonerID]*poisoner)
		}
		p = new(poisoner)
		s.tenants[t] = p
		s.some.Store(true)
	}
	oldest := 0
	for i, at := range p.times {
		if at.Before(p.times[oldest]) {
			oldest = i
		}
	}
	p.times[oldest] = now
	for _, at := range p.times {
		if now.Sub(at) > poisonTime {
			return false
		}
	}
	was := now.Before(p.until)
	p.until = now.Add(soloTime)
	return !was
}

// sweep forgets those who have been well for long enough.
func (s *soloLanes) sweep(now time.Time) {
	maps.DeleteFunc(s.tenants, func(_ poisonerID, p *poisoner) bool {
		for _, at := range p.times {
			if now.Sub(at) <= poisonTime {
				return false
			}
		}
		return !now.Before(p.until)
	})
	s.some.Store(len(s.tenants) > 0)
}

// count is how many ride alone, and when the next no longer does, zero for none.
func (s *soloLanes) count(now time.Time) (n int, next time.Time) {
	for _, p := range s.tenants {
		if now.Before(p.until) {
			n++
			if next.IsZero() || p.until.Before(next) {
				next = p.until
			}
		}
	}
	return n, next
}

// rideAlone puts a request into a lane of its own kind, where its tenant is to ride alone.
func (m *model) rideAlone(r *request) {
	if !m.solos.some.Load() {
		return
	}
	who, ok := m.poisonerOf(r.incoming)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if until := m.solos.alone(time.Now(), who); !until.IsZero() {
		r.key = append(append(r.key, "\x00solo "...), who[:]...)
		m.batcher.Alone(r.key, until)
	}
}

// poisonedBy takes note of a request that failed alone, and that its batch was cut for.
func (m *model) poisonedBy(r *request) {
	if r.binary { // it is sent once more, as JSON
		return
	}
	m.proxy.metrics.poisoned.WithLabelValues(m.config.Name).Inc()
	who, ok := m.poisonerOf(r.incoming)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.solos.poisoned(now, who) {
		m.proxy.logger.Warn("a tenant's requests go alone for a while: the replicas refused three within a minute", "model", m.config.Name,
			"tenant", short(m.tenantOf(r.incoming)), "client", r.incoming.RemoteAddr, "for", soloTime)
	}
	m.showSolo(now)
	m.arm(now, false)
}

// showSolo sets the gauge of tenants that ride alone, and returns when it changes without an event.
func (m *model) showSolo(now time.Time) time.Time {
	n, next := m.solos.count(now)
	if m.proxy.successor.Load() == nil { // which has the same series
		m.proxy.metrics.solo.WithLabelValues(m.config.Name).Set(float64(n))
	}
	if n == 0 {
		m.solos.sweep(now)
	}
	return next
}

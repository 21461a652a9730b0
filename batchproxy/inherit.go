package batchproxy

import (
	"maps"
	"slices"
	"time"
)

// A new configuration is a new proxy, whose models begin with nothing. What was learned of a model whose replicas are still there is
// taken along, whatever else of the configuration has changed: it is of the replicas and of the clients.

// Inherit takes over what another batcher has learned, of the same replicas and clients. Its rule may be another, and its requests stay
// where they are. It is for a batcher that has none yet.
func (b *Batcher[R]) Inherit(now time.Time, from *Batcher[R]) {
	warm := b.service.warm // by rows, of which there may be others
	copy(warm, from.service.warm)
	b.service = from.service
	b.service.warm = warm
	if b.ceiling, b.raised = from.ceiling, from.raised; b.ceiling >= b.rule.MaxSize {
		b.ceiling = 0
	}
	if b.rule.Mode == from.rule.Mode {
		b.off, b.fresh, b.trying, b.trial, b.since, b.every, b.against = from.off, from.fresh, from.trying, from.trial, from.since, from.every, from.against
		if b.off && from.rule.Widens && !b.rule.Widens { // perhaps only as replicas had as many requests at once as came
			b.off, b.fresh, b.trying, b.since, b.every = false, true, false, 0, probeFirst
			b.service.reset()
		}
		if b.rule.MaxSize == from.rule.MaxSize && b.off == from.off {
			b.effective = from.effective
		}
	}
	if b.rule.LearnDepth && from.rule.LearnDepth {
		b.depth = from.depth
		b.depth.trying = 0
		b.depth.restart(now, b.depth.kept+1)
	}
	if slices.Equal(b.rule.Classes, from.rule.Classes) { // which decisions refer to
		b.journal = from.journal
	}
	b.alone = maps.Clone(from.alone)
	for name, l := range from.lanes {
		own := b.lane(now, []byte(name))
		own.profile, own.used = l.profile, l.used
	}
	b.tune(now)
}

// inherit takes over what another model of the same name has learned, where it has replicas in common with this one.
func (m *model) inherit(from *model) {
	from.mu.Lock()
	defer from.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	both := func(r *replica) *replica {
		if i := slices.IndexFunc(m.picker.replicas, func(own *replica) bool { return own.url.String() == r.url.String() }); i >= 0 {
			return m.picker.replicas[i]
		}
		return nil
	}
	theirs, ours := from.picker.replicas, m.picker.replicas
	switch {
	case len(theirs) > 0 && len(ours) > 0:
		if !slices.ContainsFunc(theirs, func(r *replica) bool { return both(r) != nil }) {
			return
		}
	case len(ours) > 0 || !slices.Equal(m.config.Upstreams, from.config.Upstreams):
		return
	default: // as in setReplicas: those that come next are others
		m.renewed = from.renewed || len(theirs) > 0
	}
	m.batcher.Inherit(now, from.batcher)
	m.rate, m.callRate, m.callTime, m.budget = from.rate, from.callRate, from.callTime, from.budget
	m.wholes = maps.Clone(from.wholes)
	m.noBinary = from.noBinary
	m.solos.inherit(&from.solos)
	for _, r := range theirs {
		if own := both(r); own != nil {
			own.inherit(r, m.config, from.config)
		}
	}
	m.note()
	m.showLimits()
	m.pump(now) // which sets the timer for what is out for a time
}

// inherit takes over what was seen of the same replica by a model of another configuration.
func (r *replica) inherit(from *replica, c, before ModelConfig) {
	r.draining, r.bench, r.refusals, r.unreached, r.slow = from.draining, from.bench, from.refusals, from.unreached, from.slow
	r.since, r.credit = from.since, from.credit
	r.extension = from.extension
	r.extension.asking = false // by a proxy that ends
	if r.limiter != nil && from.limiter != nil {
		r.limiter.set(from.limiter.limit)
	}
	if c.Outlier == before.Outlier { // or it might never be taken back
		r.outlier = from.outlier
	}
	if c.Health == before.Health {
		r.checks = from.checks
	}
}

// inherit takes over the tenants that ride alone, or nearly do.
func (s *soloLanes) inherit(from *soloLanes) {
	s.tenants = make(map[poisonerID]*poisoner, len(from.tenants))
	for who, p := range from.tenants {
		own := *p
		s.tenants[who] = &own
	}
	s.some.Store(len(s.tenants) > 0)
}

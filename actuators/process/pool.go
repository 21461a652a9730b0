package process

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"flyball/actuators"
)

// pool is the replicas of one target. The lock of Processes guards it, but for target, which stays as it is, and settings.
type pool struct {
	target   actuators.Target
	settings atomic.Pointer[settings] // of the processes that start from now on
	removed  bool                     // the configuration has the target no more: it ends with its last replica

	spec      int
	version   int
	fresh     bool
	decisions []decision
	replicas  []*replica // ordered by index
	endpoints endpoints
}

// settings are what the configuration says of a target. A process keeps those that it was started with.
type settings struct {
	Target
	command command
}

func newPool(name string, s *settings) *pool {
	p := &pool{target: actuators.Target{Kind: Kind, Name: name}, version: 1, fresh: true}
	p.settings.Store(s)
	return p
}

// decision is a change that was carried out.
type decision struct {
	id string
	to int
}

// rememberedDecisions is how many decisions of a target are known again. Repeats come within a few evaluations.
const rememberedDecisions = 64

// decided reports whether the change is a repeat of one that was carried out.
func (p *pool) decided(change actuators.Change) bool {
	return change.DecisionID != "" && slices.Contains(p.decisions, decision{change.DecisionID, change.To})
}

func (p *pool) remember(change actuators.Change) {
	if change.DecisionID == "" {
		return
	}
	if len(p.decisions) == rememberedDecisions {
		p.decisions = slices.Delete(p.decisions, 0, 1)
	}
	p.decisions = append(p.decisions, decision{change.DecisionID, change.To})
}

// size is the number of replicas that are to stay.
func (p *pool) size() int { return len(p.replicas) - p.count(Draining) }

func (p *pool) count(state ReplicaState) int {
	n := 0
	for _, r := range p.replicas {
		if r.State == state {
			n++
		}
	}
	return n
}

// add makes a replica with the lowest index that is free.
func (p *pool) add(now time.Time) *replica {
	at := 0
	for at < len(p.replicas) && p.replicas[at].Index == at {
		at++
	}
	r := &replica{
		ReplicaStatus: ReplicaStatus{Index: at, State: Starting, Since: now},
		started:       now,
		retired:       make(chan struct{}),
	}
	p.replicas = slices.Insert(p.replicas, at, r)
	return r
}

// victim is the replica to give up first: one that is not ready rather than one that is, then the one whose process is
// the youngest, then the one with the highest index. There has to be one that is not draining.
func (p *pool) victim() *replica {
	staying := slices.DeleteFunc(slices.Clone(p.replicas), func(r *replica) bool { return r.State == Draining })
	return slices.MaxFunc(staying, func(a, b *replica) int {
		if a, b := a.State == Ready, b.State == Ready; a != b {
			if b {
				return 1
			}
			return -1
		}
		return cmp.Or(a.started.Compare(b.started), cmp.Compare(a.Index, b.Index))
	})
}

func (p *pool) remove(r *replica) {
	p.replicas = slices.DeleteFunc(p.replicas, func(other *replica) bool { return other == r })
	if p.removed && len(p.replicas) == 0 {
		p.endpoints.end()
	}
}

// publish brings the list of endpoints up to date.
func (p *pool) publish() {
	var addresses []string
	for _, r := range p.replicas {
		if r.State == Ready {
			addresses = append(addresses, r.Address)
		}
	}
	p.endpoints.set(addresses)
}

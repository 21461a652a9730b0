package rules

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"flyball/actuators"
	"flyball/rules/source"
)

// Variant is one of several targets that can do the same work at different prices: a GPU type, a region, spot or on demand.
type Variant struct {
	Name   string           `yaml:"name"`
	Target actuators.Target `yaml:"target"`

	// Capacity is how much of the signals' unit one replica serves, as a whole number.
	Capacity int `yaml:"capacity"`

	Price         string `yaml:"price"` // USD an hour of one replica: a number or an expression of queries
	Min           int    `yaml:"min"`
	Max           int    `yaml:"max"`
	Interruptible bool   `yaml:"interruptible"` // it may be taken away at any time, as spot capacity is

	price *expression
}

// Cost says how variants are chosen.
type Cost struct {
	// Prefer is cheapest: fill the cheapest for its capacity first, and drain the dearest first.
	Prefer string `yaml:"prefer"`

	// MaxInterruptibleShare is how much of the capacity may be interruptible, from 0 to 1; nil: all of it.
	MaxInterruptibleShare *float64 `yaml:"max_interruptible_share"`
}

func (s *Scale) validateVariants(d *source.Decoder, path string) {
	names, targets := map[string]bool{}, map[actuators.Target]bool{}
	for i := range s.Variants {
		v := &s.Variants[i]
		at := fmt.Sprintf("%s.variants[%d]", path, i)
		fault := func(key, format string, args ...any) { d.FaultAt(at+"."+key, 0, format, args...) }
		switch {
		case v.Name == "":
			d.FaultAt(at, 0, "a variant needs a name")
		case names[v.Name]:
			fault("name", "variant %q is already in this rule", v.Name)
		}
		names[v.Name] = true
		switch {
		case v.Target.Kind == "" || v.Target.Name == "":
			fault("target", "target: give kind and name of what is scaled")
		case targets[v.Target]:
			fault("target", "target %s is already in this rule", v.Target)
		}
		targets[v.Target] = true
		if v.Capacity < 1 {
			fault("capacity", "capacity is %d: expected a whole number above 0: how much of the signals' unit one replica serves", v.Capacity)
		}
		if v.Capacity > maxProposal {
			fault("capacity", "capacity is %d: expected %d or less", v.Capacity, maxProposal)
		}
		if v.Min < 0 {
			fault("min", "min is %d: expected 0 or more", v.Min)
		}
		switch {
		case v.Max < 1:
			fault("max", "max: missing: a variant needs an upper bound above 0")
		case v.Max > maxProposal:
			fault("max", "max is %d: expected %d or less", v.Max, maxProposal)
		case v.Min > v.Max:
			fault("min", "min is %d, above max, which is %d", v.Min, v.Max)
		}
		if v.Price != "" {
			v.price = compile(d, at+".price", v.Price, s.environment(), numberResult)
		} else {
			fault("price", "price: missing: USD an hour of one replica, as a number or an expression of queries")
		}
	}
	if s.Cost.Prefer != "" && s.Cost.Prefer != "cheapest" {
		d.FaultAt(path+".cost.prefer", 0, "prefer is %q: expected cheapest", s.Cost.Prefer)
	}
	if share := s.Cost.MaxInterruptibleShare; share != nil && (*share < 0 || *share > 1) {
		d.FaultAt(path+".cost.max_interruptible_share", 0, "max_interruptible_share is %g: expected a ratio from 0 to 1", *share)
	}
}

// Placement is one variant's part of a decision.
type Placement struct {
	Name            string  `json:"name"`
	Target          string  `json:"target"` // kind/name
	From            int     `json:"from"`   // replicas asked for before
	Ready           int     `json:"ready"`
	To              int     `json:"to"`                   // and by this decision
	Unanswered      *int    `json:"unanswered,omitempty"` // the size that it may have taken all the same
	Capacity        int     `json:"capacity"`
	PriceUSDPerHour float64 `json:"price_usd_per_hour,omitempty"` // 0 where it is not known

	variant *Variant
	state   actuators.State
	known   bool // its price is
}

// unitPrice orders variants; one whose price is not known comes last to be filled, and first to be drained.
func (p *Placement) unitPrice() float64 {
	if !p.known {
		return math.Inf(1)
	}
	return p.PriceUSDPerHour / float64(p.Capacity)
}

func (p *Placement) interruptible() bool { return p.variant.Interruptible }

// capacityOf is what the placements come to.
func capacityOf(all []Placement) (units int) {
	for i := range all {
		units += all[i].To * all[i].Capacity
	}
	return units
}

// place gives so many units of capacity to the variants: what is missing to the cheapest first, what is too much from the
// dearest first, and no more to interruptible ones than their share of it. Nothing moves that need not: prices alone do
// not make a running replica another one. What there is comes to at least units afterwards, as far as the bounds allow.
func place(all []Placement, units int, share float64) {
	for i := range all {
		all[i].To = min(max(all[i].From, all[i].variant.Min), all[i].variant.Max)
	}
	byPrice := make([]*Placement, len(all))
	for i := range all {
		byPrice[i] = &all[i]
	}
	slices.SortStableFunc(byPrice, func(a, b *Placement) int {
		return cmp.Or(cmp.Compare(a.unitPrice(), b.unitPrice()), cmp.Compare(a.Capacity, b.Capacity))
	})
	limit := math.MaxInt
	if share < 1 {
		limit = int(math.Floor(share*float64(max(units, 0)) + 1e-9))
	}
	interrupted := 0
	for _, p := range byPrice {
		if p.interruptible() {
			interrupted += p.To * p.Capacity
		}
	}
	drain := func(p *Placement, spare int) (drained int) {
		n := min(spare/p.Capacity, p.To-p.variant.Min)
		if n <= 0 {
			return 0
		}
		p.To -= n
		if p.interruptible() {
			interrupted -= n * p.Capacity
		}
		return n * p.Capacity
	}
	if spare := capacityOf(all) - units; spare > 0 {
		for _, p := range slices.Backward(byPrice) { // what is beyond the share goes first
			if beyond := interrupted - limit; p.interruptible() && beyond > 0 {
				whole := (beyond + p.Capacity - 1) / p.Capacity * p.Capacity
				spare -= drain(p, min(spare, whole))
			}
		}
		for _, p := range slices.Backward(byPrice) {
			spare -= drain(p, spare)
		}
		return
	}
	for missing := units - capacityOf(all); missing > 0; {
		best, n := fill(byPrice, missing, limit-interrupted)
		if best == nil {
			return // all are at their bounds
		}
		best.To += n
		missing -= n * best.Capacity
		if best.interruptible() {
			interrupted += n * best.Capacity
		}
	}
}

// fill chooses the next replicas: of the cheapest variant as many as fit whole, and for what remains the variant that
// covers it at the least cost.
func fill(byPrice []*Placement, missing, interruptible int) (best *Placement, n int) {
	room := func(p *Placement) int {
		n := p.variant.Max - p.To
		if p.interruptible() {
			n = min(n, interruptible/p.Capacity)
		}
		return n
	}
	cost := math.Inf(1)
	for _, p := range byPrice {
		r := room(p)
		if r <= 0 {
			continue
		}
		if best == nil { // the cheapest for its capacity
			if whole := min(r, missing/p.Capacity); whole > 0 {
				return p, whole
			}
			best, n = p, 1
			cost = p.cost(1)
			continue
		}
		if k := (missing + p.Capacity - 1) / p.Capacity; k <= r && p.cost(k) < cost {
			best, n, cost = p, k, p.cost(k)
		}
	}
	return best, n
}

// cost is that of n replicas in USD an hour, infinite where the price is not known.
func (p *Placement) cost(n int) float64 {
	if !p.known {
		return math.Inf(1)
	}
	return float64(n) * p.PriceUSDPerHour
}

// hourly is what the placements cost: before and after.
func hourly(all []Placement) (before, after float64) {
	for i := range all {
		before += float64(all[i].From) * all[i].PriceUSDPerHour
		after += float64(all[i].To) * all[i].PriceUSDPerHour
	}
	return before, after
}

// affordable is the capacity that so many dollars an hour buy, the cheapest first, each variant's minimum included.
func affordable(all []Placement, usdPerHour, share float64, units int) int {
	trial := slices.Clone(all)
	fits := func(units int) bool {
		for i := range trial {
			trial[i].From = 0
		}
		place(trial, units, share)
		_, cost := hourly(trial)
		return cost <= usdPerHour
	}
	low, high := 0, units // the least that is too much is searched
	for low < high {
		middle := low + (high-low+1)/2
		if fits(middle) {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return low
}

package rules

import (
	"slices"
	"time"

	"flyball/actuators"
)

// Shadow is what a rule that does not act would have come to by now, had it acted from when it began to observe: its own
// changes with their windows, cooldowns, rates and turns, as they would follow one from the other. The decision that it is
// part of begins at the true size each time; without the two side by side, "would have" drifts from what would be.
//
// What is measured stays that of the true size: a utilization says what the true replicas need, and a step counts from
// them, since neither would be what it is at another size. Replicas of a shadow are ready at once.
type Shadow struct {
	Action    Action   `json:"action"`
	From      int      `json:"from"` // replicas, in units of capacity of a rule with variants
	To        int      `json:"to"`
	Reasons   []Reason `json:"reasons"`
	LimitedBy []Reason `json:"limited_by,omitempty"`
	Text      string   `json:"text"`
}

// changed says that it changes the size, and is not the earlier one that did.
func (s *Shadow) changed(earlier *Shadow) bool {
	return s != nil && s.Action != Hold && (earlier == nil || s.From != earlier.From || s.To != earlier.To)
}

// shadowState is what is remembered of a shadow: its sizes and, unlike those of a target, its changes, which no journal has.
type shadowState struct {
	State
	variants []int
}

// shadow decides once more, from where the rule's own decisions would have led.
func (s *Scale) shadow(obs Observation, was *shadowState, truth State) (*Shadow, *shadowState) {
	if was == nil || len(was.variants) != len(s.Variants) {
		if obs.TargetError != "" {
			return nil, nil
		}
		was = &shadowState{State: State{Replicas: obs.Replicas.Spec, Known: true}}
		for _, v := range obs.Variants {
			was.variants = append(was.variants, v.Spec)
		}
	}
	obs.from = &was.Replicas
	if len(was.variants) > 0 {
		obs.Variants = make([]actuators.State, len(was.variants))
		for i, n := range was.variants {
			obs.Variants[i] = actuators.State{Spec: n, Ready: n}
		}
	}
	st := was.State
	st.starts, st.asked = truth.starts, time.Time{}
	d, next := Decide(s, obs, st)
	now := &shadowState{State: next.Applied(obs.At, d.From, d.To)}
	for _, v := range d.Variants {
		now.variants = append(now.variants, v.To)
	}
	if len(d.Variants) == 0 {
		now.variants = slices.Clone(was.variants)
	}
	return &Shadow{Action: d.Action, From: d.From, To: d.To, Reasons: d.Reasons, LimitedBy: d.LimitedBy, Text: d.Text}, now
}

package web

import (
	"slices"

	"flyball/rules"
)

// stage is one step of the way from what the signals ask for to the size that was decided on.
type stage struct {
	Name string
	Size int
	Held []rules.Reason // what kept the size from going on as it was
}

// stages are those of a decision, in their order. A decision that gave a target its first size went through none.
func stages(d *rules.Decision) []stage {
	if d.Start {
		return nil
	}
	all := []stage{
		{Name: "signals and steps ask for", Size: d.Combined},
		{Name: "gate: data whole, replicas ready", Size: d.Gated},
		{Name: "budget", Size: d.Costed},
		{Name: "stabilization window", Size: d.Stabilized},
		{Name: "cooldown and rates", Size: d.Limited},
		{Name: "no flapping, progress", Size: d.Damped},
		{Name: "schedules, min and max", Size: d.To},
	}
	for _, r := range d.LimitedBy {
		i := 4
		switch r {
		case rules.Paused, rules.DryRun:
			continue // no stage: the outcome says so
		case rules.MetricMissing, rules.MetricStale, rules.MetricNaN, rules.InFlight, rules.LowConfidence:
			i = 1
			if d.Combined == d.Gated { // a step that would have counted replicas twice that are on their way
				i = 0
			}
		case rules.StepRule:
			i = 0
		case rules.BudgetCap:
			i = 2
		case rules.Stabilized:
			i = 3
		case rules.FlapBudgetSpent, rules.ProjectionWouldFlap, rules.Overdue:
			i = 5
		case rules.MinReplicas, rules.MaxReplicas, rules.Scheduled:
			i = 6
		}
		all[i].Held = append(all[i].Held, r)
	}
	return all
}

// stepState is what a `when` step came to, in words.
func stepState(s rules.StepRecord) string {
	switch {
	case s.Fault != "":
		return string(s.Fault)
	case s.Fired:
		return "fired"
	case s.Holds:
		return "holds, not for long enough"
	}
	return "does not hold"
}

// outcome is what the actuator made of a decision, in words.
func outcome(d *rules.Decision) string {
	switch d.Result {
	case rules.Applied:
		return "the target took the new size"
	case rules.Applying:
		return "asked for; the target's answer is not recorded yet"
	case rules.Unchanged:
		return "nothing was to be done"
	case rules.Observed:
		switch {
		case slices.Contains(d.Reasons, rules.Paused):
			return "not carried out: acting is frozen, or paused on this target"
		case slices.Contains(d.Reasons, rules.NotLeader):
			return "not carried out: another flyball is the one that acts"
		case d.Mode == rules.Act && !slices.Contains(d.Reasons, rules.DryRun):
			return "not carried out: too many changes over all targets within a minute"
		}
		return "not carried out: the rule observes, or acting is not enabled"
	case rules.Failed:
		return "the target refused it, or could not be reached"
	case rules.Recommended:
		return "recommended; nothing is changed"
	case rules.Unrecorded:
		return "it could not be written to the journal: what is not recorded is not done"
	}
	return ""
}

// meaning says what a reason stands for.
func meaning(r rules.Reason) string {
	switch r {
	case rules.AboveTarget:
		return "a signal asks for more replicas"
	case rules.BelowTarget:
		return "every signal asks for fewer replicas"
	case rules.WithinTolerance:
		return "no signal is far enough from its target"
	case rules.StepRule:
		return "a when step fired"
	case rules.ForecastFloor:
		return "a forecast asks for more than what there is now"
	case rules.Panicked:
		return "a signal asks for many times the ready replicas over a short time"
	case rules.Scheduled:
		return "a schedule bounds the size"
	case rules.LowConfidence:
		return "the data is not fresh or complete enough for a change"
	case rules.BudgetCap:
		return "a budget is used up"
	case rules.FlapBudgetSpent:
		return "the size has turned round too often within flap_budget"
	case rules.ProjectionWouldFlap:
		return "a signal would ask for more again at once"
	case rules.MinReplicas:
		return "raised to, or kept at, min"
	case rules.MaxReplicas:
		return "cut to max"
	case rules.Restored:
		return "the size of before a restart"
	case rules.ScaleUpRate:
		return "as fast as behavior.up.policies allow"
	case rules.ScaleDownRate:
		return "as fast as behavior.down.policies allow"
	case rules.Stabilized:
		return "not wanted for a whole behavior window yet"
	case rules.Cooldown:
		return "too soon after the last change in that direction"
	case rules.InFlight:
		return "replicas that were asked for are not ready yet"
	case rules.Overdue:
		return "replicas that were asked for are not ready within progress.deadline"
	case rules.MetricMissing:
		return "a query has no answer, or fewer series than expected"
	case rules.MetricStale:
		return "the newest sample is too old"
	case rules.MetricNaN:
		return "a value is not a finite number"
	case rules.NotLeader:
		return "another flyball is the one that acts"
	case rules.DryRun:
		return "the rule observes, or acting is not enabled"
	case rules.ExternalChange:
		return "somebody else changed the target"
	case rules.OwnedByHPA:
		return "an autoscaler sets the size of the same target"
	case rules.ActuatorError:
		return "the target could not be observed or changed"
	case rules.Paused:
		return "acting is frozen, or the target is paused"
	}
	return ""
}

// faulty says whether a reason means that something is broken, not only that it is held.
func faulty(r rules.Reason) bool {
	switch r {
	case rules.MetricMissing, rules.MetricStale, rules.MetricNaN, rules.ActuatorError, rules.ExternalChange, rules.OwnedByHPA:
		return true
	}
	return false
}

// badness orders rules: 0 is fine, 1 has not decided yet, 2 is at its limit, 3 lacks data, 4 does not get what it asks for.
func badness(d *rules.Decision) int {
	switch {
	case d == nil:
		return 1
	case d.Result == rules.Failed || d.Result == rules.Unrecorded:
		return 4
	case slices.ContainsFunc(d.Reasons, faulty):
		return 3
	case slices.Contains(d.LimitedBy, rules.MaxReplicas):
		return 2
	}
	return 0
}

package rules

// Reason is one word for why a decision came out as it did. The set is closed: dashboards, alerts and runbooks are
// keyed by it.
type Reason string

// What moved the size.
const (
	AboveTarget     Reason = "AboveTarget"     // a signal asks for more replicas
	BelowTarget     Reason = "BelowTarget"     // every signal asks for fewer
	WithinTolerance Reason = "WithinTolerance" // no signal is far enough from its target
	StepRule        Reason = "StepRule"        // a `when` step fired
	ForecastFloor   Reason = "Forecast"        // a forecast asks for more than what there is now
	Panicked        Reason = "Panic"           // a signal asks for many times the ready replicas over a short time
	Scheduled       Reason = "Schedule"        // a schedule bounds the size
	MinReplicas     Reason = "MinReplicas"     // raised to, or kept at, min
	MaxReplicas     Reason = "MaxReplicas"     // cut to max
	Restored        Reason = "Restored"        // the size of before a restart
)

// What held it.
const (
	ScaleUpRate         Reason = "ScaleUpRate"              // behavior.up.policies
	ScaleDownRate       Reason = "ScaleDownRate"            // behavior.down.policies
	Stabilized          Reason = "Stabilized"               // behavior.*.window
	Cooldown            Reason = "Cooldown"                 // behavior.*.cooldown
	LowConfidence       Reason = "LowConfidence"            // the signals are not sure enough
	BudgetCap           Reason = "BudgetCap"                // a budget is used up
	FlapBudgetSpent     Reason = "FlapBudget"               // the size has turned round too often
	ProjectionWouldFlap Reason = "ProjectionWouldFlap"      // a signal would ask for more at once
	InFlight            Reason = "InFlight"                 // replicas of the last change are not ready yet
	Overdue             Reason = "ProgressDeadlineExceeded" // they are not ready in time
	MetricMissing       Reason = "MetricMissing"            // a query has no answer, or fewer series than expected
	MetricStale         Reason = "MetricStale"              // its newest sample is too old
	MetricNaN           Reason = "MetricNaN"                // its value is not a finite number
	Paused              Reason = "Paused"                   // acting is frozen, or the target paused
	NotLeader           Reason = "NotLeader"                // another process is the one that acts
	DryRun              Reason = "DryRun"                   // the rule observes, or acting is not enabled
	ExternalChange      Reason = "ExternalChange"           // somebody else changed the target since it was observed
	OwnedByHPA          Reason = "OwnedByHPA"               // an HPA, or another autoscaler, sets the size of the same target
	ActuatorError       Reason = "ActuatorError"            // the target could not be observed or changed
)

// lasts says that what held a size by this reason does so until somebody, or something else, changes it: it does not just take
// its time.
func (r Reason) lasts() bool {
	switch r {
	case MetricMissing, MetricStale, MetricNaN, LowConfidence, BudgetCap, FlapBudgetSpent, MaxReplicas, Overdue, Paused:
		return true
	}
	return false
}

// Reasons lists every reason that this version gives, in the order of the documentation.
func Reasons() []Reason {
	return []Reason{
		AboveTarget, BelowTarget, WithinTolerance, StepRule, ForecastFloor, Panicked, Scheduled, MinReplicas, MaxReplicas,
		ScaleUpRate, ScaleDownRate, Stabilized, Cooldown, FlapBudgetSpent, ProjectionWouldFlap, MetricMissing, MetricStale,
		MetricNaN, LowConfidence, BudgetCap, InFlight, Overdue, Paused, NotLeader, ExternalChange, OwnedByHPA, Restored, DryRun, ActuatorError,
	}
}

package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Action is what a decision does to the size.
type Action string

// The three actions.
const (
	Up   Action = "up"
	Down Action = "down"
	Hold Action = "hold"
)

// direction is the way from a size to another.
func direction(from, to int) Action {
	switch {
	case to > from:
		return Up
	case to < from:
		return Down
	}
	return Hold
}

// Result is what became of a decision.
type Result string

// The results.
const (
	Applying  Result = "applying"  // in the journal before the target is asked; a later entry says how it ended
	Applied   Result = "applied"   // the target has the new size
	Unchanged Result = "unchanged" // nothing was to be done
	Observed  Result = "observed"  // it would have been done, but the rule only observes, or acting is not enabled
	Failed    Result = "error"     // the target refused it, or could not be reached

	Unrecorded Result = "unrecorded" // not in the journal, which could not be written, and so not tried
)

// Decision is the full record of one evaluation of a scale rule: every input, every stage, and why. Sizes are numbers
// of replicas.
type Decision struct {
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
	Rule   string    `json:"rule"`
	Target string    `json:"target"` // kind/name; of a rule with variants its own name
	Mode   string    `json:"mode"`

	Labels map[string]string `json:"labels,omitempty"` // of the target, by the rule's for_each

	Action  Action   `json:"action"`
	From    int      `json:"from"` // asked for before
	To      int      `json:"to"`   // asked for by this decision
	Reasons []Reason `json:"reasons"`
	// LimitedBy are those of the reasons that kept the size from what the signals and steps asked for.
	LimitedBy []Reason `json:"limited_by,omitempty"`
	Text      string   `json:"text"`            // the reasons in one line, with figures
	Start     bool     `json:"start,omitempty"` // a target that came up without a size was given its first one

	Result Result `json:"result"`
	Error  string `json:"error,omitempty"`
	// Unanswered is the size that the target may have taken all the same: the error does not say that it did not.
	Unanswered *int `json:"unanswered,omitempty"`

	Replicas Replicas `json:"replicas"`
	// StartupSeconds is how long a start takes, from a decision to all replicas being ready, as `startup: auto` has measured
	// it; 0 where the rule gives it, and before three starts were seen.
	StartupSeconds float64 `json:"startup_seconds,omitempty"`

	Queries []Answer       `json:"queries"`
	Signals []SignalRecord `json:"signals,omitempty"`
	Steps   []StepRecord   `json:"steps,omitempty"`

	// The size after each stage, in their order; the last, bound, gives To.
	Combined   int `json:"combined"`
	Gated      int `json:"gated"`
	Costed     int `json:"costed"`
	Stabilized int `json:"stabilized"`
	Limited    int `json:"limited"`
	Damped     int `json:"damped"`

	Confidence float64     `json:"confidence"` // of the signals, from 0 to 1
	Variants   []Placement `json:"variants,omitempty"`
	Cost       *CostRecord `json:"cost,omitempty"` // nil where no price is known

	Shadow *Shadow `json:"shadow,omitempty"` // of a rule that does not act

	Annotations map[string]string `json:"annotations,omitempty"` // the rule's, filled in
}

// CostRecord is what a decision does to the bill.
type CostRecord struct {
	BeforeUSDPerHour float64 `json:"before_usd_per_hour"`
	AfterUSDPerHour  float64 `json:"after_usd_per_hour"`
}

// Replicas are the sizes that a decision was based on.
type Replicas struct {
	Spec    int `json:"spec"`
	Ready   int `json:"ready"`
	Pending int `json:"pending"`
	Overdue int `json:"overdue,omitempty"` // of the pending ones, once the first is past the rule's deadline
	Min     int `json:"min"`
	Max     int `json:"max"`
}

// SignalRecord is what one signal asked for.
type SignalRecord struct {
	Name             string   `json:"name"`
	Value            *float64 `json:"value,omitempty"` // none when a query that it needs is not valid
	TargetPerReplica float64  `json:"target_per_replica,omitempty"`
	ServiceRate      float64  `json:"service_rate,omitempty"` // requests a second that one replica completes
	WaitSeconds      float64  `json:"wait_seconds,omitempty"`
	Utilization      float64  `json:"utilization,omitempty"`
	Proposal         *int     `json:"proposal,omitempty"`
	Panic            *int     `json:"panic,omitempty"` // what it asks for in a panic, while there is one
	Confidence       float64  `json:"confidence"`
	Weight           float64  `json:"weight"`
	Role             string   `json:"role,omitempty"`
	Reason           Reason   `json:"reason"`
	Detail           string   `json:"detail,omitempty"` // why a forecast that there is asks for nothing

	words  string
	sizing sizing
}

// Basis is what the signal is sized by, in words.
func (s SignalRecord) Basis() string {
	switch {
	case s.Utilization > 0:
		return fmt.Sprintf("at %.6g busy", s.Utilization)
	case s.ServiceRate > 0:
		return fmt.Sprintf("at %.6g/s a replica, %.6gs wait", s.ServiceRate, s.WaitSeconds)
	}
	return fmt.Sprintf("at %.6g a replica", s.TargetPerReplica)
}

// StepRecord is what one `when` step came to.
type StepRecord struct {
	If       string `json:"if"`
	Do       string `json:"do"`
	Holds    bool   `json:"holds"`          // the condition is true
	Fired    bool   `json:"fired"`          // and has been for long enough
	Proposal *int   `json:"proposal"`       // null unless it fired
	Fault    Reason `json:"fault,omitzero"` // why the condition could not be evaluated
}

// decisionID identifies a decision: the same evaluation that comes to the same result has the same ID.
func decisionID(rule, target string, at time.Time, from, to int) string {
	text := make([]byte, 0, 128)
	text = append(append(append(append(text, rule...), 0), target...), 0)
	text = append(strconv.AppendInt(text, at.UnixNano(), 10), 0)
	text = append(strconv.AppendInt(text, int64(from), 10), 0)
	sum := sha256.Sum256(strconv.AppendInt(text, int64(to), 10))
	return hex.EncodeToString(sum[:6])
}

// Counts says that a size was changed by it, or may have been.
func (d *Decision) Counts() bool {
	return d.Result == Applied || d.Result == Applying || d.Unanswered != nil
}

func (d *Decision) because(reasons ...Reason) {
	for _, r := range reasons {
		if r != "" && !slices.Contains(d.Reasons, r) {
			d.Reasons = append(d.Reasons, r)
		}
	}
}

// ReasonText returns the reasons, comma separated.
func (d *Decision) ReasonText() string {
	words := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		words[i] = string(r)
	}
	return strings.Join(words, ", ")
}

// SameAs says whether nothing that matters to a reader differs from an earlier decision of the same rule.
func (d *Decision) SameAs(earlier *Decision) bool {
	return earlier != nil && d.Action == earlier.Action && d.From == earlier.From && d.To == earlier.To &&
		d.Result == earlier.Result && d.Error == earlier.Error && slices.Equal(d.Reasons, earlier.Reasons) && !d.Shadow.changed(earlier.Shadow)
}

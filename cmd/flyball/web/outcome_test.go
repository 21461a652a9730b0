package web

import (
	"strings"
	"testing"

	"flyball/rules"
)

// TestOutcome: a decision that was not carried out says what kept it.
func TestOutcome(t *testing.T) {
	for _, tt := range []struct {
		mode    string
		reasons []rules.Reason
		want    string
	}{
		{rules.Observe, []rules.Reason{rules.AboveTarget, rules.DryRun}, "the rule observes"},
		{rules.Act, []rules.Reason{rules.AboveTarget, rules.DryRun}, "acting is not enabled"},
		{rules.Act, []rules.Reason{rules.AboveTarget, rules.Paused}, "frozen, or paused"},
		{rules.Act, []rules.Reason{rules.AboveTarget, rules.NotLeader}, "another flyball"},
		{rules.Act, []rules.Reason{rules.BelowTarget, rules.ScaleDownRate}, "too many changes"},
	} {
		d := &rules.Decision{Mode: tt.mode, Reasons: tt.reasons, Result: rules.Observed}
		if got := outcome(d); !strings.Contains(got, tt.want) {
			t.Errorf("%s %v: %q, want %q", tt.mode, tt.reasons, got, tt.want)
		}
	}
}

package actuators_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

func TestInstrument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		var fake actuatortest.Fake
		slow := actuatortest.Slow{Actuator: &fake, By: 20 * time.Millisecond}
		a := actuators.Instrument(reg, "process", slow)
		b := actuators.Instrument(reg, "aws", &actuatortest.Fake{}) // shares the metrics

		target := actuators.Target{Kind: "process", Name: "digits"}
		if _, err := a.Apply(t.Context(), target, actuators.Change{To: 3, DecisionID: "1"}); err != nil {
			t.Fatal(err)
		}
		state, err := a.Observe(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		if state.Spec != 3 {
			t.Errorf("spec %d, want 3: the wrapper must pass on what the actuator says", state.Spec)
		}
		fake.FailWith(errors.New("no route"))
		if _, err := a.Apply(t.Context(), target, actuators.Change{To: 4, DecisionID: "2"}); err == nil {
			t.Error("the error of the actuator was lost")
		}
		if _, err := a.Apply(t.Context(), target, actuators.Change{To: 4, DecisionID: "3", DryRun: true}); err == nil {
			t.Error("the error of a dry run was lost")
		}
		if _, err := b.Observe(t.Context(), target); err != nil {
			t.Fatal(err)
		}

		want := `
# HELP flyball_actuator_errors_total Calls to an actuator that failed or were refused.
# TYPE flyball_actuator_errors_total counter
flyball_actuator_errors_total{actuator="aws",op="apply"} 0
flyball_actuator_errors_total{actuator="aws",op="observe"} 0
flyball_actuator_errors_total{actuator="process",op="apply"} 1
flyball_actuator_errors_total{actuator="process",op="observe"} 0
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "flyball_actuator_errors_total"); err != nil {
			t.Error(err)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		seen := false
		for _, family := range families {
			if family.GetName() != "flyball_actuator_request_duration_seconds" {
				continue
			}
			for _, m := range family.GetMetric() {
				if m.GetLabel()[0].GetValue() == "process" && m.GetLabel()[1].GetValue() == "apply" {
					seen = true
					if count, sum := m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum(); count != 3 || sum != 0.06 {
						t.Errorf("apply: %d calls in %v s, want 3 in 0.06 s", count, sum)
					}
				}
			}
		}
		if !seen {
			t.Error("no duration of process/apply")
		}
	})
}

func TestInstrumentWithoutRegisterer(t *testing.T) {
	a := actuators.Instrument(nil, "process", &actuatortest.Fake{})
	if _, err := a.Observe(t.Context(), actuators.Target{Name: "digits"}); err != nil {
		t.Error(err)
	}
}

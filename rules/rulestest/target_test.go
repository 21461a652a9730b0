package rulestest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

var chat = actuators.Target{Kind: "kubernetes", Name: "ml/chat"}

// TestSimulatorConforms: a simulated target does what every platform has to.
func TestSimulatorConforms(t *testing.T) {
	most := 6
	actuatortest.Run(t, actuatortest.Harness{
		New: func(*testing.T) actuators.Actuator {
			return platform{newSimulator(time.Unix(0, 0)), func(target actuators.Target) (behavior, error) {
				if target != chat {
					return behavior{}, actuators.ErrUnknownTarget
				}
				return behavior{max: &most}, nil
			}}
		},
		Target: chat, Max: most, ReadyWithin: time.Second,
	})
}

// TestSimulator: starts take their time, the youngest go first, and others change and break things when they are to.
func TestSimulator(t *testing.T) {
	start := time.Unix(1000, 0)
	s := newSimulator(start)
	p := platform{s, func(actuators.Target) (behavior, error) {
		return behavior{
			replicas: 2, startup: time.Minute,
			changes: []ExternalChange{{At: model.Duration(10 * time.Minute), Replicas: 5}, {At: model.Duration(11 * time.Minute), Replicas: 1}},
			outages: []Outage{{From: model.Duration(5 * time.Minute), To: model.Duration(6 * time.Minute)}, {From: model.Duration(20 * time.Minute)}},
		}, nil
	}}
	var got []string
	for _, step := range []struct {
		at time.Duration
		to int // 0: nothing is asked for
	}{
		{at: 0},
		{at: 0, to: 4},
		{at: 30 * time.Second, to: 6},
		{at: 40 * time.Second, to: 5},
		{at: time.Minute},
		{at: 90 * time.Second},
		{at: 2 * time.Minute, to: 3},
		{at: 5 * time.Minute, to: 4},
		{at: 6 * time.Minute},
		{at: 10*time.Minute + 59*time.Second},
		{at: 11 * time.Minute},
		{at: 30 * time.Minute},
	} {
		s.advance(start.Add(step.at))
		line := fmt.Sprint(step.at)
		if step.to > 0 {
			_, err := p.Apply(t.Context(), chat, actuators.Change{To: step.to, DecisionID: fmt.Sprint(step)})
			line += fmt.Sprintf(" to %d", step.to)
			if err != nil && !errors.Is(err, errOutage) {
				t.Fatal(err)
			}
		}
		state, err := p.Observe(t.Context(), chat)
		if err != nil {
			line += " " + err.Error()
		} else {
			line += fmt.Sprintf(": %d, %d ready, %d pending", state.Spec, state.Ready, state.Pending)
		}
		got = append(got, line)
	}
	if diff := cmp.Diff([]string{
		"0s: 2, 2 ready, 0 pending",
		"0s to 4: 4, 2 ready, 2 pending",
		"30s to 6: 6, 2 ready, 4 pending",
		"40s to 5: 5, 2 ready, 3 pending",
		"1m0s: 5, 4 ready, 1 pending",
		"1m30s: 5, 5 ready, 0 pending",
		"2m0s to 3: 3, 3 ready, 0 pending",
		"5m0s to 4 observe kubernetes/ml/chat: the target cannot be reached",
		"6m0s: 3, 3 ready, 0 pending",
		"10m59s: 5, 3 ready, 2 pending",
		"11m0s: 1, 1 ready, 0 pending",
		"30m0s observe kubernetes/ml/chat: the target cannot be reached",
	}, got); diff != "" {
		t.Error(diff)
	}
}

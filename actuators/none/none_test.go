package none

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

var llama = actuators.Target{Kind: Kind, Name: "llama"}

func TestConformance(t *testing.T) {
	actuatortest.Run(t, actuatortest.Harness{
		New: func(*testing.T) actuators.Actuator {
			a := New(Kind, Options{})
			a.most = 10
			a.Set(Config{"llama": {Initial: new(int)}})
			return a
		},
		Target: llama, Min: 0, Max: 10, ReadyWithin: 1, // ready at once
	})
}

func TestObserve(t *testing.T) {
	four := 4
	for _, tt := range []struct {
		name       string
		target     Target
		answers    map[string]float64 // by PromQL; none: an error
		remembered int                // 0: nothing
		observes   bool
		decided    int // before, if not 0
		want       actuators.State
		fails      string
	}{
		{name: "the size to begin with", target: Target{Initial: &four}, want: actuators.State{Spec: 4, Ready: 4}},
		{name: "the size before the restart", target: Target{Initial: &four}, remembered: 7, want: actuators.State{Spec: 7, Ready: 7}},
		{name: "the size that there is", target: Target{Replicas: "r"}, answers: map[string]float64{"r": 5}, want: actuators.State{Spec: 5, Ready: 5}},
		{
			name: "a restart while more were on the way", target: Target{Replicas: "r"}, answers: map[string]float64{"r": 5}, remembered: 8,
			want: actuators.State{Spec: 8, Ready: 5, Pending: 3},
		},
		{
			name: "others added some while flyball was away", target: Target{Replicas: "r"}, answers: map[string]float64{"r": 20}, remembered: 8,
			want: actuators.State{Spec: 20, Ready: 20},
		},
		{
			name: "what follows lags behind", target: Target{Replicas: "r", Ready: "up"}, answers: map[string]float64{"r": 5, "up": 4}, decided: 9,
			want: actuators.State{Spec: 9, Ready: 4, Pending: 5},
		},
		{
			name: "on the way down", target: Target{Replicas: "r"}, answers: map[string]float64{"r": 5}, decided: 2,
			want: actuators.State{Spec: 2, Ready: 5},
		},
		{
			name: "observing goes by what there is", target: Target{Replicas: "r"}, answers: map[string]float64{"r": 5}, decided: 9, observes: true,
			want: actuators.State{Spec: 5, Ready: 5},
		},
		{name: "observing without a query", target: Target{Initial: &four}, observes: true, want: actuators.State{Spec: 4, Ready: 4}},
		{name: "the name in a query", target: Target{Replicas: "r{x='{{ .Name }}'}"}, answers: map[string]float64{"r{x='llama'}": 2}, want: actuators.State{Spec: 2, Ready: 2}},
		{name: "no answer", target: Target{Replicas: "r"}, decided: 3, fails: "observe none/llama: replicas: no answer to r"},
		{name: "no answer for those that are ready", target: Target{Initial: &four, Ready: "up"}, fails: "observe none/llama: ready: no answer to up"},
		{name: "below zero", target: Target{Replicas: "r"}, answers: map[string]float64{"r": -1}, fails: "the query gives -1"},
		{name: "more than there can be", target: Target{Replicas: "r"}, answers: map[string]float64{"r": 1e10}, fails: "the query gives 1e+10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := New(Kind, Options{
				Query: func(_ context.Context, expr string) (float64, error) {
					if v, known := tt.answers[expr]; known {
						return v, nil
					}
					return 0, errors.New("no answer to " + expr)
				},
				Remembered: func(actuators.Target) (int, bool) { return tt.remembered, tt.remembered > 0 },
				Acts:       func(actuators.Target) bool { return !tt.observes },
			})
			a.Set(Config{"llama": tt.target})
			if tt.decided > 0 {
				if _, err := a.Apply(t.Context(), llama, actuators.Change{To: tt.decided, DecisionID: "d"}); err != nil {
					t.Fatal(err)
				}
			}
			state, err := a.Observe(t.Context(), llama)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("error %v, want %q", err, tt.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			state.Version = ""
			if diff := cmp.Diff(tt.want, state); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFollowsWhatIsThere: of a target that is only observed the version changes with the size that others give it.
func TestFollowsWhatIsThere(t *testing.T) {
	there := 5.0
	a := New(Kind, Options{
		Query: func(context.Context, string) (float64, error) { return there, nil },
		Acts:  func(actuators.Target) bool { return false },
	})
	a.Set(Config{Any: {Replicas: "r"}})
	before, err := a.Observe(t.Context(), llama)
	if err != nil {
		t.Fatal(err)
	}
	there = 6
	after, err := a.Observe(t.Context(), llama)
	if err != nil {
		t.Fatal(err)
	}
	if after.Spec != 6 || after.Version == before.Version {
		t.Errorf("%+v after %+v, want size 6 and another version", after, before)
	}
}

// TestSet: a target that a reload takes out is gone with its size, the others keep theirs.
func TestSet(t *testing.T) {
	a := New(Kind, Options{})
	a.Set(Config{"llama": {Initial: new(int)}, "qwen": {Initial: new(int)}})
	qwen := actuators.Target{Kind: Kind, Name: "qwen"}
	for _, target := range []actuators.Target{llama, qwen} {
		if _, err := a.Apply(t.Context(), target, actuators.Change{To: 3}); err != nil {
			t.Fatal(err)
		}
	}
	one := 1
	a.Set(Config{"qwen": {Initial: &one}})
	if state, err := a.Observe(t.Context(), qwen); err != nil || state.Spec != 3 {
		t.Errorf("%+v %v, want the 3 that were decided", state, err)
	}
	if _, err := a.Observe(t.Context(), llama); !errors.Is(err, actuators.ErrUnknownTarget) {
		t.Errorf("error %v, want ErrUnknownTarget", err)
	}
	a.Set(Config{Any: {Initial: &one}})
	if state, err := a.Observe(t.Context(), llama); err != nil || state.Spec != 1 {
		t.Errorf("%+v %v, want the 1 to begin with", state, err)
	}
}

func TestValidate(t *testing.T) {
	less := -1
	err := Config{
		"":      {Replicas: "r"},
		"llama": {},
		"both":  {Replicas: "r", Initial: new(int)},
		"less":  {Initial: &less},
		"label": {Replicas: "r{x='{{.Labels.x}}'}"},
		"ready": {Ready: "up"},
		Any:     {Replicas: "r{x='{{.Name}}'}"},
	}.Validate()
	want := `: "" is not a target name: use letters, digits, '.', '_', '-' and '/', beginning with a letter or digit, or "*" for all others
both.initial: never used, since replicas says how many there are: leave one of them out
label.replicas: only {{.Name}}, the target's name, is filled in
less.initial: -1 is not a number of replicas: give 0 or more
llama: neither replicas, PromQL for how many there are, nor initial, how many to begin with: give one of them
ready: neither replicas, PromQL for how many there are, nor initial, how many to begin with: give one of them`
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

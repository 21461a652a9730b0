package actuatortest_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var digits = actuators.Target{Kind: "process", Name: "digits"}

func TestFakeConforms(t *testing.T) {
	actuatortest.Run(t, actuatortest.Harness{
		New: func(*testing.T) actuators.Actuator {
			return &actuatortest.Fake{Targets: []actuators.Target{digits}, Max: 6}
		},
		Target:      digits,
		Max:         6,
		ReadyWithin: time.Second,
	})
}

func TestFakeSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &actuatortest.Fake{ReadyAfter: time.Minute}
		slow := actuatortest.Slow{Actuator: fake, By: time.Second}
		began := time.Now()
		if _, err := slow.Apply(t.Context(), digits, actuators.Change{To: 2, DecisionID: "1"}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("apply took %s, want 1s", took)
		}
		want := actuators.State{Spec: 2, Pending: 2, Version: "2"}
		got, err := fake.Observe(t.Context(), digits)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("at once (-want +got):\n%s", diff)
		}
		time.Sleep(time.Minute)
		want = actuators.State{Spec: 2, Ready: 2, Version: "2"}
		if got, err = slow.Observe(t.Context(), digits); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after a minute (-want +got):\n%s", diff)
		}
	})
}

func TestFakeZeroValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fake actuatortest.Fake
		state, err := fake.Observe(t.Context(), digits)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(actuators.State{Version: "1", Fresh: true}, state); diff != "" {
			t.Errorf("new target (-want +got):\n%s", diff)
		}
		up := actuators.Change{To: 100, IfVersion: "1", DecisionID: "a"}
		same := actuators.Change{To: 100, DecisionID: "b"}
		for _, change := range []actuators.Change{up, same, {To: 7, DecisionID: "c", DryRun: true}} {
			if _, err := fake.Apply(t.Context(), digits, change); err != nil {
				t.Fatal(err)
			}
		}
		want := []actuatortest.Applied{
			{Target: digits, Change: up, Receipt: actuators.Receipt{Spec: 100, Version: "2", Changed: true}, Time: time.Now()},
			{Target: digits, Change: same, Receipt: actuators.Receipt{Spec: 100, Version: "2"}, Time: time.Now()},
		}
		if diff := cmp.Diff(want, fake.Changes()); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
	})
}

func TestFakeFails(t *testing.T) {
	var fake actuatortest.Fake
	broken := errors.New("no route")
	fake.FailWith(broken)
	if _, err := fake.Observe(t.Context(), digits); !errors.Is(err, broken) {
		t.Errorf("observe: error %v, want %v", err, broken)
	}
	if _, err := fake.Apply(t.Context(), digits, actuators.Change{To: 1}); !errors.Is(err, broken) {
		t.Errorf("apply: error %v, want %v", err, broken)
	}
	fake.FailWith(nil)
	state, err := fake.Observe(t.Context(), digits)
	if err != nil {
		t.Fatal(err)
	}
	if state.Spec != 0 || len(fake.Changes()) != 0 {
		t.Errorf("size %d and %d changes after a failure, want none", state.Spec, len(fake.Changes()))
	}
}

func TestFakeResizedByOthers(t *testing.T) {
	var fake actuatortest.Fake
	before, err := fake.Observe(t.Context(), digits)
	if err != nil {
		t.Fatal(err)
	}
	fake.Resize(digits, 4)
	after, err := fake.Observe(t.Context(), digits)
	if err != nil {
		t.Fatal(err)
	}
	if after.Spec != 4 || after.Version == before.Version || len(fake.Changes()) != 0 {
		t.Errorf("%+v and %d changes, want size 4, another version and no change", after, len(fake.Changes()))
	}
	_, err = fake.Apply(t.Context(), digits, actuators.Change{To: 2, IfVersion: before.Version})
	if !errors.Is(err, actuators.ErrConflict) {
		t.Errorf("error %v, want ErrConflict", err)
	}
}

func TestFakeClock(t *testing.T) {
	now := time.Unix(0, 0)
	fake := actuatortest.Fake{ReadyAfter: time.Minute, Clock: func() time.Time { return now }}
	if _, err := fake.Apply(t.Context(), digits, actuators.Change{To: 1}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		at    time.Time
		ready int
	}{{time.Unix(59, 0), 0}, {time.Unix(60, 0), 1}} {
		now = tt.at
		if state, _ := fake.Observe(t.Context(), digits); state.Ready != tt.ready {
			t.Errorf("at %s: %d ready, want %d", tt.at, state.Ready, tt.ready)
		}
	}
}

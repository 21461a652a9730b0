//go:build unix

package process

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/model"

	"flyball/actuators"
)

// TestUpdate: what runs keeps the settings that it was started with, what starts has the new ones, a target that is gone ends
// as in a scale-down, and one that comes back begins anew.
func TestUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(target *Target) { target.Drain = model.Duration(10 * time.Second) }, nil)
		s.apply(1)
		s.health(0, true)
		time.Sleep(100 * time.Millisecond)
		s.expectStates(Ready)
		s.took()

		next := s.pools["digits"].settings.Load().Target
		next.Drain = model.Duration(3 * time.Second)
		next.MaxReplicas = 2
		other := next
		update, err := s.Prepare(Config{"digits": next, "other": other})
		if err != nil {
			t.Fatal(err)
		}
		if s.Replicas("digits")[0].Outdated {
			t.Error("outdated before the commit")
		}
		if _, err := s.Observe(t.Context(), actuators.Target{Kind: Kind, Name: "other"}); !errors.Is(err, actuators.ErrUnknownTarget) {
			t.Errorf("the new target before the commit: %v", err)
		}
		update.Begin()
		if state, err := s.Observe(t.Context(), actuators.Target{Kind: Kind, Name: "other"}); err != nil || !state.Fresh || state.Spec != 0 {
			t.Errorf("the new target after Begin: %+v, %v", state, err)
		}
		_, others, err := s.Endpoints(t.Context(), "other")
		if err != nil {
			t.Fatal(err)
		}
		update.Cancel()
		if _, err := s.Observe(t.Context(), actuators.Target{Kind: Kind, Name: "other"}); !errors.Is(err, actuators.ErrUnknownTarget) {
			t.Errorf("the new target after Cancel: %v", err)
		}
		for range others { // ends
		}
		if s.Replicas("digits")[0].Outdated {
			t.Error("outdated although nothing was committed")
		}
		update.Begin()
		update.Commit()
		update.Retire()
		s.expect() // nothing was started or stopped
		if !s.Replicas("digits")[0].Outdated {
			t.Error("not outdated after the commit")
		}
		if state, err := s.Observe(t.Context(), actuators.Target{Kind: Kind, Name: "other"}); err != nil || !state.Fresh || state.Spec != 0 {
			t.Errorf("the new target: %+v, %v", state, err)
		}
		if _, err := s.Apply(t.Context(), digits, actuators.Change{To: 3, DecisionID: "too many"}); !errors.Is(err, actuators.ErrOutOfRange) {
			t.Errorf("above the new max_replicas: %v", err)
		}
		s.exit(0, "crash")
		time.Sleep(2 * time.Second) // the backoff
		s.health(1, true)
		time.Sleep(time.Second)
		if r := s.Replicas("digits")[0]; r.State != Ready || r.Outdated {
			t.Errorf("started again: %+v", r)
		}
		s.took()

		_, changes, err := s.Endpoints(context.Background(), "digits")
		if err != nil {
			t.Fatal(err)
		}
		update, err = s.Prepare(Config{"other": other})
		if err != nil {
			t.Fatal(err)
		}
		update.Commit()
		if _, err := s.Observe(t.Context(), digits); err != nil {
			t.Errorf("before Retire: %v", err)
		}
		update.Retire()
		synctest.Wait()
		if list, open := <-changes; !open || len(list) != 0 {
			t.Errorf("endpoints at the removal: %v, %t", list, open)
		}
		time.Sleep(20 * time.Second)
		events := s.took()
		if len(events) != 2 || events[0][len(events[0])-len("1 stop with 3s"):] != "1 stop with 3s" {
			t.Errorf("the end of its replica: %q", events)
		}
		if _, open := <-changes; open {
			t.Error("the endpoints of a target that is gone go on")
		}
		if _, err := s.Observe(t.Context(), digits); !errors.Is(err, actuators.ErrUnknownTarget) {
			t.Errorf("after Retire: %v", err)
		}
		update, err = s.Prepare(Config{"digits": next, "other": other})
		if err != nil {
			t.Fatal(err)
		}
		update.Commit()
		if state, err := s.Observe(t.Context(), digits); err != nil || !state.Fresh {
			t.Errorf("back again: %+v, %v", state, err)
		}
	})
}

func TestPrepareFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(*Target) {}, nil)
		if _, err := s.Prepare(Config{"digits": Target{}}); err == nil {
			t.Error("a target without a command was taken")
		}
		if _, err := s.Observe(t.Context(), digits); err != nil {
			t.Error(err)
		}
	})
}

package actuatortest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"flyball/actuators"
)

// Harness tells the suite how to get at a platform.
type Harness struct {
	// New returns an actuator whose Target exists. It is called once per test; ending the platform is up to t.Cleanup.
	New func(t *testing.T) actuators.Actuator

	Target  actuators.Target // a target of the platform
	Unknown actuators.Target // a target that the platform does not have; zero for Target with another name

	// Min and Max are the smallest and the largest size that the platform takes for Target. There have to be at least
	// four sizes between them, both included.
	Min, Max int

	// SizeIsVersion says that the platform keeps no versions, so that the size stands in for one: a size that comes back
	// then brings its version back.
	SizeIsVersion bool

	// ReadyWithin is how long replicas may take to be ready after a change; 0 when the platform of the test never has
	// ready replicas, which leaves Ready unchecked.
	ReadyWithin time.Duration
}

// patience is how long a call may take that has nothing to wait for. It only has to tell an answer from a hang.
const patience = 10 * time.Second

// Run runs the conformance suite.
func Run(t *testing.T, h Harness) {
	if h.Max-h.Min < 3 {
		t.Fatalf("harness: sizes %d to %d: give at least four", h.Min, h.Max)
	}
	if h.Unknown == (actuators.Target{}) {
		h.Unknown = actuators.Target{Kind: h.Target.Kind, Name: h.Target.Name + "-that-does-not-exist"}
	}
	for _, tt := range []struct {
		name string
		test func(*testing.T, platform)
	}{
		{"observe, apply, observe", observeApplyObserve},
		{"down and up again", downAndUp},
		{"stale version", staleVersion},
		{"version of another writer", otherWriter},
		{"no version", noVersion},
		{"dry run", dryRun},
		{"dry run of what would be refused", dryRunRefused},
		{"same decision twice", sameDecisionTwice},
		{"late repeat of a decision", lateRepeat},
		{"present size", presentSize},
		{"above the maximum", aboveMax},
		{"below zero", belowZero},
		{"unknown target", unknownTarget},
		{"context already ended", contextEnded},
		{"one of many wins", oneOfManyWins},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.test(t, platform{Harness: h, actuator: h.New(t)})
		})
	}
}

// platform is an actuator under test.
type platform struct {
	Harness
	actuator actuators.Actuator
}

func (p platform) observe(t *testing.T) actuators.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	state, err := p.actuator.Observe(ctx, p.Target)
	if err != nil {
		t.Fatalf("observe: %v", err)
	}
	if state.Version == "" {
		t.Fatal("observe: no version")
	}
	if state.Spec < 0 || state.Ready < 0 || state.Pending < 0 {
		t.Fatalf("observe: sizes below zero: %+v", state)
	}
	return state
}

func (p platform) try(t *testing.T, change actuators.Change) (actuators.Receipt, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return p.actuator.Apply(ctx, p.Target, change)
}

func (p platform) apply(t *testing.T, change actuators.Change) actuators.Receipt {
	t.Helper()
	receipt, err := p.try(t, change)
	if err != nil {
		t.Fatalf("apply %+v: %v", change, err)
	}
	return receipt
}

// to is a decision to go from a state to a size.
func (p platform) to(id string, from actuators.State, to int) actuators.Change {
	return actuators.Change{From: from.Spec, To: to, IfVersion: from.Version, DecisionID: id, Reason: "conformance"}
}

// other returns a size that the target may have, other than n; different i give different ones.
func (p platform) other(n, i int) int {
	for size := p.Min; size <= p.Max; size++ {
		if size == n {
			continue
		}
		if i == 0 {
			return size
		}
		i--
	}
	panic(fmt.Sprintf("no such size between %d and %d", p.Min, p.Max))
}

// unchanged fails the test unless the target has the size and the version it had.
func (p platform) unchanged(t *testing.T, before actuators.State) {
	t.Helper()
	after := p.observe(t)
	if after.Spec != before.Spec {
		t.Errorf("size %d, was %d: nothing may change", after.Spec, before.Spec)
	}
	if after.Version != before.Version {
		t.Errorf("version %q, was %q: nothing changed", after.Version, before.Version)
	}
}

// settled waits until the target has its size in ready replicas.
func (p platform) settled(t *testing.T, size int) {
	t.Helper()
	if p.ReadyWithin == 0 {
		return
	}
	deadline := time.Now().Add(p.ReadyWithin)
	for {
		state := p.observe(t)
		if state.Spec == size && state.Ready == size && state.Pending == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v after %s, want %d ready", state, p.ReadyWithin, size)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func observeApplyObserve(t *testing.T, p platform) {
	before := p.observe(t)
	size := p.other(before.Spec, 1)
	receipt := p.apply(t, p.to("d1", before, size))
	if receipt.Spec != size || !receipt.Changed || receipt.Version == before.Version {
		t.Errorf("receipt %+v, want size %d, changed, a version other than %q", receipt, size, before.Version)
	}
	after := p.observe(t)
	if after.Spec != size {
		t.Errorf("size %d after the change, want %d", after.Spec, size)
	}
	if after.Version != receipt.Version {
		t.Errorf("version %q, but the receipt says %q", after.Version, receipt.Version)
	}
	if after.Fresh {
		t.Error("still fresh after it was given a size")
	}
	p.settled(t, size)
}

func downAndUp(t *testing.T, p platform) {
	for i, size := range []int{p.Min + 2, p.Min, p.Min + 1} {
		p.apply(t, p.to(fmt.Sprintf("d%d", i), p.observe(t), size))
		if got := p.observe(t).Spec; got != size {
			t.Errorf("size %d, want %d", got, size)
		}
		p.settled(t, size)
	}
}

func staleVersion(t *testing.T, p platform) {
	stale := p.observe(t)
	p.apply(t, p.to("d1", stale, p.other(stale.Spec, 0)))
	before := p.observe(t)
	_, err := p.try(t, p.to("d2", stale, p.other(before.Spec, 2)))
	if !errors.Is(err, actuators.ErrConflict) {
		t.Errorf("error %v, want ErrConflict", err)
	}
	p.unchanged(t, before)
}

// otherWriter checks that a size which came back to what it was does not bring the old version back.
func otherWriter(t *testing.T, p platform) {
	if p.SizeIsVersion {
		t.Skip("the platform keeps no versions")
	}
	stale := p.observe(t)
	p.apply(t, p.to("d1", stale, p.other(stale.Spec, 0)))
	p.apply(t, p.to("d2", p.observe(t), stale.Spec))
	before := p.observe(t)
	_, err := p.try(t, p.to("d3", stale, p.other(stale.Spec, 1)))
	if !errors.Is(err, actuators.ErrConflict) {
		t.Errorf("error %v, want ErrConflict", err)
	}
	p.unchanged(t, before)
}

func noVersion(t *testing.T, p platform) {
	size := p.other(p.observe(t).Spec, 0)
	p.apply(t, actuators.Change{To: size, DecisionID: "d1"})
	if got := p.observe(t).Spec; got != size {
		t.Errorf("size %d, want %d", got, size)
	}
}

func dryRun(t *testing.T, p platform) {
	before := p.observe(t)
	change := p.to("d1", before, p.other(before.Spec, 1))
	change.DryRun = true
	if receipt := p.apply(t, change); receipt.Changed {
		t.Errorf("receipt %+v says that a dry run changed something", receipt)
	}
	p.unchanged(t, before)
	if after := p.observe(t); after.Fresh != before.Fresh {
		t.Errorf("fresh %v after a dry run, was %v", after.Fresh, before.Fresh)
	}
	change.DryRun = false
	if receipt := p.apply(t, change); !receipt.Changed {
		t.Error("the dry run of a decision kept the decision itself from being applied")
	}
}

func dryRunRefused(t *testing.T, p platform) {
	stale := p.observe(t)
	p.apply(t, p.to("d1", stale, p.other(stale.Spec, 0)))
	before := p.observe(t)
	change := p.to("d2", stale, p.other(before.Spec, 2))
	change.DryRun = true
	if _, err := p.try(t, change); !errors.Is(err, actuators.ErrConflict) {
		t.Errorf("stale version: error %v, want ErrConflict", err)
	}
	change = p.to("d3", before, p.Max+1)
	change.DryRun = true
	if _, err := p.try(t, change); !errors.Is(err, actuators.ErrOutOfRange) {
		t.Errorf("above the maximum: error %v, want ErrOutOfRange", err)
	}
	p.unchanged(t, before)
}

func sameDecisionTwice(t *testing.T, p platform) {
	from := p.observe(t)
	change := p.to("d1", from, p.other(from.Spec, 1))
	p.apply(t, change)
	before := p.observe(t)
	receipt := p.apply(t, change)
	if receipt.Changed || receipt.Spec != change.To || receipt.Version != before.Version {
		t.Errorf("receipt %+v, want size %d, unchanged, version %q", receipt, change.To, before.Version)
	}
	p.unchanged(t, before)
}

// lateRepeat repeats a decision after another one. Whether that is refused or answered with the present size is up to
// the platform; it must not undo the later decision.
func lateRepeat(t *testing.T, p platform) {
	from := p.observe(t)
	first := p.to("d1", from, p.other(from.Spec, 1))
	p.apply(t, first)
	second := p.observe(t)
	p.apply(t, p.to("d2", second, p.other(second.Spec, 2)))
	before := p.observe(t)
	if receipt, err := p.try(t, first); err != nil && !errors.Is(err, actuators.ErrConflict) {
		t.Errorf("error %v, want none or ErrConflict", err)
	} else if receipt.Changed {
		t.Errorf("receipt %+v says that the repeat changed something", receipt)
	}
	p.unchanged(t, before)
}

func presentSize(t *testing.T, p platform) {
	from := p.observe(t)
	p.apply(t, p.to("d1", from, p.other(from.Spec, 1)))
	before := p.observe(t)
	receipt := p.apply(t, p.to("d2", before, before.Spec))
	if receipt.Changed || receipt.Spec != before.Spec || receipt.Version != before.Version {
		t.Errorf("receipt %+v, want size %d, unchanged, version %q", receipt, before.Spec, before.Version)
	}
	p.unchanged(t, before)
}

func aboveMax(t *testing.T, p platform) {
	before := p.observe(t)
	if _, err := p.try(t, p.to("d1", before, p.Max+1)); !errors.Is(err, actuators.ErrOutOfRange) {
		t.Errorf("error %v, want ErrOutOfRange", err)
	}
	p.unchanged(t, before)
}

func belowZero(t *testing.T, p platform) {
	before := p.observe(t)
	if _, err := p.try(t, p.to("d1", before, -1)); !errors.Is(err, actuators.ErrOutOfRange) {
		t.Errorf("error %v, want ErrOutOfRange", err)
	}
	p.unchanged(t, before)
}

func unknownTarget(t *testing.T, p platform) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := p.actuator.Observe(ctx, p.Unknown); !errors.Is(err, actuators.ErrUnknownTarget) {
		t.Errorf("observe: error %v, want ErrUnknownTarget", err)
	}
	change := actuators.Change{To: p.Min + 1, DecisionID: "d1"}
	if _, err := p.actuator.Apply(ctx, p.Unknown, change); !errors.Is(err, actuators.ErrUnknownTarget) {
		t.Errorf("apply: error %v, want ErrUnknownTarget", err)
	}
}

func contextEnded(t *testing.T, p platform) {
	before := p.observe(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	errs := make(chan error, 2)
	go func() {
		_, err := p.actuator.Observe(ctx, p.Target)
		errs <- err
		_, err = p.actuator.Apply(ctx, p.Target, p.to("d1", before, p.other(before.Spec, 1)))
		errs <- err
	}()
	for _, op := range []string{"observe", "apply"} {
		select {
		case err := <-errs:
			if err == nil {
				t.Errorf("%s: no error from an ended context", op)
			}
		case <-time.After(patience):
			t.Fatalf("%s: no answer within %s of its context's end", op, patience)
		}
	}
	p.unchanged(t, before)
}

func oneOfManyWins(t *testing.T, p platform) {
	before := p.observe(t)
	writers := p.Max - p.Min // one for each size but the present one
	receipts := make([]actuators.Receipt, writers)
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			receipts[i], errs[i] = p.try(t, p.to(fmt.Sprintf("d%d", i), before, p.other(before.Spec, i)))
		})
	}
	wg.Wait()

	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Errorf("writers %d and %d both won", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, actuators.ErrConflict):
			t.Errorf("writer %d: error %v, want ErrConflict", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("no writer won")
	}
	if size, got := p.other(before.Spec, winner), p.observe(t); got.Spec != size || receipts[winner].Spec != size {
		t.Errorf("size %d, receipt %+v, but writer %d won with %d", got.Spec, receipts[winner], winner, size)
	}
}

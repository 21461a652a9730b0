//go:build unix

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"flyball/actuators"
)

// script is a Processes in virtual time, whose replicas do what the test says and nothing by themselves.
type script struct {
	*Processes
	t    *testing.T
	log  bytes.Buffer // to be read only when the replicas wait
	stop func()

	mu       sync.Mutex
	began    time.Time
	puppets  []*puppet // every process that was started, in order
	events   []string
	exitTime time.Duration // from SIGTERM to the end of a process; above the grace it is killed
}

// puppet is a process of a script.
type puppet struct {
	address string
	done    chan struct{}
	cause   string
	healthy bool
}

func newScript(t *testing.T, change func(*Target), drain func(context.Context, string, string) error) *script {
	t.Helper()
	target := DefaultTarget()
	target.Command = []string{"server", "{{.Address}}"}
	change(&target)
	s := &script{t: t, began: time.Now()}
	p, err := New(Config{"digits": target}, Options{
		Logger:     slog.New(slog.NewTextHandler(&s.log, nil)),
		Supervisor: []string{"supervisor"},
		Drain:      drain,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.start, p.probe = s.startPuppet, s.probePuppet
	s.Processes = p
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := p.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	s.stop = func() {
		cancel()
		<-ended
	}
	synctest.Wait()
	t.Cleanup(func() {
		s.stop()
		if n := len(p.ports.taken); n != 0 {
			t.Errorf("%d ports are still given out after the end", n)
		}
	})
	return s
}

func (s *script) startPuppet(command rendered, _ time.Duration, _ output) (*child, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &puppet{address: command.args[1], done: make(chan struct{})}
	s.puppets = append(s.puppets, p)
	n := len(s.puppets) - 1
	s.note("start", n)
	pid := make(chan int, 1)
	pid <- 1000 + n
	return &child{
		pid:  pid,
		done: p.done,
		stop: func(grace time.Duration) {
			s.mu.Lock()
			s.note(fmt.Sprintf("stop with %s", grace), n)
			s.mu.Unlock()
			cause := "exit status 0"
			if s.exitTime > grace {
				cause = "signal: killed"
			}
			time.AfterFunc(min(s.exitTime, grace), func() { s.exit(n, cause) })
		},
		kill:  func() { s.exit(n, "signal: killed") },
		cause: func() string { return p.cause },
	}, nil
}

func (s *script) probePuppet(_ context.Context, url string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.puppets {
		if strings.HasPrefix(url, "http://"+p.address+"/") && p.healthy {
			return nil
		}
	}
	return errors.New("not ready")
}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.puppets)
}

func (s *script) exit(n int, cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.puppets[n]
	select {
	case <-p.done:
	default:
		s.note(cause, n)
		p.cause = cause
		close(p.done)
	}
}

func (s *script) health(n int, healthy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puppets[n].healthy = healthy
}

// note remembers an event; s.mu is held.
func (s *script) note(what string, n int) {
	s.events = append(s.events, fmt.Sprintf("%s %d %s", time.Since(s.began), n, what))
}

// took returns the events since the last call.
func (s *script) took() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.events
	s.events = nil
	return events
}

func (s *script) expect(want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.took()); diff != "" {
		s.t.Errorf("events (-want +got):\n%s", diff)
	}
}

func (s *script) states() (all []ReplicaState) {
	synctest.Wait()
	for _, r := range s.Replicas("digits") {
		all = append(all, r.State)
	}
	return all
}

func (s *script) expectStates(want ...ReplicaState) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.states()); diff != "" {
		s.t.Errorf("states (-want +got):\n%s", diff)
	}
}

// apply scales and waits until what follows at once has happened. Replicas are started one at a time, so that the
// puppets' numbers are those of the replicas.
func (s *script) apply(to int) {
	s.t.Helper()
	for now := len(s.states()); now < to-1; now++ {
		s.applyOnce(now + 1)
	}
	s.applyOnce(to)
}

func (s *script) applyOnce(to int) {
	s.t.Helper()
	if _, err := s.Apply(s.t.Context(), digitsTarget, actuators.Change{To: to}); err != nil {
		s.t.Fatal(err)
	}
	synctest.Wait()
}

var digitsTarget = actuators.Target{Kind: Kind, Name: "digits"}

func TestReadyAndUnready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(*Target) {}, nil)
		_, changes, err := s.Endpoints(t.Context(), "digits")
		if err != nil {
			t.Fatal(err)
		}
		s.apply(1)
		s.expectStates(Starting)
		time.Sleep(120 * time.Millisecond)
		s.health(0, true)
		s.expectStates(Starting)
		time.Sleep(30 * time.Millisecond) // at 150 ms the fourth probe passes
		s.expectStates(Ready)
		if list := <-changes; !slices.Equal(list, []string{s.puppets[0].address}) {
			t.Errorf("list %v, want %s", list, s.puppets[0].address)
		}

		s.health(0, false) // from now on a probe a second
		time.Sleep(2 * time.Second)
		s.expectStates(Ready)
		time.Sleep(time.Second)
		s.expectStates(Unready)
		if list := <-changes; len(list) != 0 {
			t.Errorf("list %v, want none", list)
		}
		s.health(0, true)
		time.Sleep(time.Second)
		s.expectStates(Ready)

		for range 3 { // two failures are not three
			s.health(0, false)
			time.Sleep(2 * time.Second)
			s.health(0, true)
			time.Sleep(time.Second)
			s.expectStates(Ready)
		}
		s.expect("0s 0 start")
		if r := s.Replicas("digits")[0]; r.PID != 1000 || r.Restarts != 0 || r.Address != s.puppets[0].address {
			t.Errorf("%+v", r)
		}
	})
}

func TestSlowStartIsAskedLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(*Target) {}, nil)
		var probes atomic.Int64
		probe := s.probe // replaced before there is a replica that uses it
		s.probe = func(ctx context.Context, url string) error {
			probes.Add(1)
			return probe(ctx, url)
		}
		s.apply(1)
		time.Sleep(5*time.Second - time.Nanosecond)
		synctest.Wait()
		if n := probes.Load(); n != 100 {
			t.Errorf("%d probes in 5s, want 100", n)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := probes.Load(); n != 105 {
			t.Errorf("%d probes in 10s, want 105", n)
		}
	})
}

func TestStartTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(target *Target) {
			target.RestartBackoff = Backoff{Min: model.Duration(time.Second), Max: model.Duration(time.Second)}
		}, nil)
		s.exitTime = 2 * time.Second
		s.apply(1)
		time.Sleep(64 * time.Second)
		s.expect("0s 0 start", "1m0s 0 stop with 10s", "1m2s 0 exit status 0", "1m3s 1 start")
		if r := s.Replicas("digits")[0]; r.Restarts != 1 || r.LastExit != "not ready within 1m (not ready), ended: exit status 0" {
			t.Errorf("%+v", r)
		}
		s.health(1, true)
		time.Sleep(time.Second)
		s.expectStates(Ready)

		// Unready for as long, it is started again too; this time it hangs.
		s.exitTime = time.Hour
		s.health(1, false)
		time.Sleep(3 * time.Second)
		s.expectStates(Unready)
		time.Sleep(59 * time.Second)
		s.expect()
		time.Sleep(12 * time.Second)
		s.expect("2m7.05s 1 stop with 10s", "2m17.05s 1 signal: killed", "2m18.05s 2 start")
		if r := s.Replicas("digits")[0]; r.Restarts != 2 || r.LastExit != "unready for 1m (not ready), ended: signal: killed" {
			t.Errorf("%+v", r)
		}
	})
}

func TestCrashLoopBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(*Target) {}, nil)
		s.apply(1)
		pause := func() time.Duration {
			t.Helper()
			n := s.count()
			s.exit(n-1, "exit status 1")
			s.expectStates(BackingOff)
			began := time.Now()
			for s.count() == n {
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
			}
			return time.Since(began)
		}
		low, high := time.Second, 2*time.Second
		for i := range 8 {
			if got := pause(); got < low || got > high {
				t.Errorf("pause %d: %s, want %s to %s", i, got, low, high)
			}
			low, high = min(2*low, 30*time.Second), min(2*high, time.Minute)
		}
		s.health(s.count()-1, true)
		time.Sleep(62 * time.Second) // ready for a minute: all is forgotten
		if got := pause(); got < time.Second || got > 2*time.Second {
			t.Errorf("pause after a minute ready: %s, want 1s to 2s", got)
		}
		if got := s.Replicas("digits")[0].Restarts; got != 9 {
			t.Errorf("%d restarts, want 9", got)
		}
		synctest.Wait()
		if n := strings.Count(s.log.String(), "level=WARN"); n != 9 {
			t.Errorf("%d warnings, want 9", n)
		}
	})
}

func TestVictims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(target *Target) {
			target.RestartBackoff = Backoff{Min: model.Duration(time.Second), Max: model.Duration(time.Second)}
		}, nil)
		s.exitTime = time.Second
		for i := range 5 {
			s.apply(i + 1)
			if i != 1 {
				s.health(i, true)
			}
			time.Sleep(time.Second)
		}
		s.exit(0, "exit status 1") // the oldest replica becomes the one with the youngest process
		time.Sleep(time.Second)
		synctest.Wait()
		s.health(5, true)
		time.Sleep(time.Second)
		s.expectStates(Ready, Starting, Ready, Ready, Ready)

		s.apply(4) // the one that is not ready
		s.expectStates(Ready, Draining, Ready, Ready, Ready)
		s.apply(3) // the youngest process
		s.expectStates(Draining, Draining, Ready, Ready, Ready)
		s.apply(2)
		s.expectStates(Draining, Draining, Ready, Ready, Draining)
		time.Sleep(time.Second)
		s.expectStates(Ready, Ready)
		s.apply(3)
		if r := s.Replicas("digits")[0]; r.Index != 0 || r.State != Starting {
			t.Errorf("%+v, want the lowest index to be given again", r)
		}
	})
}

func TestScaleDownOfWhatDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(*Target) {}, func(context.Context, string, string) error {
			t.Error("nothing can be in flight to a replica that never was an endpoint")
			return nil
		})
		s.apply(2)
		s.exit(0, "exit status 1")
		s.expectStates(BackingOff, Starting)
		s.apply(0)
		s.expectStates()
		s.expect("0s 0 start", "0s 1 start", "0s 0 exit status 1", "0s 1 stop with 10s", "0s 1 exit status 0")
	})
}

func TestDrainTime(t *testing.T) {
	for _, tt := range []struct {
		name  string
		drain func(context.Context) error
		exit  time.Duration
		want  []string
	}{
		{
			"quick",
			func(context.Context) error { return nil },
			time.Second,
			[]string{"1s 0 stop with 10s", "2s 0 exit status 0"},
		},
		{
			"what is in flight takes from the time",
			func(context.Context) error { time.Sleep(6 * time.Second); return nil },
			time.Hour,
			[]string{"7s 0 stop with 4s", "11s 0 signal: killed"},
		},
		{
			"never drained",
			func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			time.Hour,
			[]string{"11s 0 stop with 0s", "11s 0 signal: killed"},
		},
		{
			"fails",
			func(context.Context) error { return errors.New("no such upstream") },
			time.Second,
			[]string{"1s 0 stop with 10s", "2s 0 exit status 0"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, func(*Target) {}, func(ctx context.Context, _, _ string) error { return tt.drain(ctx) })
				s.exitTime = tt.exit
				s.apply(1)
				s.health(0, true)
				time.Sleep(time.Second)
				s.expectStates(Ready)
				s.took()
				s.apply(0)
				s.expectStates(Draining)
				time.Sleep(time.Minute)
				s.expectStates()
				s.expect(tt.want...)
			})
		})
	}
}

func TestExitWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(*Target) {}, func(ctx context.Context, _, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		})
		s.apply(1)
		s.health(0, true)
		time.Sleep(time.Second)
		s.apply(0)
		s.exit(0, "signal: killed")
		s.expectStates() // there is nothing to wait for any more
	})
}

func TestEndIsParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(*Target) {}, func(context.Context, string, string) error {
			time.Sleep(2 * time.Second)
			return nil
		})
		s.exitTime = 3 * time.Second
		_, changes, err := s.Endpoints(t.Context(), "digits")
		if err != nil {
			t.Fatal(err)
		}
		s.apply(8)
		for i := range 7 {
			s.health(i, true)
		}
		time.Sleep(time.Second)
		began := time.Now()
		s.stop()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("the end took %s, want 5s", took)
		}
		if list, ok := <-changes; !ok || len(list) != 0 {
			t.Errorf("last list %v, want an empty one", list)
		}
		if _, ok := <-changes; ok {
			t.Error("more than the last list")
		}
		current, changes, err := s.Endpoints(t.Context(), "digits")
		if _, ok := <-changes; ok || len(current) != 0 || err != nil {
			t.Errorf("endpoints after the end: %v, %v, open %v", current, err, ok)
		}
	})
}

func TestEndpointsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(*Target) {}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		current, changes, err := s.Endpoints(ctx, "digits")
		if err != nil || current == nil || len(current) != 0 {
			t.Errorf("current %v, %v; want an empty list", current, err)
		}
		cancel()
		if _, ok := <-changes; ok {
			t.Error("a list after the end of the context")
		}
		if n := len(s.pools["digits"].endpoints.followers); n != 0 {
			t.Errorf("%d followers left", n)
		}
		if _, _, err := s.Endpoints(t.Context(), "letters"); !errors.Is(err, actuators.ErrUnknownTarget) {
			t.Errorf("error %v, want ErrUnknownTarget", err)
		}
	})
}

func TestSizeBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := DefaultTarget()
		target.Command = []string{"server", "{{.Address}}"}
		p, err := New(Config{"digits": target}, Options{Supervisor: []string{"supervisor"}})
		if err != nil {
			t.Fatal(err)
		}
		s := &script{Processes: p, t: t, began: time.Now()}
		p.start, p.probe = s.startPuppet, s.probePuppet
		if state, err := p.Observe(t.Context(), digitsTarget); err != nil || !state.Fresh || state.Spec != 0 {
			t.Errorf("%+v, %v; want a fresh target of size 0", state, err)
		}
		s.applyOnce(3)
		s.applyOnce(1)
		state, err := p.Observe(t.Context(), digitsTarget)
		if err != nil || state.Fresh || state.Spec != 1 || state.Pending != 1 {
			t.Errorf("%+v, %v; want size 1", state, err)
		}
		s.expect()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
		s.expect("0s 0 start")
		cancel()
		wg.Wait()
		if err := p.Run(ctx); err == nil {
			t.Error("run twice: no error")
		}
	})
}

// TestRepeatedDecisions: a decision is known again after later ones, but not for ever.
func TestRepeatedDecisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(*Target) {}, nil)
		apply := func(id string, to int) actuators.Receipt {
			t.Helper()
			receipt, err := s.Apply(t.Context(), digitsTarget, actuators.Change{To: to, DecisionID: id})
			if err != nil {
				t.Fatal(err)
			}
			return receipt
		}
		first := apply("0", 1)
		if first.Spec != 1 || !first.Changed {
			t.Errorf("receipt %+v, want size 1", first)
		}
		second := apply("1", 2)
		if again := apply("0", 1); again.Changed || again.Spec != 2 || again.Version != second.Version {
			t.Errorf("receipt %+v, want the present size and version", again)
		}
		for i := range rememberedDecisions {
			apply(fmt.Sprint(i+2), 2)
		}
		if n := len(s.pools["digits"].decisions); n != rememberedDecisions {
			t.Errorf("%d decisions kept, want %d", n, rememberedDecisions)
		}
		s.apply(0)
	})
}

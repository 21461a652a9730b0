package process

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// ReplicaState is where a replica is in its life.
type ReplicaState string

// The states of a replica. Only a ready one is an endpoint.
const (
	Starting   ReplicaState = "starting"
	Ready      ReplicaState = "ready"
	Unready    ReplicaState = "unready"  // was ready, and fails to answer
	Draining   ReplicaState = "draining" // on its way out
	BackingOff ReplicaState = "backoff"  // ended, waits to be started again
)

var states = []ReplicaState{Starting, Ready, Unready, Draining, BackingOff}

// Why a replica was started again: the values of the label reason.
const (
	reasonExit         = "exit"          // it ended by itself
	reasonStartError   = "start_error"   // it could not be started
	reasonStartTimeout = "start_timeout" // it was not ready in time
	reasonUnready      = "unready"       // it was unready for too long
)

var reasons = []string{reasonExit, reasonStartError, reasonStartTimeout, reasonUnready}

// ReplicaStatus is what there is to know about a replica.
type ReplicaStatus struct {
	Index    int          `json:"index"`
	PID      int          `json:"pid"`     // of its process; 0 when it has none, or a new one has yet to report
	Address  string       `json:"address"` // host:port; empty when it has no process
	State    ReplicaState `json:"state"`
	Restarts int          `json:"restarts"`
	Since    time.Time    `json:"since"` // when it came into its state
	LastExit string       `json:"last_exit,omitempty"`
	Outdated bool         `json:"outdated,omitempty"` // its process was started with the settings of before a reload
}

// replica is one replica of a pool, over all the processes that it has one after another.
type replica struct {
	// The lock of Processes guards these.
	ReplicaStatus
	started  time.Time // its present process
	settings *settings // of its present process; nil before it has one

	retired chan struct{} // closed once it is to go; its state is Draining from then on
}

// retire takes the replica out of service for good. The lock of Processes is held; publishing is up to the caller.
func (r *replica) retire() {
	if r.State == Draining {
		return
	}
	r.enter(Draining)
	close(r.retired)
}

func (r *replica) enter(state ReplicaState) {
	r.State, r.Since = state, time.Now()
}

// gone reports whether the replica was retired.
func (r *replica) gone() bool {
	select {
	case <-r.retired:
		return true
	default:
		return false
	}
}

// hold keeps the replica running until it is retired, and returns when its last process is gone.
func (p *Processes) hold(ctx context.Context, pool *pool, r *replica) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		pool.remove(r)
	}()
	var streak streak
	for !r.gone() {
		settings := pool.settings.Load()
		end := p.live(ctx, pool, r, settings)
		if r.gone() {
			return
		}
		streak.min, streak.max = time.Duration(settings.RestartBackoff.Min), time.Duration(settings.RestartBackoff.Max)
		pause := streak.next(end.readyFor, rand.Float64())
		p.metrics.restarts.WithLabelValues(pool.target.String(), end.reason).Inc()
		p.log.Warn("replica ended", "target", pool.target.String(), "replica", r.Index, "reason", end.reason,
			"exit", end.exit, "failures", streak.failures, "restart_in", pause)
		p.update(pool, r, func() {
			r.enter(BackingOff)
			r.PID, r.Address, r.LastExit = 0, "", end.exit
		})
		timer := time.NewTimer(pause)
		select {
		case <-r.retired:
			timer.Stop()
			return
		case <-timer.C:
		}
		p.update(pool, r, func() {
			r.enter(Starting)
			r.Restarts++
			r.started = r.Since
		})
	}
}

// update changes a replica that was not retired, and the list of endpoints with it.
func (p *Processes) update(pool *pool, r *replica, change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.State == Draining {
		return
	}
	change()
	pool.publish()
}

// ending is how one process of a replica came to its end.
type ending struct {
	reason   string // for the metric
	exit     string // for people
	readyFor time.Duration
}

// live runs one process of the replica, from its start to its end.
func (p *Processes) live(ctx context.Context, pool *pool, r *replica, settings *settings) ending {
	port, err := p.ports.take()
	if err != nil {
		return ending{reason: reasonStartError, exit: err.Error()}
	}
	defer p.ports.release(port)

	out := p.outputOf(pool, r)
	began := time.Now()
	c, err := p.begin(pool, r, settings, port, out)
	if err != nil {
		return ending{reason: reasonStartError, exit: err.Error()}
	}
	p.mu.Lock()
	r.Address, r.settings = address(port), settings
	p.mu.Unlock()

	var wg sync.WaitGroup
	defer wg.Wait()
	polling, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error)
	wg.Go(func() { p.poll(polling, "http://"+address(port)+settings.Ready, results) })

	var (
		timeout   = time.NewTimer(time.Duration(settings.StartTimeout))
		readyAt   time.Time // zero before it was ready for the first time
		isReady   bool
		failures  int // in a row
		lastError error
	)
	defer timeout.Stop()
	readyFor := func() time.Duration {
		if readyAt.IsZero() {
			return 0
		}
		return time.Since(readyAt)
	}
	for {
		select {
		case <-r.retired:
			cancel()
			p.drain(ctx, pool, r, settings, c, address(port), !readyAt.IsZero())
			return ending{}

		case <-c.done:
			return ending{reason: reasonExit, exit: withLast(c.cause(), out), readyFor: readyFor()}

		case pid := <-c.pid:
			p.mu.Lock()
			r.PID = pid
			p.mu.Unlock()

		case lastError = <-results:
			if lastError != nil {
				failures++
				if isReady && failures >= p.timing.failures {
					isReady = false
					timeout.Reset(time.Duration(settings.StartTimeout))
					p.update(pool, r, func() { r.enter(Unready) })
					p.log.Warn("replica unready", "target", pool.target.String(), "replica", r.Index, "err", lastError)
				}
				continue
			}
			failures = 0
			if isReady {
				continue
			}
			isReady = true
			timeout.Stop()
			if readyAt.IsZero() {
				readyAt = time.Now()
				p.metrics.starts.WithLabelValues(pool.target.String()).Observe(readyAt.Sub(began).Seconds())
			}
			p.update(pool, r, func() { r.enter(Ready) })
			p.log.Info("replica ready", "target", pool.target.String(), "replica", r.Index, "address", address(port))

		case <-timeout.C:
			cancel()
			c.end(time.Duration(settings.Drain))
			end := ending{reason: reasonStartTimeout, readyFor: readyFor()}
			what := "not ready within"
			if !readyAt.IsZero() {
				end.reason, what = reasonUnready, "unready for"
			}
			end.exit = withLast(fmt.Sprintf("%s %s (%v), ended: %s", what, settings.StartTimeout, lastError, c.cause()), out)
			return end
		}
	}
}

// begin starts a process of the replica that is to listen on the port.
func (p *Processes) begin(pool *pool, r *replica, settings *settings, port int, out output) (*child, error) {
	command, err := settings.command.render(Instance{
		Name:    pool.target.Name,
		Index:   r.Index,
		Replica: r.Index,
		Address: address(port),
		Host:    host,
		Port:    port,
	})
	if err != nil {
		return nil, err
	}
	return p.start(command, time.Duration(settings.Drain), out)
}

// outputOf makes the writers that log what a process of the replica prints.
func (p *Processes) outputOf(pool *pool, r *replica) output {
	log := p.log.With("target", pool.target.String(), "replica", r.Index)
	to := func(stream string) *lines {
		return &lines{emit: func(line string) {
			log.LogAttrs(context.Background(), slog.LevelDebug, "replica output", slog.String("stream", stream), slog.String("line", line))
		}}
	}
	return output{stdout: to("stdout"), stderr: to("stderr")}
}

// withLast adds the last line of stderr, which mostly says why.
func withLast(cause string, out output) string {
	if last := out.stderr.last(); last != "" {
		return cause + ": " + last
	}
	return cause
}

// drain ends a process of a retired replica: it waits for what is in flight, if it ever was an endpoint, and then has
// what is left of the drain time between SIGTERM and SIGKILL.
func (p *Processes) drain(ctx context.Context, pool *pool, r *replica, settings *settings, c *child, address string, served bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(settings.Drain))
	defer cancel()
	deadline, _ := ctx.Deadline()
	if served && p.opts.Drain != nil && settings.Drain > 0 {
		drained := make(chan error, 1)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { drained <- p.opts.Drain(ctx, pool.target.Name, address) })
		select {
		case err := <-drained:
			if err != nil {
				p.log.Warn("replica not drained", "target", pool.target.String(), "replica", r.Index, "err", err)
			}
		case <-ctx.Done():
			p.log.Warn("replica not drained", "target", pool.target.String(), "replica", r.Index, "err", ctx.Err())
		case <-c.done:
			cancel()
		}
	}
	c.end(time.Until(deadline))
	p.log.Info("replica stopped", "target", pool.target.String(), "replica", r.Index, "exit", c.cause())
}

// poll asks the replica whether it is ready, again and again until ctx ends, and sends each answer.
func (p *Processes) poll(ctx context.Context, url string, results chan<- error) {
	began := time.Now()
	passed := false
	for {
		asking, cancel := context.WithTimeout(ctx, p.timing.timeout)
		err := p.probe(asking, url)
		cancel()
		passed = passed || err == nil
		pause := p.timing.slow
		if !passed && time.Since(began) < p.timing.fastFor {
			pause = p.timing.fast
		}
		select {
		case <-ctx.Done():
			return
		case results <- err:
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// probe sends one GET and returns nil if the answer is 200.
func probe(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: status %d, want 200", url, resp.StatusCode)
	}
	return nil
}

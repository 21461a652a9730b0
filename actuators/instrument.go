package actuators

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// instrumented counts and times the calls to an Actuator.
type instrumented struct {
	next    Actuator
	observe call
	apply   call
}

// call holds the metrics of one operation of one kind of actuator.
type call struct {
	seconds prometheus.Observer
	errors  prometheus.Counter
}

// Instrument wraps an actuator so that each call to it is timed in flyball_actuator_request_duration_seconds and each
// call that fails is counted in flyball_actuator_errors_total, with the labels actuator (the kind, such as process) and
// op (observe or apply). A refusal such as ErrConflict counts as an error, but not that of a dry run, which is its answer.
//
// All kinds share the two metrics: wrapping several actuators with one registerer is fine, a nil registerer keeps the
// figures to itself. It panics when the registerer already has another metric by one of these names.
func Instrument(reg prometheus.Registerer, kind string, a Actuator) Actuator {
	seconds := register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "flyball_actuator_request_duration_seconds",
		Help: "Time that calls to an actuator took.",
		// From a call within this process (under a millisecond) to a cloud's API at its client's deadline.
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"actuator", "op"}))
	failures := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flyball_actuator_errors_total",
		Help: "Calls to an actuator that failed or were refused.",
	}, []string{"actuator", "op"}))

	of := func(op string) call {
		return call{seconds: seconds.WithLabelValues(kind, op), errors: failures.WithLabelValues(kind, op)}
	}
	return &instrumented{next: a, observe: of("observe"), apply: of("apply")}
}

// register returns c, or the collector that an earlier call registered in its place.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	err := reg.Register(c)
	if err == nil {
		return c
	}
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if c, ok := already.ExistingCollector.(C); ok {
			return c
		}
	}
	panic(err)
}

func (i *instrumented) Observe(ctx context.Context, target Target) (State, error) {
	began := time.Now()
	state, err := i.next.Observe(ctx, target)
	i.observe.record(began, err)
	return state, err
}

func (i *instrumented) Apply(ctx context.Context, target Target, change Change) (Receipt, error) {
	began := time.Now()
	receipt, err := i.next.Apply(ctx, target, change)
	if change.DryRun {
		i.apply.record(began, nil)
	} else {
		i.apply.record(began, err)
	}
	return receipt, err
}

// TellHeld implements Teller: what the actuator does not tell is not told.
func (i *instrumented) TellHeld(ctx context.Context, target Target, reason, note string) {
	if t, ok := i.next.(Teller); ok {
		t.TellHeld(ctx, target, reason, note)
	}
}

func (c call) record(began time.Time, err error) {
	c.seconds.Observe(time.Since(began).Seconds())
	if err != nil {
		c.errors.Inc()
	}
}

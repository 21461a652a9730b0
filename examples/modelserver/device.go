package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
)

// acceleratorCost is how long an emulated accelerator is held by a batch: Fixed, and PerItem for each item in it. The zero
// value means that there is none.
type acceleratorCost struct {
	Fixed, PerItem time.Duration
}

// Set parses FIXED+PERITEM, such as 40ms+2ms; none or nothing at all is the zero value. With String it makes the cost a flag.
func (c *acceleratorCost) Set(text string) error {
	if text == "" || text == "none" {
		*c = acceleratorCost{}
		return nil
	}
	fixedText, perItemText, ok := strings.Cut(text, "+")
	if !ok {
		return fmt.Errorf("%q is not FIXED+PERITEM: give two durations such as 40ms+2ms", text)
	}
	fixed, err := parseCost(fixedText)
	if err != nil {
		return fmt.Errorf("%q: fixed part: %w", text, err)
	}
	perItem, err := parseCost(perItemText)
	if err != nil {
		return fmt.Errorf("%q: part per item: %w", text, err)
	}
	*c = acceleratorCost{Fixed: fixed, PerItem: perItem}
	return nil
}

func parseCost(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: give one such as 40ms", text)
	}
	if d < 0 {
		return 0, fmt.Errorf("%s is negative: give 0s or more", d)
	}
	return d, nil
}

// String is the form that Set takes.
func (c acceleratorCost) String() string {
	if c == (acceleratorCost{}) {
		return "none"
	}
	return c.Fixed.String() + "+" + c.PerItem.String()
}

// of is how long a batch of n items holds the accelerator.
func (c acceleratorCost) of(n int) time.Duration {
	return c.Fixed + time.Duration(n)*c.PerItem
}

// errCutOff is what run gives to a batch that was still on the device when the server ended.
var errCutOff = errors.New("the server ended before the batch was done")

// device is the emulated accelerator: one batch at a time has it, in the order in which they came. Without a cost there is
// none, and batches run at once beside each other on the CPU.
type device struct {
	cost    acceleratorCost
	slot    *semaphore.Weighted // of one; it hands over in the order of asking
	metrics *metrics
	cutOff  context.Context // done when nothing waits for answers any more; see server.Run
	// hold waits until a time or, with ctx's error, until ctx is done: preciseUntil, and timerUntil where a test has its own time.
	hold func(ctx context.Context, until time.Time) error
}

func newDevice(cutOff context.Context, cost acceleratorCost, m *metrics) *device {
	return &device{cost: cost, slot: semaphore.NewWeighted(1), metrics: m, cutOff: cutOff, hold: preciseUntil}
}

// run does work, the computing of a batch of n items, while it holds the device, and keeps it until the cost of the batch has
// passed. A ctx that is done while the batch waits takes it out of the queue: it then never has the device, and the error is
// ctx's. Once the work has begun it is not broken off, as a kernel on a GPU is not.
func (d *device) run(ctx context.Context, n int, work func()) error {
	emulated := d.cost != acceleratorCost{}
	if emulated {
		d.metrics.waiting.Inc()
		err := d.slot.Acquire(ctx, 1)
		d.metrics.waiting.Dec()
		if err != nil {
			return err
		}
		defer d.slot.Release(1)
	}
	d.metrics.running.Inc()
	defer d.metrics.running.Dec()
	d.metrics.batchSize.Observe(float64(n))

	if !emulated {
		work()
		return nil
	}
	start := time.Now()
	defer func() { d.metrics.deviceBusy.Add(time.Since(start).Seconds()) }()
	work()
	// From before the work: computing is part of the cost, not on top of it.
	if err := d.hold(d.cutOff, start.Add(d.cost.of(n))); err != nil {
		return errCutOff
	}
	return nil
}

// timerUntil waits until a time or until ctx is done, which is its error then. A program that is idle has timers of Go in
// whole milliseconds, rounded up.
func timerUntil(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

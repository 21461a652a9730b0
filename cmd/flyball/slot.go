package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
)

// slot runs one thing after the other: what a reload replaces it by takes the place of what runs, which is then told to end.
type slot struct {
	name string
	log  *slog.Logger
	next chan turn

	ended chan struct{} // closed when run has returned
}

// turn is what comes next in a slot.
type turn struct {
	run  func(context.Context) error
	over func() // called while both run
	done chan struct{}
}

func newSlot(name string, log *slog.Logger) *slot {
	return &slot{name: name, log: log, next: make(chan turn, 1), ended: make(chan struct{})}
}

// start has the slot begin with this: it is for before run.
func (s *slot) start(run func(context.Context) error) { s.next <- turn{run: run} }

// replace has the slot run this from now on. It calls over when this has begun and what ran before has not been told to end
// yet, and returns when it has been. A slot that has ended calls nothing.
func (s *slot) replace(run func(context.Context) error, over func()) {
	t := turn{run, over, make(chan struct{})}
	select {
	case s.next <- t:
	case <-s.ended:
		return
	}
	select {
	case <-t.done:
	case <-s.ended:
	}
}

// run runs what is put in until ctx ends or the present one fails, and returns when all have ended. One that was replaced
// may fail at its end; that is logged.
func (s *slot) run(ctx context.Context) error {
	defer close(s.ended)
	var all sync.WaitGroup
	defer all.Wait()
	failed := make(chan error)
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case t := <-s.next:
			// It ends when it is told to: ctx alone would end all at once.
			own, cancel := context.WithCancel(context.WithoutCancel(ctx))
			all.Go(func() {
				err := t.run(own)
				if own.Err() != nil {
					if err != nil && !errors.Is(err, context.Canceled) {
						s.log.Error("ended with an error", "part", s.name, "err", err)
					}
					return
				}
				if err == nil {
					err = errors.New("ended by itself")
				}
				select {
				case failed <- err:
				case <-own.Done():
				}
			})
			if t.done != nil {
				t.over()
				close(t.done)
			}
			stop()
			stop = cancel
		}
	}
}

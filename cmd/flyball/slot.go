package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
)

// slot runs one thing after the other: what a reload puts into it takes the place of what runs, which is then told to end.
type slot struct {
	name string
	log  *slog.Logger
	next chan func(context.Context) error

	ended chan struct{} // closed when run has returned
}

func newSlot(name string, log *slog.Logger) *slot {
	return &slot{name: name, log: log, next: make(chan func(context.Context) error, 1), ended: make(chan struct{})}
}

// put has the slot run this from now on, and returns when it runs. Before run it takes note of one.
func (s *slot) put(run func(context.Context) error) {
	select {
	case s.next <- run:
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
		case run := <-s.next:
			stop()
			// It ends when it is told to: ctx alone would end all at once.
			own, cancel := context.WithCancel(context.WithoutCancel(ctx))
			all.Go(func() {
				err := run(own)
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
			stop = cancel
		}
	}
}

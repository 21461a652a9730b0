package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told strings.Builder
		began := time.Now()
		note := func(what string) { fmt.Fprintf(&told, "%s %s\n", time.Since(began), what) }
		thing := func(name string, drain time.Duration) func(context.Context) error {
			return func(ctx context.Context) error {
				note(name + " begins")
				<-ctx.Done()
				time.Sleep(drain)
				note(name + " ends")
				return ctx.Err()
			}
		}
		s := newSlot("thing", slog.New(slog.DiscardHandler))
		s.start(thing("a", 5*time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.run(ctx) }()
		time.Sleep(time.Second)
		s.replace(thing("b", time.Second), func() {
			synctest.Wait()
			note("b takes over from a")
		})
		time.Sleep(time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.replace(thing("c", 0), func() { note("c takes over") }) // does not wait for a slot that has ended
		want := "0s a begins\n1s b begins\n1s b takes over from a\n3s b ends\n6s a ends\n"
		if told.String() != want {
			t.Errorf("got\n%swant\n%s", told.String(), want)
		}
	})
}

func TestSlotFails(t *testing.T) {
	for _, tt := range []struct {
		gives error
		want  string
	}{{errors.New("broken"), "broken"}, {nil, "ended by itself"}} {
		synctest.Test(t, func(t *testing.T) {
			s := newSlot("thing", slog.New(slog.DiscardHandler))
			s.start(func(context.Context) error { return tt.gives })
			if err := s.run(t.Context()); err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

package main

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// preciseUntil is timerUntil to some 0.1 ms, not to a millisecond: the kernel wakes it through a timer of its own, by
// timerfd_create(2), which Go's poller waits for beside the sockets. Where the kernel gives none it is timerUntil.
func preciseUntil(ctx context.Context, until time.Time) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return timerUntil(ctx, until)
	}
	timer := os.NewFile(uintptr(fd), "timer")
	defer timer.Close()
	left := time.Until(until)
	if left <= 0 {
		return nil // a timer of 0 would never be due
	}
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(left.Nanoseconds())}, nil); err != nil {
		return timerUntil(ctx, until)
	}
	stop := context.AfterFunc(ctx, func() { _ = timer.SetReadDeadline(time.Now()) })
	defer stop()
	var expirations [8]byte // how often it was due, which is once
	if _, err := timer.Read(expirations[:]); err != nil {
		return timerUntil(ctx, until) // which is over at once where ctx is done
	}
	return nil
}

//go:build !linux

package main

import (
	"context"
	"time"
)

// preciseUntil is timerUntil: only Linux has the timer that does better.
func preciseUntil(ctx context.Context, until time.Time) error { return timerUntil(ctx, until) }

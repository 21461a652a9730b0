//go:build !linux

package main

import (
	"errors"
	"time"
)

var errLinuxAlone = errors.New("processes are measured on Linux alone")

func cpuTime([]int) (time.Duration, error) { return 0, errLinuxAlone }

func peakMemory([]int) (int64, error) { return 0, errLinuxAlone }

func resetPeak([]int) error { return errLinuxAlone }

func withChildren(pid int) []int { return []int{pid} }

func loadAverage() string { return "" }

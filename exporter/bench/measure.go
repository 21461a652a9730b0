package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// betweenScrapes is how far apart Prometheus's are, unless it is told otherwise.
const betweenScrapes = 15 * time.Second

// contest scrapes the contenders in turn, then watches them at rest.
func (o options) contest(ctx context.Context, contenders []*process) ([]Cost, error) {
	costs := make([]Cost, len(contenders))
	used := make([]time.Duration, len(contenders))
	times := make([][]time.Duration, len(contenders))
	for range 20 { // connections, pools and heaps as they are later
		for _, p := range contenders {
			if _, _, err := p.scrape(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	// The clock of one runs only while it is scraped, and for the pause after that, in which it collects its garbage.
	var windows time.Duration
	for range o.scrapes {
		for i, p := range contenders {
			pids := withChildren(p.cmd.Process.Pid)
			before, err := cpuTime(pids)
			if err != nil {
				return nil, err
			}
			begin := time.Now()
			lines, took, err := p.scrape(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			if err := sleep(ctx, o.pause); err != nil {
				return nil, err
			}
			after, err := cpuTime(pids)
			if err != nil {
				return nil, err
			}
			if i == 0 {
				windows += time.Since(begin)
			}
			used[i] += after - before
			times[i] = append(times[i], took)
			costs[i].Series = lines.count("")
			memory, err := anonymous(pids)
			if err != nil {
				return nil, err
			}
			costs[i].Processes = len(pids)
			costs[i].AnonymousBytes = max(costs[i].AnonymousBytes, memory)
		}
	}
	begin := time.Now()
	resting := make([]time.Duration, len(contenders))
	for i, p := range contenders {
		before, err := cpuTime(withChildren(p.cmd.Process.Pid))
		if err != nil {
			return nil, err
		}
		resting[i] = -before
	}
	if err := sleep(ctx, o.idle); err != nil {
		return nil, err
	}
	for i, p := range contenders {
		after, err := cpuTime(withChildren(p.cmd.Process.Pid))
		if err != nil {
			return nil, err
		}
		resting[i] += after
		c := &costs[i]
		rest := resting[i].Seconds() / time.Since(begin).Seconds()
		c.RestingCPU = rest
		perScrape := max(0, used[i].Seconds()-rest*windows.Seconds()) / float64(o.scrapes)
		c.CPUPerScrape = perScrape + rest*betweenScrapes.Seconds()
		c.CPUPerSeries = c.CPUPerScrape / float64(c.Series)
		slices.Sort(times[i])
		c.P50, c.P99 = quantile(times[i], 0.5), quantile(times[i], 0.99)
	}
	return costs, nil
}

// quantile is that of sorted times, in seconds: the smallest that so large a part of them does not exceed.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := int(q*float64(len(sorted)) + 0.999999)
	return sorted[min(max(at, 1), len(sorted))-1].Seconds()
}

// hang has every GPU hang and scrapes then.
func (w *world) hang(ctx context.Context, p *process) (h Hung, err error) {
	before, _, err := p.scrape(ctx)
	if err != nil {
		return h, err
	}
	if err := w.mode("hang"); err != nil {
		return h, err
	}
	begin := time.Now()
	err = p.until(ctx, func(lines page) bool { return lines.count("flyball_gpu_up") > 0 && lines.sum("flyball_gpu_up") == 0 })
	if err != nil {
		return h, fmt.Errorf("flyball_gpu_up does not become 0 when all GPUs hang: %w", err)
	}
	h.Noticed = time.Since(begin).Seconds()
	var times []time.Duration
	for range 50 {
		lines, took, err := p.scrape(ctx)
		if err != nil {
			return h, fmt.Errorf("a scrape while all GPUs hang: %w", err)
		}
		times = append(times, took)
		h.Lost = max(h.Lost, missingFamilies(before, lines))
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return h, err
		}
	}
	slices.Sort(times)
	h.P50, h.P99 = quantile(times, 0.5), quantile(times, 0.99)
	if err := w.mode("normal"); err != nil {
		return h, err
	}
	begin = time.Now()
	err = p.until(ctx, func(lines page) bool { return lines.sum("flyball_gpu_up") == before.sum("flyball_gpu_up") })
	if err != nil {
		return h, fmt.Errorf("the GPUs do not come back: %w", err)
	}
	h.Recovered = time.Since(begin).Seconds()
	return h, nil
}

// missingFamilies is how many of the families that are not of GPUs are on one page and not on the other.
func missingFamilies(before, now page) (n int) {
	there := families(now)
	for name := range families(before) {
		if !there[name] {
			n++
		}
	}
	return n
}

// respawn kills the worker and returns how long it takes until another runs, in seconds.
func (w *world) respawn(ctx context.Context, p *process) (float64, error) {
	children := withChildren(p.cmd.Process.Pid)[1:]
	if len(children) == 0 {
		return 0, errors.New("flyball has no worker")
	}
	worker, err := os.FindProcess(children[0])
	if err == nil {
		err = worker.Kill()
	}
	if err != nil {
		return 0, fmt.Errorf("kill the worker: %w", err)
	}
	begin := time.Now()
	for time.Since(begin) < 2*patience {
		now := withChildren(p.cmd.Process.Pid)[1:]
		if len(now) > 0 && !slices.Contains(now, children[0]) {
			return time.Since(begin).Seconds(), nil
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("no other worker was started in %s", 2*patience)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

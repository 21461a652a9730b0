package batchproxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// checks is what the health checks of a replica have found. The model's mutex guards it.
type checks struct {
	failed bool
	row    int // checks one after the other that say the opposite of failed
}

// check asks every replica of the model whether it is well, at every interval until ctx ends.
func (m *model) check(ctx context.Context) {
	ticker := time.NewTicker(time.Duration(m.config.Health.Interval))
	defer ticker.Stop()
	for {
		m.mu.Lock()
		replicas := slices.Clone(m.picker.replicas)
		m.mu.Unlock()
		var asked sync.WaitGroup
		for _, r := range replicas {
			asked.Go(func() {
				if err := m.ask(ctx, r); ctx.Err() == nil {
					m.checked(r, err)
				}
			})
		}
		asked.Wait()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// ask asks a replica once. The error is why it is not well.
func (m *model) ask(ctx context.Context, r *replica) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(m.config.Health.Timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url.String()+m.config.Health.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "flyball-health")
	resp, err := m.proxy.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is kept
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
	return nil
}

// checked takes note of a check.
func (m *model) checked(r *replica, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !r.checks.add(m.config.Health, err == nil) {
		return
	}
	now := time.Now()
	if r.checks.failed {
		m.proxy.logger.Warn("a replica fails its health checks", "model", m.config.Name, "replica", r.address, "err", err)
	} else {
		r.since = now
		m.proxy.logger.Info("a replica passes its health checks again", "model", m.config.Name, "replica", r.address)
	}
	m.pump(now)
}

// add takes a check, and reports whether the replica is well now and was not before, or the other way round.
func (c *checks) add(rule HealthConfig, passed bool) bool {
	if passed != c.failed {
		c.row = 0
		return false
	}
	c.row++
	if c.row < rule.Unhealthy && !passed || c.row < rule.Healthy && passed {
		return false
	}
	c.failed, c.row = !c.failed, 0
	return true
}

// showHealthy sets the gauges of healthy replicas.
func (m *model) showHealthy(now time.Time) {
	clear(m.counts)
	for _, r := range m.picker.replicas {
		if r.healthy(now) {
			m.counts[r.listed]++
		}
	}
	for i, n := range m.counts {
		m.healthy[i].Set(float64(n))
	}
}

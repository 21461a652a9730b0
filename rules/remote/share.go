package remote

import (
	"context"
	"sync"
	"time"

	"flyball/rules"
)

// Limits of the memo. Groups whose slots fall together evaluate at the same times; more than a few groups are seldom
// under way at once.
const (
	maxTicks = 4
	maxCalls = 256 // of one time
)

// memo has equal queries of one time answered once.
type memo struct {
	maxSeries int // that are kept, of all answers together

	mu    sync.Mutex // guards what follows
	ticks map[time.Time]map[question]*call
	kept  int // series
}

// question is what is asked: queries that differ in it have different answers.
type question struct {
	expr     string
	lookback time.Duration // 0: as far as the server looks
}

// call is a query that is being answered, or was.
type call struct {
	done      chan struct{} // closed when what follows is set
	samples   []rules.Sample
	err       error
	abandoned bool // whoever asked was stopped: there is no answer
}

func newMemo(maxSeries int) *memo {
	return &memo{maxSeries: maxSeries, ticks: map[time.Time]map[question]*call{}}
}

// do returns what ask gives for the query, or what it gave to somebody else. The samples are shared: nobody changes them.
func (m *memo) do(ctx context.Context, q question, at time.Time, ask func() ([]rules.Sample, error)) (samples []rules.Sample, shared bool, err error) {
	for {
		c, first := m.begin(q, at)
		if first {
			c.samples, c.err = ask()
			c.abandoned = ctx.Err() != nil
			m.finish(q, at, c)
			return c.samples, false, c.err
		}
		select {
		case <-c.done:
			if !c.abandoned {
				return c.samples, true, c.err
			}
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}

// begin returns the call of a query, and whether the caller is the one who has to make it.
func (m *memo) begin(q question, at time.Time) (c *call, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.ticks[at]
	if c := calls[q]; c != nil {
		return c, false
	}
	c = &call{done: make(chan struct{})}
	if calls == nil {
		calls = map[question]*call{}
		m.ticks[at] = calls
		m.forget()
	}
	if len(calls) < maxCalls {
		calls[q] = c
	}
	return c, true
}

// forget drops the oldest times.
func (m *memo) forget() {
	for len(m.ticks) > maxTicks {
		var oldest time.Time
		for at := range m.ticks {
			if oldest.IsZero() || at.Before(oldest) {
				oldest = at
			}
		}
		for _, c := range m.ticks[oldest] {
			select {
			case <-c.done:
				m.kept -= len(c.samples)
			default: // not counted yet
			}
		}
		delete(m.ticks, oldest)
	}
}

// finish lets those who wait have the answer, and keeps it if there is room.
func (m *memo) finish(q question, at time.Time, c *call) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ticks[at][q] == c {
		if c.abandoned || m.kept+len(c.samples) > m.maxSeries {
			delete(m.ticks[at], q)
		} else {
			m.kept += len(c.samples)
		}
	}
	close(c.done)
}

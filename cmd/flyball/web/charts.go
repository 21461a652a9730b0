package web

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// chartsShown is how many rules have a chart: the worst ones. Another rule has its chart where the page is filtered by it.
const chartsShown = 4

// tableRows is how many times the table beside a chart has, which is all that there is without a script.
const tableRows = 12

// chartView is what the page shows of the scale rules over time. Scripts ask the API for the same series at more times.
type chartView struct {
	Demand, Desired, Ready string // PromQL, one series a rule, or a signal of a rule
	Rules                  []chart
	Error                  string
}

// chart is one rule over time.
type chart struct {
	Rule, Target string
	Signals      []string
	Rows         []row
}

// row is a rule at one time, NaN where there is no sample.
type row struct {
	Time           time.Time
	Demand         []float64 // by Signals
	Desired, Ready float64
}

// What a page waits for a store that does not answer, and for how long pages after it do not ask again.
const (
	chartTimeout = 5 * time.Second
	chartRetry   = 10 * time.Second
)

// charts answers for the page; what many viewers ask for within a second is asked of the store once.
type charts struct {
	mu     sync.Mutex // guards what follows, and has queries wait for each other
	key    string
	last   chartView
	failed time.Time // zero: it did not, the last time
}

func (c *charts) view(ctx context.Context, q Queries, all []Rule, st state, now time.Time) chartView {
	shown := all[:min(len(all), chartsShown)]
	if len(shown) == 0 {
		return chartView{}
	}
	matcher := ""
	if st.Rule != "" || st.Model != "" || len(all) > len(shown) {
		var names []string
		for _, r := range shown {
			names = append(names, regexp.QuoteMeta(r.Name))
		}
		slices.Sort(names)
		matcher = "{rule=~" + strconv.Quote(strings.Join(names, "|")) + "}"
	}
	v := chartView{
		Demand:  "flyball_scale_signal_value" + matcher,
		Desired: "flyball_scale_desired_replicas" + matcher,
		Ready:   "flyball_scale_ready_replicas" + matcher,
	}
	for _, r := range shown {
		v.Rules = append(v.Rules, chart{Rule: r.Name, Target: r.Target})
	}
	now = now.Truncate(time.Second)
	key := fmt.Sprint(now.Unix(), st.Range, v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if key == c.key {
		return c.last
	}
	if age := now.Sub(c.failed); age >= 0 && age < chartRetry {
		v.Error = c.last.Error
		return v
	}
	// Who asked first may go; the others want the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), chartTimeout)
	defer cancel()
	for r := st.Range; ; r /= tableRows {
		v.fill(ctx, q, now.Add(-r), now, (r / tableRows).Truncate(time.Second))
		if v.Error != "" || v.whole() || r < tableRows*time.Minute {
			break
		}
	}
	c.key, c.last, c.failed = key, v, time.Time{}
	if v.Error != "" {
		c.failed = now
	}
	return v
}

// whole says whether a chart has rows for half of the time. A younger history is shown over a shorter time.
func (v *chartView) whole() bool {
	return slices.ContainsFunc(v.Rules, func(c chart) bool { return len(c.Rows) >= tableRows/2 })
}

// fill asks for the rows of all charts.
func (v *chartView) fill(ctx context.Context, q Queries, start, end time.Time, step time.Duration) {
	type place struct {
		rule string
		at   int64
	}
	rows := map[place]*row{}
	var times []time.Time
	for at := end; !at.Before(start); at = at.Add(-step) { // newest first
		times = append(times, at)
	}
	ask := func(expr string, put func(c *chart, ls labels.Labels, r *row, value float64)) {
		if v.Error != "" {
			return
		}
		series, err := q.QueryRange(ctx, expr, times[len(times)-1], end, step)
		if err != nil {
			v.Error = err.Error()
			return
		}
		for _, s := range series {
			at := slices.IndexFunc(v.Rules, func(c chart) bool { return c.Rule == s.Labels.Get("rule") })
			if at < 0 {
				continue
			}
			for _, p := range s.Points {
				place := place{v.Rules[at].Rule, p.Time.UnixMilli()}
				if rows[place] == nil {
					rows[place] = &row{Time: p.Time, Desired: math.NaN(), Ready: math.NaN()}
				}
				put(&v.Rules[at], s.Labels, rows[place], p.Value)
			}
		}
	}
	ask(v.Demand, func(c *chart, ls labels.Labels, r *row, value float64) {
		at := slices.Index(c.Signals, ls.Get("signal"))
		if at < 0 {
			at = len(c.Signals)
			c.Signals = append(c.Signals, ls.Get("signal"))
		}
		for len(r.Demand) <= at {
			r.Demand = append(r.Demand, math.NaN())
		}
		r.Demand[at] = value
	})
	ask(v.Desired, func(_ *chart, _ labels.Labels, r *row, value float64) { r.Desired = value })
	ask(v.Ready, func(_ *chart, _ labels.Labels, r *row, value float64) { r.Ready = value })
	for i := range v.Rules {
		c := &v.Rules[i]
		c.Rows = nil
		for _, at := range times {
			if r := rows[place{c.Rule, at.UnixMilli()}]; r != nil {
				for len(r.Demand) < len(c.Signals) {
					r.Demand = append(r.Demand, math.NaN())
				}
				c.Rows = append(c.Rows, *r)
			}
		}
	}
}

package batchproxy

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Decision is one batch and how it came about.
type Decision struct {
	Time   time.Time // when the batcher was asked with a free replica, and what follows is as of then
	Lane   string
	Queued int     // rows
	Phase  float64 // seconds since the lane's last batch was answered; infinite before the first
	// Wait is the longest that was to be waited, in seconds, for so many Rows; Gain is what was expected of it. All 0
	// where nothing was waited for.
	Wait, Rows, Gain float64
	Candidates       [len(edges)]Candidate // the first considered of them
	considered       int

	Waited float64 // seconds, from Time
	Came   int     // rows, while it waited
	Sent   int     // rows of the batch
	Class  int     // of the first request in it
	Left   float64 // seconds to the first deadline of a client in it; infinite without
	Reason string
}

// Considered are the candidates that were weighed.
func (d *Decision) Considered() []Candidate { return d.Candidates[:d.considered] }

func (d *Decision) consider(wait, rows, gain float64) {
	if d.considered < len(d.Candidates) {
		d.Candidates[d.considered] = Candidate{Wait: wait, Rows: rows, Gain: gain}
		d.considered++
	}
}

// journal is the last decisions, the oldest overwritten.
type journal struct {
	decisions [64]Decision
	taken     int
}

// record notes that a batch of a lane is about to leave. What is in it is for the caller to add.
func (b *Batcher[R]) record(now time.Time, l *lane[R]) *Decision {
	d := &b.journal.decisions[b.journal.taken%len(b.journal.decisions)]
	b.journal.taken++
	if l.asked {
		*d = l.pending
	} else {
		*d = Decision{Time: now, Queued: l.items, Phase: l.profile.phase(now)}
	}
	d.Lane, d.Waited, d.Came = l.name, now.Sub(d.Time).Seconds(), l.items-d.Queued
	l.asked = false
	return d
}

// Explanation is what a [Batcher] knows and has decided, in numbers.
type Explanation struct {
	Model     string    `json:"model"`
	Mode      Mode      `json:"mode"`
	Objective Objective `json:"objective"`
	Queued    int       `json:"queued_requests"`
	Tenants   int       `json:"waiting_tenants,omitempty"` // where they are told apart

	Classes []ClassExplanation `json:"classes"`

	Known     bool    `json:"service_time_known"`
	Intercept float64 `json:"service_time_intercept_seconds"`
	Slope     float64 `json:"service_time_slope_seconds"`
	Gain      float64 `json:"batch_gain_ratio"` // of batches of MaxSize
	MaxSize   int     `json:"max_size"`
	Effective int     `json:"effective_max_batch"`
	Ceiling   int     `json:"refused_above,omitempty"` // 0 where no size was refused
	Off       bool    `json:"batching_off"`            // as it does not pay
	Trial     bool    `json:"trial"`                   // whether it pays is being tried
	Untried   bool    `json:"untried,omitempty"`       // it never was: batches are short until then
	Binary    bool    `json:"binary_tensors"`          // what clients send as JSON goes in binary
	Depth     int     `json:"batches_at_once"`         // of a replica, where it is learned; 0 where it is set
	Trying    int     `json:"batches_tried,omitempty"` // instead, for now

	Limits []LimitExplanation `json:"concurrency_limits,omitempty"` // of replicas, where they are learned

	Lanes     []LaneExplanation     `json:"lanes"`
	Decisions []DecisionExplanation `json:"decisions"` // the newest first
}

// LaneExplanation is what is known of a lane.
type LaneExplanation struct {
	Lane   string           `json:"lane"`
	Queued int              `json:"queued_rows"`
	Closed bool             `json:"closed_loop"` // its clients wait for their answers
	Alone  bool             `json:"alone"`       // its requests do not share batches
	Cycles int              `json:"cycles"`      // that were learned from
	Came   []ProfilePoint   `json:"came"`        // rows, by the time since an answer
	Back   []ReturningPoint `json:"back"`        // parts of the rows answered
}

// LimitExplanation is how many requests that are not batched a replica may have at once.
type LimitExplanation struct {
	Replica  string  `json:"replica"`
	Limit    int     `json:"limit"`
	Requests int     `json:"requests"`              // that it has, those that are not limited included
	Base     float64 `json:"without_queue_seconds"` // what it takes, or takes to begin a stream, with few enough; 0 where that is not known
	Probing  bool    `json:"probing"`               // the limit is low for a moment, to measure that
}

// ClassExplanation is what waits of a priority class.
type ClassExplanation struct {
	Class    string  `json:"class"`
	Budget   float64 `json:"budget_seconds"`
	Requests int     `json:"queued_requests"`
	Rows     int     `json:"queued_rows"`
}

// ProfilePoint is the mean number of rows that come within a time of an answer.
type ProfilePoint struct {
	Within float64 `json:"within_seconds"`
	Rows   float64 `json:"rows"`
}

// ReturningPoint is how long after an answer a part of the rows has come back.
type ReturningPoint struct {
	Part  float64 `json:"part"`
	After float64 `json:"after_seconds"`
}

// DecisionExplanation is a [Decision] for people.
type DecisionExplanation struct {
	Time       time.Time   `json:"time"`
	Lane       string      `json:"lane"`
	Queued     int         `json:"queued_rows"`
	Phase      *float64    `json:"phase_seconds"` // null before the lane's first answer
	Candidates []Candidate `json:"candidates"`
	Wait       float64     `json:"wait_seconds"`
	Rows       float64     `json:"rows"`
	Gain       float64     `json:"gain_seconds"`
	Waited     float64     `json:"waited_seconds"`
	Came       int         `json:"came_rows"`
	Sent       int         `json:"sent_rows"`
	Class      string      `json:"class"`                      // of the first request in it
	Deadline   *float64    `json:"deadline_seconds,omitempty"` // from when it left to the first deadline that a client gave
	Reason     string      `json:"reason"`
}

// Explain is what the batcher knows. Show makes the name of a lane fit to be shown.
func (b *Batcher[R]) Explain(show func(lane string) string) Explanation {
	x := Explanation{
		Mode: b.rule.Mode, Objective: b.rule.Objective, Queued: b.queued,
		Known: b.service.known, Intercept: b.service.b, Slope: b.service.a, Gain: b.service.gain(b.rule.MaxSize),
		MaxSize: b.rule.MaxSize, Effective: b.largest(), Ceiling: b.ceiling, Off: b.off, Trial: b.trying || b.contest.running, Untried: b.fresh,
		Classes: []ClassExplanation{}, Lanes: []LaneExplanation{}, Decisions: []DecisionExplanation{},
	}
	if b.depth.on {
		x.Depth, x.Trying = b.depth.kept, b.depth.trying
	}
	for i, waiting := range b.classes {
		class := b.class(i)
		x.Classes = append(x.Classes, ClassExplanation{class.Name, class.Budget.Seconds(), waiting.requests, waiting.rows})
	}
	for _, t := range b.tenants.known {
		if t.requests > 0 {
			x.Tenants++
		}
	}
	for name, l := range b.lanes {
		p := &l.profile
		lane := LaneExplanation{
			Lane: show(name), Queued: l.items, Closed: p.closed(), Alone: !l.alone.IsZero(), Cycles: p.returns,
			Came: []ProfilePoint{}, Back: []ReturningPoint{},
		}
		for j, e := range edges {
			if p.known[j] > 0 {
				lane.Came = append(lane.Came, ProfilePoint{Within: e * p.unit, Rows: p.cum[j]})
			}
		}
		for j, part := range parts {
			if p.returns > 0 {
				lane.Back = append(lane.Back, ReturningPoint{Part: part, After: p.mean[j]})
			}
		}
		x.Lanes = append(x.Lanes, lane)
	}
	slices.SortFunc(x.Lanes, func(a, b LaneExplanation) int { return strings.Compare(a.Lane, b.Lane) })
	for i := b.journal.taken - 1; i >= 0 && i >= b.journal.taken-len(b.journal.decisions); i-- {
		d := &b.journal.decisions[i%len(b.journal.decisions)]
		e := DecisionExplanation{
			Time: d.Time, Lane: show(d.Lane), Queued: d.Queued, Candidates: slices.Clone(d.Considered()), Wait: d.Wait, Rows: d.Rows, Gain: d.Gain,
			Waited: d.Waited, Came: d.Came, Sent: d.Sent, Class: b.class(d.Class).Name, Reason: d.Reason,
		}
		if !math.IsInf(d.Left, 0) {
			e.Deadline = &d.Left
		}
		if e.Candidates == nil {
			e.Candidates = []Candidate{}
		}
		if !math.IsInf(d.Phase, 0) {
			e.Phase = &d.Phase
		}
		x.Decisions = append(x.Decisions, e)
	}
	return x
}

// WriteText writes the explanation for a terminal. Times are in milliseconds.
func (x Explanation) WriteText(w io.Writer) error {
	var text strings.Builder
	ms := func(s float64) string { return fmt.Sprintf("%.2f", s*1e3) }
	fmt.Fprintf(&text, "model %s: mode %s, objective %s, %d requests queued\n", x.Model, x.Mode, x.Objective, x.Queued)
	if x.Known {
		fmt.Fprintf(&text, "  S(n) = %s ms + %s ms * n; %d rows together are %.2f times as fast as one by one\n", ms(x.Intercept), ms(x.Slope), x.MaxSize, x.Gain)
	} else {
		fmt.Fprintf(&text, "  S(n) is not known yet: batches leave as soon as a replica is free\n")
	}
	fmt.Fprintf(&text, "  batches of up to %d rows, of %d configured", x.Effective, x.MaxSize)
	if x.Ceiling > 0 {
		fmt.Fprintf(&text, "; more than %d were refused", x.Ceiling)
	}
	if x.Off {
		fmt.Fprint(&text, "; batching is off, it does not pay")
	}
	switch {
	case x.Trial:
		fmt.Fprint(&text, "; whether batching pays is being tried")
	case x.Untried && x.MaxSize > x.Effective:
		fmt.Fprint(&text, "; more once it was tried whether batching pays, with the first requests that wait together")
	}
	fmt.Fprintln(&text)
	if x.Binary {
		fmt.Fprintln(&text, "  tensors of many numbers that come as JSON go in binary")
	}
	if x.Depth > 0 {
		fmt.Fprintf(&text, "  a replica has up to %d of them at once", x.Depth)
		if x.Trying > 0 {
			fmt.Fprintf(&text, ", and %d is tried", x.Trying)
		}
		fmt.Fprintln(&text)
	}
	if len(x.Classes) > 1 {
		fmt.Fprint(&text, "  waiting by class:")
		for _, c := range x.Classes {
			fmt.Fprintf(&text, " %s (%s ms) %d", c.Class, ms(c.Budget), c.Requests)
		}
		fmt.Fprintln(&text)
	}
	if x.Tenants > 0 {
		fmt.Fprintf(&text, "  waiting tenants: %d\n", x.Tenants)
	}
	for _, l := range x.Limits {
		fmt.Fprintf(&text, "  replica %s: up to %d requests that are not batched, %d now; %s ms without a queue", l.Replica, l.Limit, l.Requests, ms(l.Base))
		if l.Probing {
			fmt.Fprint(&text, ", which is measured now")
		}
		fmt.Fprintln(&text)
	}
	for _, l := range x.Lanes {
		kind := "open: clients send whatever they were answered"
		if l.Closed {
			kind = "closed: clients wait for their answers"
		}
		if l.Alone {
			kind += "; not batched"
		}
		fmt.Fprintf(&text, "\nlane %s: %d rows queued; %s; %d cycles\n  rows by ms after an answer:", l.Lane, l.Queued, kind, l.Cycles)
		for _, p := range l.Came {
			fmt.Fprintf(&text, " %s:%.1f", ms(p.Within), p.Rows)
		}
		fmt.Fprintf(&text, "\n  ms until a part is back:")
		for _, p := range l.Back {
			fmt.Fprintf(&text, " %.0f%%:%s", p.Part*100, ms(p.After))
		}
		fmt.Fprintln(&text)
	}
	if len(x.Decisions) > 0 {
		fmt.Fprintf(&text, "\nlast batches, the newest first (times in ms; candidates are wait:rows:gain)\n")
	}
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	if len(x.Decisions) > 0 {
		fmt.Fprintln(table, "time\tlane\tqueued\tphase\twait\tfor\tgain\twaited\tcame\tsent\tclass\tdeadline\treason\tcandidates")
	}
	for _, d := range x.Decisions {
		phase := "-"
		if d.Phase != nil {
			phase = ms(*d.Phase)
		}
		var weighed []string
		for _, c := range d.Candidates {
			weighed = append(weighed, fmt.Sprintf("%s:%.1f:%s", ms(c.Wait), c.Rows, ms(c.Gain)))
		}
		deadline, class := "-", d.Class
		if d.Deadline != nil {
			deadline = ms(*d.Deadline)
		}
		if class == "" {
			class = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%.1f\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", d.Time.UTC().Format("15:04:05.000"), d.Lane, d.Queued, phase,
			ms(d.Wait), d.Rows, ms(d.Gain), ms(d.Waited), d.Came, d.Sent, class, deadline, d.Reason, strings.Join(weighed, " "))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, text.String())
	return err
}

package loadgen

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Snapshot is the state of a run under way.
type Snapshot struct {
	Elapsed, Total time.Duration
	InFlight       int
	Counts         Counts // of the requests that have an outcome
	Offered        int64  // arrivals so far
	Answered       int64  // answers so far, without refusals (429, 503, 504)
	// The rates, in requests per second, are those since the snapshot before.
	OfferedRate, AnsweredRate float64
	P50, P99                  time.Duration // of the run so far
}

// ratesSince sets the rates from the snapshot before; the zero Snapshot is the start of the run.
func (s *Snapshot) ratesSince(before Snapshot) {
	passed := (s.Elapsed - before.Elapsed).Seconds()
	if passed <= 0 {
		s.OfferedRate, s.AnsweredRate = before.OfferedRate, before.AnsweredRate
		return
	}
	s.OfferedRate = float64(s.Offered-before.Offered) / passed
	s.AnsweredRate = float64(s.Answered-before.Answered) / passed
}

// String is one line for a terminal.
func (s Snapshot) String() string {
	return fmt.Sprintf("%4.0f/%.0f s  offered %s/s  answered %s/s  in flight %d  ok %d  wrong %d  errors %d  p50 %s  p99 %s",
		s.Elapsed.Seconds(), s.Total.Seconds(), rate(s.OfferedRate), rate(s.AnsweredRate), s.InFlight,
		s.Counts.OK, s.Counts.Wrong, s.Counts.Errors(), short(s.P50.Seconds()), short(s.P99.Seconds()))
}

// WriteText writes the report for a reader at a terminal.
func (r Report) WriteText(w io.Writer) error {
	var b bytes.Buffer
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s", label)
		fmt.Fprintf(&b, format+"\n", args...)
	}
	span := short(r.DurationSeconds)
	if r.FromSeconds > 0 {
		span += " from " + short(r.FromSeconds)
	}
	if r.Interrupted {
		span += ", interrupted"
	}
	line("load", "%s, %s arrivals, seed %d, %s", r.URL, r.Arrivals, r.Seed, span)
	line("requests", "%d offered, %d sent, %d lost, at most %d in flight", r.Offered, r.Sent, r.Lost, r.MaxInFlight)
	line("rate", "%s/s offered, %s/s answered", rate(r.OfferedRate), rate(r.AnsweredRate))
	line("outcome", "%s", r.outcomes())
	if len(r.Codes) > 0 {
		line("status", "%s", r.statuses())
	}
	l := r.Latency
	if l.Count == 0 {
		line("latency", "none: no answer with status 2xx and no timeout")
	} else {
		line("latency", "p50 %s, p90 %s, p95 %s, p99 %s, p99.9 %s, max %s, mean %s (%d requests, from the intended start)",
			short(l.P50), short(l.P90), short(l.P95), short(l.P99), short(l.P999), short(l.Max), short(l.Mean), l.Count)
	}
	line("lag", "p50 %s, p99 %s, max %s (the generator's own)", short(r.Lag.P50), short(r.Lag.P99), short(r.Lag.Max))
	if r.Verdict != "" {
		fmt.Fprintln(&b, r.Verdict)
	}
	for _, warning := range r.Warnings {
		line("warning", "%s", warning)
	}
	for _, e := range r.Examples {
		line("example", "%s at %s, payload %d, id %s: %s", e.Kind, short(e.AtSeconds), e.Payload, e.ID, e.Reason)
		if e.Expected != "" {
			fmt.Fprintf(&b, "            expected %s\n", e.Expected)
		}
		if e.Got != "" {
			fmt.Fprintf(&b, "            got      %s\n", strings.TrimSpace(e.Got))
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// outcomes lists the kinds that happened; ok and wrong always, since a 0 there says something.
func (r Report) outcomes() string {
	var parts []string
	for _, kind := range Kinds() {
		if n := r.Counts.Of(kind); n > 0 || kind == KindOK || kind == KindWrong {
			parts = append(parts, fmt.Sprintf("%s %d", kind, n))
		}
	}
	return strings.Join(parts, ", ")
}

func (r Report) statuses() string {
	var parts []string
	for _, code := range slices.Sorted(maps.Keys(r.Codes)) {
		parts = append(parts, fmt.Sprintf("%d: %d", code, r.Codes[code]))
	}
	return strings.Join(parts, ", ")
}

// rate is a rate in requests per second, with three digits or more.
func rate(perSecond float64) string { return threeDigits(perSecond) }

// short is a time in seconds with three digits or more and the unit that suits it.
func short(seconds float64) string {
	switch {
	case seconds == 0:
		return "0 s"
	case seconds < 0.001:
		return threeDigits(seconds*1e6) + " us"
	case seconds < 1:
		return threeDigits(seconds*1e3) + " ms"
	}
	return threeDigits(seconds) + " s"
}

func threeDigits(v float64) string {
	decimals := 2
	switch {
	case v >= 100:
		decimals = 0
	case v >= 10:
		decimals = 1
	}
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	return text
}

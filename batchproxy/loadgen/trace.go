package loadgen

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Trace is a recorded demand: a rate that holds from its point to the next.
//
// Holding the rate, rather than drawing a line from point to point, keeps the number of requests: a row of such a
// recording is the mean over its step. The last rate holds for as long as the one before it.
type Trace struct {
	Name   string  // where it was read, for messages
	Points []Point // ascending in time, two or more
}

// Point is one row of a trace.
type Point struct {
	At   time.Duration // from the start of the recording
	Rate float64       // requests per second, 0 or more
}

// maxTraceSeconds keeps the times of a trace within a time.Duration, with room for the last step: 31 years.
const maxTraceSeconds = 1e9

// The columns of a trace, as its errors call them.
const (
	columnTime = "t_seconds"
	columnRate = "requests_per_second"
)

// ReadTrace reads a trace from CSV: two columns, seconds and requests per second, with an optional header and comments
// behind #. Times may be fractions, ascend, and are taken relative to the first. Each error names name:line and the
// column.
func ReadTrace(r io.Reader, name string) (Trace, error) {
	trace := Trace{Name: name}
	rows := csv.NewReader(r)
	rows.Comment = '#'
	rows.FieldsPerRecord = -1 // counted below, for an error that says what is expected
	rows.ReuseRecord = true

	var first, last float64
	for n := 0; ; n++ {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Trace{}, traceSyntax(name, err)
		}
		line, _ := rows.FieldPos(0)
		if len(row) != 2 {
			return Trace{}, fmt.Errorf("%s:%d: %d columns: a trace has two, %s and %s", name, line, len(row), columnTime, columnRate)
		}
		if n == 0 && isHeader(row) {
			continue
		}
		seconds, err := nonNegative(row[0], maxTraceSeconds)
		if err != nil {
			return Trace{}, fmt.Errorf("%s:%d: %s: %w", name, line, columnTime, err)
		}
		rate, err := nonNegative(row[1], math.MaxFloat64)
		if err != nil {
			return Trace{}, fmt.Errorf("%s:%d: %s: %w", name, line, columnRate, err)
		}
		if len(trace.Points) == 0 {
			first = seconds
		}
		at := time.Duration((seconds - first) * float64(time.Second))
		if k := len(trace.Points); k > 0 && at <= trace.Points[k-1].At {
			return Trace{}, fmt.Errorf("%s:%d: %s: %v does not come after the row before it (%v): times must ascend", name, line, columnTime, seconds, last)
		}
		last = seconds
		trace.Points = append(trace.Points, Point{At: at, Rate: rate})
	}
	switch len(trace.Points) {
	case 0:
		return Trace{}, fmt.Errorf("%s: no rows: a trace has rows of %s,%s", name, columnTime, columnRate)
	case 1:
		return Trace{}, fmt.Errorf("%s: one row alone: a trace needs two, as a rate holds until the next row", name)
	}
	return trace, nil
}

// traceSyntax gives an error of the CSV reader the form that the others have.
func traceSyntax(name string, err error) error {
	if syntax, ok := errors.AsType[*csv.ParseError](err); ok {
		return fmt.Errorf("%s:%d: column %d: %w", name, syntax.Line, syntax.Column, syntax.Err)
	}
	return fmt.Errorf("%s: read trace: %w", name, err)
}

// isHeader says whether no field of the row is a number.
func isHeader(row []string) bool {
	return !slices.ContainsFunc(row, func(field string) bool {
		_, err := strconv.ParseFloat(strings.TrimSpace(field), 64)
		return err == nil || strings.TrimSpace(field) == ""
	})
}

// nonNegative parses a number from 0 to limit.
func nonNegative(field string, limit float64) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSpace(field), 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%q is not a number: give 0 or more", field)
	case math.IsNaN(v):
		return 0, fmt.Errorf("%q is no value: leave the row out or give 0 or more", field)
	case v < 0:
		return 0, fmt.Errorf("%q is negative: give 0 or more", field)
	case v > limit || math.IsInf(v, 0):
		return 0, fmt.Errorf("%q is too large: give at most %g", field, limit)
	}
	return v, nil
}

// Duration is how long the recording lasts, the last step included.
func (t Trace) Duration() time.Duration {
	n := len(t.Points)
	if n < 2 {
		return 0
	}
	return t.Points[n-1].At + (t.Points[n-1].At - t.Points[n-2].At)
}

// Demand replays the trace speedup times as fast: a day in two minutes is a speedup of 720. The rate stays a rate per
// second of the run, multiplied by scale: at each moment the servers meet the load that the trace records, it only
// changes sooner.
func (t Trace) Demand(speedup, scale float64) (Demand, error) {
	var errs []error
	if !(speedup > 0) || math.IsInf(speedup, 0) {
		errs = append(errs, fmt.Errorf("speedup: %v is not a factor: give a number above 0", speedup))
	}
	if !(scale > 0) || math.IsInf(scale, 0) {
		errs = append(errs, fmt.Errorf("scale: %v is not a factor: give a number above 0", scale))
	}
	if len(t.Points) < 2 {
		errs = append(errs, fmt.Errorf("%s: a trace needs two points, this one has %d", t.Name, len(t.Points)))
	}
	if err := errors.Join(errs...); err != nil {
		return Demand{}, err
	}
	if length := float64(t.Duration()) / speedup; length >= math.MaxInt64 || length < float64(len(t.Points)) {
		return Demand{}, fmt.Errorf("speedup: %v plays %s (%v) in %.3g s: give a factor that a run can follow", speedup, t.Name, t.Duration(), length/1e9)
	}
	var d Demand
	for i, p := range t.Points {
		end := t.Duration()
		if i+1 < len(t.Points) {
			end = t.Points[i+1].At
		}
		s := step{
			from: time.Duration(float64(p.At) / speedup),
			to:   time.Duration(float64(end) / speedup),
			rate: p.Rate * scale,
		}
		if s.to > s.from {
			d.steps = append(d.steps, s)
		}
	}
	return d, nil
}

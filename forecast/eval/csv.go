package eval

import (
	"bufio"
	"cmp"
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

// Limits of ReadCSV. They are far above what a forecast needs (a year of 5-minute values is 105,120 rows) and keep a
// wrong file from taking the machine's memory.
const (
	MaxFileBytes = 64 << 20
	MaxColumns   = 1000
	MaxRows      = 1_000_000
	MaxSteps     = 1_000_000 // from the first time to the last
	MaxValues    = 8_000_000 // steps times columns
	maxFaults    = 10        // that one error lists
	maxAbs       = 1e100     // of a value: squares and sums of it stay finite
	maxStep      = 366 * 24 * 3600 * 1000
)

// Table is what a file holds.
type Table struct {
	Series []Series
	// Notes say what was not as it should be and what was made of it, such as rows out of order.
	Notes []string
}

// Names are the names of the series, in the order of the file.
func (t Table) Names() []string {
	names := make([]string, len(t.Series))
	for i, s := range t.Series {
		names[i] = s.Name
	}
	return names
}

// ReadCSV reads a file of series. The first line names the columns; the first column is the time (seconds since 1970 as a
// number, RFC 3339, or 2006-01-02 15:04:05 in UTC, one of them in the whole file), each other column is a series. A value
// that is empty or NaN is missing. All series are put on the step that the file shows most: rows in any order, of two rows
// with the same time the later in the file, of several rows within one step the mean. Errors begin with file:line:column,
// the column counted in bytes, and name up to ten faults at once; file is the name to use in them.
func ReadCSV(r io.Reader, file string) (Table, error) {
	p := csvReader{file: file}
	if err := p.read(r); err != nil {
		return Table{}, err
	}
	return p.table()
}

type csvRow struct {
	ms     int64 // since 1970
	line   int
	values []float64
}

type csvReader struct {
	file   string
	names  []string
	rows   []csvRow
	layout timeLayout
	faults []error
	notes  []string
}

// timeLayout is how a file writes times.
type timeLayout int

const (
	layoutUnknown timeLayout = iota
	layoutSeconds
	layoutRFC3339
	layoutPlain
)

func (l timeLayout) String() string {
	return [...]string{"a time", "seconds since 1970", "RFC 3339", time.DateTime}[l]
}

func (p *csvReader) fault(line, column int, format string, args ...any) {
	p.faults = append(p.faults, fmt.Errorf("%s:%d:%d: %s", p.file, line, column, fmt.Sprintf(format, args...)))
}

func (p *csvReader) read(in io.Reader) error {
	limited := &io.LimitedReader{R: in, N: MaxFileBytes + 1}
	buffered := bufio.NewReader(limited)
	if bom, _ := buffered.Peek(3); string(bom) == "\ufeff" {
		_, _ = buffered.Discard(3)
	}
	r := csv.NewReader(buffered)
	r.FieldsPerRecord = -1 // counted here, to say more
	r.ReuseRecord = true
	r.TrimLeadingSpace = true
	for len(p.faults) < maxFaults {
		record, err := r.Read()
		if limited.N == 0 {
			return fmt.Errorf("%s: larger than %d MiB", p.file, MaxFileBytes>>20)
		}
		if err == io.EOF {
			break
		}
		if parse, ok := errors.AsType[*csv.ParseError](err); ok {
			p.fault(parse.Line, parse.Column, "%s", parse.Err)
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
		if p.names == nil {
			if p.header(record, r); len(p.faults) > 0 {
				break // of the rows nothing could be said
			}
			continue
		}
		p.row(record, r)
		if len(p.rows) > MaxRows {
			return fmt.Errorf("%s: more than %d rows", p.file, MaxRows)
		}
		if len(p.names)*len(p.rows) > MaxValues {
			return fmt.Errorf("%s: more than %d values", p.file, MaxValues)
		}
	}
	if p.names == nil && len(p.faults) == 0 {
		p.fault(1, 1, "the file is empty: expected a line of column names, the time first")
	}
	return errors.Join(p.faults...)
}

// header takes the first line.
func (p *csvReader) header(record []string, r *csv.Reader) {
	p.names = make([]string, 0, len(record))
	line, column := r.FieldPos(0)
	if _, _, err := parseTime(strings.TrimSpace(record[0]), layoutUnknown); err == nil {
		p.fault(line, column, "%q is a time: expected a line of column names first", record[0])
		return
	}
	if len(record) < 2 {
		p.fault(line, column, "no column beside the time: expected a comma and the name of a series")
		return
	}
	if len(record) > MaxColumns+1 {
		p.fault(line, column, "%d columns: at most %d", len(record)-1, MaxColumns)
		return
	}
	seen := map[string]bool{}
	for i, name := range record[1:] {
		line, column := r.FieldPos(i + 1)
		name = strings.TrimSpace(name)
		switch {
		case name == "":
			p.fault(line, column, "column %d has no name", i+2)
		case seen[name]:
			p.fault(line, column, "column %q is there twice", name)
		}
		seen[name] = true
		p.names = append(p.names, name)
	}
}

func (p *csvReader) row(record []string, r *csv.Reader) {
	line, column := r.FieldPos(0)
	if len(record) != len(p.names)+1 {
		p.fault(line, column, "%d fields: expected %d as in the first line", len(record), len(p.names)+1)
		return
	}
	text := strings.TrimSpace(record[0])
	ms, layout, err := parseTime(text, p.layout)
	if err != nil {
		p.fault(line, column, "time %q: %s", text, err)
		return
	}
	p.layout = layout
	row := csvRow{ms: ms, line: line, values: make([]float64, len(p.names))}
	for i, field := range record[1:] {
		v, err := parseValue(strings.TrimSpace(field))
		if err != nil {
			line, column := r.FieldPos(i + 1)
			p.fault(line, column, "%s %q: %s", p.names[i], field, err)
		}
		row.values[i] = v
	}
	p.rows = append(p.rows, row)
}

// The times that a file may have, in seconds: the years 1 to 9999.
const (
	minSeconds = -62135596800
	maxSeconds = 253402300799
)

// parseTime gives milliseconds since 1970; layout is the one that the file has shown so far.
func parseTime(text string, layout timeLayout) (int64, timeLayout, error) {
	expected := func() error {
		if layout == layoutUnknown {
			return errors.New("expected seconds since 1970, RFC 3339 or " + time.DateTime)
		}
		return fmt.Errorf("expected %s as in the rows before", layout)
	}
	if layout == layoutUnknown || layout == layoutSeconds {
		if s, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(s) {
			if s < minSeconds || s > maxSeconds {
				return 0, layout, errors.New("out of range for seconds since 1970 (are these milliseconds?)")
			}
			return int64(math.Round(s * 1000)), layoutSeconds, nil
		}
	}
	if layout == layoutUnknown || layout == layoutRFC3339 {
		if t, err := time.Parse(time.RFC3339, text); err == nil {
			return t.UnixMilli(), layoutRFC3339, nil
		}
	}
	if layout == layoutUnknown || layout == layoutPlain {
		if t, err := time.Parse(time.DateTime, text); err == nil {
			return t.UnixMilli(), layoutPlain, nil
		}
	}
	return 0, layout, expected()
}

func parseValue(text string) (float64, error) {
	if text == "" {
		return math.NaN(), nil
	}
	v, err := strconv.ParseFloat(text, 64)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return math.NaN(), errors.New("expected a number, or empty or NaN where it is missing")
	case math.Abs(v) > maxAbs:
		return math.NaN(), fmt.Errorf("expected a number from %g to %g, or empty or NaN where it is missing", -maxAbs, maxAbs)
	}
	return v, nil
}

func (p *csvReader) note(n int, one, many string) {
	switch {
	case n == 1:
		p.notes = append(p.notes, fmt.Sprintf("%s: 1 %s", p.file, one))
	case n > 1:
		p.notes = append(p.notes, fmt.Sprintf("%s: %d %s", p.file, n, many))
	}
}

// table puts the rows on the step.
func (p *csvReader) table() (Table, error) {
	disorder := 0
	for i := 1; i < len(p.rows); i++ {
		if p.rows[i].ms < p.rows[i-1].ms {
			disorder++
		}
	}
	p.note(disorder, "row comes before the one above it: rows are sorted by time", "rows come before the one above them: rows are sorted by time")
	slices.SortStableFunc(p.rows, func(a, b csvRow) int { return cmp.Compare(a.ms, b.ms) })

	rows := p.rows[:0]
	duplicates := 0
	for _, row := range p.rows {
		if n := len(rows); n > 0 && rows[n-1].ms == row.ms {
			duplicates++
			for i, v := range row.values { // the later one counts, as far as it says something
				if !math.IsNaN(v) {
					rows[n-1].values[i] = v
				}
			}
			continue
		}
		rows = append(rows, row)
	}
	p.note(duplicates, "time is there twice: the later row counts", "times are there again: the later row counts")
	if len(rows) < 2 {
		return Table{}, fmt.Errorf("%s: %d times: two are needed to know the step", p.file, len(rows))
	}

	step := commonStep(rows)
	if step > maxStep {
		return Table{}, fmt.Errorf("%s:%d: the step is %d days: at most 366", p.file, rows[1].line, step/(24*3600*1000))
	}
	phase := commonPhase(rows, step)
	index := func(ms int64) int64 { return floorDiv(ms-phase+step/2, step) }
	first, last := index(rows[0].ms), index(rows[len(rows)-1].ms)
	n := last - first + 1
	switch {
	case n < 2:
		return Table{}, fmt.Errorf("%s: all times are within one step", p.file)
	case n > MaxSteps:
		return Table{}, fmt.Errorf("%s:%d: from the first time to the last there are %d steps of %s: at most %d",
			p.file, rows[len(rows)-1].line, n, time.Duration(step)*time.Millisecond, MaxSteps)
	case n*int64(len(p.names)) > MaxValues:
		return Table{}, fmt.Errorf("%s: %d columns of %d steps: at most %d values", p.file, len(p.names), n, MaxValues)
	}

	t := Table{Series: make([]Series, len(p.names))}
	counts := make([]int, n)
	moved, merged, filled := 0, 0, 0
	for c, name := range p.names {
		values := make([]float64, n)
		for i := range values {
			values[i] = math.NaN()
		}
		clear(counts)
		for _, row := range rows {
			v := row.values[c]
			i := index(row.ms) - first
			if math.IsNaN(v) {
				continue
			}
			if counts[i]++; counts[i] == 1 {
				values[i] = v
			} else {
				values[i] += (v - values[i]) / float64(counts[i])
			}
		}
		t.Series[c] = Series{
			Name: name, Start: time.UnixMilli(phase + first*step).UTC(), Step: time.Duration(step) * time.Millisecond, Values: values,
		}
	}
	used := int64(-1)
	for _, row := range rows {
		i := index(row.ms)
		if phase+i*step != row.ms {
			moved++
		}
		if i == used {
			merged++
		} else {
			filled++
		}
		used = i
	}
	of := " of " + (time.Duration(step) * time.Millisecond).String()
	p.note(moved, "time is not on the step"+of+": it is put on the nearest", "times are not on the step"+of+": they are put on the nearest")
	p.note(merged, "row shares its step with another: the mean counts", "rows share their step with another: the mean counts")
	p.note(int(n)-filled, "step"+of+" has no row: its values are missing", "steps"+of+" have no row: their values are missing")
	t.Notes = p.notes
	return t, nil
}

// commonStep is the difference of neighbouring times, in ms, that is there most, the smallest of several. Where times
// jitter, so that not one difference in ten is the same, it is the median, to the second if it is above ten.
func commonStep(rows []csvRow) int64 {
	differences := make([]int64, len(rows)-1)
	for i := range differences {
		differences[i] = rows[i+1].ms - rows[i].ms
	}
	slices.Sort(differences)
	best, most := differences[0], 0
	for i := 0; i < len(differences); {
		j := i
		for j < len(differences) && differences[j] == differences[i] {
			j++
		}
		if j-i > most {
			best, most = differences[i], j-i
		}
		i = j
	}
	if most*10 >= len(differences) {
		return best
	}
	median := differences[len(differences)/2]
	if median > 10_000 {
		median = (median + 500) / 1000 * 1000
	}
	return median
}

// commonPhase is what times are most often off the multiples of the step, in ms, the smallest of several.
func commonPhase(rows []csvRow, step int64) int64 {
	counts := map[int64]int{}
	for _, row := range rows {
		counts[row.ms-floorDiv(row.ms, step)*step]++
	}
	best, most := int64(0), 0
	for phase, n := range counts {
		if n > most || n == most && phase < best {
			best, most = phase, n
		}
	}
	return best
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}

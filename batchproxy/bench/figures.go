package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Report is all that a run has found; its JSON is what -o json prints.
type Report struct {
	Started time.Time `json:"started"`
	Machine Machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds"`         // of each measurement in a closed loop
	WarmUp  float64   `json:"warm_up_seconds"` // before each
	Tables  []Table   `json:"tables"`
	Gates   []Gate    `json:"gates"`
	// Notes say what was left out and why, and what else a reader must know before trusting the figures.
	Notes []string `json:"notes"`
}

// Machine is where a run was.
type Machine struct {
	Cores    int    `json:"cores"`
	Platform string `json:"platform"` // GOOS/GOARCH
	Go       string `json:"go"`
	// LoadBefore and LoadAfter are the load averages of a minute, empty where there are none.
	LoadBefore string `json:"load_before"`
	LoadAfter  string `json:"load_after"`
}

// Table is one measure of one scene: a row for each contender, a column for each load.
type Table struct {
	Name    string   `json:"name"` // such as closed/rate
	Title   string   `json:"title"`
	Columns []string `json:"columns"`
	Rows    []Row    `json:"rows"`
}

// Row is what one contender did; a cell without samples was not measured.
type Row struct {
	Name  string   `json:"name"`
	Cells []Figure `json:"cells"`
}

// Figure is the median of the rounds, and its spread.
type Figure struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"` // 0: not measured
}

// figureOf sums up the samples of the rounds.
func figureOf(samples []float64) Figure {
	if len(samples) == 0 {
		return Figure{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	n := len(sorted)
	return Figure{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1], Rounds: n}
}

// figures collects samples. Tables, rows and columns come in the order in which they were first added, but for rows, which
// keep to the order of the contenders.
type figures struct {
	tables  []*samples
	order   []string // of the rows
	ordinal map[string]int
}

type samples struct {
	name, title string
	columns     []string
	values      map[[2]string][]float64 // by row and column
	rows        []string
}

func newFigures(order []string) *figures {
	f := &figures{order: order, ordinal: make(map[string]int)}
	for i, name := range order {
		f.ordinal[name] = i
	}
	return f
}

// table opens a table, whose samples may then be added.
func (f *figures) table(name, title string) {
	if f.find(name) == nil {
		f.tables = append(f.tables, &samples{name: name, title: title, values: make(map[[2]string][]float64)})
	}
}

func (f *figures) find(name string) *samples {
	for _, t := range f.tables {
		if t.name == name {
			return t
		}
	}
	return nil
}

// paired is the figure of the ratios of two rows in each round, in which they have their turns one soon after the other: a machine whose
// speed drifts over minutes moves it less than it does medians.
func (f *figures) paired(table, column, rowA, rowB string) Figure {
	t := f.find(table)
	if t == nil {
		return Figure{}
	}
	a, b := t.values[[2]string{rowA, column}], t.values[[2]string{rowB, column}]
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return figureOf(ratios)
}

// add adds the sample of one round to a table that is open.
func (f *figures) add(table, row, column string, value float64) {
	t := f.find(table)
	if t == nil {
		panic("bench: no table " + table)
	}
	if !slices.Contains(t.columns, column) {
		t.columns = append(t.columns, column)
	}
	if !slices.Contains(t.rows, row) {
		t.rows = append(t.rows, row)
		slices.SortStableFunc(t.rows, func(a, b string) int { return cmp.Compare(f.rank(a), f.rank(b)) })
	}
	t.values[[2]string{row, column}] = append(t.values[[2]string{row, column}], value)
}

// rank is the place of a row; rows that are no contender come last, as they were added.
func (f *figures) rank(row string) int {
	if i, ok := f.ordinal[row]; ok {
		return i
	}
	return len(f.order)
}

// of is a figure, and whether it was measured.
func (f *figures) of(table, row, column string) (Figure, bool) {
	t := f.find(table)
	if t == nil {
		return Figure{}, false
	}
	figure := figureOf(t.values[[2]string{row, column}])
	return figure, figure.Rounds > 0
}

// best is the row with the highest median in a column, of all rows but one.
func (f *figures) best(table, column, but string) (row string, best Figure, ok bool) {
	t := f.find(table)
	if t == nil {
		return "", Figure{}, false
	}
	for _, name := range t.rows {
		if figure, measured := f.of(table, name, column); measured && name != but && (!ok || figure.Median > best.Median) {
			row, best, ok = name, figure, true
		}
	}
	return row, best, ok
}

// all is every table.
func (f *figures) all() []Table {
	out := make([]Table, 0, len(f.tables))
	for _, t := range f.tables {
		table := Table{Name: t.name, Title: t.title, Columns: t.columns, Rows: []Row{}}
		for _, name := range t.rows {
			row := Row{Name: name}
			for _, column := range t.columns {
				row.Cells = append(row.Cells, figureOf(t.values[[2]string{name, column}]))
			}
			table.Rows = append(table.Rows, row)
		}
		out = append(out, table)
	}
	return out
}

// number has three digits or more, which is about what is the same in the next run.
func number(v float64) string {
	switch abs := math.Abs(v); {
	case abs >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case abs >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case abs >= 0.1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	default:
		return strconv.FormatFloat(v, 'f', 4, 64)
	}
}

// WriteText writes the report as text.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	load := ""
	if r.Machine.LoadBefore != "" {
		load = fmt.Sprintf(", load %s before and %s after", r.Machine.LoadBefore, r.Machine.LoadAfter)
	}
	fmt.Fprintf(&b, "%s, %d cores%s, %s, %s\n", r.Machine.Platform, r.Machine.Cores, load, r.Machine.Go, r.Started.UTC().Format(time.DateTime+" UTC"))
	fmt.Fprintf(&b, "medians of %d rounds, least..most below; each contender in turn in every round, %gs after a warm-up of %gs\n", r.Rounds, r.Seconds, r.WarmUp)
	for _, t := range r.Tables {
		b.WriteByte('\n')
		t.write(&b)
	}
	writeGates(&b, r.Gates)
	if len(r.Notes) > 0 {
		b.WriteString("\nnotes\n")
		for _, note := range r.Notes {
			fmt.Fprintf(&b, "  %s\n", note)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t Table) write(b *strings.Builder) {
	fmt.Fprintln(b, t.Title)
	lines := [][]string{append([]string{""}, t.Columns...)}
	for _, row := range t.Rows {
		medians, spreads := []string{row.Name}, []string{""}
		spread := false
		for _, cell := range row.Cells {
			switch cell.Rounds {
			case 0:
				medians, spreads = append(medians, "-"), append(spreads, "")
			case 1:
				medians, spreads = append(medians, number(cell.Median)), append(spreads, "")
			default:
				spread = true
				medians, spreads = append(medians, number(cell.Median)), append(spreads, number(cell.Min)+".."+number(cell.Max))
			}
		}
		if lines = append(lines, medians); spread {
			lines = append(lines, spreads)
		}
	}
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, text := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	for _, line := range lines {
		cells := []string{fmt.Sprintf("  %-*s", widths[0], line[0])}
		for i, cell := range line[1:] {
			cells = append(cells, fmt.Sprintf("%*s", widths[i+1], cell))
		}
		fmt.Fprintln(b, strings.TrimRight(strings.Join(cells, "  "), " "))
	}
}

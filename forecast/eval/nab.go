package eval

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"time"
)

// NABFile is one file of the Numenta Anomaly Benchmark (Lavin and Ahmad, "Evaluating real-time anomaly detection
// algorithms", 2015): values, and the windows in which something was out of the ordinary.
type NABFile struct {
	Name    string // such as realKnownCause/nyc_taxi.csv
	Times   []time.Time
	Values  []float64
	Windows []NABWindow
}

// NABWindow is a time that has an anomaly, as indices of rows, both within.
type NABWindow struct{ First, Last int }

// Probation is how many rows at the start are not scored, for a detector to learn: 15 %, or 750 of a long file.
func (f NABFile) Probation() int { return min(len(f.Times)*15/100, 750) }

// ReadNAB reads the files of fsys that its combined_windows.json names, in the order of their names. A file that is
// named and is not there is left out, so that a part of the benchmark can be run; windows that are not whole in their file
// are an error.
func ReadNAB(fsys fs.FS) ([]NABFile, error) {
	const windowsFile = "combined_windows.json"
	text, err := fs.ReadFile(fsys, windowsFile)
	if err != nil {
		return nil, err
	}
	var windows map[string][][2]string
	if err := json.Unmarshal(text, &windows); err != nil {
		return nil, fmt.Errorf("%s: %w", windowsFile, err)
	}
	var files []NABFile
	for name, limits := range windows {
		f, err := readNABFile(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, limit := range limits {
			var rows [2]int
			for i, text := range limit {
				t, err := time.Parse(time.DateTime, text) // which takes fractions of a second
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", windowsFile, name, err)
				}
				rows[i] = slices.IndexFunc(f.Times, t.Equal)
				if rows[i] < 0 {
					return nil, fmt.Errorf("%s: %s has no row at %s", windowsFile, name, text)
				}
			}
			f.Windows = append(f.Windows, NABWindow{rows[0], rows[1]})
		}
		slices.SortFunc(f.Windows, func(a, b NABWindow) int { return cmp.Compare(a.First, b.First) })
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b NABFile) int { return cmp.Compare(a.Name, b.Name) })
	return files, nil
}

func readNABFile(fsys fs.FS, name string) (NABFile, error) {
	if !fs.ValidPath(name) || path.Ext(name) != ".csv" {
		return NABFile{}, fmt.Errorf("combined_windows.json: %q: expected the path of a .csv file", name)
	}
	in, err := fsys.Open(name)
	if err != nil {
		return NABFile{}, err
	}
	defer in.Close()
	r := csv.NewReader(in)
	r.FieldsPerRecord = 2
	rows, err := r.ReadAll()
	if err != nil {
		return NABFile{}, fmt.Errorf("%s: %w", name, err)
	}
	f := NABFile{Name: name}
	for i, row := range rows {
		if i == 0 {
			continue // the names of the columns
		}
		t, err := time.Parse(time.DateTime, row[0])
		if err != nil {
			return NABFile{}, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		v, err := strconv.ParseFloat(row[1], 64)
		if err != nil {
			return NABFile{}, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		f.Times, f.Values = append(f.Times, t), append(f.Values, v)
	}
	return f, nil
}

// NABProfile weighs what a detector finds against what it misses and what it raises for nothing.
type NABProfile struct {
	Name string
	// Found is what a window is worth that is detected at its very start; less the later, 0 at its end.
	Found float64
	// False is what a false detection costs far from a window; less shortly after one.
	False float64
	// Missed is what a window costs in which nothing is detected.
	Missed float64
}

// NABProfiles are the three of NAB 1.1.
func NABProfiles() []NABProfile {
	return []NABProfile{
		{"standard", 1, 0.11, 1},
		{"reward_low_FP_rate", 1, 0.22, 1},
		{"reward_low_FN_rate", 1, 0.11, 2},
	}
}

// NABScore is what a detector's scores come to at one threshold: a row whose score is at least Threshold is a detection.
type NABScore struct {
	Threshold float64
	Score     float64
	// Rows after probation: detected within a window, not detected outside of one, detected outside, not detected within.
	TP, TN, FP, FN int
	// Normalized is 100 for a detector that finds every window at its start and nothing else, 0 for one that finds nothing.
	Normalized float64
}

// Score gives what the scores, from 0 to 1 a row for each of the files, come to at threshold.
func (p NABProfile) Score(files []NABFile, scores [][]float64, threshold float64) NABScore {
	sweep := p.sweep(files, scores)
	i := slices.IndexFunc(sweep, func(s NABScore) bool { return s.Threshold < threshold })
	if i < 0 {
		i = len(sweep)
	}
	best := sweep[i-1] // the first is at +Inf, at which nothing is detected
	best.Threshold = threshold
	return best
}

// Best gives what the scores come to at the one threshold for all files at which it is most. It is how NAB's own table is
// made: the threshold is chosen with the answers at hand.
func (p NABProfile) Best(files []NABFile, scores [][]float64) NABScore {
	return slices.MaxFunc(p.sweep(files, scores), func(a, b NABScore) int { return cmp.Compare(a.Score, b.Score) })
}

// nabRow is a scored row.
type nabRow struct {
	score  float64 // of the detector
	worth  float64 // if it is detected
	window int     // -1 outside of one
}

// sweep gives the score at every threshold at which it changes, falling from +Inf.
func (p NABProfile) sweep(files []NABFile, scores [][]float64) []NABScore {
	var rows []nabRow
	windows := 0
	for i, f := range files {
		rows, windows = p.rows(rows, windows, f, scores[i])
	}
	slices.SortStableFunc(rows, func(a, b nabRow) int { return cmp.Compare(b.score, a.score) })

	found := make([]float64, windows) // what each window is worth so far
	for i := range found {
		found[i] = -p.Missed
	}
	missed := float64(windows) * -p.Missed
	at := NABScore{Threshold: math.Inf(1), Score: missed}
	for _, r := range rows {
		if r.window < 0 {
			at.TN++
		} else {
			at.FN++
		}
	}
	var sweep []NABScore
	falseAlarms := 0.0
	for _, r := range rows {
		if r.score != at.Threshold {
			sweep = append(sweep, p.sum(at, found, falseAlarms))
			at.Threshold = r.score
		}
		if r.window < 0 {
			at.FP++
			at.TN--
			falseAlarms += r.worth
			continue
		}
		at.TP++
		at.FN--
		found[r.window] = max(found[r.window], r.worth)
	}
	return append(sweep, p.sum(at, found, falseAlarms))
}

func (p NABProfile) sum(at NABScore, found []float64, falseAlarms float64) NABScore {
	at.Score = falseAlarms
	for _, v := range found {
		at.Score += v
	}
	nothing, perfect := -p.Missed*float64(len(found)), p.Found*float64(len(found))
	if perfect > nothing {
		at.Normalized = 100 * (at.Score - nothing) / (perfect - nothing)
	}
	return at
}

// rows appends the rows of f after probation. Windows are numbered from the given one on; the number of the next is
// returned.
func (p NABProfile) rows(rows []nabRow, next int, f NABFile, scores []float64) ([]nabRow, int) {
	probation := f.Probation()
	most := scaledSigmoid(-1)
	windows := f.Windows
	var past NABWindow // the last that ended
	ended := false
	for i, score := range scores {
		for len(windows) > 0 && windows[0].Last < i {
			past, ended = windows[0], true
			if past.Last >= probation {
				next++
			}
			windows = windows[1:]
		}
		r := nabRow{score: score, window: -1}
		if len(windows) > 0 && i >= windows[0].First {
			width := float64(windows[0].Last - windows[0].First + 1)
			r.window = next
			r.worth = p.Found * scaledSigmoid(-float64(windows[0].Last-i+1)/width) / most
		} else {
			after := 3.0 // no window is near
			if ended {
				after = float64(i-past.Last) / max(float64(past.Last-past.First), 1)
			}
			r.worth = p.False * scaledSigmoid(after)
		}
		if i >= probation {
			rows = append(rows, r)
		}
	}
	for _, w := range windows {
		if w.Last >= probation && w.First < len(scores) {
			next++
		}
	}
	return rows, next
}

// scaledSigmoid is what a detection is worth at x, from -1 at the start of a window over 0 at its end to 3, far away: 1 to
// -1.
func scaledSigmoid(x float64) float64 {
	if x >= 3 {
		return -1
	}
	return 2/(1+math.Exp(5*x)) - 1
}

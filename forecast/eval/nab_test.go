package eval_test

import (
	"encoding/csv"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/forecast"
	"flyball/forecast/eval"
)

// windowedGaussian is the detector of that name that NAB publishes results of: how far in the tail of a normal
// distribution a value is, of the mean and the deviation of the values before, at most 6,400, taken anew at every hundredth
// once there are so many. NAB has scores in files, to twelve digits, and calls 1 anomalous.
func windowedGaussian(values []float64) []float64 {
	const window, step = 6400, 100
	scores := make([]float64, len(values))
	var mean, deviation float64
	update := func(y []float64) {
		sum, squares := 0.0, 0.0
		for _, v := range y {
			sum += v
		}
		mean = sum / float64(len(y))
		for _, v := range y {
			squares += (v - mean) * (v - mean)
		}
		if deviation = math.Sqrt(squares / float64(len(y))); deviation == 0 {
			deviation = 1e-6
		}
	}
	from, to := 0, 0 // the window
	for i, v := range values {
		if i > 0 {
			scores[i], _ = strconv.ParseFloat(strconv.FormatFloat(1-math.Erfc(math.Abs(v-mean)/deviation/math.Sqrt2)/2, 'g', 12, 64), 64)
		}
		switch {
		case to-from < window:
			to++
			update(values[from:to])
		case i+1 == to+step:
			from, to = from+step, to+step
			update(values[from:to])
		}
	}
	return scores
}

// published reads what NAB publishes of the windowed Gaussian.
func published(t *testing.T) map[string][]float64 {
	f, err := os.Open("testdata/nab/windowedGaussian.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]float64{}
	for _, row := range rows[1:] {
		for _, text := range row[1:] {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			known[row[0]] = append(known[row[0]], v)
		}
	}
	return known
}

// TestNABScoresAsPublished scores a published detector on the files that are in testdata, and on all that are in the
// folder nab of FORECAST_DATA, and gets what NAB publishes for each of them.
func TestNABScoresAsPublished(t *testing.T) {
	dirs := []string{"testdata/nab"}
	if data := os.Getenv("FORECAST_DATA"); data != "" {
		dirs = append(dirs, filepath.Join(data, "nab"))
	}
	known := published(t)
	for _, dir := range dirs {
		files, err := eval.ReadNAB(os.DirFS(dir))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) < 3 {
			t.Errorf("%s: %d files", dir, len(files))
		}
		for _, f := range files {
			scores := [][]float64{windowedGaussian(f.Values)}
			for k, profile := range eval.NABProfiles()[:2] {
				got := profile.Score([]eval.NABFile{f}, scores, 1)
				want := known[f.Name]
				if len(want) == 0 {
					t.Fatalf("%s: nothing is published", f.Name)
				}
				if math.Abs(got.Score-want[k]) > 1e-11 {
					t.Errorf("%s, %s: %.12f, published %.12f", f.Name, profile.Name, got.Score, want[k])
				}
				counts := []float64{float64(got.TP), float64(got.TN), float64(got.FP), float64(got.FN)}
				if diff := cmp.Diff(want[2:], counts); diff != "" {
					t.Errorf("%s: TP, TN, FP, FN (-want +got)\n%s", f.Name, diff)
				}
			}
		}
	}
}

// nabFile has a row a minute, of which the first three are not scored, and the windows given.
func nabFile(rows int, windows ...eval.NABWindow) eval.NABFile {
	return eval.NABFile{Name: "f", Times: make([]time.Time, rows), Values: make([]float64, rows), Windows: windows}
}

func at(rows int, detections ...int) []float64 {
	scores := make([]float64, rows)
	for _, i := range detections {
		scores[i] = 1
	}
	return scores
}

// sigma is what a detection is worth before weights.
func sigma(x float64) float64 { return 2/(1+math.Exp(5*x)) - 1 }

func TestNABScore(t *testing.T) {
	standard, lowFN := eval.NABProfiles()[0], eval.NABProfiles()[2]
	one := nabFile(20, eval.NABWindow{First: 8, Last: 11})
	for _, tt := range []struct {
		name   string
		p      eval.NABProfile
		f      eval.NABFile
		scores []float64
		want   float64
	}{
		{"nothing", standard, one, at(20), -1},
		{"nothing, and that costs twice", lowFN, one, at(20), -2},
		{"at the start of the window", standard, one, at(20, 8), 1},
		{"only the earliest counts", standard, one, at(20, 11, 9, 10), sigma(-0.75) / sigma(-1)},
		{"the end of the window", standard, one, at(20, 11), sigma(-0.25) / sigma(-1)},
		{"before any window", standard, one, at(20, 5), -1 - 0.11},
		{"right after it", standard, one, at(20, 12), -1 + 0.11*sigma(1.0/3)},
		{"far after it", standard, one, at(20, 8, 11, 19), 1 + 0.11*sigma(8.0/3)},
		{"very far after it", standard, nabFile(20, eval.NABWindow{First: 8, Last: 9}), at(20, 12), -1.11},
		{"in probation", standard, one, at(20, 1, 2), -1},
		{"two windows", standard, nabFile(20, eval.NABWindow{First: 4, Last: 7}, eval.NABWindow{First: 10, Last: 13}), at(20, 10), 0},
		{"a window in probation is none", standard, nabFile(20, eval.NABWindow{First: 0, Last: 1}), at(20), 0},
		{"no window", standard, nabFile(20), at(20, 5, 6), -0.22},
		{"a window of one row", standard, nabFile(20, eval.NABWindow{First: 8, Last: 8}), at(20, 8, 9), 1 + 0.11*sigma(1)},
	} {
		got := tt.p.Score([]eval.NABFile{tt.f}, [][]float64{tt.scores}, 0.5)
		near(t, tt.name, got.Score, tt.want)
	}
	long := standard.Score([]eval.NABFile{nabFile(6000)}, [][]float64{at(6000, 749, 750)}, 0.5)
	near(t, "probation ends after 750 rows", long.Score, -0.11)
	perfect := standard.Score([]eval.NABFile{one, one}, [][]float64{at(20, 8), at(20, 8)}, 0.5)
	near(t, "a perfect detector", perfect.Normalized, 100)
	near(t, "one that finds half", standard.Score([]eval.NABFile{one, one}, [][]float64{at(20, 8), at(20)}, 0.5).Normalized, 50)
	near(t, "one that finds nothing", standard.Score([]eval.NABFile{one, one}, [][]float64{at(20), at(20)}, 0.5).Normalized, 0)
}

// TestNABBest has one threshold for all files, the best for them together.
func TestNABBest(t *testing.T) {
	standard := eval.NABProfiles()[0]
	f := nabFile(20, eval.NABWindow{First: 8, Last: 11})
	a, b := make([]float64, 20), make([]float64, 20)
	a[8], a[5] = 0.9, 0.4            // finds it at 0.9, a false one at 0.4
	b[8], b[4], b[6] = 0.3, 0.5, 0.5 // finds it at 0.3 alone, two false ones before
	got := standard.Best([]eval.NABFile{f, f}, [][]float64{a, b})
	if got.Threshold != 0.3 || got.TP != 2 || got.FP != 3 {
		t.Errorf("the best threshold is %v with %d found and %d false, want 0.3, 2, 3", got.Threshold, got.TP, got.FP)
	}
	near(t, "score", got.Score, 2-3*0.11)
	if got := standard.Best([]eval.NABFile{nabFile(20)}, [][]float64{a}); got.Score != 0 || !math.IsInf(got.Threshold, 1) {
		t.Errorf("where there is nothing to find the best is %+v, want to find nothing", got)
	}
}

func TestReadNABFails(t *testing.T) {
	text := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	good := text("timestamp,value\n2014-07-01 00:00:00,1\n2014-07-01 00:30:00,2\n")
	for _, tt := range []struct {
		name string
		fs   fstest.MapFS
		want string
	}{
		{"no windows", fstest.MapFS{}, "open combined_windows.json: file does not exist"},
		{"not JSON", fstest.MapFS{"combined_windows.json": text("x")}, "combined_windows.json: invalid character"},
		{"a time", fstest.MapFS{"combined_windows.json": text(`{"a.csv": [["x", "y"]]}`), "a.csv": good}, `combined_windows.json: a.csv: parsing time "x"`},
		{"no row", fstest.MapFS{"combined_windows.json": text(`{"a.csv": [["2014-07-01 00:10:00.000000", "2014-07-01 00:30:00"]]}`), "a.csv": good}, "combined_windows.json: a.csv has no row at 2014-07-01 00:10:00.000000"},
		{"a value", fstest.MapFS{"combined_windows.json": text(`{"a.csv": []}`), "a.csv": text("t,v\n2014-07-01 00:00:00,x\n")}, "a.csv:2: "},
		{"a path", fstest.MapFS{"combined_windows.json": text(`{"../a.csv": []}`)}, `combined_windows.json: "../a.csv": expected the path`},
	} {
		_, err := eval.ReadNAB(tt.fs)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %s", tt.name, err, tt.want)
		}
	}
}

// smoothed forecasts one step by exponential smoothing of the level and of what each time of the day differs from it.
type smoothed struct {
	alpha, gamma float64
	level        float64
	season       []float64
	n            int
}

func (m *smoothed) Observe(_ time.Time, y float64) {
	if math.IsNaN(y) {
		m.n++
		return
	}
	place := &m.season[m.n%len(m.season)]
	u := y - m.level - *place
	alpha := max(m.alpha, 1/float64(m.n+1))
	m.level += alpha * u
	if m.n >= len(m.season) || m.gamma == 0 {
		*place += m.gamma * u
	} else {
		*place = 0
	}
	m.n++
}

func (m *smoothed) Forecast(int, []float64) []eval.Point {
	return []eval.Point{{Mean: m.level + m.season[m.n%len(m.season)]}}
}

// detectors are what TestNABTable compares: of each row a score, for the sweep.
func detectors(t *testing.T) map[string]func(eval.NABFile) []float64 {
	all := map[string]func(eval.NABFile) []float64{
		"windowed Gaussian": func(f eval.NABFile) []float64 { return windowedGaussian(f.Values) },
	}
	detect := func(o forecast.DetectorOptions, n func(day int) eval.Forecaster) func(eval.NABFile) []float64 {
		return func(f eval.NABFile) []float64 {
			s := eval.Series{Name: f.Name, Step: usualStep(f), Values: f.Values}
			found, err := eval.Detect(s, n(s.Steps(24*time.Hour)), o)
			if err != nil {
				t.Error(err)
			}
			scores := make([]float64, len(f.Values))
			for i, v := range found {
				if v.Alert {
					scores[i] = max(v.Score, 5)
				}
			}
			return scores
		}
	}
	all["level and day"] = detect(forecast.DetectorOptions{Seasonal: true}, func(day int) eval.Forecaster {
		return &smoothed{alpha: 0.02, gamma: 0.1, season: make([]float64, day)}
	})
	all["level"] = detect(forecast.DetectorOptions{}, func(int) eval.Forecaster {
		return &smoothed{alpha: 0.02, season: make([]float64, 1)}
	})
	all["auto"] = func(f eval.NABFile) []float64 {
		return detect(forecast.DetectorOptions{Seasonal: true}, func(int) eval.Forecaster {
			m, err := forecast.New(forecast.Options{Step: usualStep(f), Horizon: 1, AllowNegative: true})
			if err != nil {
				t.Error(err)
			}
			return &eval.Online{Forecaster: m}
		})(f)
	}
	for _, name := range eval.Baselines() {
		all[name] = func(f eval.NABFile) []float64 {
			return detect(forecast.DetectorOptions{Seasonal: true}, func(int) eval.Forecaster {
				b, err := eval.NewBaseline(name, usualStep(f), 1, nil)
				if err != nil {
					t.Error(err)
				}
				return b
			})(f)
		}
	}
	return all
}

// usualStep is the difference of times that is in the middle.
func usualStep(f eval.NABFile) time.Duration {
	var d []time.Duration
	for i := 1; i < len(f.Times); i++ {
		d = append(d, f.Times[i].Sub(f.Times[i-1]))
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// TestNABTable prints what detectors come to on the files of NAB that are in FORECAST_DATA.
func TestNABTable(t *testing.T) {
	data := os.Getenv("FORECAST_DATA")
	if data == "" {
		t.Skip("FORECAST_DATA names no folder of data sets: see make eval-forecast")
	}
	files, err := eval.ReadNAB(os.DirFS(filepath.Join(data, "nab")))
	if err != nil {
		t.Fatal(err)
	}
	// Every second folder is one part, the others are the other: with the threshold that is the best for one of them the other
	// says what to expect of series that nobody has seen.
	var parts [2][]eval.NABFile
	folder, part := "", 1
	for _, f := range files {
		if name, _, _ := strings.Cut(f.Name, "/"); name != folder {
			folder, part = name, 1-part
		}
		parts[part] = append(parts[part], f)
	}
	fmt.Printf("\nNAB 1.1, %d of 58 files: normalised score at the best threshold of each\n", len(files))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tstandard\tlow FP\tlow FN\tfolders 1, 3, ...\tby the others' threshold\tfolders 2, 4, ...\tby the others' threshold\t")
	all := detectors(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		scores := make(map[string][]float64, len(files)) // by name of the file
		var mu sync.Mutex
		var wg sync.WaitGroup
		free := make(chan struct{}, runtime.GOMAXPROCS(0))
		for _, f := range files {
			free <- struct{}{}
			wg.Go(func() {
				found := all[name](f)
				mu.Lock()
				scores[f.Name] = found
				mu.Unlock()
				<-free
			})
		}
		wg.Wait()
		p := eval.NABProfiles()
		of := func(files []eval.NABFile) (some [][]float64) {
			for _, f := range files {
				some = append(some, scores[f.Name])
			}
			return some
		}
		whole := of(files)
		standard := p[0].Best(files, whole).Normalized
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t", name, standard, p[1].Best(files, whole).Normalized, p[2].Best(files, whole).Normalized)
		var best [2]eval.NABScore
		for i, part := range parts {
			best[i] = p[0].Best(part, of(part))
		}
		for i, part := range parts {
			fmt.Fprintf(w, "%.1f\t%.1f\t", best[i].Normalized, p[0].Score(part, of(part), best[1-i].Threshold).Normalized)
		}
		fmt.Fprintln(w)
		if name == "auto" && standard < 42 {
			t.Errorf("NAB: auto %.1f, want 42", standard)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

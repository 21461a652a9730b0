package eval_test

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"flyball/forecast"
	"flyball/forecast/eval"
)

// contender is a row of the table.
type contender struct {
	name string
	new  eval.New
}

// contenders are what the table compares.
func contenders() []contender {
	var all []contender
	for _, name := range eval.Baselines() {
		all = append(all, contender{name, eval.NewBaselines(name)})
	}
	return append(all, contender{"auto", func(s eval.Series, horizon int, levels []float64) (eval.Forecaster, error) {
		f, err := forecast.New(forecast.Options{Step: s.Step, Horizon: horizon, Levels: levels})
		return &eval.Online{Forecaster: f}, err
	}})
}

// dataSet is some series and how they are measured.
type dataSet struct {
	name   string
	series []eval.Series
	how    func(eval.Series) eval.Rolling
}

// TestAccuracy prints how well the data sets that are in the folder FORECAST_DATA are forecast (make eval-forecast). What
// is held out, every third series, is for no one to tune on and has rows of its own.
func TestAccuracy(t *testing.T) {
	dir := os.Getenv("FORECAST_DATA")
	if dir == "" {
		t.Skip("FORECAST_DATA names no folder of data sets: see make eval-forecast")
	}
	// What another harness, in R, has for the same series and origins: this one has to agree before it is believed.
	known := map[string][2]float64{ // MASE, geometric mean of the relative MAE
		"ServeGen naive": {1.017, 1}, "ServeGen seasonal_day": {1.128, 1.261},
		"crane naive": {2.289, 1}, "crane seasonal_day": {4.465, 1.098},
	}
	found := 0
	for _, set := range []dataSet{
		{"ServeGen, 10 min, 1 h ahead", csvFiles(t, dir, "servegen_total_10min.csv", "servegen_clients_10min.csv"), trace},
		{"crane, 5 min, 1 h ahead", rowFile(t, dir, "crane_cpu_5min.csv", 0), trace},
		{"M4 hourly, 48 h ahead", m4(t, dir), func(s eval.Series) eval.Rolling {
			return eval.Rolling{Train: s.Step * time.Duration(len(s.Values)-48), Horizon: 48 * time.Hour}
		}},
	} {
		if len(set.series) == 0 {
			continue
		}
		found++
		fmt.Printf("\n%s: %d series\n", set.name, len(set.series))
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "\tpart\tn\tMASE\tmedian\tsMAPE\tgmean rel\tworst rel\tsWIS\tcov 80 %\tcov 95 %\tp90\tfit\tobserve\t")
		for _, c := range contenders() {
			results := measure(t, set, c.new)
			all := eval.Summarize(results, func(r eval.Result) eval.Score { return r.Score })
			short, _, _ := strings.Cut(set.name, ",")
			if want, ok := known[short+" "+c.name]; ok && (math.Abs(all.MASE-want[0]) > 0.0005 || math.Abs(all.GMeanRelMAE-want[1]) > 0.0005) {
				t.Errorf("%s, %s: MASE %.4f and geometric mean %.4f, want %v", short, c.name, all.MASE, all.GMeanRelMAE, want)
			}
			for _, part := range []struct {
				name string
				is   func(i int) bool
			}{{"all", func(int) bool { return true }}, {"tuning", func(i int) bool { return !heldOut(i) }}, {"held out", heldOut}} {
				var some []eval.Result
				for i, r := range results {
					if part.is(i) {
						some = append(some, r)
					}
				}
				s := eval.Summarize(some, func(r eval.Result) eval.Score { return r.Score })
				if s.Series == 0 {
					continue
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%s\t%s\t\n", c.name, part.name, s.Series,
					s.MASE, s.MedianMASE, s.SMAPE, s.GMeanRelMAE, s.WorstRelMAE, s.ScaledWIS, s.Bands[1].Ratio, s.Bands[0].Ratio, s.Coverage[3].Ratio,
					s.Fit.Round(10*time.Microsecond), s.Observe)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Errorf("%s has none of the data sets", dir)
	}
}

// measure runs each series as its data set says, those that are measured alike together.
func measure(t *testing.T, set dataSet, n eval.New) []eval.Result {
	t.Helper()
	results := make([]eval.Result, len(set.series))
	alike := map[string][]int{}
	for i, s := range set.series {
		key := fmt.Sprint(set.how(s))
		alike[key] = append(alike[key], i)
	}
	for _, indices := range alike {
		var some []eval.Series
		for _, i := range indices {
			some = append(some, set.series[i])
		}
		r, err := set.how(some[0]).Run(t.Context(), some, n)
		if err != nil {
			t.Fatal(err)
		}
		for k, i := range indices {
			results[i] = r[k]
		}
	}
	return results
}

// trace is how series of demand are measured: an hour ahead, every six hours, after eight days, or six of a short one.
func trace(s eval.Series) eval.Rolling {
	const day = 24 * time.Hour
	if s.Step*time.Duration(len(s.Values)) < 12*day {
		return eval.Rolling{Train: 6 * day}
	}
	return eval.Rolling{Train: 8 * day}
}

// heldOut tells for the series at i of a data set.
func heldOut(i int) bool { return i%3 == 2 }

func csvFiles(t *testing.T, dir string, names ...string) (all []eval.Series) {
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		table, err := eval.ReadCSV(f, name)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, table.Series...)
	}
	return all
}

// rowFile reads a file that has a series in each row: after its name come the start and the step in seconds, and values;
// or if step is not 0, values alone.
func rowFile(t *testing.T, dir, name string, step time.Duration) (all []eval.Series) {
	f, err := os.Open(filepath.Join(dir, name))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for line := 1; in.Scan(); line++ {
		fields := strings.Split(in.Text(), ",")
		if fields[0] == "series" {
			continue
		}
		s := eval.Series{Name: fields[0], Step: step}
		numbers := make([]float64, len(fields)-1)
		for i, text := range fields[1:] {
			if numbers[i], err = strconv.ParseFloat(text, 64); err != nil {
				t.Fatalf("%s:%d: %v", name, line, err)
			}
		}
		if step == 0 {
			s.Start, s.Step = time.Unix(int64(numbers[0]), 0).UTC(), time.Duration(numbers[1])*time.Second
			numbers = numbers[2:]
		}
		s.Values = numbers
		all = append(all, s)
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// m4 reads the hourly series of the M4 competition, the two days to forecast appended to what there is to train on.
func m4(t *testing.T, dir string) []eval.Series {
	test := map[string][]float64{}
	for _, s := range rowFile(t, dir, "m4_hourly_test.csv", time.Hour) {
		test[s.Name] = s.Values
	}
	var all []eval.Series
	for _, part := range []string{"a", "b"} {
		for _, s := range rowFile(t, dir, "m4_hourly_train_"+part+".csv", time.Hour) {
			if len(test[s.Name]) == 48 {
				s.Values = append(s.Values, test[s.Name]...)
				all = append(all, s)
			}
		}
	}
	return all
}

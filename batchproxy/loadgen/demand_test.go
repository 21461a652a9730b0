package loadgen

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func TestUniformTimes(t *testing.T) {
	ms := func(values ...int) []time.Duration {
		times := make([]time.Duration, len(values))
		for i, v := range values {
			times[i] = time.Duration(v) * time.Millisecond
		}
		return times
	}
	rising := Demand{steps: []step{
		{to: time.Second, rate: 2},
		{from: time.Second, to: 2 * time.Second, rate: 0},
		{from: 2 * time.Second, to: 3 * time.Second, rate: 4},
	}}
	for _, tt := range []struct {
		name   string
		demand Demand
		want   []time.Duration
	}{
		{name: "constant", demand: Constant(5, time.Second), want: ms(0, 200, 400, 600, 800)},
		{name: "less than one a second", demand: Constant(0.5, 5*time.Second), want: ms(0, 2000, 4000)},
		{name: "steps with a pause", demand: rising, want: ms(0, 500, 2000, 2250, 2500, 2750)},
		{name: "limited", demand: rising.Limit(2300 * time.Millisecond), want: ms(0, 500, 2000, 2250)},
		{name: "nothing", demand: Demand{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := slices.Collect(tt.demand.Times(Uniform, nil))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("times (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPoissonTimes compares the counts of seconds with what makes a Poisson process: the mean, a variance equal to the
// mean, independence from one second to the next, and exponential gaps.
func TestPoissonTimes(t *testing.T) {
	const rate, length = 50.0, 4000
	counts := make([]float64, length)
	var gaps []float64
	last := 0.0
	for at := range Constant(rate, length*time.Second).Times(Poisson, testRandom(1)) {
		counts[int(at.Seconds())]++
		gaps = append(gaps, at.Seconds()-last)
		last = at.Seconds()
	}
	mean, variance := moments(counts)
	// Four standard errors: sqrt(rate/length) of the mean; about rate*sqrt(2/length) of the variance.
	if tolerance := 4 * math.Sqrt(rate/length); math.Abs(mean-rate) > tolerance {
		t.Errorf("mean of a second's arrivals is %.2f, expected %.2f ± %.2f", mean, rate, tolerance)
	}
	if tolerance := 4 * rate * math.Sqrt(2.0/length); math.Abs(variance-rate) > tolerance {
		t.Errorf("variance of a second's arrivals is %.2f, expected %.2f ± %.2f", variance, rate, tolerance)
	}
	var covariance float64
	for i := 1; i < length; i++ {
		covariance += (counts[i] - mean) * (counts[i-1] - mean) / (length - 1)
	}
	if r := covariance / variance; math.Abs(r) > 4/math.Sqrt(length) {
		t.Errorf("seconds that follow each other have correlation %.3f, expected 0", r)
	}
	gapMean, gapVariance := moments(gaps)
	if cv := math.Sqrt(gapVariance) / gapMean; math.Abs(cv-1) > 0.02 {
		t.Errorf("gaps have a coefficient of variation of %.3f, expected 1", cv)
	}
}

func moments(values []float64) (mean, variance float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		variance += (v - mean) * (v - mean) / float64(len(values)-1)
	}
	return mean, variance
}

// TestTraceTimes checks that a trace played faster keeps its rates: in each of its steps the number of arrivals is the
// rate times the time that the step takes in the run.
func TestTraceTimes(t *testing.T) {
	trace := Trace{Name: "day.csv"}
	for hour := range 24 {
		rate := 100 + 80*math.Sin(float64(hour)/24*2*math.Pi)
		trace.Points = append(trace.Points, Point{At: time.Duration(hour) * time.Hour, Rate: rate})
	}
	demand, err := trace.Demand(720, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := demand.Duration(), 2*time.Minute; got != want {
		t.Errorf("a day 720 times as fast takes %v, expected %v", got, want)
	}
	for _, kind := range []Arrivals{Uniform, Poisson} {
		counts := make([]float64, 24)
		total, last := 0.0, time.Duration(-1)
		for at := range demand.Times(kind, testRandom(2)) {
			if at < last {
				t.Fatalf("%s: %v comes after %v", kind, at, last)
			}
			last = at
			counts[at/(5*time.Second)]++
			total++
		}
		sigma := math.Sqrt // of a Poisson count
		if kind == Uniform {
			sigma = func(float64) float64 { return 0.3 } // rounding to whole requests
		}
		if want := demand.Expected(); math.Abs(total-want) > 4*sigma(want) {
			t.Errorf("%s: %v arrivals, expected %.0f", kind, total, want)
		}
		for hour, got := range counts {
			want := trace.Points[hour].Rate * 2 * 5
			if math.Abs(got-want) > 4*sigma(want) {
				t.Errorf("%s: hour %d has %v arrivals, expected %.0f", kind, hour, got, want)
			}
		}
	}
}

func TestTimesRepeat(t *testing.T) {
	demand := Constant(100, time.Second)
	first := slices.Collect(demand.Times(Poisson, testRandom(3)))
	if again := slices.Collect(demand.Times(Poisson, testRandom(3))); !slices.Equal(first, again) {
		t.Error("the same seed gave other times")
	}
	if other := slices.Collect(demand.Times(Poisson, testRandom(4))); slices.Equal(first, other) {
		t.Error("another seed gave the same times")
	}
	for at := range demand.Times(Poisson, testRandom(3)) {
		if at != first[0] {
			t.Errorf("first time is %v, expected %v", at, first[0])
		}
		break // a loop may stop early
	}
}

func TestReadTrace(t *testing.T) {
	for _, tt := range []struct {
		name, text, err string
		want            []Point
	}{
		{
			name: "header, comment, spaces and blank lines",
			text: "# demand of a day\nt_seconds,requests_per_second\n\n0, 1.5\n600,0\n900.5,2\n",
			want: []Point{{0, 1.5}, {600 * time.Second, 0}, {900500 * time.Millisecond, 2}},
		},
		{
			name: "no header, starts late, quoted",
			text: "100,3\n\"110\",4\n",
			want: []Point{{0, 3}, {10 * time.Second, 4}},
		},
		{name: "empty", text: "", err: "demand.csv: no rows: a trace has rows of t_seconds,requests_per_second"},
		{name: "header alone", text: "t,rate\n", err: "demand.csv: no rows: a trace has rows of t_seconds,requests_per_second"},
		{name: "one row", text: "0,1\n", err: "demand.csv: one row alone: a trace needs two, as a rate holds until the next row"},
		{name: "time no number", text: "0,1\nten,2\n", err: `demand.csv:2: t_seconds: "ten" is not a number: give 0 or more`},
		{name: "first row half a number", text: "0,one\n1,2\n", err: `demand.csv:1: requests_per_second: "one" is not a number: give 0 or more`},
		{name: "rate missing", text: "t,r\n0,1\n1,\n", err: `demand.csv:3: requests_per_second: "" is not a number: give 0 or more`},
		{name: "negative", text: "0,1\n1,-2\n", err: `demand.csv:2: requests_per_second: "-2" is negative: give 0 or more`},
		{name: "NaN", text: "0,1\n1,NaN\n", err: `demand.csv:2: requests_per_second: "NaN" is no value: leave the row out or give 0 or more`},
		{name: "infinite", text: "0,1\n1,+Inf\n", err: `demand.csv:2: requests_per_second: "+Inf" is too large: give at most 1.7976931348623157e+308`},
		{name: "time too large", text: "0,1\n1e300,1\n", err: `demand.csv:2: t_seconds: "1e300" is too large: give at most 1e+09`},
		{name: "same time", text: "0,1\n5,2\n5,3\n", err: "demand.csv:3: t_seconds: 5 does not come after the row before it (5): times must ascend"},
		{name: "time goes back", text: "0,1\n\n5,2\n4,3\n", err: "demand.csv:4: t_seconds: 4 does not come after the row before it (5): times must ascend"},
		{name: "columns", text: "0,1,2\n", err: "demand.csv:1: 3 columns: a trace has two, t_seconds and requests_per_second"},
		{name: "quote", text: "0,1\n1,\"2\n", err: `demand.csv:2: column 6: extraneous or missing " in quoted-field`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadTrace(strings.NewReader(tt.text), "demand.csv")
			if message(err) != tt.err {
				t.Fatalf("error\n got %s\nwant %s", message(err), tt.err)
			}
			if diff := cmp.Diff(tt.want, got.Points); diff != "" {
				t.Errorf("points (-want +got):\n%s", diff)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTraceDemandFaults(t *testing.T) {
	trace := Trace{Name: "day.csv", Points: []Point{{0, 1}, {time.Hour, 2}}}
	for _, tt := range []struct {
		name           string
		trace          Trace
		speedup, scale float64
		want           string
	}{
		{name: "speedup", trace: trace, speedup: 0, scale: 1, want: "speedup: 0 is not a factor: give a number above 0"},
		{name: "scale", trace: trace, speedup: 1, scale: math.NaN(), want: "scale: NaN is not a factor: give a number above 0"},
		{name: "empty", trace: Trace{Name: "day.csv"}, speedup: 1, scale: 1, want: "day.csv: a trace needs two points, this one has 0"},
		{name: "too fast", trace: trace, speedup: 1e13, scale: 1, want: "speedup: 1e+13 plays day.csv (2h0m0s) in 7.2e-10 s: give a factor that a run can follow"},
		{name: "too slow", trace: trace, speedup: 1e-9, scale: 1, want: "speedup: 1e-09 plays day.csv (2h0m0s) in 7.2e+12 s: give a factor that a run can follow"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.trace.Demand(tt.speedup, tt.scale); message(err) != tt.want {
				t.Errorf("error\n got %s\nwant %s", message(err), tt.want)
			}
		})
	}
}

func FuzzReadTrace(f *testing.F) {
	f.Add("t_seconds,requests_per_second\n0,1\n600,2.5\n")
	f.Add("0,1\n1,NaN\n")
	f.Add("0,1e308\n1e-9,1\n1e9,3")
	f.Add("\"a\n\",b\n0,0\n")
	f.Fuzz(func(t *testing.T, text string) {
		trace, err := ReadTrace(strings.NewReader(text), "fuzz.csv")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz.csv:") {
				t.Fatalf("error does not name the file: %v", err)
			}
			return
		}
		if len(trace.Points) < 2 || trace.Points[0].At != 0 {
			t.Fatalf("points %v", trace.Points)
		}
		for i, p := range trace.Points {
			if i > 0 && p.At <= trace.Points[i-1].At {
				t.Fatalf("times do not ascend: %v", trace.Points)
			}
			if !(p.Rate >= 0) || math.IsInf(p.Rate, 0) {
				t.Fatalf("rate %v", p.Rate)
			}
		}
		demand, err := trace.Demand(1, 1)
		if err != nil {
			return
		}
		// A time of decades is a float64 with steps of a microsecond.
		if (demand.Duration() - trace.Duration()).Abs() > time.Microsecond {
			t.Fatalf("demand lasts %v, the trace %v", demand.Duration(), trace.Duration())
		}
		n, last := 0, time.Duration(-1)
		for at := range demand.Times(Uniform, nil) {
			if at < last || at >= demand.Duration() {
				t.Fatalf("time %v after %v in a demand of %v", at, last, demand.Duration())
			}
			last = at
			if n++; n == 1000 {
				break
			}
		}
	})
}

// TestQuickstartDemand holds the trace of the quickstart to what its README says of it.
func TestQuickstartDemand(t *testing.T) {
	file, err := os.Open("../../examples/quickstart/demand.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	trace, err := ReadTrace(file, "demand.csv")
	if err != nil {
		t.Fatal(err)
	}
	demand, err := trace.Demand(720, 1)
	if err != nil {
		t.Fatal(err)
	}
	low, high := math.Inf(1), 0.0
	for _, p := range trace.Points {
		low, high = min(low, p.Rate), max(high, p.Rate)
	}
	mean := demand.Expected() / demand.Duration().Seconds()
	got := fmt.Sprintf("%v, %d rows, %.1f to %.1f, mean %.1f; 720 times as fast %v", trace.Duration(), len(trace.Points), low, high, mean, demand.Duration())
	if want := "168h0m0s, 1008 rows, 78.3 to 454.5, mean 212.6; 720 times as fast 14m0s"; got != want {
		t.Errorf("demand\n got %s\nwant %s", got, want)
	}
}

package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFigure(t *testing.T) {
	for _, tt := range []struct {
		samples []float64
		want    Figure
	}{
		{nil, Figure{}},
		{[]float64{3}, Figure{3, 3, 3, 1}},
		{[]float64{9, 1, 4}, Figure{4, 1, 9, 3}},
		{[]float64{9, 1, 4, 2}, Figure{3, 1, 9, 4}},
	} {
		before := append([]float64{}, tt.samples...)
		if diff := cmp.Diff(tt.want, figureOf(tt.samples)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.samples, diff)
		}
		if diff := cmp.Diff(before, append([]float64{}, tt.samples...)); diff != "" {
			t.Errorf("the samples were changed:\n%s", diff)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 8: "8", 1234.56: "1235", 12.34: "12.3", 1.236: "1.24", 0.9876: "0.99", 0.0184: "0.0184", -3.14159: "-3.14"} {
		if got := number(v); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
}

// TestWriteText: rows are in the order of the contenders whatever was measured first, and what was not measured is a dash.
func TestWriteText(t *testing.T) {
	f := newFigures([]string{"direct", "nginx"})
	f.table("a", "first table: requests/s")
	for _, v := range []float64{100.4, 98, 250} {
		f.add("a", "nginx", "c=1", v)
	}
	f.add("a", "splice", "c=8", 1)
	f.add("a", "direct", "c=1", 42.25)
	f.table("empty", "nothing was measured here")
	r := Report{
		Started: time.Unix(0, 0), Machine: Machine{Cores: 2, Platform: "linux/amd64", Go: "go1.26", LoadBefore: "0.50", LoadAfter: "3.10"},
		Rounds: 3, Seconds: 2, WarmUp: 1, Tables: f.all(),
		Gates: []Gate{
			Gate{What: "it is fast", Bound: 1.15}.judge(1.3, "a 13, b 10"),
			Gate{What: "it is slow", AtMost: true, Bound: 1}.judge(1.25, "b 10"),
			{What: "it is there", Verdict: NotMeasured, Bound: 5},
		},
		Notes: []string{"something is left out"},
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	const want = `linux/amd64, 2 cores, load 0.50 before and 3.10 after, go1.26, 1970-01-01 00:00:00 UTC
medians of 3 rounds, least..most below; each contender in turn in every round, 2s after a warm-up of 1s

first table: requests/s
              c=1  c=8
  direct     42.2    -
  nginx       100    -
          98..250
  splice        -    1

nothing was measured here

`
	got, gates, _ := strings.Cut(b.String(), "\ngates\n")
	if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	lines := strings.Split(strings.TrimSpace(gates), "\n")
	for i, want := range []string{
		"held it is fast 1.30 at least 1.15 (a 13, b 10)",
		"MISSED it is slow 1.25 at most 1 (b 10)",
		"not measured it is there - at least 5",
		"",
		"notes",
		"something is left out",
	} {
		if i >= len(lines) || strings.Join(strings.Fields(lines[i]), " ") != want {
			t.Fatalf("line %d of\n%s\nwant %s", i, gates, want)
		}
	}
}

// TestJSON: what was not measured has no NaN, which JSON cannot hold.
func TestJSON(t *testing.T) {
	f := newFigures(contenderNames())
	f.table(closedRate, "")
	f.add(closedRate, direct, "c=1", 0)
	r := Report{Tables: f.all(), Gates: judge(f, 0)}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// measured are figures by which every gate is held.
func measured() *figures {
	f := newFigures(contenderNames())
	for _, name := range []string{closedRate, closedP50, poissonMean, overloadTable, passCPU, onnxRate(modelMLP), onnxRate(modelConv), spliceTable} {
		f.table(name, name)
	}
	f.add(closedP50, adaptive, clients(1), 10.4)
	f.add(closedP50, direct, clients(1), 10)
	for _, c := range []int{8, 16, 24, 32, 36, 48, 64} {
		f.add(closedRate, direct, clients(c), 121)
		f.add(closedRate, timeout2, clients(c), 500)
		f.add(closedRate, greedy, clients(c), 400)
		f.add(closedRate, adaptive, clients(c), 600)
	}
	for _, rate := range poissonRates {
		f.add(poissonMean, greedy, perSecond(rate), 10)
		f.add(poissonMean, adaptive, perSecond(rate), 10.05)
	}
	f.add(onnxRate(modelMLP), direct, clients(64), 450)
	f.add(onnxRate(modelMLP), adaptive, clients(64), 2300)
	for _, c := range onnxClients {
		f.add(onnxRate(modelConv), direct, clients(c), 500)
		f.add(onnxRate(modelConv), adaptive, clients(c), 490)
	}
	f.add(overloadTable, adaptive, overloadShare, 0.97)
	f.add(overloadTable, adaptive, overloadGrowth, 1.01)
	for _, c := range passClients {
		f.add(passCPU, nginx, clients(c), 26)
		f.add(passCPU, reverseProxy, clients(c), 68)
		f.add(passCPU, passThrough, clients(c), 67)
	}
	f.add(spliceTable, "v1", spliceTime, 1.2)
	f.add(spliceTable, "oip binary", spliceTime, 0.018)
	return f
}

func TestGates(t *testing.T) {
	byVerdict := func(gates []Gate, v Verdict) (names []string) {
		for _, g := range gates {
			if g.Verdict == v {
				names = append(names, g.What)
			}
		}
		return names
	}
	all := judge(measured(), 0)
	if missed(all) || len(byVerdict(all, NotMeasured)) > 0 || len(byVerdict(all, NotReached)) != 2 {
		t.Errorf("all is well: missed %q, not measured %q, not reached %q", byVerdict(all, Missed), byVerdict(all, NotMeasured), byVerdict(all, NotReached))
	}
	// Each fault misses the gate of its own and no other.
	for _, tt := range []struct {
		want, table, row, column string
		value                    float64
	}{
		{"closed loop, 1 client: p50 of adaptive to direct", closedP50, adaptive, "c=1", 10.6},
		{"closed loop, 8 clients: requests/s of adaptive to the best other", closedRate, timeout2, "c=8", 525},
		{"closed loop, 16 clients: requests/s of adaptive to the best other", closedRate, greedy, "c=16", 560},
		{"closed loop, 24 clients: requests/s of adaptive to the best other", closedRate, adaptive, "c=24", 490},
		{"closed loop, 32 clients: requests/s of adaptive to the best other", closedRate, nginx, "c=32", 610},
		{"closed loop, 36 clients: requests/s of adaptive to the best other", closedRate, timeout5, "c=36", 607},
		{"closed loop, 48 clients: requests/s of adaptive to the best other", closedRate, direct, "c=48", 607},
		{"closed loop, 64 clients: requests/s of adaptive to the best other", closedRate, adaptive, "c=64", 1},
		{"poisson, 50/s: mean latency of adaptive to greedy", poissonMean, adaptive, "50/s", 10.2},
		{"poisson, 300/s: mean latency of adaptive to greedy", poissonMean, greedy, "300/s", 9},
		{"poisson, 1000/s: mean latency of adaptive to greedy", poissonMean, adaptive, "1000/s", 99},
		{"ONNX MLP, 64 clients: requests/s of adaptive to direct", "onnx/MLP", adaptive, "c=64", 2240},
		{"ONNX convolution, 1 clients: requests/s of adaptive to direct", "onnx/convolution", adaptive, "c=1", 470},
		{"ONNX convolution, 8 clients: requests/s of adaptive to direct", "onnx/convolution", adaptive, "c=8", 470},
		{"ONNX convolution, 64 clients: requests/s of adaptive to direct", "onnx/convolution", direct, "c=64", 600},
		{"overload: goodput of adaptive, as a part of its capacity", overloadTable, adaptive, overloadShare, 0.94},
		{"overload: peak memory of adaptive in the second half to that in the first", overloadTable, adaptive, overloadGrowth, 1.3},
		{"pass-through, c=1: CPU a request of flyball to ReverseProxy", passCPU, passThrough, "c=1", 68.2},
		{"pass-through, c=32: CPU a request of flyball to ReverseProxy", passCPU, passThrough, "c=32", 68.2},
		{"merge and split of 32 x 768 floats, v1: ms", spliceTable, "v1", spliceTime, 1.31},
		{"merge and split of 32 x 768 floats, oip binary: ms", spliceTable, "oip binary", spliceTime, 0.021},
		{"poisson, 300/s: mean latency of adaptive to greedy", poissonMean, adaptive, "300/s", math.NaN()},
	} {
		t.Run(tt.want, func(t *testing.T) {
			f := measured()
			f.find(tt.table).values[[2]string{tt.row, tt.column}] = nil
			f.add(tt.table, tt.row, tt.column, tt.value)
			gates := judge(f, 0)
			if diff := cmp.Diff([]string{tt.want}, byVerdict(gates, Missed)); diff != "" || !missed(gates) {
				t.Errorf("missed (-want +got):\n%s", diff)
			}
		})
	}
	if got := byVerdict(judge(measured(), 1), Missed); len(got) != 1 || !strings.HasPrefix(got[0], "requests that failed") {
		t.Errorf("with one wrong answer: missed %q", got)
	}
	// A stretch that is reached, and the bounds themselves.
	f := measured()
	f.find(passCPU).values[[2]string{passThrough, "c=1"}] = []float64{39}
	f.find(closedRate).values[[2]string{adaptive, "c=64"}] = []float64{495}
	if gates := judge(f, 0); missed(gates) || len(byVerdict(gates, NotReached)) != 1 {
		t.Errorf("on the bound: missed %q, not reached %q", byVerdict(gates, Missed), byVerdict(gates, NotReached))
	}
	// Nothing was measured: nothing is missed.
	none := judge(newFigures(contenderNames()), 0)
	if missed(none) || len(byVerdict(none, NotMeasured)) != len(none)-1 {
		t.Errorf("nothing measured: missed %q, %d of %d not measured", byVerdict(none, Missed), len(byVerdict(none, NotMeasured)), len(none))
	}
}

// TestRoundByRound: a machine that slows down between rounds, and in the middle of one, is seen in the medians and not in the ratios of each round.
func TestRoundByRound(t *testing.T) {
	f := newFigures(contenderNames())
	f.table(onnxRate(modelConv), "")
	for _, round := range [][2]float64{{120, 118}, {118, 90}, {90, 89}} {
		f.add(onnxRate(modelConv), direct, clients(8), round[0])
		f.add(onnxRate(modelConv), adaptive, clients(8), round[1])
	}
	for _, g := range judge(f, 0) {
		if g.What != "ONNX convolution, 8 clients: requests/s of adaptive to direct" {
			continue
		}
		if want := "flyball adaptive 90, direct 118; round by round 0.98, 0.76..0.99"; g.Of != want || g.Verdict != Missed {
			t.Errorf("%s: %q, want %q", g.Verdict, g.Of, want)
		}
		return
	}
	t.Error("no such gate")
}

func TestParseWrk(t *testing.T) {
	out := "Running 2s test @ http://127.0.0.1:1\n  1 threads and 8 connections\nRequests/sec: 12\n\nsummary 1307 2000123 11250 3\n"
	got, err := parseWrk([]byte(out))
	if want := (loop{requests: 1307, took: 2000123 * time.Microsecond, p50: 11250 * time.Microsecond, faults: 3}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if r := got.rate(); math.Abs(r-653.46) > 0.01 {
		t.Errorf("%v requests/s", r)
	}
	for _, bad := range []string{"", "unable to connect", "summary 1 2", "summary 0 0 0 0"} {
		if got, err := parseWrk([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestParseSplice(t *testing.T) {
	out := `goos: linux
BenchmarkSplice/v1/32x768/splice 	    2158	    520481 ns/op	     16265 ns/request	  331776 B/op	     101 allocs/op
BenchmarkSplice/v1/32x768/any-2 	    2158	    9520481 ns/op	   1 B/op	     101 allocs/op
BenchmarkSplice/v1/32x64/splice 	    2158	    9520481 ns/op	   1 B/op	     101 allocs/op
BenchmarkSplice/oip/binary/32x768/splice-2 	  2158	    18000 ns/op
PASS
`
	want := []spliced{{"v1", 101}, {"oip/binary", 0}}
	if diff := cmp.Diff(want, parseSplice([]byte(out)), cmp.AllowUnexported(spliced{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRowOf(t *testing.T) {
	body, err := rowOf([]byte(`{"name":"m","inputs":[{"name":"x","datatype":"FP32","shape":[-1,2,3]}],"outputs":[]}`))
	if want := `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2,3],"data":[-0.75,-0.625,-0.5,-0.375,-0.25,-0.125]}]}`; err != nil || string(body) != want {
		t.Errorf("got %s, %v", body, err)
	}
	for _, bad := range []string{``, `{}`, `{"inputs":[{"name":"x","datatype":"BYTES","shape":[-1]}]}`, `{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,-1]}]}`} {
		if body, err := rowOf([]byte(bad)); err == nil {
			t.Errorf("%s: %s", bad, body)
		}
	}
}

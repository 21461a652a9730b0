package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"flyball/batchproxy/loadgen"
)

// The tables, by name.
const (
	closedRate    = "closed/rate"
	closedP50     = "closed/p50"
	poissonMean   = "poisson/mean"
	overloadTable = "overload"
	passCPU       = "pass/cpu"
	passRate      = "pass/rate"
	spliceTable   = "splice"
)

// Columns of tables whose columns are no loads.
const (
	overloadCapacity = "capacity/s"
	overloadOffered  = "offered/s"
	overloadGoodput  = "in time/s"
	overloadShare    = "in time/capacity"
	overloadPeak     = "peak MB"
	overloadGrowth   = "peak, 2nd half/1st"
	spliceTime       = "ms"
	spliceAllocs     = "allocs"
)

// poissonRates are those of the arrivals in requests a second: one at a time, some at a time, half of what the device can do.
var poissonRates = []float64{50, 300, 1000}

// passTurns are the turns of a second each that pass has for each second of other scenes: what one client's request costs differs by a
// half from one second to the next, whichever the proxy, as the cores that the machine gives the processes and their host differ.
const passTurns = 3

// passClients are the clients at once of pass: the cost of one request by itself, and among others.
var passClients = []int{1, 32}

// accelerator is the emulated device's cost: 121 requests/s one at a time, 2000/s in batches of 32.
const accelerator = "8ms+0.25ms"

// unbatchedCapacity is about what the device does one request at a time, in requests a second: a proxy that does not batch has no
// latency above it, only a queue that grows.
const unbatchedCapacity = 115

// saturating is how many clients at once show what a contender can do: four batches of 32.
const saturating = 128

// deadlineHeader tells the proxy how many milliseconds the client will wait.
const deadlineHeader = "X-Flyball-Deadline-Ms"

// overloadFactor is the load of the overload, by what the contender can do.
const overloadFactor = 1.25

func clients(n int) string {
	return "c=" + strconv.Itoa(n)
}

func perSecond(rate float64) string { return fmt.Sprintf("%g/s", rate) }

// settings say how long and how often.
type settings struct {
	rounds   int
	duration time.Duration // of one measurement in a closed loop, whole seconds
	warmUp   time.Duration // before each
	clients  []int
	onnx     []int // clients of that scene
	arrivals int   // Poisson: as many as it takes, but for duration at least
	overload time.Duration
	deadline time.Duration
}

// bench is one run.
type bench struct {
	settings
	programs
	onnxModels []onnxModel
	contenders []contender
	children   *children
	wrk        wrk
	figures    *figures
	notes      []string
	faults     int64
	progress   func(format string, args ...any)
}

// scenes are all of them, by name, in their order.
func scenes() []struct {
	name string
	run  func(*bench, context.Context) error
} {
	return []struct {
		name string
		run  func(*bench, context.Context) error
	}{
		{"closed", (*bench).closed},
		{"poisson", (*bench).poisson},
		{"overload", (*bench).overloaded},
		{"pass", (*bench).pass},
		{"onnx", (*bench).onnx},
		{"splice", (*bench).splice},
	}
}

// before starts the contenders that are wanted before an upstream.
func (b *bench) before(ctx context.Context, upstream string, wanted func(contender) bool) ([]running, error) {
	var all []running
	for _, c := range b.contenders {
		if !wanted(c) {
			continue
		}
		r, err := c.start(ctx, b.children, upstream)
		if err != nil {
			return nil, err
		}
		r.contender = c
		all = append(all, r)
	}
	return all, nil
}

// everyContender is all that differ from each other whatever a request has.
func everyContender(c contender) bool { return !c.tensors }

// device starts the model server with the emulated accelerator, and returns its URL.
func (b *bench) device(ctx context.Context) (string, error) {
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	r, err := b.children.run(ctx, "modelserver", address, b.modelserver, "--web.listen-address="+address, "--accelerator="+accelerator, "--log.level=warn")
	return r.url, err
}

// images are requests for the model server: 32 that differ, so that an answer that reached the wrong client shows.
func images() ([]loadgen.Request, error) {
	rows := make([][]float32, 32)
	for i := range rows {
		rows[i] = make([]float32, 64)
		for j := range rows[i] {
			rows[i][j] = float32((i*7 + j*(i+3)) % 17)
		}
	}
	return loadgen.TensorRequests(model, "pixels", loadgen.V2, rows)
}

// turn is one measurement: of a contender at a load, in a round.
type turn struct {
	scene     string
	round     int
	load      string
	contender running
	at, of    int
}

// say tells how far the run is.
func (b *bench) say(t turn, format string, args ...any) {
	b.progress("%s %d/%d, round %d, %s, %s: %s", t.scene, t.at, t.of, t.round, t.load, t.contender.name, fmt.Sprintf(format, args...))
}

// inTurns calls measure for each of so many rounds, load and contender, in this order: the contenders take turns at each load. Each round
// begins with the next one: a server is not the same after another load, as the memory that it had for 64 clients leaves it fewer garbage
// collections for a while, and who comes first has that.
func inTurns[L any](b *bench, rounds int, scene string, loads []L, name func(L) string, all []running, measured func(L, running) bool, measure func(turn, L) error) error {
	of := 0
	for _, l := range loads {
		for _, r := range all {
			if measured(l, r) {
				of += rounds
			}
		}
	}
	at := 0
	for round := range rounds {
		for _, l := range loads {
			for i := range all {
				r := all[(round+i)%len(all)]
				if !measured(l, r) {
					continue
				}
				at++
				if err := measure(turn{scene: scene, round: round + 1, load: name(l), contender: r, at: at, of: of}, l); err != nil {
					return fmt.Errorf("%s, %s, %s: %w", scene, name(l), r.name, err)
				}
			}
		}
	}
	return b.children.died()
}

func always[L any](L, running) bool { return true }

// loop warms up and measures one closed loop.
func (b *bench) loop(ctx context.Context, url, script string, n int) (loop, error) {
	if b.warmUp > 0 {
		if _, err := b.wrk.drive(ctx, url, script, n, b.warmUp); err != nil {
			return loop{}, err
		}
	}
	return b.wrk.drive(ctx, url, script, n, b.duration)
}

// closed is the closed loop against the emulated accelerator.
func (b *bench) closed(ctx context.Context) error {
	b.figures.table(closedRate, "closed loop, emulated accelerator "+accelerator+": requests/s")
	b.figures.table(closedP50, "closed loop, emulated accelerator "+accelerator+": p50, ms")
	requests, err := images()
	if err != nil {
		return err
	}
	script, err := b.wrk.script("image", requests[0].Body)
	if err != nil {
		return err
	}
	upstream, err := b.device(ctx)
	if err != nil {
		return err
	}
	all, err := b.before(ctx, upstream, everyContender)
	if err != nil {
		return err
	}
	return inTurns(b, b.rounds, "closed", b.clients, clients, all, always, func(t turn, n int) error {
		l, err := b.loop(ctx, t.contender.url+requests[0].Path, script, n)
		if err != nil {
			return err
		}
		b.faults += l.faults
		b.figures.add(closedRate, t.contender.name, t.load, l.rate())
		b.figures.add(closedP50, t.contender.name, t.load, milliseconds(l.p50))
		b.say(t, "%.0f requests/s, p50 %v", l.rate(), l.p50)
		return nil
	})
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// moreRounds is how many rounds the two whose mean latencies are held to 1 % of each other have more than the others, for each after the first:
// those of one round differ by 5 to 10 % on an idle machine of two processors.
const moreRounds = 5

// poisson is the open loop below saturation.
func (b *bench) poisson(ctx context.Context) error {
	b.figures.table(poissonMean, "Poisson arrivals, emulated accelerator "+accelerator+": mean latency, ms")
	upstream, err := b.device(ctx)
	if err != nil {
		return err
	}
	requests, err := b.answered(ctx, upstream)
	if err != nil {
		return err
	}
	all, err := b.before(ctx, upstream, everyContender)
	if err != nil {
		return err
	}
	fits := func(rate float64, r running) bool { return r.batches || rate < unbatchedCapacity }
	late, turns, earlier := 0, 0, 0
	measure := func(t turn, rate float64) error {
		o := loadgen.DefaultOptions()
		o.URL, o.Requests, o.Grace = t.contender.url, requests, 0
		if b.warmUp > 0 {
			o.Demand = loadgen.Constant(rate, b.warmUp)
			if _, err := b.openLoop(ctx, o); err != nil {
				return err
			}
		}
		o.Demand = loadgen.Constant(rate, max(b.duration, time.Duration(float64(b.arrivals)/rate*float64(time.Second))))
		o.Seed = uint64(earlier + t.round) // the same arrivals for each contender, others in each round
		report, err := b.openLoop(ctx, o)
		if err != nil {
			return err
		}
		if turns++; len(report.Warnings) > 0 {
			late++
		}
		b.faults += report.Offered - report.Counts.OK
		b.figures.add(poissonMean, t.contender.name, t.load, report.Latency.Mean*1e3)
		b.say(t, "%d of %d right, mean %.2f ms", report.Counts.OK, report.Offered, report.Latency.Mean*1e3)
		return nil
	}
	if err = inTurns(b, b.rounds, "poisson", poissonRates, perSecond, all, fits, measure); err == nil {
		compared := slices.DeleteFunc(all, func(r running) bool { return r.name != greedy && r.name != adaptive })
		earlier = b.rounds
		err = inTurns(b, moreRounds*(b.rounds-1), "poisson", poissonRates, perSecond, compared, fits, measure)
	}
	if late > 0 {
		b.note("poisson: in %d of %d measurements the generator itself was late, for want of processors; latencies include that", late, turns)
	}
	return err
}

// answered are the requests with the right answers to them.
func (b *bench) answered(ctx context.Context, upstream string) ([]loadgen.Request, error) {
	o := loadgen.DefaultOptions()
	var err error
	if o.Requests, err = images(); err != nil {
		return nil, err
	}
	o.URL = upstream
	return loadgen.Reference(ctx, o)
}

// openLoop runs a load to its end; one that was interrupted is an error.
func (b *bench) openLoop(ctx context.Context, o loadgen.Options) (loadgen.Report, error) {
	report, err := loadgen.Run(ctx, o)
	if err == nil && report.Interrupted {
		err = ctx.Err()
	}
	return report, err
}

func (b *bench) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

// overloaded is more than the contender can do, from clients that go away after the deadline. It is measured once: it is long.
func (b *bench) overloaded(ctx context.Context) error {
	b.figures.table(overloadTable, fmt.Sprintf("overload for %v: %g times what %d clients in a closed loop get; in time: answered within %v, after which clients go away",
		b.overload, overloadFactor, saturating, b.deadline))
	upstream, err := b.device(ctx)
	if err != nil {
		return err
	}
	requests, err := b.answered(ctx, upstream)
	if err != nil {
		return err
	}
	script, err := b.wrk.script("image", requests[0].Body)
	if err != nil {
		return err
	}
	all, err := b.before(ctx, upstream, func(c contender) bool { return c.batches && !c.tensors })
	if err != nil {
		return err
	}
	late := 0
	err = inTurns(b, 1, "overload", []float64{overloadFactor}, func(f float64) string { return fmt.Sprintf("%g times", f) }, all, always, func(t turn, factor float64) error {
		capacity := 0.0 // the most of the rounds: a machine that was busy for a moment hides some of it
		for range b.rounds {
			l, err := b.loop(ctx, t.contender.url+requests[0].Path, script, saturating)
			if err != nil {
				return err
			}
			b.faults += l.faults
			capacity = max(capacity, l.rate())
		}
		o := loadgen.DefaultOptions()
		o.URL, o.Requests, o.Timeout, o.Grace = t.contender.url, requests, b.deadline, 0
		o.Header = http.Header{deadlineHeader: {strconv.FormatInt(b.deadline.Milliseconds(), 10)}}
		o.Demand = loadgen.Constant(factor*capacity, b.overload)
		peaks, watch := b.watchPeaks(t.contender.pids)
		o.Progress = watch
		report, err := b.openLoop(ctx, o)
		if err != nil {
			return err
		}
		first, second, err := peaks()
		if err != nil {
			return err
		}
		if len(report.Warnings) > 0 {
			late++
		}
		b.faults += report.Counts.Wrong
		goodput := float64(report.Counts.OK) / report.DurationSeconds
		for _, v := range []struct {
			column string
			value  float64
		}{
			{overloadCapacity, capacity},
			{overloadOffered, report.OfferedRate},
			{overloadGoodput, goodput},
			{overloadShare, goodput / capacity},
			{overloadPeak, float64(max(first, second)) / 1e6},
			{overloadGrowth, float64(second) / float64(first)},
		} {
			b.figures.add(overloadTable, t.contender.name, v.column, v.value)
		}
		b.say(t, "%.0f/s in time of %.0f/s, at %.0f/s; peak %d MB", goodput, capacity, report.OfferedRate, max(first, second)/1e6)
		return nil
	})
	if late > 0 {
		b.note("overload: in %d of %d measurements the generator itself was late, for want of processors", late, len(all))
	}
	return err
}

// watchPeaks watches memory in both halves of a load: watch is called with its progress, peaks when it is over.
func (b *bench) watchPeaks(pids []int) (peaks func() (first, second int64, err error), watch func(loadgen.Snapshot)) {
	fault := resetPeak(pids)
	var first int64
	half := false
	watch = func(s loadgen.Snapshot) { // by one goroutine, which has ended when the load is over
		if half || fault != nil || s.Elapsed < s.Total/2 {
			return
		}
		half = true
		if first, fault = peakMemory(pids); fault == nil {
			fault = resetPeak(pids)
		}
	}
	return func() (int64, int64, error) {
		second, err := peakMemory(pids)
		if fault != nil {
			err = fault
		}
		return first, second, err
	}, watch
}

// pass is what a request costs that is sent on as it is.
func (b *bench) pass(ctx context.Context) error {
	b.figures.table(passCPU, "pass-through, bodies of 1 kB: processor time of the proxy a request, µs")
	b.figures.table(passRate, "pass-through, bodies of 1 kB: requests/s, all on the same cores")
	script, err := b.wrk.script("kilobyte", kilobyte)
	if err != nil {
		return err
	}
	upstream, err := b.startStub(ctx)
	if err != nil {
		return err
	}
	all, err := b.before(ctx, upstream, func(c contender) bool { return !c.batches })
	if err != nil {
		return err
	}
	const path = "/v2/models/" + model + "/generate" // which flyball never merges
	turns := b.rounds * passTurns * max(1, int(b.duration/time.Second))
	return inTurns(b, turns, "pass", passClients, clients, all, always, func(t turn, n int) error {
		url := t.contender.url + path
		if b.warmUp > 0 && t.round == 1 {
			if _, err := b.wrk.drive(ctx, url, script, n, b.warmUp); err != nil {
				return err
			}
		}
		before, err := cpuTime(t.contender.pids)
		if err != nil {
			return err
		}
		l, err := b.wrk.drive(ctx, url, script, n, time.Second)
		if err != nil {
			return err
		}
		after, err := cpuTime(t.contender.pids)
		if err != nil {
			return err
		}
		b.faults += l.faults
		b.figures.add(passRate, t.contender.name, t.load, l.rate())
		each := float64(after-before) / float64(time.Microsecond) / float64(max(l.requests, 1))
		if len(t.contender.pids) > 0 {
			b.figures.add(passCPU, t.contender.name, t.load, each)
		}
		b.say(t, "%.1f µs a request, %.0f requests/s", each, l.rate())
		return nil
	})
}

// startStub starts the model server of pass.
func (b *bench) startStub(ctx context.Context) (string, error) {
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	self, err := selfPath()
	if err != nil {
		return "", err
	}
	r, err := b.children.run(ctx, "stub", address, self, stubCommand, "--listen-address="+address)
	return r.url, err
}

// splice runs the Go benchmark, in the module's own folder. What counts is processor time, and the time that a benchmark has on the
// clock is not that on a busy machine; so each is run in a process of its own for few and for many iterations, whose difference is
// without the start of the process.
func (b *bench) splice(ctx context.Context) error {
	b.figures.table(spliceTable, "parse, merge and split of 32 requests of 768 floats each (BenchmarkSplice of batchproxy/protocol): processor time")
	program := filepath.Join(b.children.dir, "protocol.test")
	b.progress("splice: go test -c ./batchproxy/protocol")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "flyball/batchproxy/protocol").CombinedOutput(); err != nil {
		return fmt.Errorf("go test -c: %w\n%s", errors.Join(err, ctx.Err()), out)
	}
	// measure runs the benchmarks of a pattern, and returns what they say and the processor time of the process.
	measure := func(pattern string, iterations int) ([]byte, time.Duration, error) {
		c := exec.CommandContext(ctx, program, "-test.run=^$", "-test.bench="+pattern, "-test.benchmem", "-test.cpu=1", fmt.Sprintf("-test.benchtime=%dx", iterations))
		out, err := c.CombinedOutput()
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w\n%s", pattern, errors.Join(err, ctx.Err()), out)
		}
		return out, c.ProcessState.UserTime() + c.ProcessState.SystemTime(), nil
	}
	out, _, err := measure("^BenchmarkSplice$/./32x768$/splice", spliceFew)
	if err != nil {
		return err
	}
	all := parseSplice(out)
	if len(all) == 0 {
		return fmt.Errorf("there is no benchmark of merging and splitting in\n%s", out)
	}
	for round := range b.rounds {
		for _, s := range all {
			pattern := "^BenchmarkSplice$/^" + strings.ReplaceAll(s.name, "/", "$/^") + "$/^32x768$/^splice$"
			_, few, err := measure(pattern, spliceFew)
			if err != nil {
				return err
			}
			_, many, err := measure(pattern, spliceMany)
			if err != nil {
				return err
			}
			each := milliseconds(many-few) / (spliceMany - spliceFew)
			b.figures.add(spliceTable, s.name, spliceTime, each)
			b.figures.add(spliceTable, s.name, spliceAllocs, s.allocations)
			b.progress("splice, round %d, %s: %.3f ms", round+1, s.name, each)
		}
	}
	return nil
}

// spliceFew and spliceMany are iterations of a benchmark: of the fastest, 20 µs, their difference is ten times what starts of a process differ by.
const (
	spliceFew  = 50
	spliceMany = 1050
)

// wants reports whether a list names it; an empty list names all.
func wants(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }

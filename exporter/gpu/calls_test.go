package gpu

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// TestCallDurations: what goes over the protocol in buckets is, in the parent's histogram, what each call by itself would be.
func TestCallDurations(t *testing.T) {
	took := []time.Duration{
		1, 430 * time.Nanosecond, 470 * time.Nanosecond, time.Microsecond, 2500 * time.Nanosecond, 2501 * time.Nanosecond,
		137 * time.Microsecond, 4491 * time.Microsecond, 125 * time.Millisecond, 2 * time.Second, 25 * time.Second,
	}
	const call = "nvmlDeviceGetUtilizationRates"
	s := &stopwatch{}
	want, got := newCallDurations(true), newCallDurations(true)
	sum := 0.0
	for _, d := range took {
		s.note(call, d)
		want.vec.WithLabelValues(call).Observe(d.Seconds())
		sum += d.Seconds()
	}
	line, err := json.Marshal(frame{Kind: kindEnd, Seq: 1, Calls: s.lap()})
	if err != nil {
		t.Fatal(err)
	}
	f, err := decodeFrame(line)
	if err != nil {
		t.Fatal(err)
	}
	got.observe(f.Calls)
	if diff := cmp.Diff(histogram(t, want), histogram(t, got)); diff != "" {
		t.Errorf("histogram (-each call +over the protocol):\n%s", diff)
	}
	if h := written(t, got); math.Abs(h.GetSampleSum()-sum) > 1e-9 || h.GetSampleCount() != uint64(len(took)) {
		t.Errorf("%d calls of %v s, want %d of %v s", h.GetSampleCount(), h.GetSampleSum(), len(took), sum)
	}
	if again := s.lap(); again != nil {
		t.Errorf("told twice: %v", again)
	}
}

// histogram returns the buckets of the only series, classic and native.
func histogram(t *testing.T, d *callDurations) (buckets []any) {
	t.Helper()
	h := written(t, d)
	for _, b := range h.GetBucket() {
		buckets = append(buckets, b.GetUpperBound(), b.GetCumulativeCount())
	}
	for _, s := range h.GetPositiveSpan() {
		buckets = append(buckets, s.GetOffset(), s.GetLength())
	}
	return append(buckets, h.GetSchema(), h.GetZeroCount(), h.GetPositiveDelta())
}

func written(t *testing.T, d *callDurations) *dto.Histogram {
	t.Helper()
	list := d.metrics()
	if len(list) != 1 {
		t.Fatalf("%d series, want 1", len(list))
	}
	var m dto.Metric
	if err := list[0].Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetHistogram()
}

// TestSaneCalls: what a worker says of its calls is bounded, in calls, labels and time.
func TestSaneCalls(t *testing.T) {
	const a, b = "nvmlDeviceGetPowerUsage", "nvmlDeviceGetName"
	good := callBuckets{-80: {Count: 2, Sum: 0.0019}} // at most 2^-10 s each
	for _, tt := range []struct {
		name string
		said map[string]callBuckets
		want map[string]callBuckets
	}{
		{"nothing", nil, nil},
		{"it is sane", map[string]callBuckets{a: good, b: good}, map[string]callBuckets{a: good, b: good}},
		{"a call that there is not", map[string]callBuckets{"nvmlX": good, "": good}, map[string]callBuckets{}},
		{"no calls", map[string]callBuckets{a: {-80: {Sum: 1}}}, map[string]callBuckets{}},
		{"more calls than there can be", map[string]callBuckets{a: {-80: {Count: 1e18, Sum: 1}}}, map[string]callBuckets{}},
		{"longer than their bucket", map[string]callBuckets{a: {-80: {Count: 2, Sum: 1}}}, map[string]callBuckets{}},
		{"shorter than their bucket", map[string]callBuckets{a: {-80: {Count: 2, Sum: 0.0015}}}, map[string]callBuckets{}},
		{"longer than a day", map[string]callBuckets{a: {maxCallBound: {Count: 1, Sum: 1e300}}}, map[string]callBuckets{}},
		{"less than no time", map[string]callBuckets{a: {-80: {Count: 2, Sum: -1}}}, map[string]callBuckets{}},
		{"no time at all", map[string]callBuckets{a: {minCallBound: {Count: 2}}}, map[string]callBuckets{a: {minCallBound: {Count: 2}}}},
		{"an hour", map[string]callBuckets{a: {maxCallBound: {Count: 1, Sum: 3600}}}, map[string]callBuckets{a: {maxCallBound: {Count: 1, Sum: 3600}}}},
		{"a bucket that there is not", map[string]callBuckets{a: {5000: {Count: 1, Sum: 1}, -5000: {Count: 1, Sum: 0}}}, map[string]callBuckets{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, saneCalls(tt.said)); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
	many := map[string]callBuckets{a: {}}
	for bound := minCallBound; bound <= maxCallBound; bound++ {
		many[a][bound] = callTimes{Count: maxCallCount / 2, Sum: maxCallCount / 2 * math.Exp2(float64(bound)/8)}
	}
	if left := saneCalls(many)[a]; len(left) != 2 {
		t.Errorf("%d buckets of half the calls that there may be, want 2", len(left))
	}
}

// TestNoCallDurations: where they are not asked for, nothing is measured, told or published.
func TestNoCallDurations(t *testing.T) {
	var s *stopwatch
	if began := s.start(); !began.IsZero() {
		t.Errorf("it looks at the clock: %v", began)
	}
	s.stop("nvmlDeviceGetPowerUsage", time.Time{})
	if took := s.lap(); took != nil {
		t.Errorf("took %v", took)
	}
	d := newCallDurations(false)
	d.observe(map[string]callBuckets{"nvmlDeviceGetPowerUsage": {0: {Count: 1, Sum: 1}}})
	if list := d.metrics(); list != nil {
		t.Errorf("%d series", len(list))
	}
	if line, err := json.Marshal(New(Options{}).request(request{Seq: 1})); err != nil || bytes.Contains(line, []byte("calls")) {
		t.Errorf("request %s, %v", line, err)
	}
	if line, err := json.Marshal(New(Options{CallDurations: true, ProcPath: "/host/proc"}).request(request{Seq: 1})); err != nil ||
		!bytes.Contains(line, []byte(`"procfs":"/host/proc","calls":true`)) {
		t.Errorf("request %s, %v", line, err)
	}
}

// TestCallSeries: all calls together have room in what is collected at once.
func TestCallSeries(t *testing.T) {
	d := newCallDurations(true)
	said := map[string]callBuckets{}
	for _, call := range Symbols() {
		said[call] = callBuckets{0: {Count: 1, Sum: 1}}
	}
	d.observe(said)
	if list := d.metrics(); len(list) != len(symbols) {
		t.Errorf("%d series, want %d", len(list), len(symbols))
	}
	if !slices.IsSorted(symbols[:]) {
		t.Error("symbols are not sorted, and are searched for as if they were")
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(unchecked(d.metrics()))
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector is a Collector made of a function.
type collector struct {
	name   string
	update func(ctx context.Context) ([]prometheus.Metric, error)
}

func (c collector) Name() string { return c.name }

func (c collector) Update(ctx context.Context) ([]prometheus.Metric, error) { return c.update(ctx) }

// yields is a collector that finds the same metrics and error every time.
func yields(name string, err error, metrics ...prometheus.Metric) Collector {
	return collector{name, func(context.Context) ([]prometheus.Metric, error) { return metrics, err }}
}

func gauge(name string, v float64, labels prometheus.Labels) prometheus.Metric {
	return prometheus.MustNewConstMetric(prometheus.NewDesc(name, "Help.", nil, labels), prometheus.GaugeValue, v)
}

// newExporter returns an exporter, a registry with it, and its log without times.
func newExporter(t testing.TB, timeout time.Duration, collectors ...Collector) (*prometheus.Registry, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "stack" {
			return slog.Attr{}
		}
		return a
	}}))
	e, err := New(Options{Timeout: timeout, Logger: logger}, collectors...)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(e)
	return registry, &log
}

// scrape returns the series on the page, without when collectors last worked. A scrape that fails is a failure of the
// test, whatever the collectors do.
func scrape(t testing.TB, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Errorf("gather: %v", err)
	}
	var page bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&page, f); err != nil {
			t.Fatal(err)
		}
	}
	var series []string
	for line := range strings.Lines(page.String()) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, lastSuccess.Name) {
			series = append(series, strings.Replace(line, "flyball_collector_", "", 1))
		}
	}
	return strings.Join(series, "")
}

func TestScrape(t *testing.T) {
	histogram := prometheus.MustNewConstHistogram(prometheus.NewDesc("test_size", "Help.", nil, nil), 1, 2, map[float64]uint64{4: 1})
	for _, tt := range []struct {
		name       string
		collectors []Collector
		want       string
		log        string
	}{
		{
			name:       "two that work",
			collectors: []Collector{yields("a", nil, gauge("test_a", 1, nil)), yields("b", nil, gauge("test_b", 2, nil))},
			want: `duration_seconds{collector="a"} 0
duration_seconds{collector="b"} 0
success{collector="a"} 1
success{collector="b"} 1
test_a 1
test_b 2
`,
		},
		{
			name:       "nothing of that kind",
			collectors: []Collector{yields("a", fmt.Errorf("gpu: %w", ErrNoData))},
			want: `duration_seconds{collector="a"} 0
success{collector="a"} 1
`,
		},
		{
			name:       "half of it",
			collectors: []Collector{yields("a", errors.New("no disks"), gauge("test_a", 1, nil))},
			want: `duration_seconds{collector="a"} 0
success{collector="a"} 0
test_a 1
`,
			log: `level=WARN msg="collector failed" collector=a err="no disks"
`,
		},
		{
			name: "a panic",
			collectors: []Collector{
				collector{"a", func(context.Context) ([]prometheus.Metric, error) { panic("ouch") }},
				yields("b", nil, gauge("test_b", 2, nil)),
			},
			want: `duration_seconds{collector="a"} 0
duration_seconds{collector="b"} 0
success{collector="a"} 0
success{collector="b"} 1
test_b 2
`,
			log: `level=WARN msg="collector failed" collector=a err="panic: ouch"
`,
		},
		{
			name: "an invalid metric",
			collectors: []Collector{
				yields("a", nil, prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(errors.New("bad metric")), errors.New("bad metric")), gauge("test_a", 1, nil)),
				yields("b", nil, gauge("test_b", 2, nil)),
			},
			want: `duration_seconds{collector="a"} 0
duration_seconds{collector="b"} 0
success{collector="a"} 0
success{collector="b"} 1
test_a 1
test_b 2
`,
			log: `level=WARN msg="collector failed" collector=a err="bad metric"
`,
		},
		{
			name:       "a series twice from one",
			collectors: []Collector{yields("a", nil, gauge("test_a", 1, nil), gauge("test_a", 2, nil), gauge("test_a", 3, prometheus.Labels{"x": "y"}))},
			want: `duration_seconds{collector="a"} 0
success{collector="a"} 0
test_a 1
test_a{x="y"} 3
`,
			log: "was collected before with the same name and label values",
		},
		{
			name: "a series from two, and a family that two share",
			collectors: []Collector{
				yields("a", nil, gauge("test_a", 1, nil)),
				yields("b", nil, gauge("test_a", 2, nil), gauge("test_a", 3, prometheus.Labels{"x": "y"})),
			},
			want: `duration_seconds{collector="a"} 0
duration_seconds{collector="b"} 0
success{collector="a"} 1
success{collector="b"} 0
test_a 1
test_a{x="y"} 3
`,
			log: "collector=b",
		},
		{
			name: "two that differ about a family's type",
			collectors: []Collector{
				yields("a", nil, gauge("test_a", 1, nil)),
				yields("b", nil, prometheus.MustNewConstMetric(prometheus.NewDesc("test_a", "Help.", []string{"x"}, nil), prometheus.CounterValue, 1, "y")),
			},
			want: `duration_seconds{collector="a"} 0
duration_seconds{collector="b"} 0
success{collector="a"} 1
success{collector="b"} 0
test_a 1
`,
			log: "collector=b",
		},
		{
			name:       "a gauge with the name of a histogram's sum",
			collectors: []Collector{yields("a", nil, histogram), yields("b", nil, gauge("test_size_sum", 2, nil))},
			want: `duration_seconds{collector="a"} 0
duration_seconds{collector="b"} 0
success{collector="a"} 1
success{collector="b"} 0
test_size_bucket{le="4"} 1
test_size_bucket{le="+Inf"} 1
test_size_sum 2
test_size_count 1
`,
			log: `level=WARN msg="collector failed" collector=b err="metric family test_size_sum dropped: test_size_sum is the name of family test_size"
`,
		},
		{
			name:       "the exporter's own series",
			collectors: []Collector{yields("a", nil, gauge("flyball_collector_success", 5, prometheus.Labels{"collector": "z"}))},
			want: `duration_seconds{collector="a"} 0
success{collector="a"} 0
`,
			log: "the exporter's own",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // so that durations are 0
				registry, log := newExporter(t, 0, tt.collectors...)
				if diff := cmp.Diff(tt.want, scrape(t, registry)); diff != "" {
					t.Errorf("series (-want +got):\n%s", diff)
				}
				if !strings.Contains(log.String(), tt.log) || tt.log == "" && log.Len() > 0 {
					t.Errorf("log:\n%swant:\n%s", log, tt.log)
				}
				if problems, err := testutil.GatherAndLint(registry, duration.Name, success.Name, lastSuccess.Name); err != nil || len(problems) > 0 {
					t.Errorf("lint: %v %v", problems, err)
				}
			})
		})
	}
}

// TestParallel: three collectors of a second each take one second.
func TestParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(name string) Collector {
			return collector{name, func(context.Context) ([]prometheus.Metric, error) {
				time.Sleep(time.Second)
				return nil, nil
			}}
		}
		registry, _ := newExporter(t, 2*time.Second, slow("a"), slow("b"), slow("c"))
		begin := time.Now()
		got := scrape(t, registry)
		if took := time.Since(begin); took != time.Second {
			t.Errorf("the scrape took %s, want 1s", took)
		}
		want := `duration_seconds{collector="a"} 1
duration_seconds{collector="b"} 1
duration_seconds{collector="c"} 1
success{collector="a"} 1
success{collector="b"} 1
success{collector="c"} 1
`
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("series (-want +got):\n%s", diff)
		}
	})
}

// TestHang follows a collector that hangs for 70 s through scrapes every 15 s, and its recovery.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		stuck := collector{"stuck", func(context.Context) ([]prometheus.Metric, error) { // deaf to its deadline
			run := runs.Add(1)
			if run == 1 {
				time.Sleep(70 * time.Second)
			}
			return []prometheus.Metric{gauge("test_run", float64(run), nil)}, nil
		}}
		registry, log := newExporter(t, 2*time.Second, stuck, yields("fine", nil, gauge("test_fine", 1, nil)))
		begin := time.Now()
		var got strings.Builder
		for range 5 { // at 0, 17, 32, 47, 62: the first takes the deadline, those after it no time
			at := time.Since(begin)
			page := scrape(t, registry)
			fmt.Fprintf(&got, "%s +%s\n%s", at, time.Since(begin)-at, page)
			time.Sleep(15 * time.Second)
		}
		// It returned at 70 s; what it found then is never seen.
		fmt.Fprintf(&got, "%s\n%s", time.Since(begin), scrape(t, registry))

		failure := func(at string, took int) string {
			return fmt.Sprintf(`%s
duration_seconds{collector="fine"} 0
duration_seconds{collector="stuck"} %d
success{collector="fine"} 1
success{collector="stuck"} 0
test_fine 1
`, at, took)
		}
		want := failure("0s +2s", 2) + failure("17s +0s", 17) + failure("32s +0s", 32) + failure("47s +0s", 47) + failure("1m2s +0s", 62) + `1m17s
duration_seconds{collector="fine"} 0
duration_seconds{collector="stuck"} 0
success{collector="fine"} 1
success{collector="stuck"} 1
test_fine 1
test_run 2
`
		if diff := cmp.Diff(want, got.String()); diff != "" {
			t.Errorf("pages (-want +got):\n%s", diff)
		}
		if n := runs.Load(); n != 2 {
			t.Errorf("the collector was run %d times, want twice: not again while it hangs", n)
		}
		wantLog := `level=WARN msg="collector failed" collector=stuck err="missed its deadline of 2s"
level=INFO msg="collector recovered" collector=stuck after=1m15s
`
		if diff := cmp.Diff(wantLog, log.String()); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

// TestStillRunning: the reason given is when the run began.
func TestStillRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runner{name: "a", timeout: time.Second, collector: collector{"a", func(context.Context) ([]prometheus.Metric, error) {
			time.Sleep(time.Minute)
			return nil, nil
		}}}
		r.run(t.Context())
		if got := r.run(t.Context()).err; got == nil || got.Error() != "still running since 2000-01-01T00:00:00Z" { // where synctest begins
			t.Errorf("error %v", got)
		}
		time.Sleep(time.Minute) // until it returns
	})
}

// TestDeadline: a collector that minds its context is told when time is up.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry, _ := newExporter(t, 2*time.Second, collector{"a", func(ctx context.Context) ([]prometheus.Metric, error) {
			<-ctx.Done()
			return []prometheus.Metric{gauge("test_late", 1, nil)}, nil
		}})
		want := `duration_seconds{collector="a"} 2
success{collector="a"} 0
`
		if diff := cmp.Diff(want, scrape(t, registry)); diff != "" {
			t.Errorf("series (-want +got):\n%s", diff)
		}
	})
}

// TestLateMetrics: what comes back after the deadline is thrown away, however little after.
func TestLateMetrics(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := &runner{name: "a", timeout: time.Second, collector: yields("a", nil, gauge("test_a", 1, nil))}
	if o := r.attempt(ctx); len(o.families) != 0 || o.err == nil {
		t.Errorf("outcome with %d families, error %v; want none and that it was late", len(o.families), o.err)
	}
}

// TestOverlap: scrapes that overlap share one run and are both answered.
func TestOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		registry, _ := newExporter(t, 2*time.Second, collector{"a", func(context.Context) ([]prometheus.Metric, error) {
			runs.Add(1)
			time.Sleep(time.Second)
			return []prometheus.Metric{gauge("test_a", 1, nil)}, nil
		}})
		pages := make(chan string, 2)
		for range 2 {
			go func() { pages <- scrape(t, registry) }()
		}
		first, second := <-pages, <-pages
		if first != second || !strings.Contains(first, "test_a 1") {
			t.Errorf("pages differ or lack the series:\n%s\n%s", first, second)
		}
		if n := runs.Load(); n != 1 {
			t.Errorf("%d runs, want 1", n)
		}
	})
}

func TestNew(t *testing.T) {
	_, err := New(Options{Timeout: -1}, yields("a", nil), yields("", nil), yields("a", nil))
	want := `exporter: timeout -1ns: give a positive duration
exporter: collector 1 has no name
exporter: two collectors are named "a"`
	if err == nil || err.Error() != want {
		t.Errorf("New: %v\nwant: %s", err, want)
	}
}

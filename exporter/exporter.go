package exporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// ErrNoData says that this machine has nothing of the kind that a collector reads: no GPU, no procfs. It is not a
// failure: there are no series, and flyball_collector_success stays 1.
var ErrNoData = errors.New("nothing of that kind on this machine")

// Collector reads one source. Its methods are called by one goroutine at a time.
type Collector interface {
	// Name is the value of the label collector: lower case, the same for the life of the process.
	Name() string

	// Update reads the source now and returns what it found. Metrics returned beside an error are published all the
	// same, so that a source that is half readable is half seen. An error that wraps ErrNoData is no failure. Update should return once ctx is done; if it does
	// not, it is left behind, what it returns later is thrown away, and it is not called again before then.
	Update(ctx context.Context) ([]prometheus.Metric, error)
}

// Options are the settings of an Exporter.
type Options struct {
	Timeout time.Duration // the longest that one collector may take; 0 for that of DefaultConfig
	Logger  *slog.Logger  // nil to log nothing
}

// Exporter runs its collectors at every scrape. [NewHandler] serves what they find. It is a prometheus.Collector too, one
// that describes nothing, because what it will find is not known beforehand: a registry takes it unchecked and Exporter
// does the checking, though not against what else is in that registry.
type Exporter struct {
	runners []*runner
	logger  *slog.Logger
}

var (
	duration = Family{
		Name: "flyball_collector_duration_seconds", Type: "gauge", Labels: []string{"collector"},
		Help: "How long the collector took at this scrape.",
	}
	success = Family{
		Name: "flyball_collector_success", Type: "gauge", Labels: []string{"collector"},
		Help: "Whether the collector read all there was to read (1) or failed, hung or missed its deadline (0).",
	}
	lastSuccess = Family{
		Name: "flyball_collector_last_success_timestamp_seconds", Type: "gauge", Labels: []string{"collector"},
		Help: "When the collector last read all there was to read, in Unix time; absent before it first did.",
	}
)

// Families are those that the exporter adds of itself: how each collector fared.
func Families() []Family { return []Family{duration, success, lastSuccess} }

// New returns an exporter of the given collectors. Where two of them publish the same series, that of the earlier one
// is kept. The error names every collector whose name is empty or taken, and a negative timeout.
func New(opts Options, collectors ...Collector) (*Exporter, error) {
	var faults []error
	if opts.Timeout < 0 {
		faults = append(faults, fmt.Errorf("exporter: timeout %s: give a positive duration", opts.Timeout))
	}
	if opts.Timeout == 0 {
		opts.Timeout = time.Duration(DefaultConfig().Timeout)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Exporter{logger: opts.Logger}
	taken := map[string]bool{}
	for i, c := range collectors {
		name := c.Name()
		switch {
		case name == "":
			faults = append(faults, fmt.Errorf("exporter: collector %d has no name", i))
		case taken[name]:
			faults = append(faults, fmt.Errorf("exporter: two collectors are named %q", name))
		}
		taken[name] = true
		e.runners = append(e.runners, &runner{collector: c, name: name, timeout: opts.Timeout})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return e, nil
}

// Describe sends nothing: see Exporter.
func (e *Exporter) Describe(chan<- *prometheus.Desc) {}

// Collect runs every collector and sends what they found. It returns after the timeout at the latest.
func (e *Exporter) Collect(ch chan<- prometheus.Metric) {
	for _, family := range e.Gather(context.Background(), Request{}) {
		desc := prometheus.V2.NewDesc(family.GetName(), family.GetHelp(), prometheus.UnconstrainedLabels(nil), nil, prometheus.WithUnit(family.GetUnit()))
		for _, m := range family.GetMetric() {
			ch <- written{desc: desc, m: m}
		}
	}
}

// Request is what one scrape asks for.
type Request struct {
	Collectors []string            // the names of those to run, of those that are there; nil for all
	Beside     []*dto.MetricFamily // families that the page has already, whose names and series no collector may have
}

// Gather runs the collectors and returns the families that they found, by name, with how each of them fared. It returns
// when ctx is done or the timeout has passed: what is late by then is left out. The families may be shared with other
// scrapes, so nobody may change them.
func (e *Exporter) Gather(ctx context.Context, request Request) []*dto.MetricFamily {
	runners := e.runners
	if request.Collectors != nil {
		runners = slices.DeleteFunc(slices.Clone(runners), func(r *runner) bool { return !slices.Contains(request.Collectors, r.name) })
	}
	outcomes := make([]outcome, len(runners))
	var wg sync.WaitGroup
	for i, r := range runners {
		wg.Go(func() { outcomes[i] = r.run(ctx) })
	}
	wg.Wait()

	p := newPage(request.Beside)
	var durations, successes, times []*dto.Metric
	for i, r := range runners {
		o := outcomes[i]
		err := errors.Join(o.err, p.add(o.families))
		worked := r.note(e.logger, err)
		fine := 1.0
		if err != nil {
			fine = 0
		}
		durations = append(durations, ofCollector(r.name, o.took.Seconds()))
		successes = append(successes, ofCollector(r.name, fine))
		if !worked.IsZero() {
			times = append(times, ofCollector(r.name, float64(worked.UnixMilli())/1e3))
		}
	}
	for _, own := range []struct {
		family  Family
		metrics []*dto.Metric
	}{{duration, durations}, {success, successes}, {lastSuccess, times}} {
		if len(own.metrics) == 0 {
			continue
		}
		slices.SortFunc(own.metrics, func(a, b *dto.Metric) int { return strings.Compare(a.Label[0].GetValue(), b.Label[0].GetValue()) })
		p.families = append(p.families, &dto.MetricFamily{
			Name: &own.family.Name, Help: &own.family.Help, Type: dto.MetricType_GAUGE.Enum(), Metric: own.metrics,
		})
	}
	slices.SortFunc(p.families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return p.families
}

// ofCollector is a gauge of one of the exporter's own families.
func ofCollector(name string, v float64) *dto.Metric {
	return &dto.Metric{
		Label: []*dto.LabelPair{{Name: new("collector"), Value: &name}},
		Gauge: &dto.Gauge{Value: &v},
	}
}

// names lists the collectors that are there.
func (e *Exporter) names() []string {
	var names []string
	for _, r := range e.runners {
		names = append(names, r.name)
	}
	return names
}

// outcome is what one run of a collector came to.
type outcome struct {
	families []*dto.MetricFamily
	took     time.Duration
	err      error // why flyball_collector_success is 0
}

package exporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// Exporter runs its collectors at every scrape. It is a prometheus.Collector that describes nothing, because what it
// will find is not known beforehand, so a registry takes it unchecked and Exporter does the checking. It cannot check
// against what else is in that registry.
type Exporter struct {
	runners []*runner
	logger  *slog.Logger
}

// own are the names of the series that the exporter itself adds.
var own = [...]string{"flyball_collector_duration_seconds", "flyball_collector_success"}

var (
	durationDesc = prometheus.NewDesc(own[0],
		"How long the collector took at this scrape.", []string{"collector"}, nil)
	successDesc = prometheus.NewDesc(own[1],
		"Whether the collector read all there was to read (1) or failed, hung or missed its deadline (0).", []string{"collector"}, nil)
)

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
	outcomes := make([]outcome, len(e.runners))
	var wg sync.WaitGroup
	for i, r := range e.runners {
		wg.Go(func() { outcomes[i] = r.run() })
	}
	wg.Wait()

	p := newPage()
	for i, r := range e.runners {
		o := outcomes[i]
		err := errors.Join(o.err, p.add(o.families))
		r.note(e.logger, err)
		success := 1.0
		if err != nil {
			success = 0
		}
		ch <- prometheus.MustNewConstMetric(durationDesc, prometheus.GaugeValue, o.took.Seconds(), r.name)
		ch <- prometheus.MustNewConstMetric(successDesc, prometheus.GaugeValue, success, r.name)
	}
	p.send(ch)
}

// outcome is what one run of a collector came to.
type outcome struct {
	families []*dto.MetricFamily
	took     time.Duration
	err      error // why flyball_collector_success is 0
}

package exporter

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// page is what one scrape has brought together so far: families that agree with each other.
type page struct {
	families []*dto.MetricFamily // in the order they came
	byName   map[string]int      // index in families
	taken    map[string]string   // every name that a family writes on the page, to the family's name
}

// newPage returns an empty page. The names of the families that are beside it are taken.
func newPage(beside []*dto.MetricFamily) *page {
	p := &page{byName: map[string]int{}, taken: map[string]string{}}
	for _, family := range Families() {
		p.taken[family.Name] = "the exporter's own"
	}
	for _, family := range beside {
		for _, name := range names(family) {
			p.taken[name] = "this process's own"
		}
	}
	return p
}

// add takes in the families of one collector, which agree among themselves, and drops what contradicts those already
// there: another help or type, a series that is there already, a name that a histogram or summary writes. The error
// names what was dropped.
func (p *page) add(families []*dto.MetricFamily) error {
	var dropped []error
	for _, family := range families {
		name := family.GetName()
		if i, ok := p.byName[name]; ok {
			merged, err := prometheus.Gatherers{fixed(p.families[i]), fixed(family)}.Gather()
			if err != nil {
				dropped = append(dropped, err)
			}
			merged[0].Unit = p.families[i].Unit // which Gather forgets
			p.families[i] = merged[0]
			continue
		}
		if err := p.take(family); err != nil {
			dropped = append(dropped, err)
			continue
		}
		p.byName[name] = len(p.families)
		p.families = append(p.families, family)
	}
	return errors.Join(dropped...)
}

// take reserves the names that the family writes on the page.
func (p *page) take(family *dto.MetricFamily) error {
	for _, name := range names(family) {
		if by, ok := p.taken[name]; ok {
			return fmt.Errorf("metric family %s dropped: %s is the name of %s", family.GetName(), name, by)
		}
	}
	for _, name := range names(family) {
		p.taken[name] = "family " + family.GetName()
	}
	return nil
}

// names are those that a family writes on the page.
func names(family *dto.MetricFamily) []string {
	name := family.GetName()
	switch family.GetType() {
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		return []string{name, name + "_bucket", name + "_sum", name + "_count"}
	case dto.MetricType_SUMMARY:
		return []string{name, name + "_sum", name + "_count"}
	}
	return []string{name}
}

// gather turns metrics into families by a registry's own rules and drops what breaks them; the error names that.
func gather(metrics []prometheus.Metric) ([]*dto.MetricFamily, error) {
	if len(metrics) == 0 {
		return nil, nil
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(list(metrics)); err != nil {
		return nil, err
	}
	return registry.Gather()
}

// list is a collector of metrics that are there already.
type list []prometheus.Metric

func (l list) Describe(chan<- *prometheus.Desc) {}

func (l list) Collect(ch chan<- prometheus.Metric) {
	for _, m := range l {
		ch <- m
	}
}

// fixed is a gatherer of one family.
func fixed(family *dto.MetricFamily) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return []*dto.MetricFamily{family}, nil })
}

// written is a metric that has been written out and checked. Its labels, all of them, are in m; overlapping scrapes share
// it, so nobody may change it.
type written struct {
	desc *prometheus.Desc
	m    *dto.Metric
}

func (w written) Desc() *prometheus.Desc { return w.desc }

func (w written) Write(out *dto.Metric) error {
	out.Label = w.m.GetLabel()
	out.Gauge = w.m.GetGauge()
	out.Counter = w.m.GetCounter()
	out.Summary = w.m.GetSummary()
	out.Untyped = w.m.GetUntyped()
	out.Histogram = w.m.GetHistogram()
	out.TimestampMs = w.m.TimestampMs
	return nil
}

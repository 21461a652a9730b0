package model

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// GPUs finds the GPUs of processes.
type GPUs interface {
	// GPUsOf returns the UUIDs of the GPUs that any of the processes uses, without doubles; none where it does not know.
	GPUsOf(pids []int) []string
}

// Options are what a Collector uses of its surroundings.
type Options struct {
	GPUs   GPUs                                              // nil: gpus: auto finds none
	Facts  func(server string) (precision, framework string) // of the model of a server, for flyball_model_info; nil: not known
	ProcFS string                                            // where procfs is mounted; /proc if empty
	Logger *slog.Logger                                      // nil to log nothing
}

// Collector reads model servers and publishes what they say in one schema. It is an exporter.Collector; without Run it has
// nothing to publish.
type Collector struct {
	servers []*server
	options Options
	descs   descs
}

// ErrUnknown is what Probe returns for a server that the configuration does not name.
var ErrUnknown = errors.New("no model server of that name")

// New returns a collector that asks nobody before Run. The error is that of the first server whose certificates cannot be
// read; configs are valid by themselves.
func New(configs []exporter.ModelServer, o Options) (*Collector, error) {
	o.ProcFS = cmp.Or(o.ProcFS, "/proc")
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Collector{options: o, descs: newDescs()}
	for _, config := range configs {
		s, err := newServer(config, o, c.descs)
		if err != nil {
			return nil, err
		}
		c.servers = append(c.servers, s)
	}
	return c, nil
}

// collectorName is what the configuration, the flags and flyball_collector_success call the collector.
const collectorName = "models"

// Name returns models.
func (c *Collector) Name() string { return collectorName }

// Run reads every server at its interval until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, s := range c.servers {
		all.Go(func() { s.run(ctx) })
	}
	<-ctx.Done()
	all.Wait()
	return nil
}

// Update publishes what was read last. That a server cannot be read is flyball_model_up 0, not an error: nothing is wrong with
// the collector.
func (c *Collector) Update(context.Context) ([]prometheus.Metric, error) {
	if len(c.servers) == 0 {
		return nil, fmt.Errorf("models: none configured: %w", exporter.ErrNoData)
	}
	var all []prometheus.Metric
	for _, s := range c.servers {
		all = append(all, s.metrics()...)
	}
	return all, nil
}

// Servers are the names of the configuration.
func (c *Collector) Servers() []string {
	var names []string
	for _, s := range c.servers {
		names = append(names, s.config.Name)
	}
	return names
}

// Labels returns the labels model and engine of a server's series, as they are now: empty while it is down, and model where it
// has several.
func (c *Collector) Labels(name string) (model, engine string) {
	for _, s := range c.servers {
		if s.config.Name == name {
			return s.labels()
		}
	}
	return "", ""
}

// Report says what was found of one model server.
type Report struct {
	Server   string   `json:"server"`
	URL      string   `json:"url"` // without what may be a token
	Up       bool     `json:"up"`
	Error    string   `json:"error,omitempty"` // why it could not be read
	Engine   string   `json:"engine,omitempty"`
	Took     float64  `json:"took_seconds"`
	Series   int      `json:"series"` // of the page, that are for something
	Models   []string `json:"models,omitempty"`
	Versions []string `json:"versions,omitempty"` // of the models
	GPUs     []string `json:"gpus,omitempty"`
	PID      int      `json:"pid,omitempty"` // of its process, where that is on this machine
	Fields   []Field  `json:"fields,omitempty"`
	Unmapped []string `json:"unmapped_families,omitempty"`

	Metrics []prometheus.Metric `json:"-"` // what is published of it
}

// Probe reads a server now, beside Run, and says what it found; that it cannot be read is in the report. The error wraps
// ErrUnknown where there is no such server.
func (c *Collector) Probe(ctx context.Context, name string) (Report, error) {
	i := slices.IndexFunc(c.servers, func(s *server) bool { return s.config.Name == name })
	if i < 0 {
		return Report{}, fmt.Errorf("%q: %w", name, ErrUnknown)
	}
	return c.servers[i].probe(ctx), nil
}

// probe reads the page once, without what the polls know of it.
func (s *server) probe(ctx context.Context) Report {
	r := Report{Server: s.config.Name, URL: s.config.Redacted()}
	began := time.Now()
	p, err := s.read(ctx, newReading(s.config))
	now := time.Now()
	r.Took = now.Sub(began).Seconds()
	used := newProcesses(s.procs.root, s.client).usage(now)
	r.PID = used.pid
	if err != nil {
		r.Error = err.Error()
		r.Metrics = s.publish(nil, time.Time{}, used)
		return r
	}
	r.Up, r.Engine, r.Series, r.Fields, r.Unmapped = true, p.engine, p.series, p.fields, p.unmapped
	models, versions := map[string]bool{}, map[string]bool{}
	for _, m := range p.models {
		models[m.model] = true
		if m.version != "" {
			versions[m.version] = true
		}
	}
	r.Models, r.Versions = slices.Sorted(maps.Keys(models)), slices.Sorted(maps.Keys(versions))
	r.GPUs = s.uuids(used)
	r.Metrics = s.publish(p, now, used)
	return r
}

// Families are all that the collector may publish, by name.
func Families() []exporter.Family {
	byName := map[string]exporter.Family{}
	add := func(name, help, kind string, labels ...string) {
		if _, there := byName[name]; !there {
			byName[name] = exporter.Family{Name: name, Help: help, Type: kind, Labels: labels, Collector: collectorName}
		}
	}
	kinds := map[kind]string{histogram: "histogram", counter: "counter", amount: "gauge", ratio: "gauge"}
	served := []string{"model", "server", "engine", "version"}
	for _, f := range fields {
		labels := slices.Clone(served)
		if f.label != "" {
			labels = append(labels, f.label)
		}
		add(f.family, f.help, kinds[f.kind], labels...)
	}
	for _, f := range quantiles {
		add(f.name, f.help, f.kind, append(slices.Clone(served), f.labels...)...)
	}
	for _, f := range others {
		add(f.name, f.help, f.kind, f.labels...)
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b exporter.Family) int { return cmp.Compare(a.Name, b.Name) })
}

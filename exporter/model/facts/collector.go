package facts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"flyball/exporter"
)

const collectorName = "facts"

// Source is a model server whose model's facts are read. What is empty is not read.
type Source struct {
	Server   string        // the label server
	Engine   string        // the label engine; empty where it is not known beforehand
	Model    string        // the label model; empty for the name that the server has, or the label server. A server that lists no models is asked of it
	Files    string        // as Read takes it
	Accuracy string        // as Accuracy takes it
	URL      string        // of a server that speaks the Open Inference Protocol, as OIP takes it
	Client   *http.Client  // that asks it; nil for one that follows no redirects
	Timeout  time.Duration // of asking it; 0 for 2 seconds, and never more than half of what Update has

	// Labels returns the labels model and engine where they become known later, such as from the page of the engine's own metrics;
	// what is empty of them is not known. Whoever knows them publishes flyball_model_info of the server. It is called at each
	// scrape; nil for none.
	Labels func() (model, engine string)

	// Told says that flyball_model_info of this server is always published by another, who takes what the files say from
	// Collector.Facts.
	Told bool
}

// How old what is published may be. Files change when a model is deployed, readiness while it loads.
const (
	filesEvery = time.Minute
	readyEvery = 10 * time.Second
)

// Collector publishes the facts of models. It is an exporter.Collector. Files are looked at once a minute and read again if
// their names, sizes or times have changed; servers are asked every ten seconds, however often it is scraped. What could be read
// of files stays published while they cannot be read again, also while their disk does not answer, and the error says so.
type Collector struct {
	now     func() time.Time
	sources []*watched
}

// New returns a collector of the sources.
func New(sources ...Source) *Collector {
	c := &Collector{now: time.Now}
	for _, s := range sources {
		if s.Client == nil {
			s.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		}
		if s.Timeout <= 0 {
			s.Timeout = 2 * time.Second
		}
		c.sources = append(c.sources, &watched{Source: s})
	}
	return c
}

// watched is a source and what was read of it last.
type watched struct {
	Source
	files    kept[Facts]
	accuracy kept[[]Result]
	ready    kept[[]ModelStatus]
	facts    atomic.Pointer[Facts] // for Collector.Facts

	model, engine string // as Labels last knew them
}

// kept is something that was read.
type kept[T any] struct {
	value   T
	known   bool // there is a value
	err     error
	looked  time.Time
	changed string        // the state of the files then
	reading chan found[T] // of a reading of files that goes on; nil without one
}

// found is what a look at files came to.
type found[T any] struct {
	state string // of the files
	read  bool   // they were read, as they had changed
	value T
	err   error
}

// due says whether it is time to look again, also after the clock was set back.
func (k *kept[T]) due(now time.Time, every time.Duration) bool {
	age := now.Sub(k.looked)
	return k.looked.IsZero() || age >= every || age < 0
}

// refreshFiles reads files again if it is time to look and they have changed, or could not be read the last time. A disk that does not
// answer, such as one over a network, is waited for once, for half of the time that ctx leaves, and holds one goroutine until it does;
// what was read before stays.
func (k *kept[T]) refreshFiles(ctx context.Context, now time.Time, path string, read func(string) (T, error), worth func(T) bool) {
	wait := k.reading == nil
	if wait {
		if path == "" || !k.due(now, filesEvery) {
			return
		}
		k.looked = now
		k.reading = make(chan found[T], 1)
		go func(done chan<- found[T], changed string, again bool) {
			f := found[T]{read: true}
			defer func() {
				if p := recover(); p != nil { // of one server's files, which are not to take the process with them
					f.err = fmt.Errorf("%s: panic: %v", path, p)
				}
				done <- f
			}()
			f.state = state(path)
			if f.read = again || f.state == "" || f.state != changed; f.read {
				f.value, f.err = read(path)
			}
		}(k.reading, k.changed, k.err != nil)
	}
	f, ok := k.answer(ctx, wait)
	if !ok {
		k.err = fmt.Errorf("%s: still being read since %s: what was read before stays", path, k.looked.UTC().Format(time.RFC3339))
		return
	}
	k.reading = nil
	if !f.read { // it is as it was, which was without an error
		k.err = nil
		return
	}
	k.err, k.changed = f.err, f.state
	if f.err == nil || worth(f.value) {
		k.value, k.known = f.value, true
	}
}

// answer is what is read; false where it is not there yet.
func (k *kept[T]) answer(ctx context.Context, wait bool) (f found[T], ok bool) {
	if wait {
		if deadline, limited := ctx.Deadline(); limited {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
			defer cancel()
		}
		select {
		case f = <-k.reading:
			return f, true
		case <-ctx.Done():
		}
	}
	select {
	case f = <-k.reading:
		return f, true
	default:
		return f, false
	}
}

// Name returns facts.
func (c *Collector) Name() string { return collectorName }

// Update returns what is known, after it has looked again where it is time to. Servers are asked at the same time, so that one that
// hangs costs the others nothing.
func (c *Collector) Update(ctx context.Context) ([]prometheus.Metric, error) {
	now := c.now()
	faults := make([]error, len(c.sources))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, s := range c.sources {
		group.Go(func() error {
			if err := s.update(ctx, now); err != nil {
				faults[i] = fmt.Errorf("facts: server %s: %w", s.Server, err)
			}
			return nil
		})
	}
	_ = group.Wait() // each has its own error
	var metrics []prometheus.Metric
	for _, s := range c.sources {
		metrics = append(metrics, s.metrics()...)
	}
	return metrics, errors.Join(faults...)
}

// Facts returns what was last read of the files of a server's model, for whoever publishes flyball_model_info of it. It may be called at
// any time.
func (c *Collector) Facts(server string) (Facts, bool) {
	for _, s := range c.sources {
		if f := s.facts.Load(); s.Server == server && f != nil {
			return *f, true
		}
	}
	return Facts{}, false
}

func (s *watched) update(ctx context.Context, now time.Time) error {
	s.files.refreshFiles(ctx, now, s.Files, Read, func(Facts) bool { return false })
	if s.files.known {
		f := s.files.value
		s.facts.Store(&f)
	}
	s.accuracy.refreshFiles(ctx, now, s.Accuracy, Accuracy, func(r []Result) bool { return len(r) > 0 })
	if s.URL != "" && s.ready.due(now, readyEvery) {
		timeout := s.Timeout
		if deadline, ok := ctx.Deadline(); ok { // at which all would be thrown away
			timeout = min(timeout, time.Until(deadline)/2)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		s.ready.looked = now
		s.ready.value, s.ready.err = OIP(ctx, s.Client, s.URL) // a server that does not answer is not said to be ready
		if s.Model != "" && errors.Is(s.ready.err, ErrNoList) {
			s.ready.value, s.ready.err = OIP(ctx, s.Client, s.URL, s.Model)
		}
	}
	return errors.Join(s.files.err, s.accuracy.err, s.ready.err)
}

// state is what can be seen of the files at path without opening them; empty where it cannot be told.
func state(path string) string {
	files, err := expand(path)
	if err != nil {
		return ""
	}
	if info, err := os.Stat(files[0]); err == nil && info.IsDir() && len(files) == 1 {
		entries, err := os.ReadDir(files[0])
		if err != nil {
			return ""
		}
		folder := files[0]
		files = nil
		for _, e := range entries {
			files = append(files, filepath.Join(folder, e.Name()))
		}
	} else if len(files) == 1 {
		if all, err := parts(files[0]); err == nil {
			config := filepath.Join(filepath.Dir(files[0]), "config.json")
			files = slices.Concat(all, []string{config})
		}
	}
	var b strings.Builder
	for _, file := range files {
		info, err := os.Stat(file) // through links, as the caches of model hubs are made of them
		if err != nil {
			fmt.Fprintln(&b, file)
			continue
		}
		fmt.Fprintln(&b, file, info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}

// family is one of flyball_model_, which has the labels of a model before its own.
func family(name, help string, more ...string) exporter.Family {
	return exporter.Family{
		Name: "flyball_model_" + name, Help: help, Type: "gauge", Labels: slices.Concat([]string{"model", "server", "engine"}, more), Collector: collectorName,
	}
}

var (
	size       = family("size_bytes", "Size of the files of the model's weights.")
	parameters = family("parameters", "Numbers in the model's weights, as the shapes of its tensors say; absent where the files do not say it, such as of weights that are packed several to a number.")
	info       = family("info", "A model that the server has: 1.", "version", "precision", "framework")
	ready      = family("ready", "1 if the server says that the model is ready to be asked, 0 if not.")
	accuracy   = family("accuracy_ratio", "Share that the model had right in its latest evaluation, by dataset and metric. It says nothing of when: see flyball_model_accuracy_timestamp_seconds.", "dataset", "metric")
	evaluated  = family("accuracy_timestamp_seconds", "When the model was evaluated, in seconds since 1970.", "dataset", "metric")

	sizeDesc, parametersDesc, infoDesc, readyDesc = size.Desc(), parameters.Desc(), info.Desc(), ready.Desc()
	accuracyDesc, timestampDesc                   = accuracy.Desc(), evaluated.Desc()
)

// Families are all that the collector may publish; flyball_model_info is the one that the collector of model servers has too.
func Families() []exporter.Family {
	return []exporter.Family{size, parameters, ready, accuracy, evaluated}
}

func gauge(desc *prometheus.Desc, v float64, values ...string) prometheus.Metric {
	for i, value := range values {
		values[i] = strings.ToValidUTF8(value, "\uFFFD")
	}
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, values...)
}

func (s *watched) metrics() []prometheus.Metric {
	var all []prometheus.Metric
	statuses := s.ready.value
	named, engine := s.Model, s.Engine
	elsewhere := s.Told // flyball_model_info is published by another
	if s.Labels != nil {
		if m, e := s.Labels(); m != "" || e != "" {
			s.model, s.engine = m, e // which stay while the server is down
			elsewhere = true
		}
		named, engine = cmp.Or(named, s.model), cmp.Or(s.engine, engine)
	}
	model := named
	if model == "" && len(statuses) == 1 {
		model = statuses[0].Name
	}
	model = cmp.Or(model, s.Server)
	if len(statuses) == 1 {
		statuses = []ModelStatus{statuses[0]}
		statuses[0].Name = model // as everything else of it is labelled
	}
	told := elsewhere // or, below, beside what the server says
	for _, status := range statuses {
		ready := 0.0
		if status.Ready {
			ready = 1
		}
		all = append(all, gauge(readyDesc, ready, status.Name, s.Server, engine))
		var f Facts
		if s.files.known && status.Name == model {
			f, told = s.files.value, true
		}
		versions := status.Versions
		if len(versions) == 0 {
			versions = []string{f.Version}
		}
		seen := map[string]bool{}
		for _, version := range versions {
			if !seen[version] && !elsewhere {
				seen[version] = true
				all = append(all, gauge(infoDesc, 1, status.Name, s.Server, engine, version, f.Precision, first(status.Platform, f.Framework)))
			}
		}
	}
	if s.files.known {
		f := s.files.value
		all = append(all, f.metrics(model, s.Server, engine)...)
		if !told {
			all = append(all, gauge(infoDesc, 1, model, s.Server, engine, f.Version, f.Precision, f.Framework))
		}
	}
	for _, r := range mine(s.accuracy.value, named, model) {
		all = append(all, gauge(accuracyDesc, r.Ratio, r.Model, s.Server, engine, r.Dataset, r.Metric),
			gauge(timestampDesc, float64(r.Time.UnixMilli())/1e3, r.Model, s.Server, engine, r.Dataset, r.Metric))
	}
	return all
}

func (f Facts) metrics(model, server, engine string) []prometheus.Metric {
	var all []prometheus.Metric
	if f.Bytes > 0 {
		all = append(all, gauge(sizeDesc, float64(f.Bytes), model, server, engine))
	}
	if f.Parameters > 0 {
		all = append(all, gauge(parametersDesc, float64(f.Parameters), model, server, engine))
	}
	return all
}

// mine are the results of the model of a name: those that name it, with or without its owner, or all if they are of one model,
// whatever the evaluator called it. Without a name all are, and those that name no model are of the default. Of several that are then
// of one series, the latest is.
func mine(results []Result, name, otherwise string) []Result {
	if name != "" {
		models := map[string]bool{}
		var named []Result
		for _, r := range results {
			models[r.Model] = true
			if r.Model == "" || afterSlash(r.Model) == afterSlash(name) {
				named = append(named, r)
			}
		}
		if len(named) > 0 || len(models) > 1 {
			results = named
		}
	}
	type series struct{ model, dataset, metric string }
	at := map[series]int{}
	var kept []Result
	for _, r := range results {
		r.Model = cmp.Or(name, r.Model, otherwise)
		k := series{r.Model, r.Dataset, r.Metric}
		i, ok := at[k]
		switch {
		case !ok:
			at[k] = len(kept)
			kept = append(kept, r)
		case r.Time.After(kept[i].Time):
			kept[i] = r
		}
	}
	return kept
}

func afterSlash(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }

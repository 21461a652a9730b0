package textfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"flyball/exporter"
)

// Limits of what is read. node_exporter has none; an exporter that dies of one file takes all the others with it.
const (
	maxFileSize = 16 << 20 // bytes: some 150,000 series
	maxFiles    = 1000
	// Of all files together. A page with so much takes Prometheus seconds to read, and this process some 250 MB to hold.
	maxBytes  = 32 << 20
	maxSeries = 200_000
)

// Options say where to read.
type Options struct {
	Directory string // empty to read nothing
	MaxBytes  int64  // of all files together; 0 for 32 MiB
	MaxSeries int    // of all files together, each bucket one; 0 for 200,000
}

// Collector publishes the files of a directory. It is an exporter.Collector.
type Collector struct {
	directory string
	maxBytes  int64
	maxSeries int

	mu    sync.Mutex
	files map[string]*file // by path, as read last
}

// file is a file as it was read.
type file struct {
	version  version
	families map[string]*dto.MetricFamily // nil of one that was too much beside the others
	series   int
	err      error
}

// version tells whether a file is still the one that was read: one that was put in its place has another number.
type version struct {
	info     os.FileInfo
	modified time.Time
	size     int64
}

func (v version) same(other version) bool {
	return v.info != nil && os.SameFile(v.info, other.info) && v.modified.Equal(other.modified) && v.size == other.size
}

var (
	modified = exporter.Family{
		Name: "flyball_textfile_mtime_seconds", Type: "gauge", Labels: []string{"file"}, Collector: "textfile",
		Help: "When the file was written, in Unix time; only of files that were read.",
	}
	scrapeError = exporter.Family{
		Name: "flyball_textfile_scrape_error", Type: "gauge", Collector: "textfile",
		Help: "Whether the directory or any of its files could not be read, or was too much beside the others (1), or all could (0).",
	}
)

// Families are those that the collector adds to what is in the files.
func Families() []exporter.Family { return []exporter.Family{modified, scrapeError} }

// New returns a collector.
func New(opts Options) *Collector {
	return &Collector{
		directory: opts.Directory, maxBytes: cmp.Or(opts.MaxBytes, maxBytes), maxSeries: cmp.Or(opts.MaxSeries, maxSeries),
		files: map[string]*file{},
	}
}

// Name returns textfile.
func (c *Collector) Name() string { return "textfile" }

// Update reads what has changed and publishes all of it. The error names every file that was left out and why; it wraps
// exporter.ErrNoData where no directory is given.
func (c *Collector) Update(ctx context.Context) ([]prometheus.Metric, error) {
	if c.directory == "" {
		return nil, fmt.Errorf("textfile: no directory: %w", exporter.ErrNoData)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	paths, err := c.list()
	faults := []error{err}
	maps.DeleteFunc(c.files, func(path string, _ *file) bool { return !slices.Contains(paths, path) })

	var p page
	left := room{c.maxBytes, c.maxSeries}
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			faults = append(faults, fmt.Errorf("textfile: %w", err))
			break
		}
		f := c.file(path, left)
		if f.err != nil {
			faults = append(faults, fmt.Errorf("textfile: %s: %w", path, f.err))
			continue
		}
		left.bytes, left.series = left.bytes-f.version.size, left.series-f.series
		if err := p.add(path, f); err != nil {
			faults = append(faults, err)
		}
		p.gauge(modified, float64(f.version.modified.UnixMilli())/1e3, path)
	}
	err = errors.Join(faults...)
	failed := 0.0
	if err != nil {
		failed = 1
	}
	p.gauge(scrapeError, failed)
	return p.metrics, err
}

// list returns the paths of the files, in their order.
func (c *Collector) list() ([]string, error) {
	entries, err := os.ReadDir(c.directory)
	if err != nil {
		return nil, fmt.Errorf("textfile: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".prom") {
			continue
		}
		if len(paths) == maxFiles {
			return paths, fmt.Errorf("textfile: %s: more than %d files: those from %s on are left out", c.directory, maxFiles, e.Name())
		}
		paths = append(paths, filepath.Join(c.directory, e.Name()))
	}
	return paths, nil
}

// room is what files may still have.
type room struct {
	bytes  int64
	series int
}

// file returns the file at path, read anew if it has changed. One that has more than there is room for is left out.
func (c *Collector) file(path string, left room) *file {
	f, v, err := open(path)
	if err != nil {
		delete(c.files, path)
		return &file{err: err}
	}
	defer f.Close()
	if v.size > left.bytes {
		delete(c.files, path)
		return &file{err: fmt.Errorf("with its %d bytes all files have more than %d together", v.size, c.maxBytes)}
	}
	tooMany := func(series int) *file {
		return &file{err: fmt.Errorf("with its %d series all files have more than %d together", series, c.maxSeries)}
	}
	if before := c.files[path]; before != nil && before.version.same(v) {
		switch {
		case before.err == nil && before.series > left.series:
			before.families = nil // it is read again when there is room
			return tooMany(before.series)
		case before.err != nil || before.families != nil:
			return before
		}
	}
	read := &file{version: v}
	read.families, read.err = parse(f)
	read.series = seriesIn(read.families)
	c.files[path] = read
	if read.err == nil && read.series > left.series {
		read.families = nil
		return tooMany(read.series)
	}
	return read
}

// open opens a regular file. It does not wait for the writer of a named pipe.
func open(path string) (*os.File, version, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblocking, 0)
	if err != nil {
		return nil, version{}, unpathed(err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = unpathed(err)
	case !info.Mode().IsRegular():
		err = errors.New("it is not a regular file")
	case info.Size() > maxFileSize:
		err = fmt.Errorf("it has %d bytes, more than %d", info.Size(), maxFileSize)
	default:
		return f, version{info, info.ModTime(), info.Size()}, nil
	}
	f.Close()
	return nil, version{}, err
}

// unpathed is a file's error without its path, which is said before it.
func unpathed(err error) error {
	if at, ok := errors.AsType[*os.PathError](err); ok {
		return at.Err
	}
	return err
}

// parse reads the text format.
func parse(r io.Reader) (map[string]*dto.MetricFamily, error) {
	limited := &io.LimitedReader{R: r, N: maxFileSize + 1} // it may grow while it is read
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(limited)
	switch {
	case limited.N == 0:
		return nil, fmt.Errorf("it has more than %d bytes", maxFileSize)
	case err != nil:
		return nil, err
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if m.TimestampMs != nil {
				return nil, fmt.Errorf("%s has a timestamp: values here are published as those of now", family.GetName())
			}
		}
	}
	return families, nil
}

// seriesIn is how many series families have on a page.
func seriesIn(families map[string]*dto.MetricFamily) int {
	n := 0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			switch {
			case m.GetHistogram() != nil:
				n += len(m.GetHistogram().GetBucket()) + 2
			case m.GetSummary() != nil:
				n += len(m.GetSummary().GetQuantile()) + 2
			default:
				n++
			}
		}
	}
	return n
}

// page collects what the files have.
type page struct {
	metrics []prometheus.Metric
	descs   map[string]described // by the family's name
}

// described is a family as the first file describes it.
type described struct {
	desc *prometheus.Desc
	kind dto.MetricType
	help string // empty where no file had one yet
	path string
}

func (p *page) gauge(f exporter.Family, v float64, labels ...string) {
	p.metrics = append(p.metrics, prometheus.MustNewConstMetric(f.Desc(), prometheus.GaugeValue, v, labels...))
}

// add takes in the families of a file. The error names those that an earlier file describes differently.
func (p *page) add(path string, f *file) error {
	if p.descs == nil {
		p.descs = map[string]described{}
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(f.families)) {
		family := f.families[name]
		d, known := p.descs[name]
		switch {
		case !known:
			help := cmp.Or(family.GetHelp(), "Metric read from "+path)
			d = described{prometheus.V2.NewDesc(name, help, prometheus.UnconstrainedLabels(nil), nil), family.GetType(), family.GetHelp(), path}
			p.descs[name] = d
		case d.kind != family.GetType():
			faults = append(faults, fmt.Errorf("textfile: %s: %s is left out: %s has it as %s", path, name, d.path, strings.ToLower(d.kind.String())))
			continue
		case family.GetHelp() != "" && family.GetHelp() != d.help:
			faults = append(faults, fmt.Errorf("textfile: %s: %s is left out: %s has it with another help text", path, name, d.path))
			continue
		}
		for _, m := range family.GetMetric() {
			p.metrics = append(p.metrics, metric{d.desc, m})
		}
	}
	return errors.Join(faults...)
}

// metric is one that was parsed; scrapes share it, so nobody may change it.
type metric struct {
	desc *prometheus.Desc
	m    *dto.Metric
}

func (m metric) Desc() *prometheus.Desc { return m.desc }

func (m metric) Write(out *dto.Metric) error {
	out.Label = m.m.GetLabel()
	out.Gauge = m.m.GetGauge()
	out.Counter = m.m.GetCounter()
	out.Summary = m.m.GetSummary()
	out.Untyped = m.m.GetUntyped()
	out.Histogram = m.m.GetHistogram()
	return nil
}

package main

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"flyball/exporter"
	"flyball/rules/source"
)

// exporterOptions are the flags of the exporter and of /metrics. Flags win over the configuration.
type exporterOptions struct {
	collectors      []collectorFlag
	disableDefaults bool
	host            exporter.Host
	textfiles       string
	gpu             [len(gpuFlags)]collectorFlag
	maxRequests     int
	timeoutOffset   time.Duration
	disableOwn      bool // go_* and process_*
}

// collectorFlag is --[no-]collector.NAME.
type collectorFlag struct {
	name      string
	on, given bool
}

// gpuFlags are the flags of what the collector gpu reads only where it is asked to.
var gpuFlags = [...]struct {
	name, key, help string
	of              func(*exporter.GPU) *bool
}{
	{"nvlink.per-link", "nvlink_per_link", "Publish the bytes over NVLink by link in place of their sum", func(c *exporter.GPU) *bool { return &c.NVLinkPerLink }},
	{"gpu.call-durations", "call_durations", "Measure every call into NVML and publish how long they take", func(c *exporter.GPU) *bool { return &c.CallDurations }},
}

// add adds the flags to a command.
func (o *exporterOptions) add(c *kingpin.CmdClause) {
	names := exporter.CollectorNames()
	o.collectors = make([]collectorFlag, len(names))
	for i, name := range names {
		f := &o.collectors[i]
		f.name = name
		c.Flag("collector."+name, "Run the collector "+name+", or with --no- do not, whatever exporter.collectors."+name+" in the configuration says.").IsSetByUser(&f.given).BoolVar(&f.on)
	}
	c.Flag("collector.disable-defaults", "Run no collector but those that a flag or exporter.collectors in the configuration switches on.").BoolVar(&o.disableDefaults)
	for i, f := range gpuFlags {
		o.gpu[i].name = f.name
		c.Flag("collector."+f.name, f.help+", or with --no- do not, whatever exporter.gpu."+f.key+" in the configuration says.").IsSetByUser(&o.gpu[i].given).BoolVar(&o.gpu[i].on)
	}
	c.Flag("collector.textfile.directory", "The directory whose files *.prom are published, instead of exporter.textfile.directory in the configuration.").PlaceHolder("DIR").StringVar(&o.textfiles)
	c.Flag("path.procfs", "Where procfs is mounted, instead of exporter.host.procfs in the configuration; in a container, the machine's.").PlaceHolder("DIR").StringVar(&o.host.ProcFS)
	c.Flag("path.sysfs", "Where sysfs is mounted, instead of exporter.host.sysfs in the configuration.").PlaceHolder("DIR").StringVar(&o.host.SysFS)
	c.Flag("path.rootfs", "Where the machine's file systems are found, instead of exporter.host.rootfs in the configuration.").PlaceHolder("DIR").StringVar(&o.host.RootFS)
	c.Flag("web.max-requests", "How many requests for /metrics, and how many for /probe, are answered at the same time; one more has status 503. 0: no limit.").Default("40").IntVar(&o.maxRequests)
	c.Flag("web.timeout-offset", "How long before Prometheus gives up a scrape it is answered, without what is late.").Default("500ms").DurationVar(&o.timeoutOffset)
	c.Flag("web.disable-exporter-metrics", "Leave go_* and process_* of this process out of /metrics.").BoolVar(&o.disableOwn)
}

// check says what no exporter can do.
func (o *exporterOptions) check() error {
	var faults []error
	if o.maxRequests < 0 {
		faults = append(faults, fmt.Errorf("--web.max-requests is %d: expected 0 or more", o.maxRequests))
	}
	if o.timeoutOffset < 0 {
		faults = append(faults, fmt.Errorf("--web.timeout-offset is %s: expected 0s or more", o.timeoutOffset))
	}
	for _, f := range []struct{ flag, path string }{
		{"path.procfs", o.host.ProcFS}, {"path.sysfs", o.host.SysFS}, {"path.rootfs", o.host.RootFS}, {"collector.textfile.directory", o.textfiles},
	} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			faults = append(faults, fmt.Errorf("--%s is %q: expected an absolute path", f.flag, f.path))
		}
	}
	return errors.Join(faults...)
}

// apply puts the flags in the place of what the configuration says. Faults of the two together are told of d.
func (o *exporterOptions) apply(c *exporter.Config, d *source.Decoder) {
	c.Collectors.Each(func(name string, on *bool) {
		if o.disableDefaults && !d.Has("exporter.collectors."+name) {
			*on = false
		}
		for _, f := range o.collectors {
			if f.name == name && f.given {
				*on = f.on
			}
		}
	})
	for i, f := range gpuFlags {
		if o.gpu[i].given {
			*f.of(&c.GPU) = o.gpu[i].on
		}
	}
	for _, path := range []struct {
		given string
		to    *string
	}{
		{o.host.ProcFS, &c.Host.ProcFS}, {o.host.SysFS, &c.Host.SysFS}, {o.host.RootFS, &c.Host.RootFS}, {o.textfiles, &c.Textfile.Directory},
	} {
		if path.given != "" {
			*path.to = path.given
		}
	}
	if c.GPU.Require && !c.Collectors.GPU {
		d.FaultAt("exporter.gpu.require", 0, "true while a flag switches the collector gpu off")
	}
}

// metricsHandler serves /metrics: this process's own metrics and what the collectors of the present configuration find.
// limit is how many requests are answered at the same time; 0 for no limit.
func (a *app) metricsHandler(limit int) http.Handler {
	return exporter.NewHandler(exporter.HandlerOptions{
		Process: a.metrics, Exporter: a.exporter.Load, MaxRequests: limit, TimeoutOffset: a.opts.exporter.timeoutOffset,
	})
}

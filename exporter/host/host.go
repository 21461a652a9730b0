package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"

	"flyball/exporter"
)

// Options say where to read.
type Options struct {
	ProcPath string // where procfs is mounted; empty for /proc
	SysPath  string // where sysfs is mounted; empty for /sys
	RootPath string // where the machine's root is mounted, whose file systems are read; empty for /
}

// Collector reads the host. It is an exporter.Collector.
type Collector struct {
	proc    procfs.FS
	disks   *blockdevice.FS // nil where there is no sysfs
	sysPath string
	absent  bool // this system has no procfs
	mounts  *mounts
	own     cgroups

	mu  sync.Mutex
	cpu map[string]float64 // seconds by mode, as published last
}

// New returns a collector of this machine. The error says that a path that was given, or /proc on Linux, is not there.
func New(opts Options) (*Collector, error) {
	if runtime.GOOS != "linux" && opts.ProcPath == "" {
		return &Collector{absent: true}, nil
	}
	procPath, sysPath := cmp.Or(opts.ProcPath, procfs.DefaultMountPoint), cmp.Or(opts.SysPath, "/sys")
	proc, err := procfs.NewFS(procPath)
	if err != nil {
		return nil, fmt.Errorf("host: procfs at %s: %w", procPath, err)
	}
	c := &Collector{
		proc: proc, sysPath: sysPath, cpu: map[string]float64{}, mounts: newMounts(procPath, opts.RootPath),
		own: cgroups{process: "/proc/self", mounted: "/sys/fs/cgroup"}, // this process's own, wherever the machine's are
	}
	disks, err := blockdevice.NewFS(procPath, sysPath)
	switch {
	case err == nil:
		c.disks = &disks
	case opts.SysPath != "":
		return nil, fmt.Errorf("host: sysfs at %s: %w", sysPath, err)
	}
	return c, nil
}

// Name returns host.
func (c *Collector) Name() string { return "host" }

// Update reads everything once. A part that cannot be read is an error and takes only its own series with it.
func (c *Collector) Update(ctx context.Context) ([]prometheus.Metric, error) {
	if c.absent {
		return nil, fmt.Errorf("host: no procfs on %s: %w", runtime.GOOS, exporter.ErrNoData)
	}
	var r reading
	var faults []error
	for _, part := range []struct {
		name string
		read func(*reading) error
	}{
		{"cpu", c.readCPU},
		{"memory", c.readMemory},
		{"load", c.readLoad},
		{"network", c.readNetwork},
		{"disk", c.readDisks},
		{"pressure", c.readPressure},
		{"filesystem", func(r *reading) error { return c.mounts.read(ctx, r) }},
		{"cgroup", c.own.read},
	} {
		if err := ctx.Err(); err != nil {
			faults = append(faults, fmt.Errorf("host: %w", err))
			break
		}
		if err := part.read(&r); err != nil {
			faults = append(faults, fmt.Errorf("host: %s: %w", part.name, err))
		}
	}
	return r.metrics, errors.Join(faults...)
}

// reading collects the metrics of one update.
type reading struct{ metrics []prometheus.Metric }

func (r *reading) gauge(f family, v float64, labels ...string) {
	r.metrics = append(r.metrics, prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, v, labels...))
}

func (r *reading) counter(f family, v float64, labels ...string) {
	r.metrics = append(r.metrics, prometheus.MustNewConstMetric(f.desc, prometheus.CounterValue, v, labels...))
}

// missing reports whether a file is not there, or is there for a feature that the kernel was started without.
func missing(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, errors.ErrUnsupported)
}

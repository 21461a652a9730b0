package main

import (
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"flyball/exporter"
	"flyball/exporter/gpu"
	"flyball/rules/source"
)

// gpuOptions are those of the collector of GPUs of a configuration; self is this binary. Processes are read where they are asked for,
// or others need them.
func gpuOptions(c exporter.GPU, host exporter.Host, processes bool, sim *gpu.Sim, self string, log *slog.Logger) gpu.Options {
	most := c.MaxProcesses
	if !c.Processes {
		most = -1
	}
	return gpu.Options{
		Worker: []string{self, nvmlCommand}, Backend: c.Backend, Library: c.Library, Require: c.Require, Sim: sim, ProcPath: host.ProcFS, SysPath: host.SysFS,
		Interval: time.Duration(c.Interval), SlowInterval: time.Duration(c.SlowInterval), Timeout: time.Duration(c.Timeout),
		Processes: processes, MaxProcesses: most, NVLinkPerLink: c.NVLinkPerLink, CallDurations: c.CallDurations,
		Logger: log,
	}
}

// readSim reads the description of simulated GPUs. Its faults are the error; that it cannot be read is one of the
// configuration.
func (l *loaded) readSim(d *source.Decoder, dir string) error {
	c := &l.Exporter.GPU
	if c.Sim == "" || c.Backend != gpu.BackendSim {
		return nil
	}
	if !filepath.IsAbs(c.Sim) {
		c.Sim = filepath.Join(dir, c.Sim)
	}
	var err error
	l.sim, err = gpu.ReadSim(c.Sim)
	if _, inFile := errors.AsType[source.Errors](err); inFile {
		return err
	}
	if err != nil {
		d.FaultAt("exporter.gpu.sim", 0, "%s", err)
	}
	return nil
}

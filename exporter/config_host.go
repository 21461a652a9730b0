package exporter

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Host is where the machine is read. In a container that is given the machine's own, they are where those are mounted.
type Host struct {
	ProcFS string `yaml:"procfs"` // empty for /proc
	SysFS  string `yaml:"sysfs"`  // empty for /sys
	RootFS string `yaml:"rootfs"` // below which the machine's file systems are found; empty for /
}

func (h Host) validate() error {
	var faults []error
	for _, f := range []struct{ key, path, example string }{
		{"procfs", h.ProcFS, "/host/proc"}, {"sysfs", h.SysFS, "/host/sys"}, {"rootfs", h.RootFS, "/host/root"},
	} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			faults = append(faults, fmt.Errorf("host.%s: %q depends on where flyball is started: give an absolute path, such as %s", f.key, f.path, f.example))
		}
	}
	return errors.Join(faults...)
}

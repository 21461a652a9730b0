package exporter

import (
	"errors"
	"fmt"
)

// Values of Config.Compat: under whose names the GPUs are served beside our own.
const (
	CompatNone = "none"
	CompatDCGM = "dcgm" // those of NVIDIA's dcgm-exporter, at /metrics/dcgm
)

// DefaultHostnameLabel is the label that dcgm-exporter had the name of the machine in until version 4.5, and that the
// dashboard beside it still asks for; later ones write it hostname.
const DefaultHostnameLabel = "Hostname"

// validateCompat returns what is wrong with the keys compat and compat_hostname_label; empty ones stand for none and Hostname.
func (c Config) validateCompat() error {
	var faults []error
	switch c.Compat {
	case "", CompatNone:
	case CompatDCGM:
		if !c.Collectors.GPU {
			faults = append(faults, errors.New("compat: dcgm has nothing to show while collectors.gpu is false"))
		}
	default:
		faults = append(faults, fmt.Errorf("compat: %q is not known: expected none or dcgm", c.Compat))
	}
	switch c.CompatHostnameLabel {
	case "", DefaultHostnameLabel, "hostname":
	default:
		faults = append(faults, fmt.Errorf("compat_hostname_label: %q is not a label that dcgm-exporter has: expected Hostname or hostname", c.CompatHostnameLabel))
	}
	return errors.Join(faults...)
}

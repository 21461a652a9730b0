package exporter

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
)

// Config is the section exporter of the configuration.
type Config struct {
	Collectors Collectors     `yaml:"collectors"`
	Timeout    model.Duration `yaml:"timeout"` // the longest that one collector may take at a scrape
	GPU        GPU            `yaml:"gpu"`
	Host       Host           `yaml:"host"`
	Textfile   Textfile       `yaml:"textfile"`
}

// Collectors says which collectors run.
type Collectors struct {
	Host     bool `yaml:"host"`
	GPU      bool `yaml:"gpu"`
	Textfile bool `yaml:"textfile"`
}

// GPU is how the GPUs are read.
type GPU struct {
	Library string `yaml:"library"` // the file of libnvidia-ml.so.1; empty to look where drivers put it
	Require bool   `yaml:"require"` // a machine without a working GPU is an error, not an ordinary machine
}

// maxTimeout is well above any scrape timeout in use (Prometheus's default is 10 s): a longer deadline is no deadline.
const maxTimeout = time.Minute

// DefaultConfig returns the settings that hold where the configuration says nothing.
func DefaultConfig() Config {
	return Config{
		// A machine without GPUs has no GPU series, and without a directory no files are read: on costs nothing there.
		Collectors: Collectors{Host: true, GPU: true, Textfile: true},
		// Collectors read files and snapshots in memory, which takes milliseconds; 2 s is what a loaded machine may need,
		// and leaves most of a 10 s scrape timeout to the network.
		Timeout: model.Duration(2 * time.Second),
	}
}

// Validate returns all that is wrong, each fault beginning with the path of its field.
func (c Config) Validate() error {
	var faults []error
	if t := time.Duration(c.Timeout); t <= 0 || t > maxTimeout {
		faults = append(faults, fmt.Errorf("timeout: %s is not a deadline for a scrape: give more than 0s and at most 1m, such as 2s", c.Timeout))
	}
	if c.GPU.Require && !c.Collectors.GPU {
		faults = append(faults, errors.New("gpu.require: true while collectors.gpu is false: switch the collector on, or require nothing"))
	}
	faults = append(faults, c.Host.validate(), c.Textfile.validate())
	return errors.Join(faults...)
}

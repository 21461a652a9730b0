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
	Kubernetes Kubernetes     `yaml:"kubernetes"`
	Host       Host           `yaml:"host"`
	Textfile   Textfile       `yaml:"textfile"`

	Compat              string `yaml:"compat"`                // CompatNone, which empty stands for, or CompatDCGM
	CompatHostnameLabel string `yaml:"compat_hostname_label"` // of CompatDCGM: Hostname, which empty stands for, or hostname

	ModelServers []ModelServer `yaml:"model_servers"` // whose own metrics are read
}

// Collectors says which collectors run.
type Collectors struct {
	Host     bool `yaml:"host"`
	GPU      bool `yaml:"gpu"`
	Pods     bool `yaml:"pods"`
	Models   bool `yaml:"models"` // what model servers say of themselves
	Facts    bool `yaml:"facts"`  // what their models are, by their files, evaluations and readiness
	Textfile bool `yaml:"textfile"`
}

// maxTimeout is well above any scrape timeout in use (Prometheus's default is 10 s): a longer deadline is no deadline.
const maxTimeout = time.Minute

// DefaultConfig returns the settings that hold where the configuration says nothing.
func DefaultConfig() Config {
	return Config{
		// A machine without GPUs, a kubelet, a directory or model servers has no series of them: on costs nothing there.
		Collectors: Collectors{Host: true, GPU: true, Pods: true, Models: true, Facts: true, Textfile: true},
		// Collectors read files and snapshots in memory, which takes milliseconds; 2 s is what a loaded machine may need,
		// and leaves most of a 10 s scrape timeout to the network.
		Timeout:    model.Duration(2 * time.Second),
		GPU:        defaultGPU(),
		Kubernetes: defaultKubernetes(),
	}
}

// Validate returns all that is wrong, each fault beginning with the path of its field.
func (c Config) Validate() error {
	var faults []error
	if t := time.Duration(c.Timeout); t <= 0 || t > maxTimeout {
		faults = append(faults, fmt.Errorf("timeout: %s is not a deadline for a scrape: give more than 0s and at most 1m, such as 2s", c.Timeout))
	}
	faults = append(faults, c.validateCompat(), c.GPU.validate(c.Collectors.GPU), c.Kubernetes.validate(), c.GPU.IdleWatts.validate())
	faults = append(faults, validateModelServers(c.ModelServers)...)
	faults = append(faults, c.Host.validate(), c.Textfile.validate())
	return errors.Join(faults...)
}

// SetDirectory makes the paths of files relative to the folder of the configuration file.
func (c *Config) SetDirectory(dir string) {
	for i := range c.ModelServers {
		c.ModelServers[i].SetDirectory(dir)
	}
}

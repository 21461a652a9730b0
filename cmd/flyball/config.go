package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"

	"flyball/actuators/none"
	"flyball/actuators/process"
	"flyball/batchproxy"
	"flyball/cmd/flyball/tracing"
	"flyball/exporter"
	"flyball/exporter/gpu"
	"flyball/rules"
	"flyball/rules/remote"
	"flyball/rules/source"
	"flyball/rules/store"
)

// Config is the configuration file: each part has its own type, with its defaults and what is wrong with it.
type Config struct {
	Global        Global            `yaml:"global"`
	Prometheus    remote.Config     `yaml:"prometheus"`
	Storage       Storage           `yaml:"storage"`
	ScrapeConfigs *yaml.Node        `yaml:"scrape_configs"` // Prometheus's own format, for rules/store to read
	RemoteWrite   *yaml.Node        `yaml:"remote_write"`   // so is this
	RuleFiles     []string          `yaml:"rule_files"`
	Alerting      *yaml.Node        `yaml:"alerting"` // Prometheus's own format, for rules/store to read
	Exporter      exporter.Config   `yaml:"exporter"`
	Batchproxy    batchproxy.Config `yaml:"batchproxy"`
	Tracing       *tracing.Config   `yaml:"tracing"` // nil: none
	Actuators     Actuators         `yaml:"actuators"`
	Election      *Election         `yaml:"election"` // nil: this process is the one that acts
}

// Global are Prometheus's global settings.
type Global struct {
	ScrapeInterval     model.Duration    `yaml:"scrape_interval"`
	ScrapeTimeout      model.Duration    `yaml:"scrape_timeout"` // 0: 10 s, or the interval if that is shorter
	EvaluationInterval model.Duration    `yaml:"evaluation_interval"`
	ExternalLabels     map[string]string `yaml:"external_labels"`
}

// Storage is where samples and decisions are kept, and how many.
type Storage struct {
	Path      string           `yaml:"path"`
	Retention model.Duration   `yaml:"retention"`
	MaxBytes  units.Base2Bytes `yaml:"max_bytes"`
	MinFree   units.Base2Bytes `yaml:"min_free"` // of the disk, for anything to be written; 0: whatever there is
}

// Actuators are the targets of each kind.
type Actuators struct {
	Process    process.Config    `yaml:"process"`
	Kubernetes *kubernetesConfig `yaml:"kubernetes"` // nil: no cluster
	None       none.Config       `yaml:"none"`
	Keda       none.Config       `yaml:"keda"`
}

// DefaultConfig returns what holds where the file says nothing.
func DefaultConfig() Config {
	return Config{
		Global: Global{
			// Prometheus's customary interval: GPUs take minutes to come, so seconds would only cost.
			ScrapeInterval:     model.Duration(15 * time.Second),
			EvaluationInterval: model.Duration(15 * time.Second),
		},
		Prometheus: remote.DefaultConfig(),
		Storage: Storage{
			Path:      "data",
			Retention: model.Duration(15 * 24 * time.Hour), // Prometheus's default
			MinFree:   64 * units.MiB,                      // see store.Options
			MaxBytes:  units.GiB,                           // a node's exporter and some models for 15 days take a third
		},
		Exporter:   exporter.DefaultConfig(),
		Batchproxy: batchproxy.DefaultConfig(),
		Actuators:  Actuators{Process: process.DefaultConfig()},
	}
}

// loaded is a configuration with all that it refers to, read and checked.
type loaded struct {
	Config
	rules    []*rules.File
	lint     error  // what is probably not meant in them
	print    string // the fingerprint of the files that it is from; "" where that was not asked for
	scrape   store.ScrapeConfigs
	writes   store.RemoteWrites
	alerting store.Alerting
	sim      *gpu.Sim // what GPUs are simulated by; nil where they are not
}

// load reads a configuration file and its rule files. The error is a source.Errors with every fault of all of them.
func load(path string) (*loaded, error) {
	text, err := source.Read(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration (--config.file): %w", err)
	}
	return loadText(path, text)
}

// loadText is load of a file whose text was read; more finds further faults.
func loadText(path string, text []byte, more ...func(*loaded, *source.Decoder)) (*loaded, error) {
	parsed, err := source.Parse(path, text)
	if err != nil {
		return nil, err
	}
	d := parsed.Decoder()
	l := &loaded{Config: DefaultConfig()}
	d.Decode(&l.Config)
	l.validate(d, filepath.Dir(path))
	for _, f := range more {
		f(l, d)
	}
	reader := rules.Reader{Defaults: l.ruleDefaults(), CheckScale: l.checkScale, CheckGroup: checkGroup, Remote: l.Prometheus.Remote()}
	var ruleFaults []error
	for _, file := range l.findRules(d, filepath.Dir(path)) {
		f, err := reader.ReadFile(file.name)
		switch _, inFile := errors.AsType[source.Errors](err); {
		case err == nil:
			l.rules = append(l.rules, f)
		case inFile:
			ruleFaults = append(ruleFaults, err)
		default:
			d.FaultAt(file.at, 0, "%s", err)
		}
	}
	simFaults := l.readSim(d, filepath.Dir(path))
	l.checkElsewhereQueries(d, &reader)
	if ruleFaults == nil { // else a file that could not be read may write what the others ask for
		ruleFaults = append(ruleFaults, reader.Finish())
	}
	if err := source.Join(append([]error{d.Err(), simFaults}, ruleFaults...)...); err != nil {
		return nil, err
	}
	l.lint = reader.Lint()
	return l, nil
}

func (c *Config) ruleDefaults() rules.Defaults {
	return rules.Defaults{
		EvaluationInterval: time.Duration(c.Global.EvaluationInterval),
		ScrapeInterval:     time.Duration(c.Global.ScrapeInterval),
	}
}

func (l *loaded) validate(d *source.Decoder, dir string) {
	d.Faults("global", l.Global.validate())
	d.Faults("storage", l.Storage.validate())
	l.Exporter.SetDirectory(dir)
	d.Faults("exporter", l.Exporter.Validate())
	d.Faults("batchproxy", l.Batchproxy.Validate())
	l.validateTracing(d, dir)
	d.Faults("actuators.process", l.Actuators.Process.Validate())
	l.validateKubernetes(d, dir)
	for kind, c := range l.elsewhere() {
		d.Faults("actuators."+kind, c.Validate())
	}
	l.validateElection(d, dir)
	for i, m := range l.Batchproxy.Models {
		for j, u := range m.Upstreams {
			if u.File != "" && !filepath.IsAbs(u.File) { // as Prometheus reads file_sd_configs
				m.Upstreams[j].File = filepath.Join(dir, u.File)
			}
			if _, known := l.Actuators.Process[u.Target]; u.Target != "" && !known {
				at := fmt.Sprintf("batchproxy.models[%d].upstreams[%d].target", i, j)
				d.FaultAt(at, 0, "no target %q in actuators.process%s", u.Target, source.DidYouMean(u.Target, l.targets()))
			}
		}
	}
	if l.ScrapeConfigs != nil {
		text, err := yaml.Marshal(l.ScrapeConfigs)
		if err == nil {
			l.scrape, err = store.ParseScrapeConfigs(text, store.ScrapeGlobal{
				Interval: time.Duration(l.Global.ScrapeInterval), Timeout: time.Duration(l.Global.ScrapeTimeout), Dir: dir,
			})
		}
		d.Faults("", err)
	}
	l.validatePrometheus(d, dir)
	if l.Alerting != nil {
		text, err := yaml.Marshal(l.Alerting)
		if err == nil {
			l.alerting, err = store.ParseAlerting(text, dir)
		}
		d.Faults("", err)
	}
}

// checkFixed says what differs from the configuration that runs and cannot be changed while it does.
func (l *loaded) checkFixed(d *source.Decoder, running *loaded) {
	for _, key := range []struct {
		path     string
		from, to any
	}{
		{"storage.path", running.Storage.Path, l.Storage.Path},
		{"storage.retention", running.Storage.Retention, l.Storage.Retention},
		{"storage.max_bytes", running.Storage.MaxBytes, l.Storage.MaxBytes},
	} {
		if key.from != key.to {
			d.FaultAt(key.path, 0, "%s is %v in the process that runs: to change it takes a restart", key.path, key.from)
		}
	}
	if !reflect.DeepEqual(running.Election, l.Election) {
		d.FaultAt("election", 0, "election is another in the process that runs: to change it takes a restart")
	}
}

func (g Global) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if g.ScrapeInterval <= 0 {
		fault("scrape_interval: %s is not an interval: give more than 0s, such as 15s", g.ScrapeInterval)
	}
	if g.EvaluationInterval <= 0 {
		fault("evaluation_interval: %s is not an interval: give more than 0s, such as 15s", g.EvaluationInterval)
	}
	if g.ScrapeTimeout < 0 || g.ScrapeTimeout > g.ScrapeInterval {
		fault("scrape_timeout: %s is not between 0s and scrape_interval, which is %s", g.ScrapeTimeout, g.ScrapeInterval)
	}
	for name := range g.ExternalLabels {
		if !model.UTF8Validation.IsValidLabelName(name) {
			fault("external_labels: %q is not a label name", name)
		}
	}
	return errors.Join(faults...)
}

func (s Storage) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if s.Path == "" {
		fault("path: empty: give a directory")
	}
	if s.Retention <= 0 {
		fault("retention: %s keeps nothing: give more than 0s, such as 15d", s.Retention)
	}
	if s.MaxBytes <= 0 {
		fault("max_bytes: %d keeps nothing: give a size, such as 1GiB", int64(s.MaxBytes))
	}
	if s.MinFree < 0 {
		fault("min_free: %d: give a size, such as 64MiB, or 0 for none", int64(s.MinFree))
	}
	return errors.Join(faults...)
}

// ruleFile is a rule file and the place in the configuration that names it.
type ruleFile struct{ name, at string }

// findRules lists the rule files, each once. A pattern may match none; a name without a pattern must be there, which
// reading it says.
func (l *loaded) findRules(d *source.Decoder, dir string) (files []ruleFile) {
	seen := map[string]bool{}
	for i, pattern := range l.RuleFiles {
		at := fmt.Sprintf("rule_files[%d]", i)
		names, err := matchRules(pattern, dir)
		if err != nil {
			d.FaultAt(at, 0, "%q is not a pattern: %s", pattern, err)
		}
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				files = append(files, ruleFile{name, at})
			}
		}
	}
	return files
}

func (c *Config) targets() []string {
	var names []string
	for name := range c.Actuators.Process {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

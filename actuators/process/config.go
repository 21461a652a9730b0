package process

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/prometheus/common/model"
)

// Config is the targets by name.
type Config map[string]Target

// Target is how the replicas of one target are run.
//
// Each argument of Command and each value of Env is a template (text/template) of an [Instance]:
//
//	command: [bin/modelserver, "--web.listen-address={{.Address}}"]
//	env: {CUDA_VISIBLE_DEVICES: "{{.Index}}"}
type Target struct {
	// Command is the program and its arguments; there is no shell. A program without a slash is looked up in PATH, a
	// relative one starts from Dir. It has to serve on the instance's address.
	Command []string `yaml:"command"`

	// Ready is the path that answers a GET with 200 once the replica can serve.
	Ready string `yaml:"ready"`

	// Drain is how long a replica has from leaving the list of endpoints to being killed. 0 kills it at once.
	Drain model.Duration `yaml:"drain"`

	// RestartBackoff is the pause before a replica that ended is started again.
	RestartBackoff Backoff `yaml:"restart_backoff"`

	// StartTimeout is how long a replica may take to be ready, and how long it may be unready, before it is started
	// again.
	StartTimeout model.Duration `yaml:"start_timeout"`

	// Replicas is the size that the target starts with, where nobody remembers another.
	Replicas int `yaml:"replicas"`

	// MetricsPath is where a replica has metrics for the store to scrape; empty where it has none.
	MetricsPath string `yaml:"metrics_path"`

	// MaxReplicas is the largest size that Apply takes, whatever a rule says.
	MaxReplicas int `yaml:"max_replicas"`

	// Env is added to the environment that the replicas inherit.
	Env map[string]string `yaml:"env"`

	// Dir is the working directory of the replicas; empty for that of the parent.
	Dir string `yaml:"dir"`
}

// Backoff is a pause that doubles with each failure in a row, from Min to Max.
type Backoff struct {
	Min model.Duration `yaml:"min"`
	Max model.Duration `yaml:"max"`
}

// Instance is what the templates of a target may refer to.
type Instance struct {
	Name    string // of the target
	Index   int    // of the replica: the lowest number from 0 that no other replica of the target has
	Replica int    // the same as Index
	Address string // Host:Port, where the replica has to listen
	Host    string // a loopback address
	Port    int
}

// DefaultConfig returns the configuration without any target.
func DefaultConfig() Config { return Config{} }

// DefaultTarget returns what a target has that the configuration does not set. There is no default command.
func DefaultTarget() Target {
	return Target{
		// The readiness path of the Open Inference Protocol, which Triton, KServe's runtimes and MLServer serve.
		Ready: "/v2/health/ready",
		// Most requests to a model end within seconds; a server of long generations needs its own value.
		Drain: model.Duration(10 * time.Second),
		// 1 s: a replica that was killed by chance is soon back. 1 m: one that can't run costs a start a minute, and is
		// back within a minute of being repaired.
		RestartBackoff: Backoff{Min: model.Duration(time.Second), Max: model.Duration(time.Minute)},
		// Reading tens of gigabytes of weights from a local disk at 1 GB/s takes most of a minute.
		StartTimeout: model.Duration(time.Minute),
		// One serves at once; more is for a rule, or for who knows the load.
		Replicas:    1,
		MetricsPath: "/metrics",
		// Twice the eight accelerators of a large node: more is rather a rule gone wrong.
		MaxReplicas: 16,
	}
}

// SetDefaults sets the values of DefaultTarget; what reads a configuration calls it before the file's own values.
func (t *Target) SetDefaults() { *t = DefaultTarget() }

// targetName is what may name a target: it appears in metrics, in addresses of the page and on the command line.
var targetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Validate returns all faults joined. Each begins with the path of the field, from the target's name on.
func (c Config) Validate() error {
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(c)) {
		fault := func(field, format string, args ...any) {
			faults = append(faults, fmt.Errorf("%s%s: %w", name, field, fmt.Errorf(format, args...)))
		}
		if !targetName.MatchString(name) {
			fault("", "%q is not a target name: use letters, digits, '.', '_' and '-', beginning with a letter or digit", name)
		}
		c[name].validate(name, fault)
	}
	return errors.Join(faults...)
}

func (t Target) validate(name string, fault func(field, format string, args ...any)) {
	if len(t.Command) == 0 {
		fault(".command", "empty: give the program and its arguments as a list")
	}
	sample := Instance{Name: name, Address: "127.0.0.1:8000", Host: "127.0.0.1", Port: 8000}
	for i, arg := range t.Command {
		rendered, err := tryTemplate(arg, sample)
		if err != nil {
			fault(fmt.Sprintf(".command[%d]", i), "%w", err)
		} else if i == 0 && rendered == "" {
			fault(".command[0]", "empty: give the program to run")
		}
	}
	if u, err := url.ParseRequestURI(t.Ready); err != nil || !strings.HasPrefix(t.Ready, "/") {
		fault(".ready", "%q is not a path: give one that begins with '/', such as /v2/health/ready", t.Ready)
	} else if u.Fragment != "" || strings.Contains(t.Ready, "#") {
		fault(".ready", "%q has a fragment, which is never sent: leave out what begins with '#'", t.Ready)
	}
	if t.Drain < 0 {
		fault(".drain", "%s is negative: give 0s or more", time.Duration(t.Drain))
	}
	if t.RestartBackoff.Min <= 0 {
		fault(".restart_backoff.min", "%s is no pause: give more than 0s, such as 1s", time.Duration(t.RestartBackoff.Min))
	}
	if t.RestartBackoff.Max < t.RestartBackoff.Min {
		fault(".restart_backoff.max", "%s is less than min %s: give %[2]s or more",
			time.Duration(t.RestartBackoff.Max), time.Duration(t.RestartBackoff.Min))
	}
	if t.StartTimeout <= 0 {
		fault(".start_timeout", "%s leaves no time to start: give more than 0s, such as 1m", time.Duration(t.StartTimeout))
	}
	if t.MetricsPath != "" && !strings.HasPrefix(t.MetricsPath, "/") {
		fault(".metrics_path", "%q is not a path: give one that begins with '/', or \"\" where there are no metrics", t.MetricsPath)
	}
	if t.Replicas < 0 || t.MaxReplicas >= 1 && t.Replicas > t.MaxReplicas {
		fault(".replicas", "%d is not between 0 and max_replicas, which is %d", t.Replicas, t.MaxReplicas)
	}
	if t.MaxReplicas < 1 {
		fault(".max_replicas", "%d allows no replica: give 1 or more", t.MaxReplicas)
	}
	for _, key := range slices.Sorted(maps.Keys(t.Env)) {
		if key == "" || strings.ContainsAny(key, "=\x00") {
			fault(".env", "%q is not the name of an environment variable", key)
			continue
		}
		if _, err := tryTemplate(t.Env[key], sample); err != nil {
			fault(".env."+key, "%w", err)
		}
	}
}

// command is the command of a target, ready to be rendered for each replica.
type command struct {
	args []*template.Template
	env  map[string]*template.Template
	dir  string
}

// rendered is the command of one replica.
type rendered struct {
	args []string
	env  []string // KEY=value
	dir  string
}

func (t Target) compile() (command, error) {
	c := command{env: make(map[string]*template.Template, len(t.Env)), dir: t.Dir}
	for _, arg := range t.Command {
		parsed, err := parseTemplate(arg)
		if err != nil {
			return command{}, err
		}
		c.args = append(c.args, parsed)
	}
	for key, value := range t.Env {
		parsed, err := parseTemplate(value)
		if err != nil {
			return command{}, err
		}
		c.env[key] = parsed
	}
	return c, nil
}

func (c command) render(instance Instance) (rendered, error) {
	r := rendered{dir: c.dir}
	for i, arg := range c.args {
		s, err := execute(arg, instance)
		if err != nil {
			return rendered{}, fmt.Errorf("command[%d]: %w", i, err)
		}
		r.args = append(r.args, s)
	}
	for _, key := range slices.Sorted(maps.Keys(c.env)) {
		s, err := execute(c.env[key], instance)
		if err != nil {
			return rendered{}, fmt.Errorf("env.%s: %w", key, err)
		}
		r.env = append(r.env, key+"="+s)
	}
	return r, nil
}

func tryTemplate(text string, sample Instance) (string, error) {
	parsed, err := parseTemplate(text)
	if err != nil {
		return "", err
	}
	return execute(parsed, sample)
}

func parseTemplate(text string) (*template.Template, error) {
	parsed, err := template.New("").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a template: %s", text, strings.TrimPrefix(err.Error(), "template: "))
	}
	return parsed, nil
}

func execute(t *template.Template, instance Instance) (string, error) {
	var out strings.Builder
	err := t.Execute(&out, instance)
	switch {
	case err == nil && strings.ContainsRune(out.String(), 0):
		return "", fmt.Errorf("%q holds a zero byte, which no argument may", out.String())
	case err == nil:
		return out.String(), nil
	case strings.Contains(err.Error(), "can't evaluate field"):
		_, field, _ := strings.Cut(err.Error(), "can't evaluate field ")
		field, _, _ = strings.Cut(field, " ")
		return "", fmt.Errorf(".%s is not known: use .Address, .Host, .Port, .Name, .Index or .Replica", field)
	default:
		return "", fmt.Errorf("template%s", strings.TrimPrefix(err.Error(), "template"))
	}
}

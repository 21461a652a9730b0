package process

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"
)

func TestConfig(t *testing.T) {
	const text = `
digits:
  command: [bin/modelserver, "--web.listen-address={{.Address}}", "--accelerator=40ms+2ms"]
letters:
  command: [server, "--host={{.Host}}", "--port={{.Port}}", "--name={{.Name}}-{{.Index}}"]
  ready: /health
  drain: 0s
  restart_backoff: {min: 2s}
  start_timeout: 10m
  replicas: 2
  metrics_path: ""
  max_replicas: 4
  env: {CUDA_VISIBLE_DEVICES: "{{.Replica}}", A: b}
  dir: /srv
`
	var nodes map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(text), &nodes); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	for name, node := range nodes {
		var target Target
		target.SetDefaults()
		if err := node.Decode(&target); err != nil {
			t.Fatal(err)
		}
		cfg[name] = target
	}
	second, minute := model.Duration(time.Second), model.Duration(time.Minute)
	want := Config{
		"digits": {
			Command:        []string{"bin/modelserver", "--web.listen-address={{.Address}}", "--accelerator=40ms+2ms"},
			Ready:          "/v2/health/ready",
			Drain:          10 * second,
			RestartBackoff: Backoff{Min: second, Max: minute},
			StartTimeout:   minute,
			Replicas:       1,
			MetricsPath:    "/metrics",
			MaxReplicas:    16,
		},
		"letters": {
			Command:        []string{"server", "--host={{.Host}}", "--port={{.Port}}", "--name={{.Name}}-{{.Index}}"},
			Ready:          "/health",
			RestartBackoff: Backoff{Min: 2 * second, Max: minute},
			StartTimeout:   10 * minute,
			Replicas:       2,
			MaxReplicas:    4,
			Env:            map[string]string{"CUDA_VISIBLE_DEVICES": "{{.Replica}}", "A": "b"},
			Dir:            "/srv",
		},
	}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if err := cfg.Validate(); err != nil {
		t.Errorf("validate: %v", err)
	}

	command, err := cfg["letters"].compile()
	if err != nil {
		t.Fatal(err)
	}
	got, err := command.render(Instance{Name: "letters", Index: 2, Replica: 2, Address: "127.0.0.1:80", Host: "127.0.0.1", Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	wantCommand := rendered{
		args: []string{"server", "--host=127.0.0.1", "--port=80", "--name=letters-2"},
		env:  []string{"A=b", "CUDA_VISIBLE_DEVICES=2"},
		dir:  "/srv",
	}
	if diff := cmp.Diff(wantCommand, got, cmp.AllowUnexported(rendered{})); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
}

func TestValidate(t *testing.T) {
	valid := func(change func(*Target)) Config {
		target := DefaultTarget()
		target.Command = []string{"server"}
		change(&target)
		return Config{"digits": target}
	}
	for _, tt := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"none", DefaultConfig(), nil},
		{"valid", valid(func(*Target) {}), nil},
		{"no command", valid(func(t *Target) { t.Command = nil }), []string{
			"digits.command: empty: give the program and its arguments as a list",
		}},
		{"no program", valid(func(t *Target) { t.Command = []string{"", "x"} }), []string{
			"digits.command[0]: empty: give the program to run",
		}},
		{"not a template", valid(func(t *Target) { t.Command = []string{"a", "{{.Address"} }), []string{
			`digits.command[1]: "{{.Address" is not a template: :1: unclosed action`,
		}},
		{"unknown field", valid(func(t *Target) { t.Command = []string{"a", "{{.Adress}}"} }), []string{
			"digits.command[1]: .Adress is not known: use .Address, .Host, .Port, .Name, .Index or .Replica",
		}},
		{"template that fails", valid(func(t *Target) { t.Command = []string{"a", `{{index "x" 3}}`} }), []string{
			`digits.command[1]: template: :1:2: executing "" at <index "x" 3>: error calling index: index out of range: 3`,
		}},
		{"zero byte", valid(func(t *Target) { t.Command = []string{"a", "b\x00"} }), []string{
			`digits.command[1]: "b\x00" holds a zero byte, which no argument may`,
		}},
		{"ready", valid(func(t *Target) { t.Ready = "health" }), []string{
			`digits.ready: "health" is not a path: give one that begins with '/', such as /v2/health/ready`,
		}},
		{"ready empty", valid(func(t *Target) { t.Ready = "" }), []string{
			`digits.ready: "" is not a path: give one that begins with '/', such as /v2/health/ready`,
		}},
		{"ready URL", valid(func(t *Target) { t.Ready = "http://127.0.0.1/x" }), []string{
			`digits.ready: "http://127.0.0.1/x" is not a path: give one that begins with '/', such as /v2/health/ready`,
		}},
		{"ready fragment", valid(func(t *Target) { t.Ready = "/x#y" }), []string{
			`digits.ready: "/x#y" has a fragment, which is never sent: leave out what begins with '#'`,
		}},
		{"ready query", valid(func(t *Target) { t.Ready = "/x?full=1" }), nil},
		{"drain", valid(func(t *Target) { t.Drain = -1 }), []string{
			"digits.drain: -1ns is negative: give 0s or more",
		}},
		{"backoff", valid(func(t *Target) { t.RestartBackoff = Backoff{} }), []string{
			"digits.restart_backoff.min: 0s is no pause: give more than 0s, such as 1s",
		}},
		{"backoff order", valid(func(t *Target) { t.RestartBackoff.Max = 1e6 }), []string{
			"digits.restart_backoff.max: 1ms is less than min 1s: give 1s or more",
		}},
		{"start timeout", valid(func(t *Target) { t.StartTimeout = 0 }), []string{
			"digits.start_timeout: 0s leaves no time to start: give more than 0s, such as 1m",
		}},
		{"max replicas", valid(func(t *Target) { t.MaxReplicas = 0 }), []string{
			"digits.max_replicas: 0 allows no replica: give 1 or more",
		}},
		{"replicas", valid(func(t *Target) { t.Replicas = 17 }), []string{
			"digits.replicas: 17 is not between 0 and max_replicas, which is 16",
		}},
		{"no replicas at first", valid(func(t *Target) { t.Replicas = 0 }), nil},
		{"metrics path", valid(func(t *Target) { t.MetricsPath = "metrics" }), []string{
			`digits.metrics_path: "metrics" is not a path: give one that begins with '/', or "" where there are no metrics`,
		}},
		{"env", valid(func(t *Target) { t.Env = map[string]string{"A=B": "", "C": "{{.D}}"} }), []string{
			`digits.env: "A=B" is not the name of an environment variable`,
			"digits.env.C: .D is not known: use .Address, .Host, .Port, .Name, .Index or .Replica",
		}},
		{"name", Config{"a/b": valid(func(*Target) {})["digits"]}, []string{
			`a/b: "a/b" is not a target name: use letters, digits, '.', '_' and '-', beginning with a letter or digit`,
		}},
		{"all of them", Config{"a": {}, "b": {}}, []string{
			"a.command: empty: give the program and its arguments as a list",
			`a.ready: "" is not a path: give one that begins with '/', such as /v2/health/ready`,
			"a.restart_backoff.min: 0s is no pause: give more than 0s, such as 1s",
			"a.start_timeout: 0s leaves no time to start: give more than 0s, such as 1m",
			"a.max_replicas: 0 allows no replica: give 1 or more",
			"b.command: empty: give the program and its arguments as a list",
			`b.ready: "" is not a path: give one that begins with '/', such as /v2/health/ready`,
			"b.restart_backoff.min: 0s is no pause: give more than 0s, such as 1s",
			"b.start_timeout: 0s leaves no time to start: give more than 0s, such as 1m",
			"b.max_replicas: 0 allows no replica: give 1 or more",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			if err := tt.cfg.Validate(); err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
	if names := slices.Collect(maps.Keys(DefaultConfig())); len(names) != 0 {
		t.Errorf("default targets %v, want none", names)
	}
}

package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/file"
)

func TestParseScrapeConfigs(t *testing.T) {
	got, err := ParseScrapeConfigs([]byte(`
- &node
  job_name: node
  scheme: https
  static_configs: &targets
  - targets: [a:1, b:2]
    labels: {zone: z}
- job_name: files
  scrape_interval: 5s
  file_sd_configs: [{files: [targets/*.yml]}]
  basic_auth: {username: u, password_file: secret}
- job_name: again
  static_configs: *targets
  relabel_configs: # a comment
  - {source_labels: [__address__], regex: 'a:.*', action: drop}
- <<: *node
  job_name: merged
`), ScrapeGlobal{Interval: 20 * time.Second, Dir: "/etc/flyball"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"node", "files", "again", "merged"}, got.Jobs()); diff != "" {
		t.Fatal(diff)
	}
	node, files, again := got.configs[0], got.configs[1], got.configs[2]
	if merged := got.configs[3]; merged.Scheme != "https" || len(merged.ServiceDiscoveryConfigs) != 1 {
		t.Errorf("a merge: %+v", merged)
	}
	if node.ScrapeInterval != model.Duration(20*time.Second) || node.ScrapeTimeout != model.Duration(10*time.Second) || node.MetricsPath != "/metrics" {
		t.Errorf("defaults: %s, %s, %s", node.ScrapeInterval, node.ScrapeTimeout, node.MetricsPath)
	}
	if files.ScrapeTimeout != model.Duration(5*time.Second) {
		t.Errorf("a timeout of %s at an interval of 5s", files.ScrapeTimeout)
	}
	sd, ok := files.ServiceDiscoveryConfigs[0].(*file.SDConfig)
	if want := filepath.FromSlash("/etc/flyball/targets/*.yml"); !ok || sd.Files[0] != want || files.HTTPClientConfig.BasicAuth.PasswordFile != "/etc/flyball/secret" {
		t.Errorf("relative paths: %+v", files)
	}
	static, ok := again.ServiceDiscoveryConfigs[0].(discovery.StaticConfig)
	if !ok || len(static[0].Targets) != 2 || len(again.RelabelConfigs) != 1 {
		t.Errorf("an alias: %+v", again)
	}
	for _, empty := range []string{"", "[]", "null"} {
		if got, err := ParseScrapeConfigs([]byte(empty), ScrapeGlobal{}); err != nil || len(got.Jobs()) != 0 {
			t.Errorf("%q: %v, %v", empty, got.Jobs(), err)
		}
	}
}

func TestParseScrapeConfigsErrors(t *testing.T) {
	for _, tt := range []struct {
		name, yaml string
		want       []string
	}{
		{name: "not a list", yaml: "job_name: x", want: []string{
			"scrape_configs: it is not a list: give a list of scrape configurations",
		}},
		{name: "not YAML", yaml: "- {", want: []string{"scrape_configs: line 1: did not find expected node content"}},
		{name: "one line", yaml: "- {job_name: a, shceme: http, static_configs: [{targets: [a:1], lables: {a: b}}], scheme: http}", want: []string{
			`scrape_configs[0].shceme: unknown key "shceme" (did you mean "scheme"?)`,
			`scrape_configs[0].static_configs[0].lables: unknown key "lables" (did you mean "labels"?)`,
		}},
		{name: "not a mapping", yaml: "- x", want: []string{"scrape_configs[0]: it is not a scrape configuration: give a mapping with job_name and targets"}},
		{name: "other discovery", yaml: "- job_name: x\n  consul_sd_configs: [{server: a}]\n  dns_sd_configs: []", want: []string{
			"scrape_configs[0].consul_sd_configs: discovery by consul is not built in: give " + discoveries,
			"scrape_configs[0].dns_sd_configs: discovery by dns is not built in: give " + discoveries,
		}},
		{name: "unknown keys", yaml: "- job_name: a\n- job_name: x\n  shceme: http\n  static_configs:\n  - targets: [a:1]\n  - target: [b:1]\n", want: []string{
			`scrape_configs[1].shceme: unknown key "shceme" (did you mean "scheme"?)`,
			`scrape_configs[1].static_configs[1].target: unknown key "target" (did you mean "targets"?)`,
		}},
		{name: "wrong kinds", yaml: "- job_name: x\n  honor_labels: 7\n  sample_limit: many\n  metrics_path: [a]\n", want: []string{
			`scrape_configs[0].honor_labels: "7" is a number where true or false is expected`,
			`scrape_configs[0].sample_limit: "many" is text where a whole number is expected`,
			`scrape_configs[0].metrics_path: it is a list where text is expected`,
		}},
		{name: "nested", yaml: "- job_name: x\n  honor_labels: 7\n  params:\n    a: {}\n    b: {}\n", want: []string{
			`scrape_configs[0].honor_labels: "7" is a number where true or false is expected`,
			`scrape_configs[0].params.a: it is a mapping where a list is expected`,
			`scrape_configs[0].params.b: it is a mapping where a list is expected`,
		}},
		{name: "no name", yaml: "- static_configs: [{targets: [a:1]}]", want: []string{"scrape_configs[0]: job_name is empty"}},
		{name: "same name", yaml: "- job_name: x\n- job_name: y\n- job_name: x", want: []string{`scrape_configs[2].job_name: "x" is the name of scrape_configs[0] already: give another`}},
		{name: "each one's faults", yaml: "- job_name: x\n  scrape_interval: fast\n- job_name: y\n  static_configs: [{targets: ['http://a:1/metrics']}]\n- job_name: z\n  scrape_interval: 5s\n  scrape_timeout: 6s", want: []string{
			`scrape_configs[0]: not a valid duration string: "fast"`,
			`scrape_configs[1]: "http://a:1/metrics" is not a valid hostname`,
			`scrape_configs[2]: scrape timeout greater than scrape interval for scrape config with job name "z"`,
		}},
		{name: "files", yaml: "- {job_name: x, tls_config: {ca_file: /none/a.pem}}\n- job_name: y\n  tls_config: {ca_file: /none/b.pem}\n  http_sd_configs: [{url: 'http://a:1', tls_config: {ca_file: /none/c.pem}}]", want: []string{
			"scrape_configs[0]: unable to read CA cert: unable to read file /none/a.pem: open /none/a.pem: no such file or directory",
			"scrape_configs[1]: unable to read CA cert: unable to read file /none/b.pem: open /none/b.pem: no such file or directory",
			"scrape_configs[1]: unable to read CA cert: unable to read file /none/c.pem: open /none/c.pem: no such file or directory",
		}},
		{name: "grows", yaml: "- &a {p: [x,x,x,x,x,x,x,x,x,x]}\n- &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n- &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n- &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n- {job_name: x, l: *d}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseScrapeConfigs([]byte(tt.yaml), ScrapeGlobal{})
			if err == nil {
				t.Fatal("no error")
			}
			if tt.name == "grows" {
				if want := "scrape_configs[4]: with its aliases filled in it has more than 10000 values"; !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
				return
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestManyFaults is told in a few lines, and in time: each fault is looked up in the whole text.
func TestManyFaults(t *testing.T) {
	var text strings.Builder
	text.WriteString("- job_name: x\n")
	for i := range 4000 {
		fmt.Fprintf(&text, "  key%d: 1\n", i)
	}
	_, err := ParseScrapeConfigs([]byte(text.String()), ScrapeGlobal{})
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxFaults+1 || lines[maxFaults] != "scrape_configs[0]: it has 3980 more faults" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

// TestDiscoveryKinds holds what is linked in to what the errors say: each other kind would bring in a cloud's SDK.
func TestDiscoveryKinds(t *testing.T) {
	want := []string{"file", "http", "kubernetes", "static"}
	if withoutKubernetes != "" {
		want = []string{"file", "http", "static"}
	}
	if diff := cmp.Diff(want, discovery.RegisteredConfigNames()); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseScrapeConfigs(f *testing.F) {
	for _, seed := range []string{
		"- job_name: x\n  static_configs: [{targets: [a:1]}]", "- job_name: x\n  honor_labels: 7", "- &a [*a]", "[{job_name: x, shceme: y}]", "- ~", "- {? [a] : b}",
		"- job_name: x\n  kubernetes_sd_configs: [{role: pod, namespaces: {names: [ml]}, selectors: [{role: pod, label: app=llama}], kubeconfig_file: k}]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseScrapeConfigs([]byte(text), ScrapeGlobal{Dir: os.DevNull})
		if err != nil {
			leaks := strings.Contains(err.Error(), "config.") && !strings.Contains(text, "config.")
			if !strings.HasPrefix(err.Error(), "scrape_configs") || leaks {
				t.Errorf("error %q", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, name := range c.Jobs() {
			if name == "" || seen[name] {
				t.Errorf("jobs %q", c.Jobs())
			}
			seen[name] = true
		}
	})
}

package store

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/file"
)

func TestParseAlerting(t *testing.T) {
	ca := authority(t)
	dir := filepath.Dir(ca)
	got, err := ParseAlerting([]byte(`
alert_relabel_configs:
- {source_labels: [severity], regex: debug, action: drop}
- {regex: pod, action: labeldrop}
alertmanagers:
- &first
  scheme: https
  path_prefix: /am
  timeout: 3s
  api_version: v2
  basic_auth: {username: u, password_file: secret}
  tls_config: {ca_file: ca.pem, insecure_skip_verify: true}
  static_configs: [{targets: [a:9093, b:9093], labels: {zone: z}}]
  alert_relabel_configs: [{target_label: via, replacement: first}]
- file_sd_configs: [{files: [am/*.yml]}]
- http_sd_configs: [{url: 'http://sd:1/am', refresh_interval: 10s}]
  authorization: {credentials: x}
- static_configs: [{targets: ['http://c:9093']}] # only an address before it is relabelled
  relabel_configs: [{source_labels: [__address__], regex: 'http://(.*)', target_label: __address__}]
- <<: *first
  scheme: http
`), dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Len() != 5 || len(got.relabel) != 2 {
		t.Fatalf("%d configurations, %d rules", got.Len(), len(got.relabel))
	}
	first := got.alertmanagers[0].config
	if first.Scheme != "https" || first.PathPrefix != "/am" || first.Timeout != model.Duration(3*time.Second) || first.HTTPClientConfig.BasicAuth.PasswordFile != filepath.Join(dir, "secret") ||
		first.HTTPClientConfig.TLSConfig.CAFile != ca || len(first.AlertRelabelConfigs) != 1 {
		t.Errorf("%+v", first)
	}
	second := got.alertmanagers[1].config
	sd, ok := second.ServiceDiscoveryConfigs[0].(*file.SDConfig)
	if want := filepath.Join(dir, "am", "*.yml"); !ok || sd.Files[0] != want || second.Scheme != "http" || second.Timeout != model.Duration(10*time.Second) {
		t.Errorf("%+v", second)
	}
	if merged := got.alertmanagers[4].config; merged.Scheme != "http" || merged.PathPrefix != "/am" || len(merged.ServiceDiscoveryConfigs) != 1 {
		t.Errorf("a merge: %+v", merged)
	}
	for _, empty := range []string{"", "{}", "null", "alertmanagers:", "alertmanagers: []"} {
		if got, err := ParseAlerting([]byte(empty), ""); err != nil || got.Len() != 0 {
			t.Errorf("%q: %d, %v", empty, got.Len(), err)
		}
	}
}

func TestParseAlertingErrors(t *testing.T) {
	const static = "static_configs: [{targets: [a:1]}]"
	for _, tt := range []struct {
		name, yaml string
		want       []string
	}{
		{name: "not a mapping", yaml: "- x", want: []string{"alerting: it is not a mapping: give alertmanagers and alert_relabel_configs"}},
		{name: "not YAML", yaml: "{", want: []string{"alerting: line 1: did not find expected node content"}},
		{name: "unknown key", yaml: "alertmanager: []\nalert_relabel_config: []", want: []string{
			`alerting.alertmanager: unknown key "alertmanager" (did you mean "alertmanagers"?)`,
			`alerting.alert_relabel_config: unknown key "alert_relabel_config" (did you mean "alert_relabel_configs"?)`,
		}},
		{name: "not lists", yaml: "alertmanagers: {}\nalert_relabel_configs: x", want: []string{
			"alerting.alertmanagers: it is not a list", "alerting.alert_relabel_configs: it is not a list",
		}},
		{name: "not an Alertmanager", yaml: "alertmanagers: [a:9093]", want: []string{
			"alerting.alertmanagers[0]: it is not a configuration of Alertmanagers: give a mapping with static_configs or another list of them",
		}},
		{name: "other discovery", yaml: "alertmanagers:\n- consul_sd_configs: [{server: a}]\n  timeout: fast\n- dns_sd_configs: []", want: []string{
			"alerting.alertmanagers[0].consul_sd_configs: discovery by consul is not built in: give " + discoveries,
			`alerting.alertmanagers[0].timeout: not a valid duration string: "fast"`,
			"alerting.alertmanagers[1].dns_sd_configs: discovery by dns is not built in: give " + discoveries,
		}},
		{name: "nobody", yaml: "alertmanagers: [{scheme: http}]", want: []string{
			"alerting.alertmanagers[0]: it names no Alertmanager: give " + discoveries,
		}},
		{name: "unknown keys", yaml: "alertmanagers:\n- {" + static + ", shceme: http}\n- static_configs: [{targets: [a:1]}, {target: [b:1]}]\n  tls_config: {ca_fiel: x}\n  relabel_configs: [{}, {source_label: [x]}]", want: []string{
			`alerting.alertmanagers[0].shceme: unknown key "shceme" (did you mean "scheme"?)`,
			`alerting.alertmanagers[1].static_configs[1].target: unknown key "target" (did you mean "targets"?)`,
			`alerting.alertmanagers[1].tls_config.ca_fiel: unknown key "ca_fiel" (did you mean "ca_file"?)`,
			`alerting.alertmanagers[1].relabel_configs[0]: relabel configuration for replace action requires 'target_label' value`,
			`alerting.alertmanagers[1].relabel_configs[1].source_label: unknown key "source_label" (did you mean "source_labels"?)`,
		}},
		{name: "values", yaml: "alertmanagers:\n- {" + static + ", scheme: ftp}\n- {" + static + ", api_version: v1, timeout: 0s}\n- {" + static + ", timeout: 0s}\n- static_configs: [{targets: ['http://a:1']}, 7]", want: []string{
			`alerting.alertmanagers[0].scheme: "ftp" is not a scheme: give http or https`,
			`alerting.alertmanagers[1].api_version: expected Alertmanager api version to be one of [v2] but got v1`,
			`alerting.alertmanagers[2].timeout: 0s leaves no time to send: give more than 0s, such as 10s`,
			`alerting.alertmanagers[3].static_configs[0]: "http://a:1" is not a valid hostname`,
			`alerting.alertmanagers[3].static_configs[1]: "7" is a number where a mapping or another kind of value is expected`,
		}},
		{name: "together", yaml: "alertmanagers:\n- " + static + "\n  basic_auth: {username: u}\n  authorization: {credentials: c}", want: []string{
			"alerting.alertmanagers[0]: at most one of basic_auth, oauth2 & authorization must be configured",
		}},
		{name: "files", yaml: "alertmanagers:\n- " + static + "\n  tls_config: {ca_file: /none/a.pem}\n- http_sd_configs: [{url: 'http://a:1', tls_config: {ca_file: /none/b.pem}}]\n  tls_config: {ca_file: /none/c.pem}\n", want: []string{
			"alerting.alertmanagers[0]: unable to read CA cert: unable to read file /none/a.pem: open /none/a.pem: no such file or directory",
			"alerting.alertmanagers[1]: unable to read CA cert: unable to read file /none/c.pem: open /none/c.pem: no such file or directory",
			"alerting.alertmanagers[1]: unable to read CA cert: unable to read file /none/b.pem: open /none/b.pem: no such file or directory",
		}},
		{name: "twice", yaml: "alertmanagers:\n- {scheme: http, scheme: https, " + static + "}\n", want: []string{
			`alerting.alertmanagers[0].scheme: the key "scheme" is there twice`,
		}},
		{name: "relabelling", yaml: "alert_relabel_configs:\n- {action: drpo}\n- null\n- {acton: drop}\n- {regex: '('}", want: []string{
			`alerting.alert_relabel_configs[0]: unknown relabel action "drpo"`,
			`alerting.alert_relabel_configs[1]: empty or null alert relabeling rule`,
			`alerting.alert_relabel_configs[2].acton: unknown key "acton" (did you mean "action"?)`,
			"alerting.alert_relabel_configs[3]: error parsing regexp: missing closing ): `^(?s:()$`",
		}},
		{name: "grows", yaml: "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]", want: []string{
			"alerting: with its aliases filled in it has more than 10000 values",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseAlerting([]byte(tt.yaml), "")
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParseAlerting(f *testing.F) {
	for _, seed := range []string{
		"alertmanagers: [{static_configs: [{targets: [a:1]}]}]", "alertmanagers: [{scheme: 7, shceme: x}]", "&a [*a]", "alert_relabel_configs: [~, {}]",
		"alertmanagers: [{<<: {}}]", "{? [a] : b}", "alertmanagers: [{? [a] : b}]", "alertmanagers: [{no_proxy: x}]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAlerting([]byte(text), "")
		if err == nil {
			for _, am := range a.alertmanagers {
				if am.config == nil || len(am.config.ServiceDiscoveryConfigs) == 0 {
					t.Errorf("%+v", am)
				}
			}
			return
		}
		leaks := strings.Contains(err.Error(), "config.") && !strings.Contains(text, "config.")
		if !strings.HasPrefix(err.Error(), "alerting") || leaks {
			t.Errorf("error %q", err)
		}
	})
}

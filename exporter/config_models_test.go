package exporter

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"
)

// serversOf decodes a configuration of model servers, each with its defaults, as rules/source does.
func serversOf(t *testing.T, text string) Config {
	t.Helper()
	var nodes []yaml.Node
	if err := yaml.Unmarshal([]byte(text), &nodes); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	for _, n := range nodes {
		s := DefaultModelServer()
		if err := n.Decode(&s); err != nil {
			t.Fatal(err)
		}
		c.ModelServers = append(c.ModelServers, s)
	}
	return c
}

func TestModelServers(t *testing.T) {
	good := serversOf(t, `
- {name: a, url: "http://127.0.0.1:8000/metrics"}
- {name: b, url: "https://model.example:8443", engine: vllm, interval: 15s, timeout: 5s, gpus: [GPU-8a6b], bearer_token_file: token, tls_config: {ca_file: ca.pem}}
- {name: c, url: "unix:/run/engine.sock:/prometheus/metrics", engine: custom, model: m, gpus: auto,
   mapping: {running: {metric: busy}, request_duration: {metric: d_us, type: counter, count: n, scale: 1e-6}}}
`)
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	good.SetDirectory("/etc/flyball")
	if s := good.ModelServers[1]; s.BearerTokenFile != "/etc/flyball/token" || s.TLS.CAFile != "/etc/flyball/ca.pem" {
		t.Errorf("files are %s and %s", s.BearerTokenFile, s.TLS.CAFile)
	}
	if _, u, _ := good.ModelServers[1].Address(); u.String() != "https://model.example:8443/metrics" {
		t.Errorf("asked for %s", u)
	}
	if socket, u, _ := good.ModelServers[2].Address(); socket != "/run/engine.sock" || u.Path != "/prometheus/metrics" {
		t.Errorf("asked for %s at %s", u, socket)
	}
	for _, tt := range []struct{ server, want string }{
		{"{url: 'http://a:1'}", "name: empty: it is the label server of its series, such as llama70b"},
		{"{name: a}", `url: "" is not a URL of a model server: give http://host:port/metrics, https://... or unix:/path/of/socket:/metrics`},
		{"{name: a, url: 'http://u:p@a:1'}", "url: it has a user or a password, which logs would show: give them as basic_auth"},
		{"{name: a, url: 'file:///etc/passwd'}", `url: "file:///etc/passwd" is not a URL of a model server: give http://host:port/metrics, https://... or unix:/path/of/socket:/metrics`},
		{"{name: a, url: 'http://a:1', engine: vlm}", `engine: "vlm" is not one of auto, vllm, sglang, tgi, triton, trtllm, torchserve, ovms, oip, flyball, custom`},
		{"{name: a, url: 'http://a:1', timeout: 6s}", "timeout: 6s is not more than 0s and at most interval, which is 5s"},
		{"{name: a, url: 'http://a:1', interval: 0s}", "interval: 0s is not an interval: give more than 0s, such as 5s"},
		{"{name: a, url: 'http://a:1', max_series: 0}", "max_series: 0 is not a number of series: give 1 or more"},
		{"{name: a, url: 'http://a:1', max_body: 512B}", "max_body: 512 is not the size of a page: give 1KiB to 1GiB, such as 16MiB"},
		{"{name: a, url: 'http://a:1', gpus: [0]}", `gpus[0]: "0" is not the UUID of a GPU: give auto, or UUIDs with their prefix, such as GPU-8a6b4b5c-...`},
		{"{name: a, url: 'http://a:1', engine: custom}", "mapping: engine custom is what this says, and there is none: give a field and its metric, such as running: {metric: busy_slots}"},
		{"{name: a, url: 'http://a:1', mapping: {runing: {metric: a}}}", "mapping.runing: it is not a field: give one of " + strings.Join(ModelFields, ", ")},
		{"{name: a, url: 'http://a:1', mapping: {running: {}}}", `mapping.running.metric: "" is not the name of a metric`},
		{"{name: a, url: 'http://a:1', mapping: {running: {metric: a, type: histogram}}}", `mapping.running.type: "histogram" cannot become running: give one of gauge`},
		{"{name: a, url: 'http://a:1', mapping: {itl: {metric: a, type: counter}}}", "mapping.itl.count: empty: a duration that is a counter takes the counter of what it is the duration of"},
		{"{name: a, url: 'http://a:1', mapping: {running: {metric: a, id_label: b}}}", "mapping.running.id_label: it tells accelerators apart, and has no meaning for running"},
		{"{name: a, url: 'http://a:1', mapping: {running: {metric: a, scale: .nan}}}", "mapping.running.scale: NaN is not a factor: give more than 0, such as 1e-6 for microseconds"},
		{"{name: a, url: 'http://a:1', mapping: {running: {metric: a, scale: .inf}}}", "mapping.running.scale: +Inf is not a factor: give more than 0, such as 1e-6 for microseconds"},
		{"{name: a, url: 'http://a:1', basic_auth: {username: u}, bearer_token_file: t}", "bearer_token_file: given beside basic_auth: give one of them"},
		{"{name: a, url: 'http://a:1', headers: {Host: b}}", "headers.Host: it is set by the request itself"},
		{"{name: a, url: 'http://a:1', tls_config: {cert_file: c}}", "tls_config.cert_file: a certificate takes its key: give both cert_file and key_file"},
	} {
		err := serversOf(t, "["+tt.server+"]").Validate()
		got := ""
		if err != nil {
			got = err.Error()
		}
		if d := cmp.Diff("model_servers[0]."+tt.want, got); d != "" {
			t.Errorf("%s (-want +got)\n%s", tt.server, d)
		}
	}
	if err := serversOf(t, "[{name: a, url: 'http://a:1'}, {name: a, url: 'http://a:2'}]").Validate(); err == nil || !strings.HasPrefix(err.Error(), "model_servers[1].name: ") {
		t.Errorf("one name for two: %v", err)
	}
}

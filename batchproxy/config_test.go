package batchproxy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	prom "github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"
)

func TestConfigYAML(t *testing.T) {
	decode := func(text string, into any) {
		t.Helper()
		decoder := yaml.NewDecoder(strings.NewReader(text))
		decoder.KnownFields(true)
		if err := decoder.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	cfg := DefaultConfig()
	decode("limits: {max_body: 1MiB}\ndrain: {delay: 1s, timeout: 5s}", &cfg)
	var m ModelConfig
	m.SetDefaults()
	decode("name: digits\nupstreams: [{url: \"http://10.0.0.1:8000\"}, {target: digits}, {service: ml/digits, port: 8000}]\nprotocol: openai\nlimit: {concurrent: 64, queue: 100}\ncancel: drain\nserved_model_names: [org/digits]\nhealth: {path: /health, unhealthy: 2}\noutlier: {consecutive_5xx: 3}\nslow_start: 10s\nbatch: {max_size: 8, oversize: reject, min_size: 2, allowed_sizes: [2, 8], slo: 100ms, objective: latency, ignore_headers: [x-mine]}\n"+
		"queue: {tenant_header: x-tenant, weights: {a: 2}, tenant_limit: 0.5, trust_headers: [10.0.0.0/8]}\npriorities: [{name: normal, budget: 1s}, {name: now, budget: 5ms}]", &m)
	cfg.Models = append(cfg.Models, m)

	want := DefaultConfig()
	want.Limits.MaxBody = 1 << 20
	want.Drain = Drain{Delay: prom.Duration(time.Second), Timeout: prom.Duration(5 * time.Second)}
	want.Models = []ModelConfig{{
		Name: "digits", Upstreams: []Upstream{{URL: "http://10.0.0.1:8000"}, {Target: "digits"}, {Service: "ml/digits", Port: "8000"}},
		Protocol: "openai", ServedModelNames: []string{"org/digits"},
		Batch: BatchConfig{
			Mode: ModeAdaptive, MaxSize: 8, Oversize: "reject", MinSize: 2, AllowedSizes: []int{2, 8}, MaxWait: prom.Duration(10 * time.Millisecond),
			SLO: prom.Duration(100 * time.Millisecond), Objective: ObjectiveLatency, IgnoreHeaders: []string{"x-mine"},
		},
		Limit: LimitConfig{Concurrent: 64, Queue: 100}, Cancel: "drain", BinaryTensors: "auto",
		Inflight: Auto, Timeout: prom.Duration(30 * time.Second),
		Queue:      QueueConfig{TenantHeader: "x-tenant", Weights: map[string]float64{"a": 2}, TenantLimit: 0.5, TrustHeaders: Trust{From: []string{"10.0.0.0/8"}}},
		Priorities: []Priority{{"normal", prom.Duration(time.Second)}, {"now", prom.Duration(5 * time.Millisecond)}},
		Health:     HealthConfig{Path: "/health", Interval: prom.Duration(5 * time.Second), Timeout: prom.Duration(time.Second), Unhealthy: 2, Healthy: 1},
		Outlier:    OutlierConfig{Consecutive5xx: 3, LatencyFactor: 3, BaseEject: prom.Duration(30 * time.Second), MaxPercent: 50},
		SlowStart:  prom.Duration(10 * time.Second),
	}}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Error(diff)
	}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

// TestTrustYAML: who is believed is written as true, false or a list.
func TestTrustYAML(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Trust
		err  string
	}{
		{"true", Trust{Everyone: true}, ""},
		{"false", Trust{}, ""},
		{"[]", Trust{From: []string{}}, ""},
		{"[10.0.0.0/8, 'fd00::/8']", Trust{From: []string{"10.0.0.0/8", "fd00::/8"}}, ""},
		{"10.0.0.0/8", Trust{Everyone: true}, "expected true, false or a list of CIDRs such as [10.0.0.0/8]"},
		{"{a: 1}", Trust{Everyone: true}, "expected true, false or a list of CIDRs such as [10.0.0.0/8]"},
	} {
		got := Trust{Everyone: true}
		err := yaml.Unmarshal([]byte(tt.text), &got)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.text, diff)
		}
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %s", tt.text, err, tt.err)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	ok := DefaultModelConfig()
	ok.Name, ok.Upstreams = "digits", []Upstream{{Target: "digits"}}
	for _, tt := range []struct {
		name   string
		change func(c *Config)
		want   []string
	}{
		{"none", func(*Config) {}, nil},
		{"limits", func(c *Config) {
			c.Limits = Limits{}
			c.Drain = Drain{-prom.Duration(time.Second), -prom.Duration(time.Second)}
		}, []string{
			"limits.max_body: 0 is not a size: give 1 byte or more, such as 64MiB",
			"limits.max_response: 0 is not a size: give 1 byte or more, such as 64MiB",
			"limits.max_inflight_bytes: 0 is not a size: give 1 byte or more, such as 64MiB",
			"limits.max_queue: 0 is not a number of requests: give 1 or more",
			"drain.delay: -1s is negative: give 0s or more",
			"drain.timeout: -1s is negative: give 0s or more",
		}},
		{"limit and cancel", func(c *Config) {
			c.Models[0].Limit, c.Models[0].Cancel = LimitConfig{Concurrent: -1, Queue: -1}, "stop"
		}, []string{
			"models[0].limit.concurrent: -1 is not a number of requests: give 1 or more, auto, or 0 for no bound",
			"models[0].limit.queue: -1 is not a number of requests: give 0 or more",
			`models[0].cancel: "stop" is not what can be done: give abort or drain`,
		}},
		{"queue alone", func(c *Config) { c.Models[0].Limit.Queue = 1 }, []string{
			"models[0].limit.queue: nothing waits without limit.concurrent: give both, or leave it out",
		}},
		{"learned limit", func(c *Config) { c.Models[0].Limit = LimitConfig{Concurrent: Auto, Min: 2, Max: 300, Queue: 1} }, nil},
		{"bounds of a learned limit", func(c *Config) { c.Models[0].Limit = LimitConfig{Concurrent: Auto, Min: 20, Max: 10} }, []string{
			"models[0].limit.min: 20 is more than max, 10",
		}},
		{"bounds of no limit", func(c *Config) { c.Models[0].Limit = LimitConfig{Concurrent: 8, Min: 20, Max: -10} }, []string{
			"models[0].limit.min: it is a bound of what is learned: give concurrent: auto, or leave it out",
			"models[0].limit.max: -10 is not a number of requests: give 1 or more",
		}},
		{"inflight bytes", func(c *Config) { c.Limits.MaxInflightBytes = 1 << 20 }, []string{
			"limits.max_inflight_bytes: 1MiB is less than limits.max_body, 64MiB: a request of that size could never be taken",
		}},
		{"queue", func(c *Config) {
			c.Models[0].Queue = QueueConfig{TenantHeader: "a b", TenantLimit: 1.5, Weights: map[string]float64{"a": 0, "b": 1, "c": 200}}
			c.Models[0].Priorities = []Priority{{"High", prom.Duration(time.Second)}, {"low", 0}, {"low", prom.Duration(time.Second)}}
		}, []string{
			`models[0].queue.tenant_header: "a b" is not the name of a header`,
			`models[0].queue.weights: "a": 0 is not a weight: give 0.01 to 100`,
			`models[0].queue.weights: "c": 200 is not a weight: give 0.01 to 100`,
			"models[0].queue.tenant_limit: 1.5 is not a part of the queue: give more than 0 to 1, such as 0.5, or 0 for no limit",
			`models[0].priorities[0].name: "High" is not the name of a class: give lower-case letters, digits, - and _, beginning with a letter`,
			"models[0].priorities[1].budget: 0s is not what a request may wait: give more than 0s, up to 1h0m0s, such as 100ms",
			`models[0].priorities[2].name: "low" is the name of priorities[1] too: give each class once`,
			"models[0].priorities: none is named normal: it is the class of requests that name none",
		}},
		{"tenants without a header", func(c *Config) {
			c.Models[0].Queue = QueueConfig{TenantLimit: 0.5, Weights: map[string]float64{"a": 2, "b": 1}}
		}, []string{
			"models[0].queue.weights: there is no tenant_header to tell tenants by: give it, or leave out weights",
			"models[0].queue.tenant_limit: there is no tenant_header to tell tenants by: give it, or leave out tenant_limit",
		}},
		{"name", func(c *Config) { c.Models[0].Name = "" }, []string{
			"models[0].name: missing: give the name that stands in the request's path, /v2/models/NAME/infer",
		}},
		{"name with a slash", func(c *Config) { c.Models[0].Name = "a/b" }, []string{
			`models[0].name: "a/b" cannot stand in a path: leave out / : ? # and %`,
		}},
		{"twice", func(c *Config) { c.Models = append(c.Models, c.Models[0]) }, []string{
			`models[1].name: "digits" is the name of models[0] too: give each model a name of its own`,
		}},
		{"no upstream", func(c *Config) { c.Models[0].Upstreams = nil }, []string{
			"models[0].upstreams: empty: give at least one {url: ...}, {target: ...}, {service: ...}, {dns: ...}, {srv: ...} or {file: ...}",
		}},
		{"upstreams", func(c *Config) {
			c.Models[0].Upstreams = []Upstream{{}, {URL: "http://a", Target: "b"}, {URL: "10.0.0.1:8000"}, {URL: "http://"}, {URL: "http://a?b"}, {URL: "http://c"}, {URL: "http://c"}, {URL: "http://a b"}}
		}, []string{
			"models[0].upstreams[0]: has none of url, target, service, dns, srv and file: give one of them",
			"models[0].upstreams[1]: has more than one of url, target, service, dns, srv and file: give one of them",
			`models[0].upstreams[2].url: "10.0.0.1:8000" is not the URL of a replica: it must begin with http:// or https://`,
			`models[0].upstreams[3].url: "http://" has no host: give one, such as http://10.0.0.1:8000`,
			`models[0].upstreams[4].url: "http://a?b" has more than a host and a path: leave out the user, query and fragment`,
			"models[0].upstreams[6]: the same as upstreams[5]: give each once",
			`models[0].upstreams[7].url: "http://a b" is not a URL: invalid character " " in host name`,
		}},
		{"services", func(c *Config) {
			c.Models[0].Upstreams = []Upstream{
				{Service: "ml/llama"},
				{Service: "ml/llama", Port: "http"},
				{Service: "ml/llama", Port: "8000"},
				{Service: "ml/llama", Port: "http"},
				{Service: "llama"},
				{Service: "ml/llama/x"},
				{Service: "ml/Llama"},
				{Service: "/llama"},
				{Service: "ml/llama:http"},
				{Service: "ml/llama", Port: "0"},
				{Service: "ml/llama", Port: "65536"},
				{Service: "ml/llama", Port: "HTTP"},
				{Service: "ml/llama", Port: "a:b"},
				{URL: "http://a", Port: "http"},
				{Target: "digits", Service: "ml/digits"},
				{Port: "http"},
			}
		}, []string{
			"models[0].upstreams[3]: the same as upstreams[1]: give each once",
			`models[0].upstreams[4].service: "llama" is not namespace/name of a Service, as in ml/llama`,
			`models[0].upstreams[5].service: "ml/llama/x" is not namespace/name of a Service, as in ml/llama`,
			`models[0].upstreams[6].service: "ml/Llama" is not namespace/name of a Service, as in ml/llama`,
			`models[0].upstreams[7].service: "/llama" is not namespace/name of a Service, as in ml/llama`,
			`models[0].upstreams[8].service: "ml/llama:http" is not namespace/name of a Service, as in ml/llama`,
			`models[0].upstreams[9].port: "0" is neither the name of a port, such as http, nor a number between 1 and 65535`,
			`models[0].upstreams[10].port: "65536" is neither the name of a port, such as http, nor a number between 1 and 65535`,
			`models[0].upstreams[11].port: "HTTP" is neither the name of a port, such as http, nor a number between 1 and 65535`,
			`models[0].upstreams[12].port: "a:b" is neither the name of a port, such as http, nor a number between 1 and 65535`,
			"models[0].upstreams[13].port: it is one of a service: give it in the url, or leave it out",
			"models[0].upstreams[14]: has more than one of url, target, service, dns, srv and file: give one of them",
			"models[0].upstreams[15]: has none of url, target, service, dns, srv and file: give one of them",
		}},
		{"lists", func(c *Config) {
			c.Models[0].Upstreams = []Upstream{
				{DNS: "llama.ml:8000", Interval: prom.Duration(time.Second)},
				{SRV: "_http._tcp.llama.ml"},
				{File: "sd/*.yml"},
				{DNS: "llama.ml"},
				{SRV: "llama.ml:8000"},
				{File: "sd/[.yml"},
				{DNS: "a:1", Interval: prom.Duration(-time.Second)},
				{URL: "http://a", Interval: prom.Duration(time.Second)},
			}
		}, []string{
			`models[0].upstreams[3].dns: "llama.ml" is not host:port, as in llama.ml.svc:8000`,
			`models[0].upstreams[4].srv: "llama.ml:8000" is not a name in DNS: leave out the port, which the records have`,
			`models[0].upstreams[5].file: "sd/[.yml": a bracket is not closed, or a backslash is the end`,
			"models[0].upstreams[6].interval: -1s is negative: give a duration such as 10s",
			"models[0].upstreams[7].interval: it is one of dns, srv and file: leave it out",
		}},
		{"health", func(c *Config) {
			c.Models[0].Health = HealthConfig{Path: "health", Unhealthy: -1}
			c.Models[0].Outlier = OutlierConfig{Consecutive5xx: -1, LatencyFactor: 0.5, MaxPercent: 101}
			c.Models[0].SlowStart = prom.Duration(-time.Second)
		}, []string{
			"models[0].slow_start: -1s is negative: give a duration such as 10s, or 0s for none",
			`models[0].health.path: "health" is not a path: it begins with one slash, as in /v2/health/ready`,
			"models[0].health.interval: 0s is not an interval: give more than 0s, such as 5s",
			"models[0].health.timeout: 0s is not a timeout: give more than 0s, such as 1s",
			"models[0].health.unhealthy: -1 is not a number of checks: give 1 or more",
			"models[0].health.healthy: 0 is not a number of checks: give 1 or more",
			"models[0].outlier.consecutive_5xx: -1 is negative: give a number of answers, or 0 for never",
			"models[0].outlier.latency_factor: 0.5 times as long is not slow: give more than 1, such as 3, or 0 for never",
			"models[0].outlier.base_eject: 0s is not a time to be out: give more than 0s, such as 30s",
			"models[0].outlier.max_percent: 101 is not a percentage: give 0 to 100",
		}},
		{"batch", func(c *Config) {
			c.Models[0].Batch = BatchConfig{Mode: "fast", MaxSize: 8, MinSize: 9, AllowedSizes: []int{4, 4, 16, 0}, SLO: prom.Duration(-time.Second), Objective: "money"}
		}, []string{
			`models[0].batch.mode: "fast" is not a mode: give adaptive, timeout, greedy or off`,
			`models[0].batch.objective: "money" is not an objective: give balanced, latency, throughput or cost`,
			"models[0].batch.min_size: 9 cannot be waited for: give 1 (not waiting) to max_size, 8",
			"models[0].batch.allowed_sizes[1]: 4 comes after 4: give them in ascending order, each once",
			"models[0].batch.allowed_sizes[2]: 16 is not the size of a batch: give 1 to max_size, 8",
			"models[0].batch.allowed_sizes[3]: 0 is not the size of a batch: give 1 to max_size, 8",
			"models[0].batch.slo: -1s is negative: give a duration such as 100ms, or 0s for none",
		}},
		{"numbers", func(c *Config) {
			c.Models[0].Batch = BatchConfig{MaxWait: prom.Duration(-time.Second), IgnoreHeaders: []string{"a b", "authorization"}}
			c.Models[0].Inflight, c.Models[0].Timeout = 0, 0
			c.Models[0].Protocol, c.Models[0].Batch.Oversize = "grpc", "cut"
		}, []string{
			"models[0].batch.max_size: 0 is not a batch size: give 1 or more",
			"models[0].batch.max_wait: -1s is negative: give 0s or more",
			`models[0].protocol: "grpc" is not a protocol: give auto, v1, oip, openai or passthrough`,
			`models[0].batch.oversize: "cut" is not what can be done: give split, reject or solo`,
			`models[0].batch.ignore_headers[0]: "a b" is not the name of a header`,
			"models[0].batch.ignore_headers[1]: authorization always matters: clients of different rights must not share a batch",
			"models[0].inflight: 0 is not a number of batches: give 1 or more, or auto",
			"models[0].timeout: 0s is not a timeout: give more than 0s, such as 30s",
		}},
		{"trust", func(c *Config) {
			c.Models[0].Queue.TrustHeaders = Trust{From: []string{"10.0.0.0/8", "10.0.0.1", "10.0.0.0/33"}}
		}, []string{
			`models[0].queue.trust_headers[1]: "10.0.0.1" is not a CIDR: give one such as 10.0.0.0/8, or 10.0.0.7/32 for one address`,
			`models[0].queue.trust_headers[2]: "10.0.0.0/33" is not a CIDR: give one such as 10.0.0.0/8, or 10.0.0.7/32 for one address`,
		}},
		{"access log", func(c *Config) { c.AccessLog.Format = "common" }, []string{
			`access_log.format: "common" is not a format of the access log: give json`,
			"access_log.path: empty: give a file, or stdout",
		}},
		{"served names", func(c *Config) {
			c.Models[0].ServedModelNames = []string{"org/digits", "b", "", "b"}
			for _, name := range []string{"a", "b"} {
				m := ok
				m.Name = name
				c.Models = append(c.Models, m)
			}
			c.Models[1].ServedModelNames = []string{"org/digits"}
		}, []string{
			"models[0].served_model_names[2]: empty: give what stands in a request's model",
			`models[0].served_model_names[3]: "b" is a name of models[0] too: give each name once`,
			`models[1].served_model_names[0]: "org/digits" is a name of models[0] too: give each name once`,
			`models[2].name: "b" is a served_model_name of models[0]: give each name once`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Models = []ModelConfig{ok}
			tt.change(&cfg)
			var got []string
			if err := cfg.Validate(); err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

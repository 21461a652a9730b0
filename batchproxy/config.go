package batchproxy

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/units"
	prom "github.com/prometheus/common/model"

	"flyball/batchproxy/protocol"
)

// Config is the `batchproxy` part of the configuration.
type Config struct {
	Limits Limits `yaml:"limits"`
	Drain  Drain  `yaml:"drain"`
	// AccessLog has a line for each request, where it is asked for.
	AccessLog AccessLog     `yaml:"access_log"`
	Models    []ModelConfig `yaml:"models"`
}

// Drain is how the proxy ends. A duration alone is Timeout.
type Drain struct {
	// Delay is how long it goes on taking requests after it has said that it is not ready: as long as those who send to it
	// take to learn of that. Answers within it have Connection: close, so that clients come back elsewhere.
	Delay prom.Duration `yaml:"delay"`
	// Timeout is how long it then waits for the requests that it has.
	Timeout prom.Duration `yaml:"timeout"`
}

// Shorthand says what a duration alone is: the timeout.
func (d *Drain) Shorthand() any { return &d.Timeout }

// Limits bound what one client, or all of them together, can make the proxy hold.
type Limits struct {
	MaxBody          units.Base2Bytes `yaml:"max_body"`           // of one request
	MaxQueue         int              `yaml:"max_queue"`          // requests waiting, per model
	MaxResponse      units.Base2Bytes `yaml:"max_response"`       // of one upstream answer to a batch
	MaxInflightBytes units.Base2Bytes `yaml:"max_inflight_bytes"` // of the bodies of all requests held
}

// ModelConfig says where a model runs and how its requests are batched. The model is addressed by path, /v1/models/NAME...
// and /v2/models/NAME..., or, in OpenAI's protocol, by the member `model` of the body.
type ModelConfig struct {
	Name string `yaml:"name"`
	// ServedModelNames are what OpenAI's clients call the model by, if not Name. "*" is every name that no model has.
	ServedModelNames []string `yaml:"served_model_names,omitempty"`
	// Protocol is the one whose requests are batched: auto, which is all that the proxy knows, v1, oip, openai or
	// passthrough, which is none; empty is auto. Requests in others are passed on as they are.
	Protocol  string      `yaml:"protocol"`
	Upstreams []Upstream  `yaml:"upstreams"`
	Batch     BatchConfig `yaml:"batch"`
	// Inflight is the number of batches that a replica is given at once. Auto is one, and more only while full batches wait, if
	// trials have shown that a replica then does at least 5 % more: it has several instances of the model, or is far away.
	Inflight Count       `yaml:"inflight"`
	Queue    QueueConfig `yaml:"queue"`
	// Priorities are the classes that a client may name in X-Flyball-Priority. One is named normal, that of requests which
	// name none, or none that there is. Empty are critical 25ms, high 50ms, normal 100ms and low 400ms.
	Priorities []Priority `yaml:"priorities,omitempty"`
	// Limit bounds the requests that are not batched.
	Limit LimitConfig `yaml:"limit"`
	// Cancel is what becomes of a request, or of a batch, whose clients have all gone: abort gives it up, drain lets the replica
	// finish, for servers that do not take it well when connections are closed. Empty is abort.
	Cancel string `yaml:"cancel"`
	// BinaryTensors is whether tensors that clients of the Open Inference Protocol send as JSON go to replicas in binary, which they read many times
	// as fast: auto, where they say in their metadata, GET /v2, that they know the extension binary_tensor_data, and none says no, always or
	// never. Clients are answered in JSON either way. Empty is auto.
	BinaryTensors string `yaml:"binary_tensors"`
	// Timeout is how long an upstream may take for a batch, and how long a request may wait to be sent.
	Timeout prom.Duration `yaml:"timeout"`
	Health  HealthConfig  `yaml:"health"`
	Outlier OutlierConfig `yaml:"outlier"`
	// SlowStart is how long a replica that is new or back after an ejection is sent less than the others, from a tenth of
	// their share up to all of it; 0 is none.
	SlowStart prom.Duration `yaml:"slow_start"`
}

// Count is a number, or [Auto].
type Count int

// Auto is the number that is learned.
const Auto Count = math.MinInt

// UnmarshalText implements encoding.TextUnmarshaler: a number, or auto.
func (c *Count) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*c = Auto
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return fmt.Errorf("%q is neither a number nor auto", text)
	}
	*c = Count(n)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (c Count) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// String is the number, or auto.
func (c Count) String() string {
	if c == Auto {
		return "auto"
	}
	return strconv.Itoa(int(c))
}

// LimitConfig bounds how many requests that are not batched a replica has at once. More of them wait here until one has room,
// and so go to the first that has.
type LimitConfig struct {
	// Concurrent is how many each replica has at once; 0 is no bound. Auto is as many as make it no slower, and a few that wait
	// there, between Min and Max, learned for each replica by what it takes: of streams, until the first piece of text.
	Concurrent Count `yaml:"concurrent"`
	// Min and Max are the bounds of Auto; 0 are 1 and 1000.
	Min int `yaml:"min,omitempty"`
	Max int `yaml:"max,omitempty"`
	// Queue is how many may wait, for no longer than the model's timeout. More are refused.
	Queue int `yaml:"queue"`
}

// bounds are those of what is learned.
func (c LimitConfig) bounds() (least, most int) {
	if most = c.Max; most == 0 {
		most = 1000 // more than a server of models does at once
	}
	return max(c.Min, 1), most
}

// HealthConfig says how replicas are asked whether they are well. Until it has been asked a replica is taken to be.
type HealthConfig struct {
	// Path is what is asked for by GET, below the path of the replica's URL; empty is not to ask. Any status from 200 to 299 is
	// well. Servers have /v2/health/ready (Triton, KServe, and others of the Open Inference Protocol), /v1/models/NAME
	// (TensorFlow Serving), /health (vLLM, SGLang, TEI) or /ping (TorchServe).
	Path      string        `yaml:"path,omitempty"`
	Interval  prom.Duration `yaml:"interval"`  // from one check to the next
	Timeout   prom.Duration `yaml:"timeout"`   // of one check
	Unhealthy int           `yaml:"unhealthy"` // checks that fail, one after the other, until a replica is sent nothing
	Healthy   int           `yaml:"healthy"`   // checks that pass, one after the other, until it is again
}

// OutlierConfig says when a replica that does worse than the others is left out for a time. One request tries it after that.
// The only one that is ready is never left out.
type OutlierConfig struct {
	// Consecutive5xx is how many answers 5xx, or that broke off, one after the other eject; 0 is never. 503 with Retry-After
	// is none, and neither is a stream that breaks off, which may be its client's doing. A replica that gives no answer
	// within the model's timeout, while another does, is ejected at once.
	Consecutive5xx int `yaml:"consecutive_5xx"`
	// LatencyFactor is how many times as long as the median of the others, for batches of the same size, five answers one
	// after the other have to take; 0 is never.
	LatencyFactor float64       `yaml:"latency_factor"`
	BaseEject     prom.Duration `yaml:"base_eject"`  // of the first ejection; the second is twice as long, and so on up to ten times
	MaxPercent    int           `yaml:"max_percent"` // of the replicas that may be out at once
}

// Upstream is one replica by its URL, all the replicas of an actuator's target, all the endpoints of a Kubernetes Service, all
// the addresses of a name in DNS, or all the targets of files. One of URL, Target, Service, DNS, SRV and File is set.
type Upstream struct {
	URL     string `yaml:"url,omitempty"`
	Target  string `yaml:"target,omitempty"`
	Service string `yaml:"service,omitempty"` // namespace/name
	// Port is the name or the number of a port of the Service's EndpointSlices; empty where they have one only.
	Port string `yaml:"port,omitempty"`
	// DNS is host:port, of which each A and AAAA record is a replica. A name that does not exist has none; where the lookup
	// fails otherwise, the last list stands.
	DNS string `yaml:"dns,omitempty"`
	// SRV is a name whose SRV records are replicas, such as _http._tcp.llama.ml.svc.cluster.local. Priority and weight are not used.
	SRV string `yaml:"srv,omitempty"`
	// File is the pattern of files in the format of Prometheus's file_sd_configs, in YAML or JSON; labels are not used. A file
	// that is broken keeps its last good list.
	File string `yaml:"file,omitempty"`
	// Interval is how often DNS, SRV or File is read; 0 is 10s.
	Interval prom.Duration `yaml:"interval,omitempty"`
}

// service is what the endpoints of a Service are asked for by: namespace/name, or namespace/name:port.
func (u Upstream) service() string {
	if u.Service == "" || u.Port == "" {
		return u.Service
	}
	return u.Service + ":" + u.Port
}

// BatchConfig says when a batch is sent.
type BatchConfig struct {
	// Mode is adaptive, timeout, greedy or off; the zero value is timeout.
	Mode Mode `yaml:"mode"`
	// MaxSize is the largest number of rows in a batch; 1 is no batching.
	MaxSize int `yaml:"max_size"`
	// Oversize is what becomes of a request with more rows than MaxSize: split sends it in chunks that ride in batches, and
	// joins their answers; reject answers 413; solo sends it as it is, alone. Empty is split.
	Oversize string `yaml:"oversize"`
	// MinSize is the number of rows that is waited for, up to MaxWait, whatever else would send them; 1 or less is none.
	MinSize int `yaml:"min_size"`
	// AllowedSizes are the numbers of rows that the server has compiled for, ascending. A batch is cut down to one of them
	// where the rest can go with the next; nothing is padded.
	AllowedSizes []int `yaml:"allowed_sizes,omitempty"`
	// MaxWait is how long a request is held for others while a replica is free.
	MaxWait prom.Duration `yaml:"max_wait"`
	// SLO is within which time a request should be answered: batches take no more than half of it, and are not held for
	// longer than leaves them time. 0 is none.
	SLO prom.Duration `yaml:"slo"`
	// Objective is what adaptive waiting is judged by: balanced, latency, throughput or cost; the zero value is balanced.
	Objective Objective `yaml:"objective"`
	// IgnoreHeaders are request headers that differ between clients and never change the answer, such as a request id
	// of your own. Requests share a batch only where all other headers are equal, and the batch does not carry these.
	IgnoreHeaders []string `yaml:"ignore_headers,omitempty"`
}

// QueueConfig says in which order requests leave and who may have how many waiting.
type QueueConfig struct {
	// TenantHeader is the request header that names the tenant; empty is not telling them apart. Tenants share what replicas
	// do by their weights while more waits than a batch takes. Requests without the header are those of one tenant.
	TenantHeader string `yaml:"tenant_header,omitempty"`
	// Weights are the shares of tenants by their names; 1 where none is given.
	Weights map[string]float64 `yaml:"weights,omitempty"`
	// TenantLimit is the part of limits.max_queue that one tenant may have waiting, such as 0.5; 0 is all of it.
	TenantLimit float64 `yaml:"tenant_limit"`
	// TrustHeaders is whether clients may say their priority and tenant, or which of them. Requests of others are of class
	// normal and of one tenant. Deadlines are always heeded: they can only make a client's own answer an error.
	TrustHeaders Trust `yaml:"trust_headers"`
}

// Priority is a class of requests.
type Priority struct {
	Name string `yaml:"name"`
	// Budget is how long a request may wait before others of classes with less no longer go before it.
	Budget prom.Duration `yaml:"budget"`
}

// normalClass is the class of requests that name none.
const normalClass = "normal"

// classes are the model's priorities. Each of the default ones waits twice as long as the one before, and low long enough
// for work that nobody waits for: four times normal.
func (c ModelConfig) classes() []Class {
	if len(c.Priorities) == 0 {
		return []Class{{"critical", 25 * time.Millisecond}, {"high", 50 * time.Millisecond}, {normalClass, 100 * time.Millisecond}, {"low", 400 * time.Millisecond}}
	}
	out := make([]Class, len(c.Priorities))
	for i, p := range c.Priorities {
		out[i] = Class{p.Name, time.Duration(p.Budget)}
	}
	return out
}

// normalOf is the index of the class of requests that name none.
func normalOf(classes []Class) int {
	return max(slices.IndexFunc(classes, func(c Class) bool { return c.Name == normalClass }), 0)
}

// DefaultConfig is a proxy without models.
func DefaultConfig() Config {
	return Config{
		Limits: Limits{
			MaxBody:          64 * units.MiB,  // a batch of 100 images of 224x224x3 floats in JSON is about 60 MB
			MaxQueue:         4096,            // at 100 requests/s, far more than any client will wait for
			MaxResponse:      64 * units.MiB,  // as a request
			MaxInflightBytes: 512 * units.MiB, // eight of the largest requests, thousands of ordinary ones
		},
		// No delay: only where something watches whether the proxy is ready does anybody learn of it. Half of Kubernetes's grace
		// period of 30 s: the replicas that flyball runs itself end after the proxy.
		Drain: Drain{Timeout: prom.Duration(15 * time.Second)},
	}
}

// What Protocol and Oversize may be besides the names of protocols.
const (
	protocolAuto   = "auto"
	protocolNone   = "passthrough"
	oversizeSplit  = "split"
	oversizeReject = "reject"
	oversizeSolo   = "solo"
	cancelAbort    = "abort"
	cancelDrain    = "drain"
)

// everyName is the served model name that stands for all that no model has.
const everyName = "*"

// servedNames are the names that the model is called by in a body.
func (c ModelConfig) servedNames() []string {
	if len(c.ServedModelNames) > 0 {
		return c.ServedModelNames
	}
	return []string{c.Name}
}

// batches reports whether requests of a protocol are batched.
func (c ModelConfig) batches(p protocol.Protocol) bool {
	return p != nil && (c.Protocol == "" || c.Protocol == protocolAuto || c.Protocol == p.Name())
}

// DefaultModelConfig is a model without a name and upstreams.
func DefaultModelConfig() ModelConfig {
	return ModelConfig{
		Protocol: protocolAuto,
		Batch: BatchConfig{
			Mode:     ModeAdaptive,                         // never slower than none, whatever the model and its clients are like
			MaxSize:  32,                                   // models of matrix products reach 90 % of their gain here
			Oversize: oversizeSplit,                        // a server that has a limit refuses more, and a large request alone keeps all others waiting
			MinSize:  1,                                    // a request that is alone is not held
			MaxWait:  prom.Duration(10 * time.Millisecond), // what a request may lose to batching where nobody joins it
			// No SLO: half of one that is guessed would keep batches of a slow model small, and cost most of its throughput.
			Objective: ObjectiveBalanced,
		},
		Queue: QueueConfig{
			TrustHeaders: Trust{Everyone: true}, // what a client can win by a lie is some 75 ms before others, not a place before all of them
		},
		// One at a time, or what is learned to be better: a second batch on one device only splits it, and batches are fullest when
		// they form while one runs.
		Inflight:      Auto,
		Cancel:        cancelAbort,                     // nobody reads what would still be computed
		BinaryTensors: binaryAuto,                      // a server that says so is believed until it refuses one
		Timeout:       prom.Duration(30 * time.Second), // cold models take seconds for their first batch
		Health: HealthConfig{ // without a path: what servers have differs
			Interval:  prom.Duration(5 * time.Second),
			Timeout:   prom.Duration(time.Second), // as kubelet's
			Unhealthy: 3,                          // as kubelet's
			Healthy:   1,                          // as kubelet's
		},
		Outlier: OutlierConfig{ // as Envoy's, with the latency added
			Consecutive5xx: 5,
			LatencyFactor:  3,
			BaseEject:      prom.Duration(30 * time.Second),
			MaxPercent:     50, // more than half are not outliers
		},
		// No SlowStart: a scale-up is for the load that is there now, and a replica that is slow while it is cold gets less by
		// its latency already.
	}
}

// SetDefaults sets the values of DefaultModelConfig; what reads a configuration calls it before the file's own values.
func (c *ModelConfig) SetDefaults() { *c = DefaultModelConfig() }

// Validate returns all faults joined. The text of each begins with the path of its field.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, size := range []struct {
		path  string
		bytes units.Base2Bytes
	}{
		{"limits.max_body", c.Limits.MaxBody},
		{"limits.max_response", c.Limits.MaxResponse},
		{"limits.max_inflight_bytes", c.Limits.MaxInflightBytes},
	} {
		if size.bytes < 1 {
			fault("%s: %d is not a size: give 1 byte or more, such as 64MiB", size.path, int64(size.bytes))
		}
	}
	if c.Limits.MaxInflightBytes > 0 && c.Limits.MaxInflightBytes < c.Limits.MaxBody {
		fault("limits.max_inflight_bytes: %s is less than limits.max_body, %s: a request of that size could never be taken",
			c.Limits.MaxInflightBytes, c.Limits.MaxBody)
	}
	if c.Limits.MaxQueue < 1 {
		fault("limits.max_queue: %d is not a number of requests: give 1 or more", c.Limits.MaxQueue)
	}
	if c.Drain.Delay < 0 {
		fault("drain.delay: %s is negative: give 0s or more", c.Drain.Delay)
	}
	if c.Drain.Timeout < 0 {
		fault("drain.timeout: %s is negative: give 0s or more", c.Drain.Timeout)
	}
	if err := c.AccessLog.validate(); err != nil {
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			fault("access_log.%w", err)
		}
	}
	named, served := make(map[string]int), make(map[string]int)
	for i, m := range c.Models {
		if first, ok := named[m.Name]; ok && m.Name != "" {
			fault("models[%d].name: %q is the name of models[%d] too: give each model a name of its own", i, m.Name, first)
		} else {
			named[m.Name] = i
		}
		for j, name := range m.servedNames() {
			first, ok := served[name]
			switch {
			case len(m.ServedModelNames) > 0 && name == "":
				fault("models[%d].served_model_names[%d]: empty: give what stands in a request's model", i, j)
			case ok && len(m.ServedModelNames) > 0:
				fault("models[%d].served_model_names[%d]: %q is a name of models[%d] too: give each name once", i, j, name, first)
			case ok && first != i && len(c.Models[first].ServedModelNames) > 0:
				fault("models[%d].name: %q is a served_model_name of models[%d]: give each name once", i, name, first)
			}
			served[name] = i
		}
		faults = append(faults, m.validate(fmt.Sprintf("models[%d]", i))...)
	}
	return errors.Join(faults...)
}

func (c ModelConfig) validate(path string) []error {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf(path+field+": "+format, args...))
	}
	switch {
	case c.Name == "":
		fault(".name", "missing: give the name that stands in the request's path, /v2/models/NAME/infer")
	case strings.ContainsAny(c.Name, "/:?#%") || c.Name == "." || c.Name == "..":
		fault(".name", "%q cannot stand in a path: leave out / : ? # and %%", c.Name)
	}
	if len(c.Upstreams) == 0 {
		fault(".upstreams", "empty: give at least one {url: ...}, {target: ...}, {service: ...}, {dns: ...}, {srv: ...} or {file: ...}")
	}
	seen := make(map[Upstream]int)
	for i, u := range c.Upstreams {
		field := fmt.Sprintf(".upstreams[%d]", i)
		if first, ok := seen[u]; ok && u != (Upstream{}) {
			fault(field, "the same as upstreams[%d]: give each once", first)
		} else {
			seen[u] = i
		}
		given := 0
		for _, value := range []string{u.URL, u.Target, u.Service, u.DNS, u.SRV, u.File} {
			if value != "" {
				given++
			}
		}
		switch {
		case given > 1:
			fault(field, "has more than one of url, target, service, dns, srv and file: give one of them")
		case given == 0:
			fault(field, "has none of url, target, service, dns, srv and file: give one of them")
		case u.URL != "":
			if _, err := parseUpstream(u.URL); err != nil {
				fault(field+".url", "%w", err)
			}
		case u.Service != "" && !isService(u.Service):
			fault(field+".service", "%q is not namespace/name of a Service, as in ml/llama", u.Service)
		case u.DNS != "":
			if err := checkAddress(u.DNS); err != nil {
				fault(field+".dns", "%w", err)
			}
		case strings.ContainsAny(u.SRV, "/:?#@ "):
			fault(field+".srv", "%q is not a name in DNS: leave out the port, which the records have", u.SRV)
		case u.File != "":
			if _, err := filepath.Match(u.File, ""); err != nil {
				fault(field+".file", "%q: a bracket is not closed, or a backslash is the end", u.File)
			}
		}
		switch polled := u.DNS != "" || u.SRV != "" || u.File != ""; {
		case u.Interval < 0:
			fault(field+".interval", "%s is negative: give a duration such as 10s", u.Interval)
		case u.Interval > 0 && !polled && given > 0:
			fault(field+".interval", "it is one of dns, srv and file: leave it out")
		}
		switch {
		case u.Port != "" && u.Service == "" && given > 0:
			fault(field+".port", "it is one of a service: give it in the url, or leave it out")
		case u.Port != "" && !isPort(u.Port):
			fault(field+".port", "%q is neither the name of a port, such as http, nor a number between 1 and 65535", u.Port)
		}
	}
	switch c.Batch.Mode {
	case ModeAdaptive, ModeTimeout, ModeGreedy, ModeOff, "":
	default:
		fault(".batch.mode", "%q is not a mode: give adaptive, timeout, greedy or off", c.Batch.Mode)
	}
	switch c.Batch.Objective {
	case ObjectiveBalanced, ObjectiveLatency, ObjectiveThroughput, ObjectiveCost, "":
	default:
		fault(".batch.objective", "%q is not an objective: give balanced, latency, throughput or cost", c.Batch.Objective)
	}
	if c.Batch.MinSize < 0 || c.Batch.MinSize > max(c.Batch.MaxSize, 1) {
		fault(".batch.min_size", "%d cannot be waited for: give 1 (not waiting) to max_size, %d", c.Batch.MinSize, c.Batch.MaxSize)
	}
	for i, size := range c.Batch.AllowedSizes {
		field := fmt.Sprintf(".batch.allowed_sizes[%d]", i)
		switch {
		case size < 1 || size > c.Batch.MaxSize:
			fault(field, "%d is not the size of a batch: give 1 to max_size, %d", size, c.Batch.MaxSize)
		case i > 0 && size <= c.Batch.AllowedSizes[i-1]:
			fault(field, "%d comes after %d: give them in ascending order, each once", size, c.Batch.AllowedSizes[i-1])
		}
	}
	if c.Batch.SLO < 0 {
		fault(".batch.slo", "%s is negative: give a duration such as 100ms, or 0s for none", c.Batch.SLO)
	}
	if c.Batch.MaxSize < 1 {
		fault(".batch.max_size", "%d is not a batch size: give 1 or more", c.Batch.MaxSize)
	}
	if c.Batch.MaxWait < 0 {
		fault(".batch.max_wait", "%s is negative: give 0s or more", c.Batch.MaxWait)
	}
	if !slices.Contains([]string{"", protocolAuto, "v1", "oip", "openai", protocolNone}, c.Protocol) {
		fault(".protocol", "%q is not a protocol: give auto, v1, oip, openai or passthrough", c.Protocol)
	}
	if !slices.Contains([]string{"", oversizeSplit, oversizeReject, oversizeSolo}, c.Batch.Oversize) {
		fault(".batch.oversize", "%q is not what can be done: give split, reject or solo", c.Batch.Oversize)
	}
	for i, name := range c.Batch.IgnoreHeaders {
		field := fmt.Sprintf(".batch.ignore_headers[%d]", i)
		switch {
		case name == "" || strings.ContainsAny(name, " :\t\r\n"):
			fault(field, "%q is not the name of a header", name)
		case http.CanonicalHeaderKey(name) == "Authorization":
			fault(field, "%s always matters: clients of different rights must not share a batch", name)
		}
	}
	faults = append(faults, c.validateQueue(path)...)
	if c.Limit.Concurrent < 0 && c.Limit.Concurrent != Auto {
		fault(".limit.concurrent", "%d is not a number of requests: give 1 or more, auto, or 0 for no bound", int(c.Limit.Concurrent))
	}
	for _, bound := range []struct {
		key string
		n   int
	}{{"min", c.Limit.Min}, {"max", c.Limit.Max}} {
		switch {
		case bound.n < 0:
			fault(".limit."+bound.key, "%d is not a number of requests: give 1 or more", bound.n)
		case bound.n > 0 && c.Limit.Concurrent != Auto:
			fault(".limit."+bound.key, "it is a bound of what is learned: give concurrent: auto, or leave it out")
		}
	}
	if least, most := c.Limit.bounds(); c.Limit.Concurrent == Auto && least > most {
		fault(".limit.min", "%d is more than max, %d", least, most)
	}
	switch {
	case c.Limit.Queue < 0:
		fault(".limit.queue", "%d is not a number of requests: give 0 or more", c.Limit.Queue)
	case c.Limit.Queue > 0 && c.Limit.Concurrent == 0:
		fault(".limit.queue", "nothing waits without limit.concurrent: give both, or leave it out")
	}
	if !slices.Contains([]string{"", cancelAbort, cancelDrain}, c.Cancel) {
		fault(".cancel", "%q is not what can be done: give abort or drain", c.Cancel)
	}
	if !slices.Contains([]string{"", binaryAuto, binaryAlways, binaryNever}, c.BinaryTensors) {
		fault(".binary_tensors", "%q is not when: give auto, always or never", c.BinaryTensors)
	}
	if c.Inflight < 1 && c.Inflight != Auto {
		fault(".inflight", "%d is not a number of batches: give 1 or more, or auto", int(c.Inflight))
	}
	if c.Timeout <= 0 {
		fault(".timeout", "%s is not a timeout: give more than 0s, such as 30s", c.Timeout)
	}
	if c.SlowStart < 0 {
		fault(".slow_start", "%s is negative: give a duration such as 10s, or 0s for none", c.SlowStart)
	}
	return append(append(faults, c.Health.validate(path+".health")...), c.Outlier.validate(path+".outlier")...)
}

func (c HealthConfig) validate(path string) []error {
	if c.Path == "" {
		return nil
	}
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf(path+field+": "+format, args...))
	}
	if u, err := url.Parse(c.Path); err != nil || c.Path[0] != '/' || u.Host != "" || u.Fragment != "" {
		fault(".path", "%q is not a path: it begins with one slash, as in /v2/health/ready", c.Path)
	}
	if c.Interval <= 0 {
		fault(".interval", "%s is not an interval: give more than 0s, such as 5s", c.Interval)
	}
	if c.Timeout <= 0 {
		fault(".timeout", "%s is not a timeout: give more than 0s, such as 1s", c.Timeout)
	}
	if c.Unhealthy < 1 {
		fault(".unhealthy", "%d is not a number of checks: give 1 or more", c.Unhealthy)
	}
	if c.Healthy < 1 {
		fault(".healthy", "%d is not a number of checks: give 1 or more", c.Healthy)
	}
	return faults
}

// maxPriorities bounds the classes of a model: each is a set of series and, where one leads, is compared with the others.
const maxPriorities = 16

// className is what a class may be called: it stands in a header and in the label class.
var className = regexp.MustCompile(`^[a-z][-a-z0-9_]{0,31}$`)

func (c ModelConfig) validateQueue(path string) []error {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf(path+field+": "+format, args...))
	}
	if h := c.Queue.TenantHeader; h != "" && strings.ContainsAny(h, " :\t\r\n") {
		fault(".queue.tenant_header", "%q is not the name of a header", h)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Queue.Weights)) {
		switch w := c.Queue.Weights[name]; {
		case c.Queue.TenantHeader == "":
			fault(".queue.weights", "there is no tenant_header to tell tenants by: give it, or leave out weights")
		case !(w >= minWeight && w <= maxWeight):
			fault(".queue.weights", "%q: %v is not a weight: give %v to %v", name, w, minWeight, maxWeight)
			continue
		default:
			continue
		}
		break
	}
	switch {
	case !(c.Queue.TenantLimit >= 0 && c.Queue.TenantLimit <= 1):
		fault(".queue.tenant_limit", "%v is not a part of the queue: give more than 0 to 1, such as 0.5, or 0 for no limit", c.Queue.TenantLimit)
	case c.Queue.TenantLimit > 0 && c.Queue.TenantHeader == "":
		fault(".queue.tenant_limit", "there is no tenant_header to tell tenants by: give it, or leave out tenant_limit")
	}
	for i, text := range c.Queue.TrustHeaders.From {
		if _, err := netip.ParsePrefix(text); err != nil {
			fault(fmt.Sprintf(".queue.trust_headers[%d]", i), "%q is not a CIDR: give one such as 10.0.0.0/8, or 10.0.0.7/32 for one address", text)
		}
	}
	if len(c.Priorities) > maxPriorities {
		fault(".priorities", "%d classes: give %d or fewer", len(c.Priorities), maxPriorities)
	}
	seen := make(map[string]int)
	for i, p := range c.Priorities {
		field := fmt.Sprintf(".priorities[%d]", i)
		first, twice := seen[p.Name]
		switch {
		case !className.MatchString(p.Name):
			fault(field+".name", "%q is not the name of a class: give lower-case letters, digits, - and _, beginning with a letter", p.Name)
		case twice:
			fault(field+".name", "%q is the name of priorities[%d] too: give each class once", p.Name, first)
		default:
			seen[p.Name] = i
		}
		if p.Budget <= 0 || time.Duration(p.Budget) > maxBudget {
			fault(field+".budget", "%s is not what a request may wait: give more than 0s, up to %s, such as 100ms", p.Budget, maxBudget)
		}
	}
	if _, ok := seen[normalClass]; !ok && len(c.Priorities) > 0 {
		fault(".priorities", "none is named normal: it is the class of requests that name none")
	}
	return faults
}

func (c OutlierConfig) validate(path string) []error {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf(path+field+": "+format, args...))
	}
	on := c.Consecutive5xx != 0 || c.LatencyFactor != 0
	if c.Consecutive5xx < 0 {
		fault(".consecutive_5xx", "%d is negative: give a number of answers, or 0 for never", c.Consecutive5xx)
	}
	if c.LatencyFactor != 0 && !(c.LatencyFactor > 1) {
		fault(".latency_factor", "%g times as long is not slow: give more than 1, such as 3, or 0 for never", c.LatencyFactor)
	}
	if on && c.BaseEject <= 0 {
		fault(".base_eject", "%s is not a time to be out: give more than 0s, such as 30s", c.BaseEject)
	}
	if c.MaxPercent < 0 || c.MaxPercent > 100 {
		fault(".max_percent", "%d is not a percentage: give 0 to 100", c.MaxPercent)
	}
	return faults
}

const (
	minWeight = 0.01
	maxWeight = 100.0
	// maxBudget is longer than clients wait.
	maxBudget = time.Hour
)

// label is what an upstream is called in metrics: as in the configuration, since the addresses of replicas come and go.
func (u Upstream) label() string {
	if u.URL != "" {
		return u.URL
	}
	return u.source().String()
}

// label is what the names of namespaces, of Services and of the ports of EndpointSlices are.
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func isService(text string) bool {
	namespace, name, ok := strings.Cut(text, "/")
	return ok && label.MatchString(namespace) && label.MatchString(name)
}

func isPort(text string) bool {
	if strings.Trim(text, "0123456789") == "" {
		n, err := strconv.Atoi(text)
		return err == nil && n >= 1 && n <= 65535 && text[0] != '0'
	}
	return label.MatchString(text)
}

// parseUpstream reads the URL of a replica: http or https, a host, perhaps a path that stands before the request's.
func parseUpstream(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil && strings.Contains(text, "://"):
		return nil, fmt.Errorf("%q is not a URL: %w", text, errors.Unwrap(err))
	case err != nil || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%q is not the URL of a replica: it must begin with http:// or https://", text)
	case u.Host == "":
		return nil, fmt.Errorf("%q has no host: give one, such as http://10.0.0.1:8000", text)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, fmt.Errorf("%q has more than a host and a path: leave out the user, query and fragment", text)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	u.RawPath = strings.TrimSuffix(u.RawPath, "/")
	return u, nil
}

package exporter

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
)

// Engines are the values of model_servers[].engine.
var Engines = []string{"auto", "vllm", "sglang", "tgi", "triton", "trtllm", "torchserve", "ovms", "oip", "flyball", "custom"}

// ModelFields are what a model server may tell, the keys of model_servers[].mapping.
var ModelFields = []string{
	"request_duration", "request_duration_max", "queue_duration", "network_duration", "ttft", "itl", "requests_total", "requests_failed", "tokens_prompt", "tokens_generation", "tokens_cached",
	"running", "waiting", "kv_cache", "batch_size", "batch_size_mean", "batch_capacity", "iteration_tokens", "preemptions",
	"accelerator_duty_cycle", "accelerator_memory_used", "accelerator_memory_total",
}

// ModelServer is a model server whose own metrics are read.
type ModelServer struct {
	Name string `yaml:"name"` // the label server
	// URL is where its metrics are: http(s)://host:port/path, or unix:/path/of/socket:/path. Without a path it is /metrics.
	URL       string           `yaml:"url"`
	Engine    string           `yaml:"engine"`      // one of Engines; auto tells them apart by the names of their metrics
	Interval  model.Duration   `yaml:"interval"`    // how often it is read, whoever scrapes
	Timeout   model.Duration   `yaml:"timeout"`     // of one reading, the body included
	MaxBody   units.Base2Bytes `yaml:"max_body"`    // of one page, decompressed; a larger one is not read
	MaxSeries int              `yaml:"max_series"`  // that are taken from one page; one with more is not read
	Model     string           `yaml:"model"`       // the label model, where the page has none or another is wanted
	Label     string           `yaml:"model_label"` // the page's label with the model's name; empty for the engine's own

	ModelFiles `yaml:",inline"`

	// GPUs are the UUIDs of those that it runs on; auto finds them by the process that listens on the URL's port.
	GPUs GPUList `yaml:"gpus"`

	// Mapping says for a field, one of ModelFields, where it is on the page. It goes before what is known of the engine.
	Mapping map[string]MetricMapping `yaml:"mapping"`

	// How it is asked, in Prometheus's words. Redirects are not followed, and no proxy is used.
	Headers         map[string]string   `yaml:"headers"`
	BasicAuth       *ModelBasicAuth     `yaml:"basic_auth"`
	Authorization   *ModelAuthorization `yaml:"authorization"`
	BearerTokenFile string              `yaml:"bearer_token_file"`
	TLS             *ModelTLS           `yaml:"tls_config"`
}

// MetricMapping is where one field is on a page.
type MetricMapping struct {
	Metric string            `yaml:"metric"` // its name; : and _ are the same, and so are names with and without _total
	Labels map[string]string `yaml:"labels"` // that a series must have; empty for all
	Type   string            `yaml:"type"`   // counter, gauge, histogram or summary; empty for what the field is
	Count  string            `yaml:"count"`  // of a duration that is a counter: the counter of what it is the duration of
	Scale  float64           `yaml:"scale"`  // to the field's unit: 1e-6 for microseconds, 0.01 for percent; 0 for 1
	ID     string            `yaml:"id_label"`
}

// GPUList are UUIDs of GPUs, or the one word auto. In the file either may be a list.
type GPUList []string

// UnmarshalYAML takes one text or a list of them.
func (l *GPUList) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if unmarshal(&one) == nil {
		*l = GPUList{one}
		return nil
	}
	var list []string
	if err := unmarshal(&list); err != nil {
		return errors.New("give auto or a list of UUIDs, such as [GPU-8a6b...]")
	}
	*l = list
	return nil
}

// Auto says whether the GPUs are to be found.
func (l GPUList) Auto() bool { return len(l) == 1 && l[0] == "auto" }

// ModelBasicAuth is a user and a password.
type ModelBasicAuth struct {
	Username     string `yaml:"username"`
	Password     string `yaml:"password"`
	PasswordFile string `yaml:"password_file"`
}

// ModelAuthorization is the header Authorization.
type ModelAuthorization struct {
	Type            string `yaml:"type"` // empty for Bearer
	Credentials     string `yaml:"credentials"`
	CredentialsFile string `yaml:"credentials_file"`
}

// ModelTLS is how a server's certificate is checked and which one it is shown.
type ModelTLS struct {
	CAFile             string `yaml:"ca_file"`
	CertFile           string `yaml:"cert_file"`
	KeyFile            string `yaml:"key_file"`
	ServerName         string `yaml:"server_name"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
}

// DefaultModelServer returns the settings that hold where the configuration says nothing.
func DefaultModelServer() ModelServer {
	return ModelServer{
		Engine:    "auto",
		Interval:  model.Duration(5 * time.Second), // as the GPUs: an engine's gauges are of one moment, and it costs it milliseconds
		Timeout:   model.Duration(2 * time.Second), // an engine that computes answers late; one that takes longer hangs
		MaxBody:   16 * units.MiB,                  // forty times a page of vLLM with ten models
		MaxSeries: 20_000,
		GPUs:      GPUList{"auto"},
	}
}

// SetDefaults sets the values of DefaultModelServer; what reads a configuration calls it before the file's own values.
func (s *ModelServer) SetDefaults() { *s = DefaultModelServer() }

// SetDirectory makes the paths of files relative to the folder of the configuration file.
func (s *ModelServer) SetDirectory(dir string) {
	s.SetFilesDirectory(dir)
	files := []*string{&s.BearerTokenFile}
	if s.BasicAuth != nil {
		files = append(files, &s.BasicAuth.PasswordFile)
	}
	if s.Authorization != nil {
		files = append(files, &s.Authorization.CredentialsFile)
	}
	if s.TLS != nil {
		files = append(files, &s.TLS.CAFile, &s.TLS.CertFile, &s.TLS.KeyFile)
	}
	for _, file := range files {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(dir, *file)
		}
	}
}

// Address returns the path of the socket, where the URL is one, and the URL to ask for.
func (s *ModelServer) Address() (socket string, u *url.URL, err error) {
	const want = "give http://host:port/metrics, https://... or unix:/path/of/socket:/metrics"
	if rest, found := strings.CutPrefix(s.URL, "unix:"); found {
		path, page, _ := strings.Cut(rest, ":")
		path = "/" + strings.TrimLeft(path, "/")
		if page == "" {
			page = "/metrics"
		}
		if path == "/" || !strings.HasPrefix(page, "/") {
			return "", nil, fmt.Errorf("%q is not the address of a socket: %s", s.Redacted(), want)
		}
		u, err = url.Parse("http://localhost" + page)
		if err != nil {
			return "", nil, fmt.Errorf("%q is not the address of a socket: %s", s.Redacted(), want)
		}
		return path, u, nil
	}
	u, err = url.Parse(s.URL)
	switch {
	case err != nil:
		return "", nil, errors.New("it is not a URL: " + want) // the error has the text, which may have a password
	case u.User != nil:
		return "", nil, errors.New("it has a user or a password, which logs would show: give them as basic_auth")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", nil, fmt.Errorf("%q is not a URL of a model server: %s", s.Redacted(), want)
	case u.Hostname() == "":
		return "", nil, fmt.Errorf("%q has no host: %s", s.Redacted(), want)
	case u.Fragment != "":
		return "", nil, fmt.Errorf("it has a fragment (#): %s", want)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/metrics"
	}
	return "", u, nil
}

// Redacted is the URL as it may be shown: see [RedactedURL].
func (s *ModelServer) Redacted() string { return RedactedURL(s.URL) }

// hidden is what stands for what is not shown, as net/url has it.
const hidden = "xxxxx"

// RedactedURL is a URL, or what was meant as one, as it may be shown: without a user, a password and the values of its query, any of
// which may be a token.
func RedactedURL(text string) string {
	before, fragment, _ := strings.Cut(text, "#")
	before, query, asked := strings.Cut(before, "?")
	scheme, rest, found := strings.Cut(before, "//")
	if scheme += "//"; !found {
		scheme, rest = "", before
	}
	if _, err := url.Parse(text); err != nil && !strings.Contains(rest, "/") && strings.Contains(query+fragment, "@") {
		return scheme + hidden // a password with a ? or a #, as far as one can tell
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 { // in a path too: a password may have a slash
		before = scheme + hidden + rest[at:]
	}
	if asked {
		parts := strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' })
		for i, part := range parts {
			if name, _, named := strings.Cut(part, "="); named {
				parts[i] = name + "=" + hidden
			} else {
				parts[i] = hidden
			}
		}
		before += "?" + strings.Join(parts, "&")
	}
	if fragment != "" {
		before += "#" + hidden
	}
	return before
}

var (
	headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	gpuUUID    = regexp.MustCompile(`^(GPU|MIG)-[0-9A-Za-z/-]+$`)
)

// validateModelServers returns all that is wrong, each fault beginning with the path of its field.
func validateModelServers(servers []ModelServer) []error {
	var faults []error
	named := map[string]int{}
	for i := range servers {
		s := &servers[i]
		at := fmt.Sprintf("model_servers[%d]", i)
		if first, taken := named[s.Name]; taken && s.Name != "" {
			faults = append(faults, fmt.Errorf("%s.name: %q is the name of model_servers[%d] too: each server has its own", at, s.Name, first))
		} else {
			named[s.Name] = i
		}
		for _, err := range s.validate() {
			faults = append(faults, fmt.Errorf("%s.%w", at, err))
		}
	}
	return faults
}

func (s *ModelServer) validate() []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if s.Name == "" {
		fault("name: empty: it is the label server of its series, such as llama70b")
	}
	if _, _, err := s.Address(); err != nil {
		fault("url: %w", err)
	}
	if !slices.Contains(Engines, s.Engine) {
		fault("engine: %q is not one of %s", s.Engine, strings.Join(Engines, ", "))
	}
	if s.Interval <= 0 {
		fault("interval: %s is not an interval: give more than 0s, such as 5s", s.Interval)
	}
	if s.Timeout <= 0 || s.Timeout > s.Interval && s.Interval > 0 {
		fault("timeout: %s is not more than 0s and at most interval, which is %s", s.Timeout, s.Interval)
	}
	if s.MaxBody < 1024 || s.MaxBody > units.GiB {
		fault("max_body: %d is not the size of a page: give 1KiB to 1GiB, such as 16MiB", int64(s.MaxBody))
	}
	if s.MaxSeries < 1 {
		fault("max_series: %d is not a number of series: give 1 or more", s.MaxSeries)
	}
	if s.Label != "" && !model.UTF8Validation.IsValidLabelName(s.Label) {
		fault("model_label: %q is not a label name", s.Label)
	}
	if s.Label != "" && s.Model != "" {
		fault("model_label: it has no meaning beside model, which is the label's value for all series: give one of them")
	}
	if !s.GPUs.Auto() {
		for i, uuid := range s.GPUs {
			if !gpuUUID.MatchString(uuid) {
				fault("gpus[%d]: %q is not the UUID of a GPU: give auto, or UUIDs with their prefix, such as GPU-8a6b4b5c-...", i, uuid)
			}
		}
	}
	if s.Engine == "custom" && len(s.Mapping) == 0 {
		fault("mapping: engine custom is what this says, and there is none: give a field and its metric, such as running: {metric: busy_slots}")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Mapping)) {
		for _, err := range s.Mapping[name].validate(name) {
			fault("mapping.%s%w", name, err)
		}
	}
	faults = append(faults, s.ValidateFiles()...)
	return append(faults, s.validateClient()...)
}

func (m MetricMapping) validate(field string) []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !slices.Contains(ModelFields, field) {
		fault(": it is not a field: give one of %s", strings.Join(ModelFields, ", "))
		return faults
	}
	if !model.UTF8Validation.IsValidMetricName(m.Metric) {
		fault(".metric: %q is not the name of a metric", m.Metric)
	}
	types := fieldTypes(field)
	if m.Type != "" && !slices.Contains(types, m.Type) {
		fault(".type: %q cannot become %s: give one of %s", m.Type, field, strings.Join(types, ", "))
	}
	duration := slices.Contains(types, "histogram")
	switch {
	case duration && m.Type == "counter" && m.Count == "":
		fault(".count: empty: a duration that is a counter takes the counter of what it is the duration of")
	case m.Count != "" && (m.Type != "counter" || !duration):
		fault(".count: it has a meaning only for a duration of type counter")
	case m.Count != "" && !model.UTF8Validation.IsValidMetricName(m.Count):
		fault(".count: %q is not the name of a metric", m.Count)
	}
	if !(m.Scale >= 0) || math.IsInf(m.Scale, 1) {
		fault(".scale: %g is not a factor: give more than 0, such as 1e-6 for microseconds", m.Scale)
	}
	if m.ID != "" && !strings.HasPrefix(field, "accelerator_") {
		fault(".id_label: it tells accelerators apart, and has no meaning for %s", field)
	}
	for name := range m.Labels {
		if !model.UTF8Validation.IsValidLabelName(name) {
			fault(".labels: %q is not a label name", name)
		}
	}
	return faults
}

// fieldTypes are what a field may be on a page.
func fieldTypes(field string) []string {
	switch field {
	case "request_duration", "queue_duration", "network_duration", "ttft", "itl", "batch_size", "iteration_tokens":
		return []string{"histogram", "summary", "counter"}
	case "requests_total", "requests_failed", "tokens_prompt", "tokens_generation", "tokens_cached", "preemptions":
		return []string{"counter"}
	}
	return []string{"gauge"}
}

func (s *ModelServer) validateClient() []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	var ways []string
	if s.BasicAuth != nil {
		ways = append(ways, "basic_auth")
		if s.BasicAuth.Password != "" && s.BasicAuth.PasswordFile != "" {
			fault("basic_auth.password: given beside password_file: give one of them")
		}
	}
	if s.Authorization != nil {
		ways = append(ways, "authorization")
		if (s.Authorization.Credentials == "") == (s.Authorization.CredentialsFile == "") {
			fault("authorization.credentials: give either credentials or credentials_file")
		}
		if strings.EqualFold(s.Authorization.Type, "basic") {
			fault("authorization.type: give a user and a password as basic_auth")
		}
	}
	if s.BearerTokenFile != "" {
		ways = append(ways, "bearer_token_file")
	}
	if len(ways) > 1 {
		fault("%s: given beside %s: give one of them", ways[len(ways)-1], strings.Join(ways[:len(ways)-1], " and "))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		switch {
		case !headerName.MatchString(name):
			fault("headers: %q is not the name of a header", name)
		case strings.EqualFold(name, "Authorization"):
			fault("headers.%s: credentials are given by authorization, basic_auth or bearer_token_file", name)
		case slices.ContainsFunc([]string{"Host", "Accept", "Accept-Encoding", "Content-Length", "Connection", "Transfer-Encoding"}, func(h string) bool {
			return strings.EqualFold(h, name)
		}):
			fault("headers.%s: it is set by the request itself", name)
		case strings.ContainsAny(s.Headers[name], "\r\n\x00"):
			fault("headers.%s: the value has characters that no header may have", name)
		}
	}
	if t := s.TLS; t != nil {
		if (t.CertFile == "") != (t.KeyFile == "") {
			fault("tls_config.cert_file: a certificate takes its key: give both cert_file and key_file")
		}
	}
	return faults
}

package tracing

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
)

// Config says where spans are sent and which: Prometheus's own `tracing` section. Without an endpoint there is no tracing.
type Config struct {
	// ClientType is grpc, as in Prometheus where nothing is said, or http.
	ClientType string `yaml:"client_type"`
	// Endpoint is the host:port of a collector.
	Endpoint string `yaml:"endpoint"`
	// SamplingFraction, from 0 to 1, is the part that is recorded of requests whose clients say nothing. A client's own
	// decision stands.
	SamplingFraction float64 `yaml:"sampling_fraction"`
	// Insecure is without TLS.
	Insecure  bool `yaml:"insecure"`
	TLSConfig TLS  `yaml:"tls_config"`
	// Headers are sent with each export, such as Authorization. Logs and pages do not show them.
	Headers map[string]promconfig.Secret `yaml:"headers"`
	// Compression is gzip, or empty for none.
	Compression string `yaml:"compression"`
	// Timeout is for one attempt to export; 0 is OpenTelemetry's own of 10 s.
	Timeout model.Duration `yaml:"timeout"`
}

// TLS is Prometheus's tls_config.
type TLS promconfig.TLSConfig

const (
	clientGRPC = "grpc"
	clientHTTP = "http"
	gzipped    = "gzip"
)

// SetDefaults implements source.Defaulter.
func (c *Config) SetDefaults() { c.ClientType = clientGRPC }

// SetDirectory makes the paths of files relative to the folder of the configuration file.
func (c *Config) SetDirectory(dir string) { (*promconfig.TLSConfig)(&c.TLSConfig).SetDirectory(dir) }

// headerName is a token of RFC 9110.
var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// Validate returns everything that is wrong, each fault beginning with the path of its key.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch c.ClientType {
	case clientGRPC, clientHTTP:
	default:
		fault("client_type: %q is not one: give grpc or http", c.ClientType)
	}
	if err := checkEndpoint(c.Endpoint); err != nil {
		fault("endpoint: %w", err)
	}
	if !(c.SamplingFraction >= 0 && c.SamplingFraction <= 1) {
		fault("sampling_fraction: %v is not a fraction: give 0 to 1, such as 0.01", c.SamplingFraction)
	}
	switch {
	case c.Insecure && c.TLSConfig != TLS{}:
		fault("tls_config: it has no meaning while insecure is true")
	case !c.Insecure:
		if _, err := c.tls(); err != nil {
			fault("tls_config: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		_, reserved := promconfig.ReservedHeaders[canonical]
		switch {
		case !headerName.MatchString(name):
			fault("headers: %q is not the name of a header", name)
		case reserved && canonical != "Authorization":
			fault("headers.%s: it is set by the request itself", name)
		case strings.ContainsFunc(string(c.Headers[name]), unicode.IsControl):
			fault("headers: the value of %s has characters that no header may have", name) // not at its line, which would be shown
		}
	}
	switch c.Compression {
	case "", gzipped:
	default:
		fault("compression: %q is not one: give gzip, or nothing", c.Compression)
	}
	if c.Timeout < 0 {
		fault("timeout: %s is not a time to wait: give more than 0s, such as 10s", c.Timeout)
	}
	return errors.Join(faults...)
}

func checkEndpoint(text string) error {
	const want = "give the host:port of a collector, such as otel-collector:4317 for grpc and otel-collector:4318 for http"
	if text == "" {
		return fmt.Errorf("empty: %s", want)
	}
	if strings.Contains(text, "/") {
		return fmt.Errorf("%q has a scheme or a path: %s; insecure: true is without TLS", text, want)
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" {
		return fmt.Errorf("%q is not an address: %s", text, want)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no port: %s", text, want)
	}
	return nil
}

// tls reads the files of tls_config.
func (c *Config) tls() (*tls.Config, error) {
	t := promconfig.TLSConfig(c.TLSConfig)
	return promconfig.NewTLSConfig(&t)
}

func (c *Config) headers() map[string]string {
	out := make(map[string]string, len(c.Headers))
	for name, value := range c.Headers {
		out[name] = string(value)
	}
	return out
}

package remote

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/alecthomas/units"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
)

// Embedded is the URL that stands for the Prometheus inside of flyball.
const Embedded = "embedded"

// Config says which Prometheus answers queries, and how it is asked.
type Config struct {
	// URL is Embedded, or http(s)://host:port and the path prefix under which the API is, without /api/v1.
	URL string `yaml:"url"`

	// Headers are sent with each request, such as X-Scope-OrgID with the tenant. They are taken for secrets.
	Headers map[string]string `yaml:"headers"`

	// Params are sent with each query, such as partial_response=false for Thanos, nocache=1 for VictoriaMetrics.
	Params map[string]Values `yaml:"params"`

	Timeout   model.Duration   `yaml:"timeout"`    // of one query, with the wait for a turn; 0: DefaultTimeout
	MaxBytes  units.Base2Bytes `yaml:"max_bytes"`  // of one answer, decompressed; a larger one is refused
	MaxSeries int              `yaml:"max_series"` // of one answer to Query; one with more is refused

	// HTTP is Prometheus's own: basic_auth, authorization, oauth2, tls_config, proxy_url, follow_redirects, http_headers ...
	// Its keys stand beside those above.
	HTTP promconfig.HTTPClientConfig `yaml:"-"`
}

// Values are one text or a list of texts.
type Values []string

// DefaultTimeout is how long a query may take: Prometheus's scrape timeout, and less than the interval of 15 s, so that
// one slow answer costs one evaluation. Where rules are evaluated more often, the interval itself is the better limit.
const DefaultTimeout = 10 * time.Second

// DefaultConfig returns what holds where the file says nothing.
func DefaultConfig() Config {
	return Config{
		URL:       Embedded,
		MaxBytes:  16 * units.MiB, // 10,000 series of 1.6 kB, four times what a series with twenty labels takes
		MaxSeries: 10_000,         // what the local store is made for; a rule that needs more aggregates first
		HTTP:      promconfig.DefaultHTTPClientConfig,
	}
}

// headerName is a token of RFC 9110.
var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// Remote says whether queries go elsewhere.
func (c *Config) Remote() bool { return c.URL != Embedded && c.URL != "" }

// SetDirectory makes the paths of files relative to the folder of the configuration file.
func (c *Config) SetDirectory(dir string) { c.HTTP.SetDirectory(dir) }

// Validate returns everything that is wrong, each fault beginning with the path of its key.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Timeout < 0 {
		fault("timeout: %s is not a time to wait: give more than 0s, such as 10s", c.Timeout)
	}
	if c.MaxBytes < 1024 {
		fault("max_bytes: %d holds no answer: give 1KiB or more, such as 16MiB", int64(c.MaxBytes))
	}
	if c.MaxSeries < 1 {
		fault("max_series: %d is not a number of series: give 1 or more", c.MaxSeries)
	}
	if !c.Remote() {
		for _, key := range []struct {
			name string
			set  bool
		}{{"headers", len(c.Headers) > 0}, {"params", len(c.Params) > 0}, {"timeout", c.Timeout != 0}} {
			if key.set {
				fault("%s: it has no meaning while url is embedded: give the url of a Prometheus", key.name)
			}
		}
		return errors.Join(faults...)
	}
	if _, err := parseURL(c.URL); err != nil {
		fault("url: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		_, reserved := promconfig.ReservedHeaders[canonical]
		switch {
		case !headerName.MatchString(name):
			fault("headers: %q is not the name of a header", name)
		case canonical == "Authorization":
			fault("headers.%s: credentials are given by authorization, basic_auth or oauth2", name)
		case reserved:
			fault("headers.%s: it is set by the request itself", name)
		case strings.ContainsFunc(c.Headers[name], unicode.IsControl):
			fault("headers.%s: the value has characters that no header may have", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Params)) {
		if slices.Contains([]string{"query", "time"}, name) {
			fault("params.%s: it is what each query sets itself", name)
		}
	}
	if err := c.HTTP.Validate(); err != nil {
		fault("%w", withoutPath(err))
	}
	return errors.Join(faults...)
}

// withoutPath keeps a text from being taken for one that begins with a path.
func withoutPath(err error) error {
	if path, _, found := strings.Cut(err.Error(), ": "); found && !strings.ContainsAny(path, " \t") {
		return fmt.Errorf("the http client: %w", err)
	}
	return err
}

// parseURL returns the URL of the API without a slash at its end.
func parseURL(text string) (*url.URL, error) {
	const want = "give embedded, or the http(s) URL of a Prometheus, such as http://prometheus:9090"
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("it is not a URL: %s", want) // the error has the text, which may have a password
	case u.User != nil:
		return nil, errors.New("it has a user or a password, which logs would show: give them as basic_auth")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%q is not an http(s) URL: %s", text, want)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q has no host: %s", text, want)
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("it has a query: give what is sent with each request as params")
	case u.Fragment != "":
		return nil, fmt.Errorf("it has a fragment (#): %s", want)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	for _, end := range []string{"/api/v1/query", "/api/v1"} {
		if prefix, found := strings.CutSuffix(u.Path, end); found {
			return nil, fmt.Errorf("%q has %s, which every request adds: give %s://%s%s", text, end, u.Scheme, u.Host, prefix)
		}
	}
	u.RawPath = ""
	return u, nil
}

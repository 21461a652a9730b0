package model

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/version"

	"flyball/exporter"
)

// accepted are the formats of a page: protobuf first, which alone has native histograms and which no engine but those in Go have,
// then text, which costs an engine least and every one has been tested with.
const accepted = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=1," +
	"text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.8,*/*;q=0.1"

// client asks a server for its page.
type client struct {
	config *exporter.ModelServer
	socket string // empty for TCP
	url    *url.URL
	rt     http.RoundTripper
	own    *http.Transport // below rt; nil where each certificate has one
}

func newClient(config *exporter.ModelServer) (*client, error) {
	c := &client{config: config}
	var err error
	if c.socket, c.url, err = config.Address(); err != nil {
		return nil, err
	}
	transport := func(t *tls.Config) *http.Transport {
		dialer := &net.Dialer{Timeout: time.Duration(config.Timeout)}
		return &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if c.socket != "" {
					network, address = "unix", c.socket
				}
				return dialer.DialContext(ctx, network, address)
			},
			TLSClientConfig:        t,
			TLSHandshakeTimeout:    time.Duration(config.Timeout),
			ResponseHeaderTimeout:  time.Duration(config.Timeout),
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true, // or a bomb would be decompressed before anybody counts
			MaxIdleConns:           1,
			IdleConnTimeout:        2 * time.Duration(config.Interval),
		}
	}
	if config.TLS == nil {
		c.own = transport(nil)
		c.rt = c.own
		return c, nil
	}
	t := promconfig.TLSConfig{
		CAFile: config.TLS.CAFile, CertFile: config.TLS.CertFile, KeyFile: config.TLS.KeyFile,
		ServerName: config.TLS.ServerName, InsecureSkipVerify: config.TLS.InsecureSkipVerify,
	}
	secure, err := promconfig.NewTLSConfig(&t)
	if err != nil {
		return nil, fmt.Errorf("tls_config: %w", err)
	}
	if t.CAFile == "" {
		c.own = transport(secure)
		c.rt = c.own
		return c, nil
	}
	// It reads the CA again when the file changes, and the certificate at every handshake.
	c.rt, err = promconfig.NewTLSRoundTripper(secure, promconfig.TLSRoundTripperSettings{CA: promconfig.NewFileSecret(t.CAFile)},
		func(t *tls.Config) (http.RoundTripper, error) { return transport(t), nil })
	if err != nil {
		return nil, fmt.Errorf("tls_config: %w", err)
	}
	return c, nil
}

// NewClient returns a client for what else a server has beside the page of its metrics, and the URL of its root to ask below: with the
// same socket, credentials, headers and certificates, and as little followed elsewhere. Its errors are those of the configuration.
func NewClient(config exporter.ModelServer) (asks *http.Client, root string, err error) {
	c, err := newClient(&config)
	if err != nil {
		return nil, "", fmt.Errorf("model server %s: %w", config.Name, err)
	}
	return &http.Client{
		Transport:     prepared{c},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, c.url.Scheme + "://" + c.url.Host, nil
}

// prepared sends requests as a client does that of the page.
type prepared struct{ *client }

// RoundTrip implements http.RoundTripper.
func (p prepared) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context()) // which is the caller's
	if err := p.prepare(request); err != nil {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, err
	}
	return p.rt.RoundTrip(request)
}

// CloseIdleConnections has a client that sends by it let go of the connection that is kept.
func (p prepared) CloseIdleConnections() { p.close() }

// prepare adds to a request what all that a server is asked has.
func (c *client) prepare(request *http.Request) error {
	request.Header.Set("User-Agent", "flyball/"+version.Version)
	for name, value := range c.config.Headers {
		request.Header.Set(name, value)
	}
	return c.authorize(request)
}

// close lets go of the connection that is kept for the next page.
func (c *client) close() {
	if closer, ok := c.rt.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// get asks for the page. The caller closes the body of the answer, which is 200.
func (c *client) get(ctx context.Context) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accepted)
	if err := c.prepare(request); err != nil {
		return nil, err
	}
	answer, err := c.rt.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	_ = answer.Body.Close() // whatever it is, the connection is not worth reading it
	if location := answer.Header.Get("Location"); location != "" && answer.StatusCode < 400 {
		return nil, fmt.Errorf("HTTP status %s to %.200q: redirects are not followed, give that as url", answer.Status, exporter.RedactedURL(location))
	}
	return nil, fmt.Errorf("HTTP status %s", answer.Status)
}

// authorize adds what the configuration says of passwords. Files are read every time, so that a new token counts at once.
func (c *client) authorize(request *http.Request) error {
	switch config := c.config; {
	case config.BasicAuth != nil:
		password, err := secret(config.BasicAuth.Password, config.BasicAuth.PasswordFile)
		if err != nil {
			return fmt.Errorf("basic_auth.password_file: %w", err)
		}
		request.SetBasicAuth(config.BasicAuth.Username, password)
	case config.Authorization != nil:
		credentials, err := secret(config.Authorization.Credentials, config.Authorization.CredentialsFile)
		if err != nil {
			return fmt.Errorf("authorization.credentials_file: %w", err)
		}
		kind := config.Authorization.Type
		if kind == "" {
			kind = "Bearer"
		}
		request.Header.Set("Authorization", kind+" "+credentials)
	case config.BearerTokenFile != "":
		token, err := secret("", config.BearerTokenFile)
		if err != nil {
			return fmt.Errorf("bearer_token_file: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// maxSecret is well above any token's size.
const maxSecret = 64 << 10

// secret is a text, or what a file has.
func secret(value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxSecret {
		return "", fmt.Errorf("%s: larger than %d bytes", file, maxSecret)
	}
	value = strings.TrimSpace(string(content))
	if strings.ContainsAny(value, "\r\n\x00") {
		return "", errors.New(file + ": more than one line")
	}
	return value, nil
}

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/crypto/bcrypt"
	"gopkg.in/yaml.v3"

	"flyball/rules/source"
)

// webConfig is a web configuration file: TLS, client certificates, passwords and headers, in the format that Prometheus
// and its exporters share. The exporter toolkit reads it for each request; this is the same file, read to say what is
// wrong with it and which scheme it gives.
type webConfig struct {
	TLS     web.TLSConfig  `yaml:"tls_server_config"`
	HTTP    web.HTTPConfig `yaml:"http_server_config"`
	Limiter struct {
		Burst    int        `yaml:"burst"`
		Interval goDuration `yaml:"interval"`
	} `yaml:"rate_limit"`
	Users *yaml.Node `yaml:"basic_auth_users"` // a node, so that no message ever shows a value
}

// goDuration is a duration as Go writes it: 1.5s, 100ms.
type goDuration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *goDuration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = goDuration(parsed)
	return err
}

// readWebConfig reads and checks a web configuration file, with the certificates and keys that it names. Faults of the
// file are a source.Errors without the lines themselves, which may hold a password.
func readWebConfig(path string) (*webConfig, error) {
	text, err := source.Read(path)
	if err != nil {
		return nil, fmt.Errorf("read web configuration: %w", err)
	}
	file, err := source.Parse(path, text)
	if err != nil {
		return nil, withoutLines(err)
	}
	c := &webConfig{TLS: web.TLSConfig{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}, HTTP: web.HTTPConfig{HTTP2: true}}
	d := file.Decoder()
	d.Decode(c)
	c.checkUsers(d)
	if d.Len() == 0 {
		c.TLS.SetDirectory(filepath.Dir(path))
		c.checkTLS(d)
	}
	if d.Len() == 0 {
		if err := web.Validate(path); err != nil { // what the toolkit alone knows, such as values of headers
			d.FaultAt(toolkitPath(err), 0, "%s", firstLine(err))
		}
	}
	if err := d.Err(); err != nil {
		return nil, withoutLines(err)
	}
	return c, nil
}

// checkUsers sees that each password is a hash, as a password in clear would only be found out at the first login.
func (c *webConfig) checkUsers(d *source.Decoder) {
	if c.Users == nil || c.Users.Tag == "!!null" {
		return
	}
	if c.Users.Kind != yaml.MappingNode {
		d.Fault(c.Users, "basic_auth_users: expected names and bcrypt hashes of passwords")
		return
	}
	for i := 0; i+1 < len(c.Users.Content); i += 2 {
		name, hash := c.Users.Content[i], c.Users.Content[i+1]
		if _, err := bcrypt.Cost([]byte(hash.Value)); err != nil || hash.Kind != yaml.ScalarNode {
			d.Fault(hash, "basic_auth_users.%s: the value is not a bcrypt hash of a password: `htpasswd -nBC 10 %s` makes one", name.Value, name.Value)
		}
	}
}

// checkTLS reads the certificates and keys. What the toolkit would find out only when a client comes is a fault here.
func (c *webConfig) checkTLS(d *source.Decoder) {
	const section = "tls_server_config"
	if !c.TLS.IsEnabled() {
		if d.Has(section) {
			d.FaultAt(section, 0, "%s: neither a certificate nor a key: give cert_file and key_file, or leave it out", section)
		}
		return
	}
	config, err := web.ConfigToTLSConfig(&c.TLS)
	if err != nil {
		d.FaultAt(toolkitPath(err), 0, "%s: %s", section, strings.TrimPrefix(firstLine(err), "failed to "))
		return
	}
	if c.TLS.MinVersion > c.TLS.MaxVersion {
		d.FaultAt(section+".min_version", 0, "min_version: above max_version: no client could connect")
	}
	// The toolkit takes a file without any certificate, and then refuses every client.
	if config.ClientCAs != nil && config.ClientCAs.Equal(x509.NewCertPool()) {
		key := "client_ca_file"
		if c.TLS.ClientCAs == "" {
			key = "client_ca"
		}
		d.FaultAt(section+"."+key, 0, "%s: no certificate in it: expected one or more in PEM", key)
	}
	if config.ClientAuth >= tls.VerifyClientCertIfGiven && config.ClientCAs == nil {
		d.FaultAt(section+".client_auth_type", 0, "client_auth_type: %s verifies certificates, but there is no client_ca_file", c.TLS.ClientAuth)
	}
}

// toolkitPath is the key that an error of the toolkit is about.
func toolkitPath(err error) string {
	for _, p := range []struct{ text, path string }{
		{"read cert_file", "tls_server_config.cert_file"},
		{"cert or cert_file", "tls_server_config"},
		{"read key_file", "tls_server_config.key_file"},
		{"key or key_file", "tls_server_config"},
		{"X509KeyPair", "tls_server_config.key_file"},
		{"ClientAuth", "tls_server_config.client_auth_type"},
		{"client CA's", "tls_server_config.client_ca_file"},
		{"HTTP header", "http_server_config.headers"},
		{"invalid value for", "http_server_config.headers"},
	} {
		if strings.Contains(err.Error(), p.text) {
			return p.path
		}
	}
	return "tls_server_config"
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// withoutLines leaves out the lines of the file that errors show, as they may hold secrets.
func withoutLines(err error) error {
	faults, ok := errors.AsType[source.Errors](err)
	if !ok {
		return err
	}
	bare := make(source.Errors, len(faults))
	for i, f := range faults {
		bare[i] = &source.Error{File: f.File, Line: f.Line, Column: f.Column, Message: f.Message}
	}
	return bare
}

// scheme is how clients reach a server with this configuration; that of none is http.
func (c *webConfig) scheme() string {
	if c != nil && c.TLS.IsEnabled() {
		return "https"
	}
	return "http"
}

func checkWebConfigCommand(app *kingpin.Application, stdout io.Writer) command {
	c := checkParent(app).Command("web-config", "Check a file for --web.config.file: TLS, client certificates, passwords, headers.")
	path := c.Arg("file", "The web configuration file.").Required().String()
	return command{c.FullCommand(), func(context.Context) error {
		config, err := readWebConfig(*path)
		if err != nil {
			return err
		}
		text, err := config.summary(time.Now())
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(stdout, "%s: ok: %s\n", *path, text)
		return err
	}}
}

// summary says what the file switches on. A certificate that is not valid at that time is an error.
func (c *webConfig) summary(now time.Time) (string, error) {
	users := 0
	if c.Users != nil {
		users = len(c.Users.Content) / 2
	}
	if !c.TLS.IsEnabled() {
		return "no TLS, " + plural(users, "user"), nil
	}
	server, err := web.ConfigToTLSConfig(&c.TLS)
	if err != nil {
		return "", err
	}
	pair, err := server.GetCertificate(nil)
	if err != nil {
		return "", err
	}
	leaf := pair.Leaf
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return "", fmt.Errorf("the certificate is valid from %s to %s only", leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	clients := "none asked of clients"
	if c.TLS.ClientAuth != "" && c.TLS.ClientAuth != "NoClientCert" {
		clients = c.TLS.ClientAuth
	}
	return fmt.Sprintf("TLS until %s, client certificates: %s, %s", leaf.NotAfter.Format(time.DateOnly), clients, plural(users, "user")), nil
}

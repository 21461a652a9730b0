package remote

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
)

// authority makes certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its own certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, cert: cert, key: key, file: filepath.Join(t.TempDir(), "ca.pem")}
	a.write(a.file, "CERTIFICATE", der)
	return a
}

func (a *authority) write(path, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// issue makes a certificate for 127.0.0.1 and writes it and its key beside the authority's own.
func (a *authority) issue(name string) (cert, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &private.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := filepath.Dir(a.file)
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	a.write(cert, "CERTIFICATE", der)
	a.write(key, "PRIVATE KEY", pkcs)
	return cert, key
}

// TestCredentials: each way to say who asks reaches the server, and is in no error and no log.
func TestCredentials(t *testing.T) {
	const secret = "s3cr3t-w0rd"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		header string
		want   string
	}{
		{"basic", func(c *Config) { c.HTTP.BasicAuth = &promconfig.BasicAuth{Username: "flyball", Password: secret} }, "Authorization", "Basic Zmx5YmFsbDpzM2NyM3QtdzByZA=="},
		{"basic by file", func(c *Config) {
			c.HTTP.BasicAuth = &promconfig.BasicAuth{Username: "flyball", PasswordFile: filepath.Base(file)}
			c.SetDirectory(filepath.Dir(file))
		}, "Authorization", "Basic Zmx5YmFsbDpzM2NyM3QtdzByZA=="},
		{"bearer", func(c *Config) { c.HTTP.BearerToken = secret }, "Authorization", "Bearer " + secret},
		{"authorization", func(c *Config) {
			c.HTTP.Authorization = &promconfig.Authorization{Type: "Token", CredentialsFile: file}
		}, "Authorization", "Token " + secret},
		{"header", func(c *Config) { c.Headers = map[string]string{"X-Api-Key": secret} }, "X-Api-Key", secret},
		{"Prometheus's headers", func(c *Config) {
			c.HTTP.HTTPHeaders = &promconfig.Headers{Headers: map[string]promconfig.Header{"X-Api-Key": {Secrets: []promconfig.Secret{secret}}}}
		}, "X-Api-Key", secret},
		{"Prometheus's headers by file", func(c *Config) {
			c.HTTP.HTTPHeaders = &promconfig.Headers{Headers: map[string]promconfig.Header{"x-api-key": {Files: []string{file}}}}
		}, "X-Api-Key", secret},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var fails atomic.Bool
			u := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get(tt.header); got != tt.want {
					t.Errorf("%s is %q, want %q", tt.header, got, tt.want)
				}
				if fails.Load() { // a server that gives back what it got
					w.WriteHeader(http.StatusBadRequest)
					_, _ = fmt.Fprintf(w, `{"status":"error","errorType":"bad","error":"got %s"}`, secret)
					return
				}
				answers(vector(seven))(w, r)
			})
			c := client(t, u, tt.change)
			if _, err := c.Query(t.Context(), "up", t0, 0); err != nil {
				t.Error(err)
			}
			fails.Store(true)
			_, err := c.Query(t.Context(), "up", t0.Add(time.Second), 0)
			if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "got <secret>") {
				t.Errorf("got %v", err)
			}
			_, err = c.Forward(t.Context(), "query", nil)
			if err == nil || err.Error() != "got <secret>" {
				t.Errorf("what is passed on: %v", err)
			}
			if shown := fmt.Sprintf("%v %+v", c.config.HTTP, c.config.HTTP); strings.Contains(shown, secret) {
				t.Errorf("the configuration shows it: %s", shown)
			}
		})
	}
}

// TestTLS: the server's certificate is checked against the authority given, and the client shows its own.
func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	cert, key := ca.issue("server")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name := r.TLS.PeerCertificates[0].Subject.CommonName; name != "flyball" {
			t.Errorf("asked by %s", name)
		}
		answers(vector(seven))(w, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	defer s.Close()
	clientCert, clientKey := ca.issue("flyball")
	for _, tt := range []struct{ name, ca, cert, key, err string }{
		{"right", ca.file, clientCert, clientKey, ""},
		{"another authority", other.file, clientCert, clientKey, "certificate signed by unknown authority"},
		{"no certificate", ca.file, "", "", "tls: certificate required"},
		{"the system's authorities", "", clientCert, clientKey, "certificate signed by unknown authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, s.URL, func(c *Config) {
				c.HTTP.TLSConfig = promconfig.TLSConfig{CAFile: tt.ca, CertFile: tt.cert, KeyFile: tt.key}
			})
			_, err := c.Query(t.Context(), "up", t0, 0)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
		})
	}
	broken := DefaultConfig()
	broken.URL, broken.HTTP.TLSConfig.CAFile = s.URL, filepath.Join(t.TempDir(), "none.pem")
	if _, err := New(broken, Options{}); err == nil || !strings.Contains(err.Error(), "none.pem") {
		t.Errorf("got %v for a file that is not there", err)
	}
}

// TestRedirect: nothing is sent to another server, neither credentials nor the query. The same server may redirect.
func TestRedirect(t *testing.T) {
	var elsewhere atomic.Int64
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		elsewhere.Add(1)
		answers(vector(seven))(w, r)
	})
	var status atomic.Int64
	var to atomic.Value
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved/api/v1/query" {
			if r.FormValue("query") != "up" || r.Header.Get("Authorization") == "" {
				t.Errorf("asked %s %s with %v", r.Method, r.Form.Encode(), r.Header)
			}
			answers(vector(seven))(w, r)
			return
		}
		http.Redirect(w, r, to.Load().(string), int(status.Load()))
	})
	credentials := func(c *Config) {
		c.Headers = map[string]string{"X-Api-Key": "s3cr3t-w0rd"}
		c.HTTP.BearerToken = "s3cr3t-w0rd"
	}
	for _, tt := range []struct {
		name, to string
		status   int
		follow   bool
		err      string
	}{
		{"elsewhere", other + "/login?token=s3cr3t-w0rd", 302, true, "/login, where nothing is sent"},
		{"elsewhere, kept", other + "/api/v1/query", 307, true, "where nothing is sent"},
		{"elsewhere, not followed", other + "/api/v1/query", 308, false, "it redirects to " + other + "/api/v1/query (308 Permanent Redirect)"},
		{"here, without the query", "/moved/api/v1/query", 302, true, "which loses the query"},
		{"here", "/moved/api/v1/query", 307, true, ""},
		{"in a circle", "/api/v1/query", 307, true, "it redirects in a circle"},
		{"without an aim", "", 302, true, "redirect"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to.Store(tt.to)
			status.Store(int64(tt.status))
			c := client(t, u, credentials, func(c *Config) { c.HTTP.FollowRedirects = tt.follow })
			_, err := c.Query(t.Context(), "up", t0, 0)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}

// TestProxy: proxy_url is used, and its password is not told.
func TestProxy(t *testing.T) {
	proxied := make(chan string, 1)
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		proxied <- r.URL.Host
		answers(vector(seven))(w, r)
	})
	through := func(at string) func(*Config) {
		u, err := url.Parse(strings.Replace(at, "http://", "http://user:s3cr3t-w0rd@", 1))
		if err != nil {
			t.Fatal(err)
		}
		return func(c *Config) { c.HTTP.ProxyURL = promconfig.URL{URL: u} }
	}
	if _, err := client(t, "http://prometheus.invalid:9090", through(proxy)).Query(t.Context(), "up", t0, 0); err != nil {
		t.Fatal(err)
	}
	if got := <-proxied; got != "prometheus.invalid:9090" {
		t.Errorf("the proxy was asked for %s", got)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	if _, err := client(t, "http://prometheus.invalid:9090", through(gone.URL)).Query(t.Context(), "up", t0, 0); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("got %v", err)
	}
}

// TestLogs: warnings of an answer are the only thing that is logged.
func TestLogs(t *testing.T) {
	var log bytes.Buffer
	c := DefaultConfig()
	c.URL = serve(t, answers(strings.TrimSuffix(vector(seven), "}")+`,"warnings":["PromQL warning: s3cr3t-w0rd"]}`))
	c.HTTP.BearerToken = "s3cr3t-w0rd"
	client, err := New(c, Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Query(t.Context(), "up", t0, 0); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), "s3cr3t") || !strings.Contains(log.String(), "PromQL warning") {
		t.Errorf("logged %s", log.String())
	}
}

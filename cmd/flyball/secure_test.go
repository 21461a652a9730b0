package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// authority is a certificate authority of a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, pool: x509.NewCertPool()}
	a.cert = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, &key.PublicKey)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(c, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = serial, pkix.Name{CommonName: "flyball test"}
	if c.NotBefore = time.Now().Add(-time.Hour); c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return signed
}

// issue writes a certificate and its key as NAME.crt and NAME.key, and returns the serial number.
func (a *authority) issue(dir, name string, until time.Time) *big.Int {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := a.sign(&x509.Certificate{
		NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, filepath.Join(dir, name+".crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
	write(a.t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	write(a.t, filepath.Join(dir, "ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
	return c.SerialNumber
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// record is what was logged so far.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// runningApp is an app that runs until the end of the test, or stop.
type runningApp struct {
	*app
	t    *testing.T
	log  *record
	stop func() error // ends it and returns what run returned
}

// runApp runs an app with a configuration in dir until the end of the test, and waits until it is ready.
func runApp(t *testing.T, dir, config string, change func(*runOptions)) *runningApp {
	t.Helper()
	path := filepath.Join(dir, "flyball.yml")
	write(t, path, "global: {scrape_interval: 100ms, evaluation_interval: 100ms}\nexporter: {collectors: {gpu: false, host: false}}\n"+config)
	r := &runningApp{t: t, log: &record{}}
	o := &runOptions{
		configFile: path, storagePath: filepath.Join(dir, "state"), roles: []string{roleAll}, webListen: []string{"127.0.0.1:0"}, proxyListen: "127.0.0.1:0",
		log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), stdout: io.Discard,
	}
	if change != nil {
		change(o)
	}
	l, err := o.load(nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.app, err = newApp(l, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		r.close()
		return err
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("stopped with %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	r.eventually("ready", func() bool { return r.phase.Load() == ready })
	return r
}

func (r *runningApp) eventually(what string, holds func() bool) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// scrapesItself waits until the store has taken flyball's own metrics.
func (r *runningApp) scrapesItself() {
	r.t.Helper()
	r.eventually("flyball scrapes itself", func() bool {
		targets := r.store.Targets()
		return len(targets) == 1 && targets[0].Health == "up" &&
			targets[0].Labels.String() == fmt.Sprintf(`{instance=%q, job="flyball"}`, r.webListener.Addr())
	})
}

// client asks as a user does, each time over a new connection.
func client(config *tls.Config, http2 bool) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: http2, DisableKeepAlives: !http2}}
}

// send returns the code, or what went wrong, and the answer.
func send(c *http.Client, method, url string, header ...string) (string, *http.Response) {
	request, err := http.NewRequest(method, url, nil)
	if err != nil {
		return err.Error(), nil
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	if u, p, ok := strings.Cut(request.Header.Get("X-Login"), ":"); ok {
		request.SetBasicAuth(u, p)
	}
	response, err := c.Do(request)
	if err != nil {
		return err.Error(), nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	response.Body = io.NopCloser(bytes.NewReader(text))
	c.CloseIdleConnections()
	return fmt.Sprint(response.StatusCode), response
}

// status is the code that a GET is answered with, 0 where there is no answer.
func status(url string) int {
	response, err := http.Get(url)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	first := ca.issue(dir, "server", time.Time{})
	write(t, filepath.Join(dir, "web.yml"), "tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
	a := runApp(t, dir, "", func(o *runOptions) {
		o.webSecured = filepath.Join(dir, "web.yml")
		o.webListen = []string{"127.0.0.1:0", "127.0.0.1:0"}
	})
	if !strings.HasPrefix(a.pageURL(), "https://127.0.0.1:") {
		t.Errorf("the page is at %s", a.pageURL())
	}
	trusting := client(&tls.Config{RootCAs: ca.pool}, true)
	for _, l := range a.webListeners {
		url := "https://" + l.Addr().String() + "/-/ready"
		code, response := send(trusting, "GET", url)
		if code != "200" || response.ProtoMajor != 2 || response.TLS.PeerCertificates[0].SerialNumber.Cmp(first) != 0 {
			t.Errorf("%s: %s %+v", url, code, response)
		}
	}
	if code, _ := send(client(&tls.Config{}, true), "GET", a.pageURL()); !strings.Contains(code, "certificate") {
		t.Errorf("a client that does not know the authority: %s", code)
	}
	if code, _ := send(http.DefaultClient, "GET", "http://"+a.webListener.Addr().String()+"/"); code != "400" {
		t.Errorf("without TLS: %s", code)
	}
	a.scrapesItself()

	second := ca.issue(dir, "server", time.Time{}) // a certificate is renewed in place
	_, response := send(trusting, "GET", a.pageURL())
	if response == nil || response.TLS.PeerCertificates[0].SerialNumber.Cmp(second) != 0 {
		t.Error("the renewed certificate is not used")
	}
	if err := a.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if code, _ := send(trusting, "GET", a.pageURL()); !strings.Contains(code, "refused") {
		t.Errorf("after the end: %s", code)
	}
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	ca.issue(dir, "server", time.Time{})
	ca.issue(dir, "client", time.Time{})
	other := t.TempDir()
	newAuthority(t).issue(other, "client", time.Time{})
	write(t, filepath.Join(dir, "web.yml"),
		"tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}\nhttp_server_config: {http2: false}\n")
	a := runApp(t, dir, "", func(o *runOptions) { o.webSecured = filepath.Join(dir, "web.yml") })
	with := func(dir string) *tls.Config {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
		if err != nil {
			t.Fatal(err)
		}
		// Sent although the server's list of authorities has not got its own.
		return &tls.Config{RootCAs: ca.pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
	}
	for _, path := range []string{"", "-/healthy", "metrics"} {
		if code, _ := send(client(&tls.Config{RootCAs: ca.pool}, true), "GET", a.pageURL()+path); !strings.Contains(code, "certificate required") {
			t.Errorf("%s without a certificate: %s", path, code)
		}
		if code, _ := send(client(with(other), true), "GET", a.pageURL()+path); !strings.Contains(code, "tls: ") {
			t.Errorf("%s with another authority's certificate: %s", path, code)
		}
		if code, response := send(client(with(dir), true), "GET", a.pageURL()+path); code != "200" || response.ProtoMajor != 1 {
			t.Errorf("%s with a certificate: %s", path, code)
		}
	}
	a.scrapesItself()
}

func TestPasswords(t *testing.T) {
	const password = "correct horse battery staple"
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "web.yml")
	write(t, file, "basic_auth_users: {alice: "+string(hash)+"}\nhttp_server_config: {headers: {X-Frame-Options: deny}}\n")
	a := runApp(t, dir, "", func(o *runOptions) { o.webSecured, o.lifecycle = file, true })
	c := client(nil, false)
	for _, tt := range []struct{ method, path, login, want string }{
		{"GET", "", "", "401"},
		{"GET", "", "alice:wrong", "401"},
		{"GET", "", "bob:" + password, "401"},
		{"GET", "", "alice:" + password, "200"},
		{"GET", "metrics", "", "401"},
		{"GET", "debug/pprof/", "", "401"},
		{"POST", "-/quit", "", "401"},
		{"POST", "-/reload", "alice:wrong", "401"},
		// Probes have no password.
		{"GET", "-/healthy", "", "200"},
		{"HEAD", "-/ready", "", "200"},
		{"GET", "-/ready", "alice:wrong", "200"},
		{"POST", "-/ready", "", "401"},
		{"GET", "-/ready/../../metrics", "", "401"},
		{"GET", "-//ready", "", "401"},
	} {
		if code, _ := send(c, tt.method, a.pageURL()+tt.path, "X-Login", tt.login); code != tt.want {
			t.Errorf("%s /%s as %q: %s, want %s", tt.method, tt.path, tt.login, code, tt.want)
		}
	}
	if _, response := send(c, "GET", a.pageURL(), "X-Login", "alice:"+password); response.Header.Get("X-Frame-Options") != "deny" {
		t.Errorf("the header is missing: %v", response.Header)
	}
	a.scrapesItself()
	write(t, file, "basic_auth_users: {}\n") // without a restart
	if code, _ := send(c, "GET", a.pageURL()+"metrics"); code != "200" {
		t.Errorf("without users: %s", code)
	}
	if err := a.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	for _, secret := range []string{password, string(hash), "wrong", "YWxpY2U6"} {
		if strings.Contains(a.log.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

// TestProxyTLS: the proxy speaks HTTP/1 and HTTP/2, each with TLS and without, and what it has taken is answered while it
// stops.
func TestProxyTLS(t *testing.T) {
	release, waiting := make(chan struct{}), make(chan struct{})
	var first sync.Once
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		if strings.Contains(string(text), "99") {
			first.Do(func() { close(waiting) })
			<-release
		}
		_, _ = io.WriteString(w, `{"predictions": [7]}`)
	}))
	defer model.Close()
	config := "batchproxy: {models: [{name: m, batch: {max_size: 1}, upstreams: [{url: '" + model.URL + "'}]}]}\n"
	predict := func(c *http.Client, base, instance string) string {
		response, err := c.Post(base+"/v1/models/m:predict", "application/json", strings.NewReader(`{"instances": [`+instance+`]}`))
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return fmt.Sprint(response.ProtoMajor, " ", string(text))
	}
	const seven = `{"predictions": [7]}`

	plain := runApp(t, t.TempDir(), config, nil)
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	base := "http://" + plain.proxyListener.Addr().String()
	for want, c := range map[string]*http.Client{
		"1 " + seven: client(nil, false),
		"2 " + seven: {Transport: &http.Transport{Protocols: h2c}},
	} {
		if got := predict(c, base, "1"); got != want {
			t.Errorf("without TLS: %s, want %s", got, want)
		}
		c.CloseIdleConnections()
	}

	dir := t.TempDir()
	ca := newAuthority(t)
	ca.issue(dir, "server", time.Time{})
	write(t, filepath.Join(dir, "web.yml"), "tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
	a := runApp(t, dir, config, func(o *runOptions) {
		o.webSecured, o.proxySecured = filepath.Join(dir, "web.yml"), filepath.Join(dir, "web.yml")
	})
	base = "https://" + a.proxyListener.Addr().String()
	if greeting := a.greeting(); !strings.Contains(greeting, base+"/v2/models/m/infer") {
		t.Errorf("it says %s", greeting)
	}
	one, two := client(&tls.Config{RootCAs: ca.pool}, false), client(&tls.Config{RootCAs: ca.pool}, true)
	for want, c := range map[string]*http.Client{"1 " + seven: one, "2 " + seven: two} {
		if got := predict(c, base, "1"); got != want {
			t.Errorf("with TLS: %s, want %s", got, want)
		}
	}
	answers := make(chan string, 2)
	go func() { answers <- predict(one, base, "99") }()
	go func() { answers <- predict(two, base, "199") }()
	<-waiting // one is with the model, the other waits for it
	a.eventually("both are in the proxy", func() bool { m := a.live.Load().proxy.Models()[0]; return m.Queued+m.Running == 2 })
	ended := make(chan error, 1)
	go func() { ended <- a.stop() }()
	a.eventually("it says that it stops, over TLS", func() bool {
		code, _ := send(one, "GET", a.pageURL()+"-/ready")
		return code == "503"
	})
	close(release)
	for range 2 {
		if got := <-answers; !strings.HasSuffix(got, seven) {
			t.Errorf("a request in progress was answered with %s", got)
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("stopped with %v", err)
	}
	two.CloseIdleConnections()
}

package kedatest

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
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedacore/keda/v2/pkg/scalers/externalscaler"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// binary is the flyball under test.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kedatest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "flyball")
	build := exec.Command("go", "build", "-o", binary, "./cmd/flyball")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build flyball: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

const (
	interval = 200 * time.Millisecond // of scrapes and evaluations
	patience = 30 * time.Second       // it only has to tell an answer from none
	metric   = "flyball_scale_desired_replicas"
)

const configuration = `
global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}
rule_files: [rules.yml]
scrape_configs:
- job_name: cluster
  static_configs: [{targets: ["%s"]}]
actuators:
  keda:
    llama: {replicas: 'there{model="llama"}'}
    "*": {initial: 1}
  none:
    plain: {initial: 1}
`

// rule is a scale rule that goes at once to a replica for each ten of the demand. Its name and target are given.
const rule = `
  - scale: %s
    target: %s
    %s
    min: 0
    max: 1000
    startup: 200ms
    flap_budget: {reversals: 1000, window: 1m}
    queries: {demand: '%s'}
    signals: [{name: load, value: demand, target_per_replica: 10, tolerance: 0}]
    behavior:
      up: {window: 0s, policies: []}
      down: {window: 0s, policies: []}
`

func rules(names ...string) string {
	text := "groups:\n- name: serving\n  rules:"
	for name, r := range map[string]string{
		"llama":    fmt.Sprintf(rule, "llama", "{kind: keda, name: llama}", "mode: act", `demand{model="llama"}`),
		"careful":  fmt.Sprintf(rule, "careful", "{kind: keda, name: careful}", "mode: observe", `demand{model="llama"}`),
		"plain":    fmt.Sprintf(rule, "plain", "{kind: none, name: plain}", "mode: act", `demand{model="llama"}`),
		"each":     fmt.Sprintf(rule, "each", "{kind: keda, name: 'model-{{ .model }}'}", "mode: act\n    for_each: {by: [model]}", "demand"),
		"unstable": fmt.Sprintf(rule, "unstable", "{kind: keda, name: unstable}", "mode: act", `demand{model="gone"}`),
	} {
		for _, n := range names {
			if n == name {
				text += r
			}
		}
	}
	return text
}

var allRules = []string{"llama", "careful", "plain", "each", "unstable"}

// flyball is one that runs beside a cluster that the test plays.
type flyball struct {
	externalscaler.ExternalScalerClient
	t         *testing.T
	dir       string
	web, keda string
	cluster   *cluster
	cmd       *exec.Cmd
	ended     chan struct{}
	log       *log
}

// cluster says what there is, as metrics.
type cluster struct {
	mu     sync.Mutex
	demand map[string]float64 // by model; without any, scrapes fail
	there  int
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.demand) == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	for model, v := range c.demand {
		fmt.Fprintf(w, "demand{model=%q} %g\n", model, v)
	}
	fmt.Fprintf(w, "there{model=\"llama\"} %d\n", c.there)
}

func (c *cluster) set(demand map[string]float64, there int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.demand, c.there = demand, there
}

type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newFlyball(t *testing.T, demand float64, there int) *flyball {
	t.Helper()
	f := prepare(t, demand, there)
	f.ExternalScalerClient = f.client(insecure.NewCredentials())
	f.start()
	return f
}

// prepare writes the files of a flyball and starts none.
func prepare(t *testing.T, demand float64, there int) *flyball {
	t.Helper()
	f := &flyball{t: t, dir: t.TempDir(), web: address(t), keda: address(t), cluster: &cluster{}}
	f.cluster.set(map[string]float64{"llama": demand}, there)
	server := httptest.NewServer(f.cluster)
	t.Cleanup(server.Close)
	f.write("flyball.yml", fmt.Sprintf(configuration, strings.TrimPrefix(server.URL, "http://")))
	f.write("rules.yml", rules(allRules...))
	return f
}

// client is KEDA's own, connected as KEDA does it.
func (f *flyball) client(c credentials.TransportCredentials) externalscaler.ExternalScalerClient {
	f.t.Helper()
	conn, err := grpc.NewClient(f.keda, grpc.WithTransportCredentials(c),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin":{}}]}`))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	return externalscaler.NewExternalScalerClient(conn)
}

func (f *flyball) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func address(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (f *flyball) start(more ...string) {
	f.t.Helper()
	f.log = &log{}
	args := []string{
		"run", "--config.file=" + filepath.Join(f.dir, "flyball.yml"), "--storage.path=" + filepath.Join(f.dir, "data"),
		"--act.enabled", "--web.listen-address=" + f.web, "--keda.listen-address=" + f.keda, "--web.enable-lifecycle",
	}
	f.cmd = exec.Command(binary, append(args, more...)...)
	f.cmd.Stdout, f.cmd.Stderr = f.log, f.log
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	cmd, ended, out := f.cmd, make(chan struct{}), f.log
	f.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if f.t.Failed() {
			f.t.Logf("flyball's output:\n%s", out)
		}
	})
}

// certificates writes those of an authority and of a server on loopback, and returns one of a client, and the authority.
func (f *flyball) certificates() (client tls.Certificate, authority *x509.CertPool) {
	f.t.Helper()
	check := func(err error) {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	issue := func(name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(err)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: parent == nil,
			KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if parent == nil {
			parent, signer = template, key
		}
		raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		check(err)
		certificate, err := x509.ParseCertificate(raw)
		check(err)
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		check(err)
		f.write(name+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})))
		f.write(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
		return certificate, key
	}
	ca, signer := issue("ca", nil, nil)
	issue("server", ca, signer)
	issue("client", ca, signer)
	client, err := tls.LoadX509KeyPair(filepath.Join(f.dir, "client.crt"), filepath.Join(f.dir, "client.key"))
	check(err)
	authority = x509.NewCertPool()
	authority.AddCert(ca)
	return client, authority
}

func (f *flyball) signal(s os.Signal) {
	f.t.Helper()
	if err := f.cmd.Process.Signal(s); err != nil {
		f.t.Fatal(err)
	}
}

func (f *flyball) post(path string) {
	f.t.Helper()
	response, err := http.Post("http://"+f.web+path, "application/x-www-form-urlencoded", nil)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 && response.StatusCode/100 != 3 {
		text, _ := io.ReadAll(response.Body)
		f.t.Fatalf("POST %s: %s %s", path, response.Status, text)
	}
}

// metrics are flyball's own.
func (f *flyball) metrics() string {
	response, err := http.Get("http://" + f.web + "/metrics")
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

// trigger is what KEDA sends of one.
func trigger(rule, target string) *externalscaler.ScaledObjectRef {
	metadata := map[string]string{"scalerAddress": "flyball.ml:9841", "rule": rule}
	if target != "" {
		metadata["target"] = target
	}
	return &externalscaler.ScaledObjectRef{Name: "llama", Namespace: "ml", ScalerMetadata: metadata}
}

// ask asks as KEDA does for the HPA: the metric, then whether it is active.
func (f *flyball) ask(rule, target string) (size float64, active bool, err error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
	defer cancel()
	ref := trigger(rule, target)
	values, err := f.GetMetrics(ctx, &externalscaler.GetMetricsRequest{ScaledObjectRef: ref, MetricName: metric})
	if err != nil {
		return 0, false, err
	}
	state, err := f.IsActive(ctx, ref)
	if err != nil {
		return 0, false, err
	}
	v := values.GetMetricValues()[0]
	if v.GetMetricValueFloat() != float64(v.GetMetricValue()) || v.GetMetricName() != metric {
		f.t.Errorf("the metric is %v", v)
	}
	return v.GetMetricValueFloat(), state.GetResult(), nil
}

// becomes asks until the answer is the size; until then all must be one of those allowed or, without any, the error Unavailable.
func (f *flyball) becomes(rule, target string, want float64, allowed ...float64) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("rule %s wants %g", rule, want), func() bool {
		size, active, err := f.ask(rule, target)
		if err != nil {
			if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
				f.t.Fatalf("rule %s: %v", rule, err)
			}
			return false
		}
		if size == want {
			if active != (want > 0) {
				return false // asked one after the other
			}
			return true
		}
		for _, a := range allowed {
			if size == a {
				return false
			}
		}
		f.t.Fatalf("rule %s wants %g on the way to %g", rule, size, want)
		return false
	})
}

// fails asks until there is an error, which must be this one; until then all must be of a size.
func (f *flyball) fails(rule, target string, before float64, code codes.Code, text string) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("rule %s fails by %s", rule, code), func() bool {
		size, _, err := f.ask(rule, target)
		switch {
		case err == nil && size != before:
			f.t.Fatalf("rule %s wants %g, before the error", rule, size)
		case err != nil && (status.Code(err) != code || !strings.Contains(err.Error(), text)):
			f.t.Fatalf("rule %s: %v, want %s, %q", rule, err, code, text)
		}
		return err != nil
	})
}

func (f *flyball) eventually(what string, holds func() bool) {
	f.t.Helper()
	tick := time.NewTicker(interval / 10)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			f.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// open opens a stream of the activity of a rule.
func (f *flyball) open(ctx context.Context, rule string) grpc.ServerStreamingClient[externalscaler.IsActiveResponse] {
	f.t.Helper()
	stream, err := f.StreamIsActive(ctx, trigger(rule, ""), grpc.WaitForReady(true))
	if err != nil {
		f.t.Fatal(err)
	}
	return stream
}

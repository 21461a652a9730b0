package kedatest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kedacore/keda/v2/pkg/scalers/externalscaler"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// TestPull: what an external trigger is told, from a first start on, through demand that comes and goes, data that is
// missing, and a freeze. There is never a number that no decision was.
func TestPull(t *testing.T) {
	f := newFlyball(t, 75, 4)
	f.becomes("llama", "", 8)
	for _, tt := range []struct {
		name, rule, target string
		code               codes.Code
		text               string
	}{
		{"one letter off", "lama", "", codes.NotFound, `no scale rule "lama" (did you mean "llama"?)`},
		{"another target", "llama", "lama", codes.NotFound, `rule llama has no target "lama" (did you mean "llama"?)`},
		{"no rule", "", "", codes.InvalidArgument, "metadata has no rule"},
		{"of another kind", "plain", "", codes.InvalidArgument, "rule plain has the target none/plain, and none of kind keda"},
		{"which target", "each", "", codes.InvalidArgument, "such as model-llama"},
		{"no such target", "each", "model-lama", codes.NotFound, `did you mean "model-llama"?`},
		{"observes", "careful", "", codes.Unavailable, "it only observes"},
		{"no data since the start", "unstable", "", codes.Unavailable, "holds since flyball started: demand: the query has no answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := f.ask(tt.rule, tt.target)
			if status.Code(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want %s, %q", err, tt.code, tt.text)
			}
			_, err = f.GetMetricSpec(t.Context(), trigger(tt.rule, tt.target))
			if want := tt.code; (want == codes.Unavailable) != (err == nil) || err != nil && status.Code(err) != want {
				t.Errorf("GetMetricSpec: error %v", err)
			}
		})
	}
	f.becomes("each", "model-llama", 8, 1)
	f.eventually("the series for an adapter", func() bool {
		return strings.Contains(f.metrics(), `flyball_scale_desired_replicas{rule="plain",target="none/plain"} 8`)
	})
	spec, err := f.GetMetricSpec(t.Context(), trigger("llama", ""))
	if err != nil || spec.GetMetricSpecs()[0].GetTargetSizeFloat() != 1 || spec.GetMetricSpecs()[0].GetMetricName() != metric {
		t.Errorf("%v %v, want a target of 1 for %s", spec, err, metric)
	}

	f.cluster.set(map[string]float64{"llama": 0}, 8)
	f.becomes("llama", "", 0, 8)
	f.cluster.set(map[string]float64{"llama": 31}, 0)
	f.becomes("llama", "", 4, 0)
	f.cluster.set(nil, 0) // nothing is measured any more: at first it holds, then it says so
	f.fails("llama", "", 4, codes.Unavailable, "it has held for")
	f.cluster.set(map[string]float64{"llama": 31}, 4)
	f.becomes("llama", "", 4)
	f.post("/-/freeze")
	f.fails("llama", "", 4, codes.Unavailable, "acting is frozen")
	f.post("/-/freeze?release=1")
	f.becomes("llama", "", 4)
}

// TestPush: a change is sent at once, a stream that kill -9 cut is taken up again, and after the restart there is an error until
// there is a decision, and then the size of before.
func TestPush(t *testing.T) {
	f := newFlyball(t, 0, 0)
	stream := f.open(t.Context(), "llama")
	expect := func(want bool) {
		t.Helper()
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got.GetResult() != want {
			t.Fatalf("active: %v, want %v", got.GetResult(), want)
		}
	}
	expect(false)
	f.cluster.set(map[string]float64{"llama": 95}, 0)
	expect(true)
	f.cluster.set(map[string]float64{"llama": 0}, 10)
	expect(false)
	f.cluster.set(map[string]float64{"llama": 95}, 0)
	expect(true)
	f.becomes("llama", "", 10, 0)

	specs, err := f.StreamMetricSpec(t.Context(), trigger("llama", ""))
	if err != nil {
		t.Fatal(err)
	}
	if spec, err := specs.Recv(); err != nil || spec.GetMetricSpecs()[0].GetTargetSizeFloat() != 1 {
		t.Errorf("%v %v, want the target 1", spec, err)
	}

	f.cluster.set(map[string]float64{"llama": 95}, 6) // the HPA is on its way
	f.signal(syscall.SIGKILL)
	<-f.ended
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("killed: error %v, want Unavailable", err)
	}
	if _, err := specs.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("killed: error %v, want Unavailable", err)
	}
	f.start()
	stream = f.open(t.Context(), "llama")
	f.becomes("llama", "", 10) // no other size, and no zero, on the way
	expect(true)
}

// TestManyStreams: a thousand streams beside one whose client never reads; each is told of a change, and all end without an
// error when flyball stops.
func TestManyStreams(t *testing.T) {
	f := newFlyball(t, 0, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	f.becomes("llama", "", 0)
	deaf, err := f.client(insecure.NewCredentials()).StreamIsActive(ctx, trigger("llama", ""))
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	streams := make([]grpc.ServerStreamingClient[externalscaler.IsActiveResponse], n)
	for i := range streams {
		streams[i] = f.open(ctx, "llama")
	}
	each := func(what string, do func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		var mu sync.Mutex
		failed := 0
		for i := range streams {
			wg.Go(func() {
				if err := do(i); err != nil {
					mu.Lock()
					defer mu.Unlock()
					if failed++; failed == 1 {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		}
		wg.Wait()
		if failed > 0 {
			t.Fatalf("%s: %d streams failed", what, failed)
		}
	}
	is := func(want bool) func(int) error {
		return func(i int) error {
			got, err := streams[i].Recv()
			if err == nil && got.GetResult() != want {
				err = errors.New("another state")
			}
			return err
		}
	}
	each("at the beginning", is(false))
	f.eventually("all are open", func() bool {
		return strings.Contains(f.metrics(), `flyball_keda_streams{method="StreamIsActive"} 1001`)
	})
	f.cluster.set(map[string]float64{"llama": 20}, 0)
	began := time.Now()
	each("a change", is(true))
	t.Logf("%d streams had the change %s after the demand", n, time.Since(began).Round(time.Millisecond))
	f.becomes("llama", "", 2, 0)

	f.signal(syscall.SIGTERM)
	each("the end", func(i int) error {
		if _, err := streams[i].Recv(); !errors.Is(err, io.EOF) {
			return err
		}
		return nil
	})
	<-f.ended
	if !f.cmd.ProcessState.Success() {
		t.Errorf("flyball ended by %s", f.cmd.ProcessState)
	}
	for err = nil; err == nil; _, err = deaf.Recv() { // what it had been sent meanwhile is there
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("the client that did not read: %v", err)
	}
}

// TestReload: the streams of a rule that is gone end, the others go on.
func TestReload(t *testing.T) {
	f := newFlyball(t, 75, 8)
	f.becomes("llama", "", 8)
	gone, stays := f.open(t.Context(), "unstable"), f.open(t.Context(), "llama")
	if got, err := stays.Recv(); err != nil || !got.GetResult() {
		t.Fatal(got, err)
	}
	specs, err := f.StreamMetricSpec(t.Context(), trigger("unstable", ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := specs.Recv(); err != nil {
		t.Fatal(err)
	}
	f.write("rules.yml", rules("llama", "plain"))
	f.signal(syscall.SIGHUP)
	if _, err := gone.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("error %v, want NotFound", err)
	}
	if _, err := specs.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("error %v, want NotFound", err)
	}
	f.fails("unstable", "", -1, codes.NotFound, `no scale rule "unstable"`)
	f.becomes("llama", "", 8)
	f.cluster.set(map[string]float64{"llama": 0}, 8)
	if got, err := stays.Recv(); err != nil || got.GetResult() {
		t.Errorf("%v %v, want inactive", got, err)
	}
}

// TestTLS: with a web configuration file only who has a certificate is answered, and passwords are refused at the start.
func TestTLS(t *testing.T) {
	f := prepare(t, 75, 8)
	client, server := f.certificates()
	f.write("web.yml", "tls_server_config: {cert_file: server.crt, key_file: server.key, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt}\n")
	f.start("--keda.web.config.file=" + filepath.Join(f.dir, "web.yml"))
	known := &tls.Config{RootCAs: server, Certificates: []tls.Certificate{client}}
	f.ExternalScalerClient = f.client(credentials.NewTLS(known))
	f.becomes("llama", "", 8)

	for name, c := range map[string]credentials.TransportCredentials{
		"no certificate": credentials.NewTLS(&tls.Config{RootCAs: server}), "no TLS": insecure.NewCredentials(),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := f.client(c).IsActive(ctx, trigger("llama", "")); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: error %v, want Unavailable", name, err)
		}
	}

	// A hash of no password that anyone has.
	f.write("web.yml", "tls_server_config: {cert_file: server.crt, key_file: server.key}\nbasic_auth_users: {keda: $2y$10$abcdefghijklmnopqrstuv0123456789012345678901234567890}\n")
	f.signal(syscall.SIGHUP)
	f.eventually("the reload is refused", func() bool { return strings.Contains(f.log.String(), "KEDA sends no password") })
}

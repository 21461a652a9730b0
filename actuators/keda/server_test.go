package keda

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "flyball/actuators/keda/externalscaler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// answers are the sizes of rules that have one, and the errors of the others.
type answers struct {
	mu    sync.Mutex
	sizes map[string]int
	errs  map[string]error
	seen  chan struct{} // closed when a size is asked for; nil: nobody waits for that
}

func (a *answers) Desired(rule, target string) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen != nil {
		close(a.seen)
		a.seen = nil
	}
	if target != "" {
		rule += "/" + target
	}
	if n, known := a.sizes[rule]; known {
		return n, nil
	}
	if err := a.errs[rule]; err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("no scale rule %q: %w", rule, ErrNotFound)
}

func (a *answers) set(rule string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sizes[rule] = n
	delete(a.errs, rule)
}

func (a *answers) fail(rule string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sizes, rule)
	a.errs[rule] = err
}

func newAnswers() *answers {
	return &answers{
		sizes: map[string]int{"llama": 7, "idle": 0, "many/a": 3},
		errs: map[string]error{
			"blind": fmt.Errorf("rule blind holds: %w", ErrUndecided), "many": fmt.Errorf("rule many has many targets: %w", ErrInvalid),
			"odd": errors.New("something else"),
		},
	}
}

// serving is a server and a client of it.
type serving struct {
	*Server
	client pb.ExternalScalerClient
	stop   func() // and wait
}

func serve(t *testing.T, sizes Sizes, reg prometheus.Registerer) serving {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(sizes, Options{Registerer: reg})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return serving{s, pb.NewExternalScalerClient(conn), stop}
}

func trigger(rule, target string) *pb.ScaledObjectRef {
	metadata := map[string]string{"scalerAddress": "127.0.0.1:9841", "rule": rule}
	if target != "" {
		metadata["target"] = target
	}
	return &pb.ScaledObjectRef{Name: "so", Namespace: "ml", ScalerMetadata: metadata}
}

func TestAnswers(t *testing.T) {
	s := serve(t, newAnswers(), nil)
	for _, tt := range []struct {
		name    string
		trigger *pb.ScaledObjectRef
		size    int
		code    codes.Code
		message string
	}{
		{name: "a size", trigger: trigger("llama", ""), size: 7},
		{name: "zero", trigger: trigger("idle", ""), size: 0},
		{name: "one of many targets", trigger: trigger("many", "a"), size: 3},
		{name: "which of them is not said", trigger: trigger("many", ""), code: codes.InvalidArgument, message: "rule many has many targets"},
		{name: "none yet", trigger: trigger("blind", ""), code: codes.Unavailable, message: "rule blind holds"},
		{name: "an error of another kind", trigger: trigger("odd", ""), code: codes.Unavailable, message: "something else"},
		{name: "no such rule", trigger: trigger("lama", ""), code: codes.NotFound, message: `no scale rule "lama"`},
		{name: "no rule", trigger: &pb.ScaledObjectRef{Name: "so"}, code: codes.InvalidArgument, message: "metadata has no rule"},
		{name: "no trigger", code: codes.InvalidArgument, message: "metadata has no rule"},
		{name: "a long name", trigger: trigger(strings.Repeat("x", 300), ""), code: codes.InvalidArgument, message: "at most 253 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			expect := func(method string, err error, code codes.Code) {
				t.Helper()
				if status.Code(err) != code || code != codes.OK && !strings.Contains(err.Error(), tt.message) {
					t.Errorf("%s: error %v, want %s, %q", method, err, code, tt.message)
				}
			}
			value, err := s.client.GetMetrics(t.Context(), &pb.GetMetricsRequest{ScaledObjectRef: tt.trigger, MetricName: metricName})
			expect("GetMetrics", err, tt.code)
			if err == nil {
				v := value.GetMetricValues()[0]
				if v.GetMetricValue() != int64(tt.size) || v.GetMetricValueFloat() != float64(tt.size) || v.GetMetricName() != metricName {
					t.Errorf("value %v, want %d", v, tt.size)
				}
			}
			active, err := s.client.IsActive(t.Context(), tt.trigger)
			expect("IsActive", err, tt.code)
			if active.GetResult() != (tt.size > 0) {
				t.Errorf("active: %v at %d", active.GetResult(), tt.size)
			}
			// KEDA makes its HPA of the metric's target before there is a decision.
			code := tt.code
			if code == codes.Unavailable {
				code = codes.OK
			}
			spec, err := s.client.GetMetricSpec(t.Context(), tt.trigger)
			expect("GetMetricSpec", err, code)
			if err == nil {
				if m := spec.GetMetricSpecs()[0]; m.GetTargetSize() != 1 || m.GetTargetSizeFloat() != 1 || m.GetMetricName() != metricName {
					t.Errorf("metric %v, want a target of 1", m)
				}
			}
			stream, err := s.client.StreamMetricSpec(t.Context(), tt.trigger)
			if err != nil {
				t.Fatal(err)
			}
			streamed, err := stream.Recv()
			expect("StreamMetricSpec", err, code)
			if err == nil && streamed.String() != spec.String() {
				t.Errorf("streamed %v, want %v", streamed, spec)
			}
			if tt.code == codes.NotFound || tt.code == codes.InvalidArgument {
				stream, err := s.client.StreamIsActive(t.Context(), tt.trigger)
				if err != nil {
					t.Fatal(err)
				}
				_, err = stream.Recv()
				expect("StreamIsActive", err, tt.code)
			}
		})
	}
	if _, err := s.client.GetMetrics(t.Context(), &pb.GetMetricsRequest{ScaledObjectRef: trigger("llama", ""), MetricName: "cpu"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another metric: error %v, want InvalidArgument", err)
	}
	large := trigger("llama", "")
	large.ScalerMetadata["x"] = strings.Repeat("x", maxMessage)
	if _, err := s.client.IsActive(t.Context(), large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of more than %d bytes: error %v, want ResourceExhausted", maxMessage, err)
	}
}

// TestStream: the state comes at once and with each change; while there is none, nothing comes and nothing ends.
func TestStream(t *testing.T) {
	sizes := newAnswers()
	s := serve(t, sizes, nil)
	stream, err := s.client.StreamIsActive(t.Context(), trigger("llama", ""))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want bool) {
		t.Helper()
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got.GetResult() != want {
			t.Errorf("active: %v, want %v", got.GetResult(), want)
		}
	}
	expect(true)
	sizes.set("llama", 9) // more is not news
	s.Changed("llama")
	sizes.set("llama", 0)
	s.Changed("llama")
	expect(false)
	sizes.fail("llama", ErrUndecided) // is not sent, and ends nothing
	s.Changed("llama")
	s.Changed("other")
	sizes.set("llama", 1)
	s.ChangedAll()
	expect(true)
	sizes.fail("llama", fmt.Errorf("no scale rule: %w", ErrNotFound))
	s.ChangedAll()
	if _, err := stream.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("the rule is gone: error %v, want NotFound", err)
	}

	early, err := s.client.StreamIsActive(t.Context(), trigger("blind", ""))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		sizes.set("blind", 2)
		s.Changed("blind")
	}()
	if got, err := early.Recv(); err != nil || !got.GetResult() {
		t.Errorf("%v %v, want the first decision", got, err)
	}
}

// TestSlowClient: changes wait for nobody, and who reads late reads the newest. At the end streams end without an error.
func TestSlowClient(t *testing.T) {
	sizes := newAnswers()
	s := serve(t, sizes, nil)
	stream, err := s.client.StreamIsActive(t.Context(), trigger("llama", ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil { // it is open
		t.Fatal(err)
	}
	const changes = 100_001 // ten times what fits between the two
	for i := range changes {
		sizes.set("llama", i%2)
		s.Changed("llama")
	}
	seen := make(chan struct{})
	sizes.mu.Lock()
	sizes.seen = seen
	sizes.mu.Unlock()
	s.Changed("llama")
	active, n := true, 0
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-seen
		s.stop()
	}()
	for {
		got, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		active, n = got.GetResult(), n+1
	}
	<-stopped
	if active || n >= changes {
		t.Errorf("read %d of %d changes, the last %v: want fewer, and the newest, false", n, changes, active)
	}
}

// TestStop ends although a client has a stream open and reads nothing.
func TestStop(t *testing.T) {
	sizes := newAnswers()
	s := serve(t, sizes, nil)
	for range 10 {
		if _, err := s.client.StreamIsActive(t.Context(), trigger("llama", "")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.client.IsActive(t.Context(), trigger("llama", "")); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if _, err := s.client.IsActive(t.Context(), trigger("llama", "")); status.Code(err) != codes.Unavailable {
		t.Errorf("after the end: error %v, want Unavailable", err)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	s := serve(t, newAnswers(), nil)
	s.mu.Lock()
	s.open = maxStreams
	s.mu.Unlock()
	stream, err := s.client.StreamIsActive(t.Context(), trigger("llama", ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("error %v, want ResourceExhausted", err)
	}
	if _, err := s.client.IsActive(t.Context(), trigger("llama", "")); err != nil {
		t.Errorf("a request beside them: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	s := serve(t, newAnswers(), reg)
	for _, rule := range []string{"llama", "blind", "lama"} {
		_, _ = s.client.IsActive(t.Context(), trigger(rule, ""))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := s.client.StreamIsActive(ctx, trigger("llama", ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP flyball_keda_streams Streams of the external scaler that are open.
# TYPE flyball_keda_streams gauge
flyball_keda_streams{method="StreamIsActive"} 1
flyball_keda_streams{method="StreamMetricSpec"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "flyball_keda_streams"); err != nil {
		t.Error(err)
	}
	s.stop()
	got := map[string]float64{}
	for _, code := range []string{"OK", "Unavailable", "NotFound"} {
		got[code] = testutil.ToFloat64(s.metrics.requests.WithLabelValues("IsActive", code))
	}
	got["stream"] = testutil.ToFloat64(s.metrics.requests.WithLabelValues("StreamIsActive", "OK"))
	if diff := cmp.Diff(map[string]float64{"OK": 1, "Unavailable": 1, "NotFound": 1, "stream": 1}, got); diff != "" {
		t.Error(diff)
	}
	if open := testutil.ToFloat64(s.metrics.streams.WithLabelValues("StreamIsActive")); open != 0 {
		t.Errorf("%g streams are open after the end", open)
	}
}

package keda

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "flyball/actuators/keda/externalscaler"
)

// Kind is the kind of targets that KEDA scales.
const Kind = "keda"

// metricName is the metric that the HPA sees, with KEDA's s0- before it: the name of the series that it is.
const metricName = "flyball_scale_desired_replicas"

// Why there is no size. What wraps neither is as ErrUndecided.
var (
	ErrNotFound  = errors.New("not found")            // no such rule, or target
	ErrInvalid   = errors.New("invalid metadata")     // it does not say which
	ErrUndecided = errors.New("no decision to go by") // for now
)

// Sizes knows what rules decided.
type Sizes interface {
	// Desired returns how many replicas a rule wants. target is the name of one of its targets, empty where it has one.
	// The error wraps ErrNotFound, ErrInvalid or ErrUndecided, and is for the user to read.
	Desired(rule, target string) (replicas int, err error)
}

// Options are what a Server works with. All may be left out.
type Options struct {
	TLS        *tls.Config           // nil: no TLS
	Registerer prometheus.Registerer // nil: no metrics
}

// Limits of what clients can take up. KEDA's operator has one connection to an address, and on it two streams for each
// ScaledObject with a push trigger.
const (
	maxConnections = 64       // more wait
	maxStreams     = 4096     // open at once, of all clients: two thousand ScaledObjects; more are refused
	maxMessage     = 64 << 10 // bytes: of a request all but its metadata is a few hundred
	maxHeader      = 16 << 10
	maxName        = 253 // of a rule or target, in bytes

	handshake = 10 * time.Second // for a connection to become one
	idle      = 15 * time.Minute // after which a connection without a request is closed
	// A client that is gone without a word is found out after both: its streams would stay.
	ping     = 30 * time.Second
	pingWait = 10 * time.Second
	// Clients may ask for a sign of life themselves, but not to keep this busy.
	pingLeast = 10 * time.Second

	grace = 2 * time.Second // for answers under way at the end
)

// Server is the external scaler.
type Server struct {
	pb.UnimplementedExternalScalerServer
	sizes   Sizes
	grpc    *grpc.Server
	metrics *metrics

	stopping chan struct{}      // closed when streams are to end
	wakes    map[string]wakeSet // of the streams that are open, by their rules
	open     int                // streams
	mu       sync.Mutex         // guards wakes and open
}

// wakeSet are the signals of streams: one that is not taken yet stands for all since.
type wakeSet map[chan struct{}]struct{}

// NewServer returns a server that does not serve yet.
func NewServer(sizes Sizes, o Options) *Server {
	s := &Server{sizes: sizes, metrics: newMetrics(o.Registerer), stopping: make(chan struct{}), wakes: map[string]wakeSet{}}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxHeaderListSize(maxHeader),
		grpc.MaxConcurrentStreams(maxStreams + 1024), // requests have room beside the streams
		grpc.ConnectionTimeout(handshake),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idle, Time: ping, Timeout: pingWait}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingLeast, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.metrics.unary), grpc.StreamInterceptor(s.stream),
		grpc.WaitForHandlers(true),
	}
	if o.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(o.TLS)))
	}
	s.grpc = grpc.NewServer(options...)
	pb.RegisterExternalScalerServer(s.grpc, s)
	return s
}

// Serve serves until ctx ends. Streams then end, and requests that are under way have two seconds. It is called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ended := make(chan struct{})
	defer close(ended)
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-ended:
			return
		}
		close(s.stopping)
		late := time.AfterFunc(grace, s.grpc.Stop) // a client that does not read keeps its stream from ending
		defer late.Stop()
		s.grpc.GracefulStop()
	})
	if err := s.grpc.Serve(netutil.LimitListener(l, maxConnections)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("external scaler: %w", err)
	}
	return nil
}

// Changed has the streams of a rule send what is new, if something is.
func (s *Server) Changed(rule string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakes[rule].wake()
}

// ChangedAll is Changed of every rule, those that there are no more included.
func (s *Server) ChangedAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.wakes {
		set.wake()
	}
}

func (w wakeSet) wake() {
	for wake := range w {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// follow registers a stream of a rule.
func (s *Server) follow(rule string) (wake chan struct{}, unfollow func()) {
	wake = make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wakes[rule] == nil {
		s.wakes[rule] = wakeSet{}
	}
	s.wakes[rule][wake] = struct{}{}
	return wake, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.wakes[rule], wake); len(s.wakes[rule]) == 0 {
			delete(s.wakes, rule)
		}
	}
}

// stream bounds how many streams there are.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	s.mu.Lock()
	full := s.open >= maxStreams
	if !full {
		s.open++
	}
	s.mu.Unlock()
	if full {
		return s.metrics.count(info.FullMethod, status.Errorf(codes.ResourceExhausted, "%d streams are open already", maxStreams))
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
	}()
	return s.metrics.stream(srv, stream, info, handler)
}

// desired is the size for a trigger; the error is one of gRPC's.
func (s *Server) desired(ref *pb.ScaledObjectRef) (int, error) {
	rule, target := ref.GetScalerMetadata()["rule"], ref.GetScalerMetadata()["target"]
	switch {
	case rule == "":
		return 0, status.Error(codes.InvalidArgument, "the trigger's metadata has no rule: give the name of a scale rule, as in {rule: llama}")
	case len(rule) > maxName || len(target) > maxName:
		return 0, status.Errorf(codes.InvalidArgument, "rule and target of the trigger's metadata are names: expected at most %d bytes", maxName)
	}
	n, err := s.sizes.Desired(rule, target)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, ErrNotFound):
		return 0, status.Error(codes.NotFound, err.Error())
	case errors.Is(err, ErrInvalid):
		return 0, status.Error(codes.InvalidArgument, err.Error())
	}
	return 0, status.Error(codes.Unavailable, err.Error())
}

// IsActive says whether there are to be any replicas.
func (s *Server) IsActive(_ context.Context, ref *pb.ScaledObjectRef) (*pb.IsActiveResponse, error) {
	n, err := s.desired(ref)
	if err != nil {
		return nil, err
	}
	return &pb.IsActiveResponse{Result: n > 0}, nil
}

// GetMetricSpec gives the metric and its target, which never change. KEDA makes its HPA of them, so they do not wait for a
// decision.
func (s *Server) GetMetricSpec(_ context.Context, ref *pb.ScaledObjectRef) (*pb.GetMetricSpecResponse, error) {
	if _, err := s.desired(ref); err != nil && status.Code(err) != codes.Unavailable {
		return nil, err
	}
	// The integer is for a KEDA of before the other field.
	return &pb.GetMetricSpecResponse{MetricSpecs: []*pb.MetricSpec{{MetricName: metricName, TargetSize: 1, TargetSizeFloat: 1}}}, nil
}

// GetMetrics gives the number of replicas wanted.
func (s *Server) GetMetrics(_ context.Context, r *pb.GetMetricsRequest) (*pb.GetMetricsResponse, error) {
	if name := r.GetMetricName(); name != metricName {
		if len(name) > maxName {
			name = name[:maxName]
		}
		return nil, status.Errorf(codes.InvalidArgument, "no metric %q: expected %s", name, metricName)
	}
	n, err := s.desired(r.GetScaledObjectRef())
	if err != nil {
		return nil, err
	}
	return &pb.GetMetricsResponse{MetricValues: []*pb.MetricValue{{MetricName: metricName, MetricValue: int64(n), MetricValueFloat: float64(n)}}}, nil
}

// StreamIsActive sends whether there are to be any replicas, at once and each time that it changes. A client that is slow to
// read misses what was not so any more.
func (s *Server) StreamIsActive(ref *pb.ScaledObjectRef, stream grpc.ServerStreamingServer[pb.IsActiveResponse]) error {
	wake, unfollow := s.follow(ref.GetScalerMetadata()["rule"])
	defer unfollow()
	var sent *bool
	for {
		n, err := s.desired(ref)
		switch active := n > 0; {
		case status.Code(err) == codes.Unavailable: // it holds as it was
		case err != nil:
			return err
		case sent == nil || *sent != active:
			if err := stream.Send(&pb.IsActiveResponse{Result: active}); err != nil {
				return err
			}
			sent = &active
		}
		if ended, err := s.wait(stream.Context(), wake); ended {
			return err
		}
	}
}

// StreamMetricSpec sends what GetMetricSpec gives, once.
func (s *Server) StreamMetricSpec(ref *pb.ScaledObjectRef, stream grpc.ServerStreamingServer[pb.GetMetricSpecResponse]) error {
	wake, unfollow := s.follow(ref.GetScalerMetadata()["rule"])
	defer unfollow()
	sent := false
	for {
		spec, err := s.GetMetricSpec(stream.Context(), ref)
		if err != nil {
			return err
		}
		if !sent {
			if err := stream.Send(spec); err != nil {
				return err
			}
			sent = true
		}
		if ended, err := s.wait(stream.Context(), wake); ended {
			return err
		}
	}
}

// wait says that a stream is to end, and how, unless there may be something new for it first.
func (s *Server) wait(ctx context.Context, wake <-chan struct{}) (ended bool, err error) {
	select {
	case <-wake:
		return false, nil
	case <-s.stopping:
		return true, nil
	case <-ctx.Done():
		return true, status.FromContextError(ctx.Err()).Err()
	}
}

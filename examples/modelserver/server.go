package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"flyball/examples/modelserver/digits"
)

// options are what the flags set.
type options struct {
	// ModelName is the model's name in the paths; it has no slash and no colon.
	ModelName string
	// Accelerator is the cost of the emulated accelerator; the zero value is none.
	Accelerator acceleratorCost
	// StartDelay is how long the server takes to be ready, as if it loaded large weights.
	StartDelay time.Duration
	// MaxBatch is the largest number of images in one request.
	MaxBatch int
	// MaxBody is the largest body of a request, in bytes.
	MaxBody int64
	// BodyTimeout is how long a request's body may take to arrive.
	BodyTimeout time.Duration
	// ShutdownTimeout is how long requests in flight may take to end once the server is told to stop.
	ShutdownTimeout time.Duration
	// Version is the server's own, for GET /v2.
	Version string
	Logger  *slog.Logger
}

func defaultOptions() options {
	return options{
		ModelName:       "digits",
		MaxBatch:        64,               // an upper bound as an engine built for a fixed batch size has; twice the proxy's usual 32
		MaxBody:         4 << 20,          // 64 images of 64 numbers with all their digits are under 100 KiB
		BodyTimeout:     30 * time.Second, // a body of MaxBody over a slow line; a stuck client holds no more than a connection
		ShutdownTimeout: 10 * time.Second, // the drain that the process actuator allows
		Version:         "unknown",
		Logger:          slog.New(slog.DiscardHandler),
	}
}

func (o options) validate() error {
	var faults []error
	if o.ModelName == "" || strings.ContainsAny(o.ModelName, "/: ") {
		faults = append(faults, fmt.Errorf("--model.name: %q is not a name: give one without slash, colon or space", o.ModelName))
	}
	if o.MaxBatch < 1 {
		faults = append(faults, fmt.Errorf("--max-batch: %d is not a batch size: give 1 or more", o.MaxBatch))
	}
	if o.MaxBody < 1 {
		faults = append(faults, fmt.Errorf("--max-body: %d bytes is no limit: give 1 or more", o.MaxBody))
	}
	if o.StartDelay < 0 {
		faults = append(faults, fmt.Errorf("--start-delay: %s is negative: give 0s or more", o.StartDelay))
	}
	if o.ShutdownTimeout <= 0 {
		faults = append(faults, fmt.Errorf("--shutdown-timeout: %s is no time: give more than 0s", o.ShutdownTimeout))
	}
	return errors.Join(faults...)
}

// The server's states, in the order in which it goes through them.
const (
	stateLoading int32 = iota
	stateReady
	stateStopping
)

// server is the model behind its protocols.
type server struct {
	opts    options
	model   *digits.Model
	metrics *metrics
	device  *device
	handler http.Handler
	state   atomic.Int32

	cutOff    context.Context // done when what is still in flight is given up
	cutOffNow context.CancelFunc
}

// newServer loads the model. The options must be valid.
func newServer(opts options) (*server, error) {
	model, err := digits.Load()
	if err != nil {
		return nil, fmt.Errorf("load the model: %w", err)
	}
	s := &server{opts: opts, model: model, metrics: newMetrics()}
	s.cutOff, s.cutOffNow = context.WithCancel(context.Background())
	s.device = newDevice(s.cutOff, opts.Accelerator, s.metrics)
	s.handler = s.routes()
	return s, nil
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, h http.HandlerFunc) { mux.HandleFunc(path, only(http.MethodGet, h)) }

	get("/v2", s.v2Server)
	get("/v2/health/live", s.v2Live)
	get("/v2/health/ready", s.v2Ready)
	infer := only(http.MethodPost, s.inference(protocolV2, s.v2Infer))
	for _, model := range []string{"/v2/models/{model}", "/v2/models/{model}/versions/{version}"} {
		get(model, s.v2Model)
		get(model+"/ready", s.v2ModelReady)
		mux.HandleFunc(model+"/infer", infer)
	}

	get("/v1/models", s.v1Models)
	v1Model := s.v1Model(s.inference(protocolV1, s.v1Predict))
	mux.HandleFunc("/v1/models/{call}", v1Model)
	mux.HandleFunc("/v1/models/{model}/versions/{call}", v1Model)

	get("/metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{Registry: s.metrics.registry}).ServeHTTP)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusNotFound, errorBody(fmt.Sprintf("nothing is served at %q: there are /v1/models, /v2 and /metrics", short(r.URL.Path))))
	})
	return mux
}

// only lets requests of one method through; HEAD goes with GET.
func only(method string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && (method != http.MethodGet || r.Method != http.MethodHead) {
			w.Header().Set("Allow", method)
			writeJSON(w, http.StatusMethodNotAllowed, errorBody(fmt.Sprintf("method %s is not for %q: use %s", short(r.Method), short(r.URL.Path), method)))
			return
		}
		h(w, r)
	}
}

func (s *server) ready() bool { return s.state.Load() == stateReady }

func readyCode(ready bool) int {
	if ready {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

func quote(text string) string { return string(appendString(nil, text)) }

// Run serves ln, which it closes, until ctx is done. It then reports itself not ready, takes no more connections, and
// returns when the requests in flight are answered; those that are not after ShutdownTimeout are cut off, which is an error.
// Run is called once.
func (s *server) Run(ctx context.Context, ln net.Listener) error {
	defer s.cutOffNow() // what Shutdown left behind, if anything
	unused := &unusedConns{conns: map[net.Conn]struct{}{}}
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute, // longer than a client's usual 90 s, so that it is the client who closes
		MaxHeaderBytes:    64 << 10,
		ConnState:         unused.track,
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelWarn),
	}

	var wg sync.WaitGroup
	defer wg.Wait()
	loading, endLoading := context.WithCancel(ctx)
	defer endLoading() // when serving ends first, whatever the reason
	wg.Go(func() { s.load(loading) })

	served := make(chan error, 1)
	wg.Go(func() { served <- srv.Serve(ln) })

	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	s.state.Store(stateStopping)
	s.opts.Logger.Info("stopping", "timeout", s.opts.ShutdownTimeout)

	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.ShutdownTimeout)
	defer cancel()
	unused.close()
	err := srv.Shutdown(stopCtx)
	<-served //nolint:errcheck // it is http.ErrServerClosed
	if err != nil {
		return errors.Join(fmt.Errorf("requests in flight were cut off after %s: %w", s.opts.ShutdownTimeout, err), srv.Close())
	}
	s.opts.Logger.Info("stopped")
	return nil
}

// load makes the server ready once StartDelay has passed; a server that is told to stop before that never becomes ready.
func (s *server) load(ctx context.Context) {
	if s.opts.StartDelay > 0 {
		timer := time.NewTimer(s.opts.StartDelay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
	if s.state.CompareAndSwap(stateLoading, stateReady) {
		s.opts.Logger.Info("ready", "model", s.opts.ModelName)
	}
}

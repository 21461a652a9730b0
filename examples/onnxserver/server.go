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
	"golang.org/x/sync/semaphore"
)

// options are what the flags set.
type options struct {
	// Models are what is served.
	Models []modelFile
	// Threads is how many threads one run uses for one operator.
	Threads int
	// Concurrency is how many runs of a model there are at once.
	Concurrency int
	// MaxBatch is the largest number of rows in one request.
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

// modelFile is a model's name in the paths, which has no slash and no colon, and its file.
type modelFile struct{ Name, File string }

func defaultOptions() options {
	return options{
		Threads:         1,                // what one core does, so that figures of one machine mean something on another
		Concurrency:     1,                // as a device: two runs at once only share it
		MaxBatch:        256,              // eight times the proxy's usual 32
		MaxBody:         64 << 20,         // as the proxy: 40 images of 224x224x3 floats in JSON
		BodyTimeout:     30 * time.Second, // a body of MaxBody over a slow line; a stuck client holds no more than a connection
		ShutdownTimeout: 10 * time.Second, // the drain that the process actuator allows
		Version:         "unknown",
		Logger:          slog.New(slog.DiscardHandler),
	}
}

func (o options) validate() error {
	var faults []error
	seen := make(map[string]bool)
	for _, m := range o.Models {
		switch {
		case m.Name == "" || strings.ContainsAny(m.Name, "/: ?#%"):
			faults = append(faults, fmt.Errorf("--model: %q is not a name: give one without slash, colon, space, ?, # and %%, as in NAME=%s", m.Name, m.File))
		case seen[m.Name]:
			faults = append(faults, fmt.Errorf("--model: %q is there twice: give each model a name of its own", m.Name))
		}
		seen[m.Name] = true
	}
	if len(o.Models) == 0 {
		faults = append(faults, errors.New("--model: missing: give an ONNX file, or NAME=FILE"))
	}
	if o.Threads < 1 {
		faults = append(faults, fmt.Errorf("--threads: %d is no number of threads: give 1 or more", o.Threads))
	}
	if o.Concurrency < 1 {
		faults = append(faults, fmt.Errorf("--concurrency: %d is no number of runs: give 1 or more", o.Concurrency))
	}
	if o.MaxBatch < 1 {
		faults = append(faults, fmt.Errorf("--max-batch: %d is not a batch size: give 1 or more", o.MaxBatch))
	}
	if o.MaxBody < 1 {
		faults = append(faults, fmt.Errorf("--max-body: %d bytes is no limit: give 1 or more", o.MaxBody))
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

// server is the models behind their protocols.
type server struct {
	opts    options
	models  []*model // loaded once the state is no longer stateLoading
	metrics *metrics
	handler http.Handler
	state   atomic.Int32
}

// newServer loads nothing yet. The options must be valid, and ONNX Runtime loaded.
func newServer(opts options) *server {
	s := &server{opts: opts, metrics: newMetrics()}
	for _, m := range opts.Models {
		s.models = append(s.models, &model{
			name: m.Name, file: m.File, metrics: s.metrics.of(m.Name),
			slots: semaphore.NewWeighted(int64(opts.Concurrency)),
		})
	}
	s.handler = s.routes()
	return s
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
		get(model+"/ready", s.modelReady)
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

func (s *server) ready() bool   { return s.state.Load() == stateReady }
func (s *server) loading() bool { return s.state.Load() == stateLoading }

func readyCode(ready bool) int {
	if ready {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// Run serves ln, which it closes, until ctx is done, and loads the models meanwhile; one that does not load ends it. When ctx is
// done it reports itself not ready, takes no more connections, and returns when the requests in flight are answered; those that
// are not after ShutdownTimeout are cut off, which is an error. Run is called once.
func (s *server) Run(ctx context.Context, ln net.Listener) error {
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
	served := make(chan error, 1)
	wg.Go(func() { served <- srv.Serve(ln) })
	loading, endLoading := context.WithCancel(ctx)
	loaded := make(chan error, 1)
	wg.Go(func() { loaded <- s.load(loading) })

	var ended error
	for running := true; running; {
		select {
		case err := <-served:
			ended, running = fmt.Errorf("serve on %s: %w", ln.Addr(), err), false
		case err := <-loaded:
			loaded = nil // never again
			ended, running = err, err == nil
		case <-ctx.Done():
			running = false
		}
	}
	endLoading()
	s.state.Store(stateStopping)
	s.opts.Logger.Info("stopping", "timeout", s.opts.ShutdownTimeout)

	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.ShutdownTimeout)
	defer cancel()
	unused.close()
	if err := srv.Shutdown(stopCtx); err != nil {
		// Runs that go on still use their sessions, which the end of the process frees.
		return errors.Join(ended, fmt.Errorf("requests in flight were cut off after %s: %w", s.opts.ShutdownTimeout, err), srv.Close())
	}
	wg.Wait()
	for _, m := range s.models {
		ended = errors.Join(ended, m.close())
	}
	s.opts.Logger.Info("stopped")
	return ended
}

// load loads the models, one after the other, and makes the server ready; one that is told to stop before that never becomes ready.
func (s *server) load(ctx context.Context) error {
	for _, m := range s.models {
		if ctx.Err() != nil {
			return nil
		}
		start := time.Now()
		leftOut, err := m.load(s.opts.Threads)
		if err != nil {
			return fmt.Errorf("model %q: %s: %w", m.name, m.file, err)
		}
		s.opts.Logger.Info("loaded", "model", m.name, "file", m.file, "seconds", time.Since(start).Seconds())
		if len(leftOut) > 0 {
			s.opts.Logger.Warn("outputs that are left out", "model", m.name, "outputs", strings.Join(leftOut, ", "))
		}
	}
	if s.state.CompareAndSwap(stateLoading, stateReady) {
		s.opts.Logger.Info("ready")
	}
	return nil
}

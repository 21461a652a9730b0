// Package tracing sends the spans of requests to an OpenTelemetry collector by OTLP, as the `tracing` section of the configuration
// has it, which is Prometheus's own.
//
// What makes spans asks [Tracing.Tracer] for each request, so that a reload changes it between two of them. A collector that is
// slow or away costs spans, which are counted, and never time: they wait in a bounded queue.
package tracing

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// Options are what a [Tracing] uses of its surroundings.
type Options struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Version    string // of the program
	Scope      string // the name of what makes the spans
}

// Tracing is the tracing of this process, without any until an [Update] says so.
type Tracing struct {
	opts    Options
	metrics *metrics
	tracer  atomic.Pointer[trace.Tracer] // nil without tracing

	ctx     context.Context // of exports
	giveUp  context.CancelFunc
	closing chan struct{}  // closed by Close
	all     sync.WaitGroup // of the pipelines

	mu      sync.Mutex // guards what follows
	closed  bool
	current *pipeline
}

// New returns one that records nothing. It is to be closed.
func New(o Options) *Tracing {
	t := &Tracing{opts: o, metrics: newMetrics(), closing: make(chan struct{})}
	t.ctx, t.giveUp = context.WithCancel(context.Background())
	return t
}

// Tracer makes spans; nil where there is no tracing.
func (t *Tracing) Tracer() trace.Tracer {
	if tracer := t.tracer.Load(); tracer != nil {
		return *tracer
	}
	return nil
}

// Update is a configuration that was checked and is not taken over yet.
type Update struct {
	tracing *Tracing
	same    bool
	next    *pipeline // nil for no tracing
}

// Prepare checks a configuration, nil for no tracing. It connects to nothing.
func (t *Tracing) Prepare(c *Config) (*Update, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case c == nil:
		return &Update{tracing: t, same: t.current == nil}, nil
	case t.current != nil && reflect.DeepEqual(t.current.config, *c) && c.TLSConfig == TLS{}: // else its files are read again
		return &Update{tracing: t, same: true}, nil
	}
	exporter, err := newExporter(c)
	if err != nil {
		return nil, err
	}
	next, err := t.newPipeline(c, exporter)
	if err != nil {
		exporter.close()
		return nil, err
	}
	return &Update{tracing: t, next: next}, nil
}

// Cancel gives the configuration up. It may be called on nil.
func (u *Update) Cancel() {
	if u != nil && u.next != nil {
		u.next.exporter.close()
	}
}

// Commit has requests from now on traced as the configuration says. What came before goes to where it would have gone: its spans are
// waited for, a while, and sent. It may be called on nil.
func (u *Update) Commit() {
	if u == nil || u.same {
		return
	}
	t := u.tracing
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		u.Cancel()
		return
	}
	if before := t.current; before != nil {
		before.retire()
	}
	if u.next != nil {
		t.metrics.register(t.opts.Registerer)
	}
	if t.current = u.next; u.next == nil {
		t.tracer.Store(nil)
		t.opts.Logger.Info("no tracing from now on")
		return
	}
	t.all.Go(u.next.run)
	t.tracer.Store(&u.next.tracer)
	t.opts.Logger.Info("tracing", "client_type", u.next.config.ClientType, "endpoint", u.next.config.Endpoint, "sampling_fraction", u.next.config.SamplingFraction)
}

// Run returns when ctx has ended and the spans that there are were sent, after 5 s at most.
func (t *Tracing) Run(ctx context.Context) error {
	<-ctx.Done()
	t.Close()
	return nil
}

// Close ends tracing: it sends the spans that there are, for 5 s at most. It may be called more than once.
func (t *Tracing) Close() {
	t.tracer.Store(nil)
	t.mu.Lock()
	if !t.closed {
		close(t.closing)
	}
	t.closed, t.current = true, nil
	t.mu.Unlock()
	defer time.AfterFunc(flushTime, t.giveUp).Stop()
	t.all.Wait()
	t.giveUp()
}

// metrics are what becomes of spans.
type metrics struct {
	exported prometheus.Counter
	dropped  *prometheus.CounterVec
	once     sync.Once // for register
}

// Reasons for which spans are dropped.
const (
	queueFull = "queue_full" // more came than were exported
	refused   = "export"     // the collector did not take them, or could not be reached
	ended     = "shutdown"   // they came too late, or the last ones could not be sent in time
)

func newMetrics() *metrics {
	m := &metrics{
		exported: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flyball_tracing_exported_spans_total", Help: "Spans that the collector has taken.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_tracing_dropped_spans_total",
			Help: "Spans that were lost: queue_full where more came than were exported, export where the collector did not take them, shutdown at the end of the process or after a reload.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{queueFull, refused, ended} {
		m.dropped.WithLabelValues(reason)
	}
	return m
}

// register shows them from the first tracing on.
func (m *metrics) register(r prometheus.Registerer) {
	m.once.Do(func() {
		if r != nil {
			r.MustRegister(m.exported, m.dropped)
		}
	})
}

const (
	// queued spans wait to be exported: those of 2,000 requests, about 10 MB, with which a pause of the collector of 100 ms is bridged at
	// 20,000 requests a second.
	maxQueued = 8192
	// maxExport is how many go in one export, and exportEvery how often there is one where there are fewer: OpenTelemetry's defaults.
	maxExport   = 512
	exportEvery = 5 * time.Second
	// exportTimeout is for one export with all attempts: OpenTelemetry's default.
	exportTimeout = 30 * time.Second
	// retireTime is how long the requests of a configuration that was replaced are waited for: that of most models' timeouts.
	retireTime = time.Minute
	// flushTime is how long the end of the process waits for the last spans: Prometheus's.
	flushTime = 5 * time.Second
	// complainEvery bounds the log of a collector that is away.
	complainEvery = time.Minute
)

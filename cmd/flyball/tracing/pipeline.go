package tracing

import (
	"context"
	"log/slog"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// pipeline is a configuration at work: a sdktrace.SpanProcessor with a bounded queue, and what makes its spans. OpenTelemetry's own
// processor does not say what it drops.
type pipeline struct {
	config   Config
	tracer   trace.Tracer
	exporter *exporter
	metrics  *metrics
	log      *slog.Logger
	ctx      context.Context // of exports; ends when they are to be given up
	closing  <-chan struct{} // closed when the process is to end

	queue   chan sdktrace.ReadOnlySpan
	open    atomic.Int64 // spans that have begun and not ended
	over    atomic.Bool  // nothing is taken any more
	retired chan struct{}
	once    sync.Once // closes retired

	lost       int       // spans, since the last complaint
	complained time.Time // zero while exports succeed
}

// maxLinks of a span: a batch has one for each of its requests that is recorded. OpenTelemetry's default is 128.
const maxLinks = 1024

func (t *Tracing) newPipeline(c *Config, e *exporter) (*pipeline, error) {
	res, err := resource.New(context.Background(),
		resource.WithSchemaURL(semconv.SchemaURL),
		resource.WithAttributes(semconv.ServiceName("flyball"), semconv.ServiceVersion(t.opts.Version)),
		resource.WithProcessRuntimeDescription(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, err
	}
	p := &pipeline{
		config: *c, exporter: e, metrics: t.metrics, log: t.opts.Logger, ctx: t.ctx, closing: t.closing,
		queue: make(chan sdktrace.ReadOnlySpan, maxQueued), retired: make(chan struct{}),
	}
	limits := sdktrace.NewSpanLimits()
	limits.LinkCountLimit = max(limits.LinkCountLimit, maxLinks)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(p), sdktrace.WithResource(res), sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithSampler(sampler{sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.SamplingFraction))}))
	p.tracer = provider.Tracer(t.opts.Scope, trace.WithInstrumentationVersion(t.opts.Version))
	return p, nil
}

// sampler is Prometheus's, and for the root span of a batch what its links say: it is recorded where a request of it is.
type sampler struct{ sdktrace.Sampler }

// ShouldSample implements sdktrace.Sampler.
func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Kind == trace.SpanKindServer || trace.SpanContextFromContext(p.ParentContext).IsValid() {
		return s.Sampler.ShouldSample(p)
	}
	for _, l := range p.Links {
		if l.SpanContext.IsSampled() {
			return sdktrace.AlwaysSample().ShouldSample(p)
		}
	}
	return sdktrace.NeverSample().ShouldSample(p)
}

// OnStart implements sdktrace.SpanProcessor.
func (p *pipeline) OnStart(context.Context, sdktrace.ReadWriteSpan) { p.open.Add(1) }

// OnEnd implements sdktrace.SpanProcessor. It never waits.
func (p *pipeline) OnEnd(s sdktrace.ReadOnlySpan) {
	defer p.open.Add(-1)
	if p.over.Load() {
		p.drop(ended, 1)
		return
	}
	select {
	case p.queue <- s:
	default:
		p.drop(queueFull, 1)
	}
}

// Shutdown implements sdktrace.SpanProcessor; what ends it is retire.
func (p *pipeline) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdktrace.SpanProcessor.
func (p *pipeline) ForceFlush(context.Context) error { return nil }

func (p *pipeline) drop(reason string, n int) {
	p.metrics.dropped.WithLabelValues(reason).Add(float64(n))
}

// retire has the pipeline end when the spans that have begun have ended.
func (p *pipeline) retire() { p.once.Do(func() { close(p.retired) }) }

// run exports until the pipeline is retired and its spans have ended, for a while, or the process is to end; and then what there is.
func (p *pipeline) run() {
	defer p.exporter.close()
	timer := time.NewTimer(exportEvery)
	defer timer.Stop()
	batch := make([]sdktrace.ReadOnlySpan, 0, maxExport)
	export := func() {
		p.export(batch)
		clear(batch)
		batch = batch[:0]
	}
	retired := p.retired
	var late <-chan time.Time
	for over := false; !over; {
		select {
		case s := <-p.queue:
			if batch = append(batch, s); len(batch) == maxExport {
				export()
				timer.Reset(exportEvery)
			}
		case <-timer.C:
			export()
			timer.Reset(exportEvery)
			over = retired == nil && p.open.Load() == 0
		case <-retired:
			retired = nil
			over = p.open.Load() == 0
			late = time.After(retireTime)
		case <-late:
			over = true
		case <-p.closing:
			over = true
		}
	}
	p.over.Store(true)
	for {
		select {
		case s := <-p.queue:
			if batch = append(batch, s); len(batch) == maxExport {
				export()
			}
		default:
			export()
			return
		}
	}
}

// export sends spans, or counts them as lost.
func (p *pipeline) export(spans []sdktrace.ReadOnlySpan) {
	if len(spans) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, exportTimeout)
	defer cancel()
	err := p.exporter.ExportSpans(ctx, spans)
	lost := 0
	if err != nil {
		lost = min(rejected(err, len(spans)), len(spans))
	}
	p.metrics.exported.Add(float64(len(spans) - lost))
	switch {
	case err == nil:
		if !p.complained.IsZero() {
			p.complained = time.Time{}
			p.log.Info("spans are exported again", "endpoint", p.config.Endpoint)
		}
		return
	case p.ctx.Err() != nil:
		p.drop(ended, lost)
	default:
		p.drop(refused, lost)
	}
	p.lost += lost
	if now := time.Now(); now.Sub(p.complained) >= complainEvery || p.ctx.Err() != nil {
		p.log.Warn("spans are lost: the collector does not take them", "endpoint", p.config.Endpoint, "spans", p.lost, "err", err)
		p.complained, p.lost = now, 0
	}
}

// partly is in the error of a collector that took a part, whose type OpenTelemetry keeps to itself.
var partly = regexp.MustCompile(`\((\d+) spans rejected\)`)

// rejected is how many of so many spans were not taken.
func rejected(err error, spans int) int {
	if found := partly.FindStringSubmatch(err.Error()); found != nil {
		if n, err := strconv.Atoi(found[1]); err == nil {
			return n
		}
	}
	return spans
}

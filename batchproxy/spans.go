package batchproxy

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// The spans that are below a request's own, whose name is its method and route.
const (
	queueSpan    = "queue"    // waits to be sent
	batchSpan    = "batch"    // from leaving the queue to the answer
	upstreamSpan = "upstream" // a call to a replica
)

// Attributes of the proxy's own. Those of generated text are OpenTelemetry's, which semconv no longer has.
const (
	modelKey       = attribute.Key("flyball.model")
	protocolKey    = attribute.Key("flyball.protocol")
	classKey       = attribute.Key("flyball.class")
	tenantKey      = attribute.Key("flyball.tenant")
	shedKey        = attribute.Key("flyball.shed.reason")
	chunksKey      = attribute.Key("flyball.chunks")
	batchIDKey     = attribute.Key("flyball.batch.id")
	batchSizeKey   = attribute.Key("flyball.batch.size") // rows
	batchReasonKey = attribute.Key("flyball.batch.reason")

	operationKey    = attribute.Key("gen_ai.operation.name")
	requestModelKey = attribute.Key("gen_ai.request.model")
	inputTokensKey  = attribute.Key("gen_ai.usage.input_tokens")
	outputTokensKey = attribute.Key("gen_ai.usage.output_tokens")
	finishKey       = attribute.Key("gen_ai.response.finish_reasons")
	firstChunkKey   = attribute.Key("gen_ai.response.time_to_first_chunk") // seconds
)

// Values of error.type that are not a status.
const (
	errorGone  = "client_gone"
	errorBroke = "answer_broke_off"
	errorCall  = "call_failed"
)

// spans are those of one request. It is nil where there is no tracing, and then costs nothing; where the request's trace is not
// recorded it says so to the replica, and nothing else. Its methods may be called on nil.
type spans struct {
	tracer   trace.Tracer
	span     trace.Span // of the request
	recorded bool
	named    string        // the model, as the body names it
	writer   *statusWriter // nil where nothing is recorded
	code     int           // that is counted, if served
	served   bool
}

type spansKey struct{}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(code int) {
	if code >= http.StatusOK && w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *statusWriter) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Hijack implements http.Hijacker: the answer, which is written to the connection itself, is that the protocol changes.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, both, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.code == 0 {
		w.code = http.StatusSwitchingProtocols
	}
	return conn, both, err
}

// Unwrap lets http.ResponseController find what else the writer can do.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// startSpans begins the span of a request, which continues the client's trace if it has one. From then on the request's
// traceparent is that span's: the replica, exemplars and the access log get it from there.
func startSpans(tracer trace.Tracer, w http.ResponseWriter, r *http.Request, start time.Time) (*spans, http.ResponseWriter, *http.Request) {
	method, route := knownMethod(r.Method), httpRoute(r.URL.Path)
	name := method
	if method == semconv.HTTPRequestMethodOther.Value.AsString() {
		name = "HTTP"
	}
	if route != "" {
		name += " " + route
	}
	ctx, span := tracer.Start(clientContext(r.Header), name, trace.WithTimestamp(start), trace.WithSpanKind(trace.SpanKindServer))
	s := &spans{tracer: tracer, span: span, recorded: span.IsRecording()}
	if span.SpanContext().IsValid() {
		inject(ctx, r.Header)
	}
	if s.recorded {
		s.writer = &statusWriter{ResponseWriter: w}
		w = s.writer
		span.SetAttributes(
			semconv.HTTPRequestMethodKey.String(method), semconv.URLPath(short(r.URL.Path)), semconv.URLScheme(scheme(r)),
			semconv.ClientAddress(address(r.RemoteAddr)), semconv.NetworkProtocolVersion(protocolVersion(r)),
		)
		if route != "" {
			span.SetAttributes(semconv.HTTPRoute(route))
		}
		if method != r.Method {
			span.SetAttributes(semconv.HTTPRequestMethodOriginal(short(r.Method)))
		}
		if agent := r.UserAgent(); agent != "" {
			span.SetAttributes(semconv.UserAgentOriginal(short(agent)))
		}
	}
	return s, w, r.WithContext(context.WithValue(r.Context(), spansKey{}, s))
}

// clientContext is the client's place in its trace, if it says one.
func clientContext(header http.Header) context.Context {
	ctx := context.Background()
	if len(header[traceHeader]) != 1 { // which of several is meant nobody knows
		return ctx
	}
	if lines := header[stateHeader]; len(lines) > 1 {
		header[stateHeader] = []string{strings.Join(lines, ",")}
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(header))
}

// inject makes the trace context of a request that of a span.
func inject(ctx context.Context, header http.Header) {
	delete(header, traceHeader)
	delete(header, stateHeader)
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(header))
}

// spansOf are the spans of a request.
func (p *Proxy) spansOf(r *http.Request) *spans {
	if p.tracer == nil {
		return nil
	}
	s, _ := r.Context().Value(spansKey{}).(*spans)
	return s
}

func (s *spans) recording() bool { return s != nil && s.recorded }

// context is that of a span of the request's children.
func (s *spans) context() context.Context { return trace.ContextWithSpan(context.Background(), s.span) }

// end ends the request's span.
func (s *spans) end() {
	if !s.recorded {
		s.span.End()
		return
	}
	code := s.writer.code
	if code != 0 {
		s.span.SetAttributes(semconv.HTTPResponseStatusCode(code))
	}
	switch {
	case s.served && s.code == clientGone:
		s.span.SetAttributes(semconv.ErrorTypeKey.String(errorGone))
	case s.served && s.code == 0, code == 0:
		failed(s.span, errorBroke, "the answer broke off")
	case code >= http.StatusInternalServerError:
		failed(s.span, strconv.Itoa(code), "")
	}
	s.span.End()
}

// failed says of a span that it went wrong.
func failed(span trace.Span, kind, message string) {
	span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	span.SetStatus(codes.Error, short(message))
}

// of says which model a request is for.
func (s *spans) of(m *model, protocol, class string, r *http.Request) {
	if !s.recording() {
		return
	}
	s.span.SetAttributes(modelKey.String(m.config.Name), protocolKey.String(protocol), classKey.String(class))
	if tenant := m.tenantOf(r); tenant != "" {
		s.span.SetAttributes(tenantKey.String(short(tenant)))
	}
}

// answered takes the status that is counted, 0 for an answer that broke off.
func (s *spans) answered(code int) {
	if s != nil {
		s.code, s.served = code, true
	}
}

// name takes the name of the model that the body has.
func (s *spans) name(model string) {
	if s.recording() {
		s.named = short(model)
	}
}

// refused says that a request was not taken for the load that there is.
func (s *spans) refused(reason string) {
	if s.recording() && reason != "" {
		s.span.SetAttributes(shedKey.String(reason))
	}
}

// chunked says that a request was sent in parts.
func (s *spans) chunked(n int) {
	if s.recording() && n > 0 {
		s.span.SetAttributes(chunksKey.Int(n))
	}
}

// waited records a wait that is over; refusal is why the request was not sent after it, if it was not.
func (s *spans) waited(from, to time.Time, refusal *answer) {
	if !s.recording() {
		return
	}
	_, span := s.tracer.Start(s.context(), queueSpan, trace.WithTimestamp(from))
	switch {
	case refusal == nil:
	case refusal.code == clientGone:
		span.SetAttributes(semconv.ErrorTypeKey.String(errorGone))
	default:
		failed(span, strconv.Itoa(refusal.code), refusal.message)
		s.refused(refusal.shed)
	}
	span.End(trace.WithTimestamp(to))
}

// ride is a request's way through the queue and to a replica. It is nil where there is no tracing.
type ride struct {
	*spans
	since   time.Time  // in the queue
	batched trace.Span // from leaving the queue to the answer; nil before, and where nothing is recorded
}

func (s *spans) ride() *ride {
	if s == nil {
		return nil
	}
	return &ride{spans: s}
}

func (r *request) spans() *spans {
	if r.ride == nil {
		return nil
	}
	return r.ride.spans
}

// leaves records that a request has left the queue in a batch, unless that is known.
func (r *request) leaves(b *batch) {
	t := r.ride
	if t.batched != nil {
		return
	}
	t.waited(t.since, r.sent, nil)
	_, t.batched = t.tracer.Start(t.context(), batchSpan, trace.WithTimestamp(r.sent), trace.WithAttributes(b.attributes()...))
	t.span.SetAttributes(b.attributes()...)
}

// attributes are those of a batch as it was when it left the queue.
func (b *batch) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{batchSizeKey.Int(b.rows), batchReasonKey.String(b.reason)}
}

// came ends the spans of a request that is not with a replica any more, or never was: with its answer, nil where its client has
// gone.
func (r *request) came(a *answer) {
	t := r.ride
	switch {
	case !r.spans().recording():
	case t.batched == nil && a == nil:
		t.waited(t.since, time.Now(), &answer{code: clientGone})
	case t.batched == nil:
		t.waited(t.since, time.Now(), a)
	default:
		if r.call != 0 {
			id := batchIDKey.String(batchID(r.call))
			t.batched.SetAttributes(id)
			t.span.SetAttributes(id)
		}
		switch {
		case a == nil:
			t.batched.SetAttributes(semconv.ErrorTypeKey.String(errorGone))
		case a.code >= http.StatusInternalServerError:
			failed(t.batched, strconv.Itoa(a.code), a.message)
		}
		t.batched.End()
	}
}

// back ends the span of a request's batch, which did not reach a replica: it waits in the queue again.
func (r *request) back(now time.Time, f *failure) {
	t := r.ride
	if t == nil {
		return
	}
	if t.since = now; t.batched != nil {
		failed(t.batched, errorCall, plainError(f.err))
		t.batched.End()
		t.batched = nil
	}
}

// callSpans are a call to a replica as its spans have it: one of its own and, where it is for several requests that are recorded, one in the
// trace of each. It is nil where there is no tracing.
type callSpans struct {
	ctx    context.Context // that of the span, from which the replica's trace goes on
	span   trace.Span      // nil where nothing is recorded
	copies []copied
	shared []attribute.KeyValue
	began  time.Time
}

// copied is where a call is shown in the trace of a request that shares it.
type copied struct {
	tracer trace.Tracer
	ctx    context.Context
}

// traceCall begins the spans of a call for these members of a batch.
//
// A call for one request that is recorded is in its trace, whoever rides along. One for several is in none of theirs: the batch has a
// trace of its own, with links to their spans, and they have links to it.
func (m *model) traceCall(b *batch, members []*request, number uint64, began time.Time) *callSpans {
	if m.proxy.tracer == nil {
		return nil
	}
	var first *spans // of the requests that came while there was tracing
	var recorded []*request
	for _, r := range members {
		s := r.spans()
		if first == nil {
			first = s
		}
		if s.recording() {
			recorded = append(recorded, r)
			r.leaves(b)
		}
	}
	switch {
	case first == nil:
		return nil
	case len(recorded) == 0 && len(members) == 1:
		return &callSpans{ctx: first.context()}
	case len(recorded) == 0: // a trace that is not recorded: the replica shall not record it either
		ctx, span := first.tracer.Start(context.Background(), batchSpan)
		span.End()
		return &callSpans{ctx: ctx}
	}
	c := &callSpans{began: began, shared: []attribute.KeyValue{
		batchIDKey.String(batchID(number)), batchSizeKey.Int(itemsOf(members)), semconv.ServerAddress(b.replica.url.Hostname()),
	}}
	if port, err := strconv.Atoi(b.replica.url.Port()); err == nil {
		c.shared = append(c.shared, semconv.ServerPort(port))
	}
	tracer, parent := recorded[0].ride.tracer, recorded[0].ride.batched
	if len(recorded) > 1 {
		if b.span == nil {
			b.span = m.traceBatch(b, recorded)
		}
		parent = b.span
		for _, r := range recorded {
			c.copies = append(c.copies, copied{r.ride.tracer, trace.ContextWithSpan(context.Background(), r.ride.batched)})
		}
	}
	r := members[0].incoming
	own := append([]attribute.KeyValue{
		semconv.HTTPRequestMethodPost, semconv.URLFull(b.replica.url.Scheme + "://" + b.replica.url.Host + b.replica.url.Path + short(r.URL.Path)), modelKey.String(m.config.Name),
	}, c.shared...)
	if b.attempt > 0 {
		own = append(own, semconv.HTTPRequestResendCount(b.attempt))
	}
	own = append(own, generated(r, recorded[0].ride.named)...)
	c.ctx, c.span = tracer.Start(trace.ContextWithSpan(context.Background(), parent), upstreamSpan,
		trace.WithTimestamp(began), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(own...))
	return c
}

// traceBatch begins the trace of a batch of several requests that are recorded.
func (m *model) traceBatch(b *batch, recorded []*request) trace.Span {
	links := make([]trace.Link, len(recorded))
	for i, r := range recorded {
		links[i].SpanContext = r.ride.span.SpanContext()
	}
	_, span := recorded[0].ride.tracer.Start(context.Background(), batchSpan, trace.WithTimestamp(recorded[0].sent),
		trace.WithLinks(links...), trace.WithAttributes(append(b.attributes(), modelKey.String(m.config.Name))...))
	for _, r := range recorded {
		r.ride.batched.AddLink(trace.Link{SpanContext: span.SpanContext()})
	}
	return span
}

// inject gives a request to a replica the place of its call in the trace.
func (c *callSpans) inject(header http.Header) {
	if c != nil {
		inject(c.ctx, header)
	}
}

// end ends the spans of a call.
func (c *callSpans) end(resp *response, err error) {
	if c == nil || c.span == nil {
		return
	}
	now := time.Now()
	result := func(span trace.Span) {
		if err != nil {
			failed(span, errorCall, plainError(err))
			return
		}
		answeredBy(span, resp.code)
	}
	for _, of := range c.copies {
		_, span := of.tracer.Start(of.ctx, upstreamSpan, trace.WithTimestamp(c.began), trace.WithAttributes(c.shared...),
			trace.WithLinks(trace.Link{SpanContext: c.span.SpanContext()}))
		result(span)
		span.End(trace.WithTimestamp(now))
	}
	result(c.span)
	c.span.End(trace.WithTimestamp(now))
}

// answeredBy takes the status that a replica answered a call with.
func answeredBy(span trace.Span, code int) {
	span.SetAttributes(semconv.HTTPResponseStatusCode(code))
	if code >= http.StatusBadRequest {
		failed(span, strconv.Itoa(code), "")
	}
}

// passes begins the span of a request that is passed on to a replica, and returns its context, from which the replica's trace goes on;
// nil where nothing is recorded.
func (s *spans) passes(ctx context.Context, m *model, to *replica, r *http.Request, began time.Time) (context.Context, trace.Span) {
	if !s.recording() {
		return ctx, nil
	}
	attributes := append([]attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(knownMethod(r.Method)), semconv.URLFull(to.url.Scheme + "://" + to.url.Host + to.url.Path + short(r.URL.Path)),
		semconv.ServerAddress(to.url.Hostname()), modelKey.String(m.config.Name),
	}, generated(r, s.named)...)
	if port, err := strconv.Atoi(to.url.Port()); err == nil {
		attributes = append(attributes, semconv.ServerPort(port))
	}
	return s.tracer.Start(trace.ContextWithSpan(ctx, s.span), upstreamSpan, trace.WithTimestamp(began), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
}

// passed ends the span of a request that was passed on.
func passed(span trace.Span, rec *recorder, gone bool) {
	switch {
	case rec.err != nil && !gone:
		failed(span, errorCall, plainError(rec.err))
	case gone:
		span.SetAttributes(semconv.ErrorTypeKey.String(errorGone))
	default:
		answeredBy(span, rec.code)
		if !rec.whole {
			failed(span, errorBroke, "the answer broke off")
		}
	}
	if t := rec.meter; t != nil {
		if t.usage.prompt >= 0 {
			span.SetAttributes(inputTokensKey.Int64(t.usage.prompt))
		}
		if t.usage.completion >= 0 {
			span.SetAttributes(outputTokensKey.Int64(t.usage.completion))
		}
		if t.finish != "" {
			span.SetAttributes(finishKey.StringSlice([]string{t.finish}))
		}
		if t.first > 0 {
			span.SetAttributes(firstChunkKey.Float64(t.first.Seconds()))
		}
	}
	span.End()
}

// generated are the attributes of a call to a language model.
func generated(r *http.Request, model string) []attribute.KeyValue {
	operation := ""
	switch path := r.URL.Path; {
	case r.Method != http.MethodPost:
	case strings.HasSuffix(path, "/chat/completions"), strings.HasSuffix(path, "/v1/responses"):
		operation = "chat"
	case strings.HasSuffix(path, "/v1/embeddings"):
		operation = "embeddings"
	case generates(r):
		operation = "text_completion"
	}
	if operation == "" {
		return nil
	}
	out := []attribute.KeyValue{operationKey.String(operation)}
	if model != "" {
		out = append(out, requestModelKey.String(model))
	}
	return out
}

// knownMethod is a method of HTTP, or _OTHER, so that clients cannot make names.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodConnect:
		return method
	}
	return semconv.HTTPRequestMethodOther.Value.AsString()
}

// httpRoute is a path without what is different in each: one of few, empty for none that the proxy has.
func httpRoute(path string) string {
	if _, ok := parseRoute(path); !ok {
		return ""
	}
	for _, prefix := range []string{"/v1/models/", "/v2/models/", "/predictions/"} {
		rest, ok := strings.CutPrefix(path, prefix)
		if !ok {
			continue
		}
		route := prefix + "{model}"
		_, tail := cutName(rest)
		if version, ok := strings.CutPrefix(tail, "/versions/"); ok {
			_, tail = cutName(version)
			route += "/versions/{version}"
		}
		switch tail {
		case "", ":predict", ":classify", ":regress", ":explain", "/infer", "/ready", "/config", "/stats", "/metadata", "/generate", "/generate_stream":
			return route + tail
		}
		return route + "/*"
	}
	switch path {
	case "/v1/embeddings", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/v1/rerank", "/v1/score", "/v1/moderations",
		"/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech", "/v1/images/generations", "/generate", "/generate_stream":
		return path
	}
	return "/v1/*"
}

// address is a client's address without its port.
func address(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// protocolVersion is HTTP's, such as 1.1 and 2.
func protocolVersion(r *http.Request) string {
	if r.ProtoMajor >= 2 {
		return strconv.Itoa(r.ProtoMajor)
	}
	return strconv.Itoa(r.ProtoMajor) + "." + strconv.Itoa(r.ProtoMinor)
}

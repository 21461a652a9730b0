package tracing

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// collector is a receiver of OTLP, as a collector is: over HTTP, and over gRPC where it is registered there.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer
	t *testing.T

	mu       sync.Mutex
	spans    []*tracepb.Span
	resource map[string]string
	scopes   map[string]bool
	headers  []http.Header
	answer   func(w http.ResponseWriter) bool // in place of taking what was sent, if it returns true
}

func newCollector(t *testing.T) (*collector, *httptest.Server) {
	c := &collector{t: t, resource: map[string]string{}, scopes: map[string]bool{}}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	return c, s
}

// Export implements the OTLP service over gRPC.
func (c *collector) Export(_ context.Context, r *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	c.take(r)
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

func (c *collector) serveGRPC() (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	s := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(s, c)
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	c.t.Cleanup(func() {
		s.Stop()
		served.Wait()
	})
	return l.Addr().String()
}

// ServeHTTP implements OTLP over HTTP.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		zipped, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = zipped
	}
	text, err := io.ReadAll(body)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		c.t.Errorf("%s %s %v: %v", r.Method, r.URL, r.Header, err)
	}
	c.mu.Lock()
	c.headers = append(c.headers, r.Header)
	answer := c.answer
	c.mu.Unlock()
	if answer != nil && answer(w) {
		return
	}
	request := &coltracepb.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(text, request); err != nil {
		c.t.Errorf("not OTLP: %v", err)
	}
	c.take(request)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *collector) take(r *coltracepb.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range r.ResourceSpans {
		for _, a := range of.Resource.Attributes {
			c.resource[a.Key] = valueOf(a.Value)
		}
		for _, s := range of.ScopeSpans {
			c.scopes[s.Scope.Name+" "+s.Scope.Version] = true
			c.spans = append(c.spans, s.Spans...)
		}
	}
}

func (c *collector) got() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

func valueOf(v *commonpb.AnyValue) string {
	switch v := v.Value.(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *commonpb.AnyValue_DoubleValue:
		return "~" // a time
	case *commonpb.AnyValue_ArrayValue:
		var all []string
		for _, one := range v.ArrayValue.Values {
			all = append(all, valueOf(one))
		}
		return strings.Join(all, ",")
	}
	return v.String()
}

func attributes(s *tracepb.Span) map[string]string {
	out := map[string]string{}
	for _, a := range s.Attributes {
		out[a.Key] = valueOf(a.Value)
	}
	return out
}

// remote stands for the span of a client or of a model server, which are no part of what is exported.
type remote struct{ trace, span string }

// parent is a traceparent.
func (r remote) parent(sampled bool) string {
	if sampled {
		return "00-" + r.trace + "-" + r.span + "-01"
	}
	return "00-" + r.trace + "-" + r.span + "-00"
}

func client(n int) remote {
	return remote{strings.Repeat(fmt.Sprintf("a%d", n), 16), strings.Repeat(fmt.Sprintf("c%d", n), 8)}
}

// shown are the attributes that tell a span in a tree; all others are compared where they matter.
var shown = []string{
	"flyball.batch.size", "flyball.batch.reason", "flyball.chunks", "flyball.shed.reason", "http.response.status_code",
	"http.request.resend_count", "error.type", "gen_ai.operation.name", "gen_ai.request.model", "gen_ai.usage.input_tokens",
	"gen_ai.usage.output_tokens", "gen_ai.response.finish_reasons", "gen_ai.response.time_to_first_chunk",
}

// tree writes spans as a tree, in the order of their beginnings, with the remote spans that they go on from and that go on from them:
// the calls that model servers got. It checks that times nest.
func tree(t *testing.T, spans []*tracepb.Span, clients []remote, calls []string) string {
	t.Helper()
	byID := map[string]*tracepb.Span{}
	names := map[string]string{}
	for i, c := range clients {
		names[c.span] = fmt.Sprintf("client %d", i)
	}
	// Those that begin first come first; of requests that are alike, the first client's.
	rank := func(s *tracepb.Span) string {
		name := names[hex.EncodeToString(s.ParentSpanId)]
		if name == "" {
			name = "~"
		}
		return name + s.Name
	}
	slices.SortStableFunc(spans, func(a, b *tracepb.Span) int {
		if a.Name == b.Name && strings.HasPrefix(rank(a), "client") {
			return strings.Compare(rank(a), rank(b))
		}
		return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano))
	})
	for _, s := range spans {
		id := hex.EncodeToString(s.SpanId)
		byID[id] = s
	}
	children := map[string][]*tracepb.Span{}
	var roots []*tracepb.Span
	for _, s := range spans {
		parent := hex.EncodeToString(s.ParentSpanId)
		p := byID[parent]
		if p == nil {
			roots = append(roots, s)
			continue
		}
		children[parent] = append(children[parent], s)
		if string(p.TraceId) != string(s.TraceId) {
			t.Errorf("%s is in another trace than its parent %s", s.Name, p.Name)
		}
		if s.StartTimeUnixNano < p.StartTimeUnixNano || s.EndTimeUnixNano > p.EndTimeUnixNano || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s (%d to %d) is not within %s (%d to %d)", s.Name, s.StartTimeUnixNano, s.EndTimeUnixNano, p.Name, p.StartTimeUnixNano, p.EndTimeUnixNano)
		}
	}
	order := []string{"queue", "batch", "upstream"} // else that of time: chunks are not in step
	for _, of := range children {
		slices.SortStableFunc(of, func(a, b *tracepb.Span) int {
			return slices.Index(order, a.Name) - slices.Index(order, b.Name)
		})
	}
	slices.SortStableFunc(roots, func(a, b *tracepb.Span) int { return strings.Compare(rank(a), rank(b)) })
	rootOf := map[string]string{} // by trace
	for i, r := range roots {
		rootOf[hex.EncodeToString(r.TraceId)] = fmt.Sprintf("trace %d", i)
	}
	var b strings.Builder
	var write func(s *tracepb.Span, indent string)
	write = func(s *tracepb.Span, indent string) {
		id := hex.EncodeToString(s.SpanId)
		fmt.Fprintf(&b, "%s%s %s", indent, s.Name, strings.ToLower(strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_")))
		if name := names[hex.EncodeToString(s.ParentSpanId)]; name != "" {
			fmt.Fprintf(&b, " of %s", name)
		}
		has := attributes(s)
		for _, key := range shown {
			if v, ok := has[key]; ok {
				fmt.Fprintf(&b, " %s=%s", strings.TrimPrefix(strings.TrimPrefix(key, "flyball."), "http."), v)
			}
		}
		if s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
			fmt.Fprintf(&b, " error %q", s.Status.Message)
		}
		for _, l := range s.Links {
			to := "nothing"
			if other := byID[hex.EncodeToString(l.SpanId)]; other != nil && string(other.TraceId) == string(l.TraceId) {
				to = other.Name
			}
			fmt.Fprintf(&b, " -> %s of %s", to, rootOf[hex.EncodeToString(l.TraceId)])
		}
		for _, c := range calls {
			if c == fmt.Sprintf("00-%x-%s-01", s.TraceId, id) {
				b.WriteString(" (the replica's)")
			}
		}
		b.WriteString("\n")
		for _, c := range children[id] {
			write(c, indent+"  ")
		}
	}
	for i, r := range roots {
		fmt.Fprintf(&b, "trace %d\n", i)
		write(r, "  ")
	}
	return b.String()
}

// lines is a log's writer.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// eventually waits for something that happens in another goroutine.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

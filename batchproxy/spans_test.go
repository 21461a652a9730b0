package batchproxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// notes is a tracer that records what is said of the requests' own spans, as strings, and of the calls to replicas.
type notes struct {
	noop.Tracer
	mu    sync.Mutex
	all   map[string]string
	calls map[string]string
	over  chan struct{} // is sent one for each span of a request that ends
}

type noted struct {
	noop.Span
	to   *notes
	kind trace.SpanKind
}

func (n *notes) Start(ctx context.Context, _ string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	c := trace.NewSpanStartConfig(opts...)
	span := noted{to: n, kind: c.SpanKind()}
	if span.kind != trace.SpanKindServer && span.kind != trace.SpanKindClient {
		return n.Tracer.Start(ctx, "")
	}
	return trace.ContextWithSpan(ctx, span), span
}

func (noted) IsRecording() bool { return true }

func (s noted) SetAttributes(all ...attribute.KeyValue) {
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	to := s.to.all
	if s.kind == trace.SpanKindClient {
		to = s.to.calls
	}
	for _, a := range all {
		to[string(a.Key)] = a.Value.Emit()
	}
}

func (s noted) SetStatus(code codes.Code, message string) {
	s.SetAttributes(attribute.String("status", code.String()+" "+message))
}

func (s noted) End(...trace.SpanEndOption) {
	if s.kind == trace.SpanKindServer {
		s.to.over <- struct{}{}
	}
}

// A connection that becomes a WebSocket is no answer that broke off.
func TestSpanOfWebSocket(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", r.Header.Get("Upgrade"))
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("tunnel"))
	}))
	defer upstream.Close()
	n := &notes{all: make(map[string]string), calls: make(map[string]string), over: make(chan struct{}, 1)}
	cfg := oneModel(Upstream{URL: upstream.URL})
	cfg.Drain.Delay = 0
	f := start(t, cfg, Options{Tracer: func() trace.Tracer { return n }})
	exchangeHalf(t, f.url, "GET /v1/realtime HTTP/1.1\r\nHost: m\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	<-n.over
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, all := range []map[string]string{n.all, n.calls} {
		if all["status"] != "" || all["error.type"] != "" || all["http.response.status_code"] != "101" {
			t.Errorf("%v", all)
		}
	}
}

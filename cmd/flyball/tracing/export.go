package tracing

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/credentials"
)

// exporter sends spans to a collector.
type exporter struct {
	sdktrace.SpanExporter
	transport *http.Transport // nil for gRPC
}

// defaultTimeout is for one attempt: OpenTelemetry's default.
const defaultTimeout = 10 * time.Second

// newExporter returns an exporter, which connects when it has something to send.
func newExporter(c *Config) (*exporter, error) {
	e := new(exporter)
	client := e.grpc
	if c.ClientType == clientHTTP {
		client = e.http
	}
	of, err := client(c)
	if err != nil {
		return nil, err
	}
	e.SpanExporter, err = otlptrace.New(context.Background(), of)
	return e, err
}

func (e *exporter) http(c *Config) (otlptrace.Client, error) {
	// A client of our own, so that its connections can be closed.
	e.transport = &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 5 * time.Second, ForceAttemptHTTP2: true,
		MaxIdleConns: 2, IdleConnTimeout: 90 * time.Second,
	}
	options := []otlptracehttp.Option{otlptracehttp.WithEndpoint(c.Endpoint), otlptracehttp.WithHeaders(c.headers())}
	if c.Insecure {
		options = append(options, otlptracehttp.WithInsecure())
	} else {
		t, err := c.tls()
		if err != nil {
			return nil, err
		}
		e.transport.TLSClientConfig = t
	}
	if c.Compression == gzipped {
		options = append(options, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	}
	timeout := time.Duration(c.Timeout)
	if timeout == 0 {
		timeout = defaultTimeout
	}
	return otlptracehttp.NewClient(append(options, otlptracehttp.WithHTTPClient(&http.Client{Transport: e.transport, Timeout: timeout}))...), nil
}

func (e *exporter) grpc(c *Config) (otlptrace.Client, error) {
	options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(c.Endpoint), otlptracegrpc.WithHeaders(c.headers())}
	if c.Insecure {
		options = append(options, otlptracegrpc.WithInsecure())
	} else {
		t, err := c.tls()
		if err != nil {
			return nil, err
		}
		options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(t)))
	}
	if c.Compression != "" {
		options = append(options, otlptracegrpc.WithCompressor(c.Compression))
	}
	if c.Timeout != 0 {
		options = append(options, otlptracegrpc.WithTimeout(time.Duration(c.Timeout)))
	}
	return otlptracegrpc.NewClient(options...), nil
}

// close closes the connections. Nothing is exported after it.
func (e *exporter) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = e.Shutdown(ctx) // spans that are lost with it are counted
	if e.transport != nil {
		e.transport.CloseIdleConnections()
	}
}

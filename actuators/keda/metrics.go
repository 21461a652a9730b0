package keda

import (
	"context"
	"path"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	pb "flyball/actuators/keda/externalscaler"
)

// metrics count what clients ask for.
type metrics struct {
	requests *prometheus.CounterVec
	streams  *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_keda_requests_total",
			Help: "Requests to the external scaler that were answered and streams that ended, by method and gRPC status code.",
		}, []string{"method", "code"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flyball_keda_streams",
			Help: "Streams of the external scaler that are open.",
		}, []string{"method"}),
	}
	for _, method := range pb.ExternalScaler_ServiceDesc.Methods {
		m.requests.WithLabelValues(method.MethodName, "OK")
		m.requests.WithLabelValues(method.MethodName, "Unavailable")
	}
	for _, stream := range pb.ExternalScaler_ServiceDesc.Streams {
		m.streams.WithLabelValues(stream.StreamName)
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.streams)
	}
	return m
}

// count counts an answer by its error, and returns that.
func (m *metrics) count(method string, err error) error {
	m.requests.WithLabelValues(path.Base(method), status.Code(err).String()).Inc()
	return err
}

func (m *metrics) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	response, err := handler(ctx, request)
	return response, m.count(info.FullMethod, err)
}

func (m *metrics) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	open := m.streams.WithLabelValues(path.Base(info.FullMethod))
	open.Inc()
	defer open.Dec()
	return m.count(info.FullMethod, handler(srv, stream))
}

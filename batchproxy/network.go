package batchproxy

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The time of a request that no replica says it took is its network's. Of that there is:
//
//   - connect: a new connection to a replica, with the look-up of its name and without TLS. Requests that find one kept have none.
//   - response: from when all of a request was written to the first byte of its answer, less what the answer's headers say that the
//     replica itself took. Most replicas do not say it; of those there is no such time, nor of what http.Transport sends (wire.takes).
//
// How long a request is on its way alone nobody can see: once written it is with the kernel.
const (
	phaseConnect  = "connect"
	phaseResponse = "response"
)

// networkBuckets begin where a connection within one machine or rack does.
var networkBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// network are the series of the network between the proxy and the replicas of a model. A nil one takes none.
type network struct {
	connect  prometheus.Observer
	response func() prometheus.Observer // there from the first answer that says how long it took
}

func (n *network) connected(took time.Duration) {
	if n != nil {
		n.connect.Observe(took.Seconds())
	}
}

// answered takes the headers of an answer that came just now. One that says that it took longer than it did is not believed.
func (n *network) answered(written time.Time, header http.Header) {
	if n == nil {
		return
	}
	served, ok := servedIn(header)
	if !ok {
		return
	}
	if beside := time.Since(written) - served; beside >= 0 {
		n.response().Observe(beside.Seconds())
	}
}

// servedHeader is what Envoy, and what stands behind it, says the time was in: whole milliseconds.
const servedHeader = "X-Envoy-Upstream-Service-Time"

// servedIn is how long the headers of an answer say that it took the server: total of Server-Timing, or Envoy's header.
func servedIn(header http.Header) (time.Duration, bool) {
	for _, line := range header[timingHeader] {
		for metric := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(metric, ";")
			if strings.TrimSpace(name) != "total" {
				continue
			}
			for parameter := range strings.SplitSeq(parameters, ";") {
				key, value, _ := strings.Cut(parameter, "=")
				if strings.EqualFold(strings.TrimSpace(key), "dur") {
					return parseMilliseconds(strings.Trim(strings.TrimSpace(value), `"`))
				}
			}
		}
	}
	if values := header[servedHeader]; len(values) == 1 {
		return parseMilliseconds(values[0])
	}
	return 0, false
}

func parseMilliseconds(text string) (time.Duration, bool) {
	ms, err := strconv.ParseFloat(text, 64)
	if err != nil || !(ms >= 0 && ms < 1e9) {
		return 0, false
	}
	return time.Duration(ms * float64(time.Millisecond)), true
}

// toReplicas is the proxy's transport, which takes the time that the requests of one model are in the network.
type toReplicas struct{ m *model }

// RoundTrip implements http.RoundTripper.
func (t toReplicas) RoundTrip(r *http.Request) (*http.Response, error) {
	if w, ok := t.m.proxy.transport.(*wire); ok {
		return w.roundTrip(r, t.m.network)
	}
	return t.m.proxy.transport.RoundTrip(r)
}

// forNetwork is the key of the *network that a connection which http.Transport opens for a request is counted for.
type forNetwork struct{}

// dialContext opens a connection for http.Transport, and counts it.
func (w *wire) dialContext(ctx context.Context, protocol, address string) (net.Conn, error) {
	n, _ := ctx.Value(forNetwork{}).(*network)
	return w.count(ctx, protocol, address, n)
}

// count opens a connection, and takes how long that needed.
func (w *wire) count(ctx context.Context, protocol, address string, n *network) (net.Conn, error) {
	began := time.Now()
	conn, err := w.open(ctx, protocol, address)
	if err == nil {
		n.connected(time.Since(began))
	}
	return conn, err
}

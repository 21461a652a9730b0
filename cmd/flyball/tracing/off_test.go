//go:build !race

package tracing

import (
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"flyball/batchproxy"
)

// TestOffCostsNothing: tracing that is off allocates nothing. The race detector empties pools by chance, so that nothing can be counted under it.
func TestOffCostsNothing(t *testing.T) {
	of := tracings(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pools
	for _, path := range []string{predict, "/v2/models/m/generate"} {
		allocations := func(tracer func() trace.Tracer) float64 {
			p := echoProxy(t, batchproxy.ModeGreedy, tracer)
			fewest := 1e9
			for range 10 { // what the runtime does beside it is not the proxy's
				fewest = min(fewest, testing.AllocsPerRun(20, func() {
					p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"instances":[1]}`)))
				}))
			}
			return fewest
		}
		none, off, recorded := allocations(of["none"]), allocations(of["off"]), allocations(of["recorded"])
		if off != none || recorded <= none {
			t.Errorf("%s: %v allocations without tracing, %v with tracing that is off, %v with one that records", path, none, off, recorded)
		}
	}
}

package exporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/promhttp/zstd" // has promhttp offer zstd
	dto "github.com/prometheus/client_model/go"
)

// HandlerOptions are the settings of a handler of /metrics.
type HandlerOptions struct {
	// Process has this process's own metrics, which every page has. The handler adds how it fares itself
	// (promhttp_metric_handler_errors_total).
	Process *prometheus.Registry
	// Exporter returns the exporter of the present configuration, nil where there is none; nil itself for never.
	Exporter func() *Exporter
	// MaxRequests is how many scrapes are answered at the same time; one more has 503. 0 is without a limit.
	MaxRequests int
	// TimeoutOffset is how long before the scraper gives up the page is answered: what the way back and a busy machine take.
	TimeoutOffset time.Duration
}

// DefaultTimeoutOffset is half a second, as other exporters have it.
const DefaultTimeoutOffset = 500 * time.Millisecond

// DefaultMaxRequests is how many scrapes node_exporter answers at the same time.
const DefaultMaxRequests = 40

// timeoutHeader is what Prometheus says in it how long it will wait.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// maxScrapeTimeout is what no scraper means: a header above it is a mistake, and taken for none.
const maxScrapeTimeout = 24 * time.Hour

// NewHandler returns the handler of /metrics: text, OpenMetrics or protobuf (which alone has native histograms), as the
// Accept header asks, plain or compressed by gzip or zstd. These parameters of the URL may be repeated:
//
//	collect[]=NAME   run these collectors alone
//	exclude[]=NAME   run all but these
//	name[]=NAME      answer with these families alone
//
// As node_exporter has it, collect[] and exclude[] exclude each other, and this process's own metrics are there either
// way. A name that no collector has, or that of one that is switched off after collect[], is answered with 400 and the
// names that there are. The page is there before the scraper gives up (X-Prometheus-Scrape-Timeout-Seconds, less
// TimeoutOffset), with status 200: a collector that is not done by then is left out and has flyball_collector_success 0.
func NewHandler(o HandlerOptions) http.Handler {
	writers := newGzips()
	if o.Exporter == nil {
		o.Exporter = func() *Exporter { return nil }
	}
	return LimitRequests(o.Process, "/metrics", o.MaxRequests, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := o.Exporter()
		var running []string
		if e != nil {
			running = e.names()
		}
		query := r.URL.Query()
		chosen, err := choose(running, query["collect[]"], query["exclude[]"])
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		// A scraper that goes away is no reason to call a collector late.
		ctx := context.WithoutCancel(r.Context())
		if timeout := scrapeTimeout(r.Header.Get(timeoutHeader), o.TimeoutOffset); timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		gatherer := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			families, err := o.Process.Gather()
			if e != nil {
				families = append(families, e.Gather(ctx, Request{Collectors: chosen, Beside: families})...)
				slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
			}
			return families, err
		})
		opts := promhttp.HandlerOpts{
			ErrorHandling:     promhttp.ContinueOnError, // one bad collector must not take the rest away
			EnableOpenMetrics: true,
			Registry:          o.Process,
		}
		if wantsGzip(r.Header.Values("Accept-Encoding")) {
			z := &gzipped{ResponseWriter: w, writers: writers}
			defer z.close()
			w.Header().Add("Vary", "Accept-Encoding")
			w, opts.DisableCompression = z, true
		}
		promhttp.HandlerFor(gatherer, opts).ServeHTTP(w, r)
	}))
}

// LimitRequests has a handler answer at most so many requests at the same time, 0 for any number. One more has 503, and is counted in
// registry by the path: flyball_web_requests_refused_total. A registry may be that of several paths.
func LimitRequests(registry prometheus.Registerer, path string, most int, next http.Handler) http.Handler {
	if most <= 0 {
		return next
	}
	all := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flyball_web_requests_refused_total",
		Help: "Requests that were answered with status 503, because as many as --web.max-requests allows were being answered.",
	}, []string{"path"})
	if taken, ok := errors.AsType[prometheus.AlreadyRegisteredError](registry.Register(all)); ok {
		if known, ok := taken.ExistingCollector.(*prometheus.CounterVec); ok {
			all = known
		}
	}
	refused := all.WithLabelValues(path)
	sem := make(chan struct{}, most)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case sem <- struct{}{}:
			defer func() { <-sem }()
			next.ServeHTTP(w, r)
		default:
			refused.Inc()
			http.Error(w, fmt.Sprintf("%d requests for %s are being answered already, as many as --web.max-requests allows: try again later", most, path), http.StatusServiceUnavailable)
		}
	})
}

// choose returns the collectors to run, of those that do; nil for all.
func choose(running, collect, exclude []string) ([]string, error) {
	switch {
	case len(collect) == 0 && len(exclude) == 0:
		return nil, nil
	case len(collect) > 0 && len(exclude) > 0:
		return nil, errors.New("collect[] and exclude[] cannot both be given: name what to run, or what not to")
	}
	known := CollectorNames()
	for _, name := range running {
		if !slices.Contains(known, name) {
			known = append(known, name)
		}
	}
	for _, name := range slices.Concat(collect, exclude) {
		switch {
		case slices.Contains(running, name):
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("no collector is named %q: there are %s", name, strings.Join(known, ", "))
		case len(collect) > 0:
			return nil, fmt.Errorf("the collector %s is switched off here: %s", name, cmp.Or(strings.Join(running, ", "), "none")+" can be asked for")
		}
	}
	chosen := slices.Clone(collect)
	if len(collect) == 0 {
		chosen = slices.DeleteFunc(slices.Clone(running), func(name string) bool { return slices.Contains(exclude, name) })
	}
	if chosen == nil {
		chosen = []string{} // none, where nil is all
	}
	return chosen, nil
}

// scrapeTimeout is how long a scraper that sends this header may be kept waiting; 0 for as long as it takes. A timeout
// that is short against the offset is halved.
func scrapeTimeout(header string, offset time.Duration) time.Duration {
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil || math.IsNaN(seconds) || seconds <= 0 || seconds > maxScrapeTimeout.Seconds() {
		return 0
	}
	timeout := time.Duration(seconds * float64(time.Second))
	return timeout - min(offset, timeout/2)
}

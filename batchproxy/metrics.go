package batchproxy

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the proxy's series. Vectors that are registered already, by the proxy of an earlier configuration, are
// taken over, so that counters go on across a reload.
type metrics struct {
	arrivals      *prometheus.CounterVec
	requests      *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	queueDuration *prometheus.HistogramVec
	running       *prometheus.GaugeVec
	waiting       *prometheus.GaugeVec
	batchSize     *prometheus.HistogramVec
	batches       *prometheus.CounterVec
	upstream      *prometheus.HistogramVec
	retries       *prometheus.CounterVec
	bisects       *prometheus.CounterVec
	cancelled     *prometheus.CounterVec
	shed          *prometheus.CounterVec
	ready         *prometheus.GaugeVec
	intercept     *prometheus.GaugeVec
	slope         *prometheus.GaugeVec
	gain          *prometheus.GaugeVec
	effective     *prometheus.GaugeVec
	depth         *prometheus.GaugeVec
	changes       *prometheus.CounterVec
	firstToken    *prometheus.HistogramVec
	interToken    *prometheus.HistogramVec
	tokens        *prometheus.CounterVec
	generations   *prometheus.CounterVec
	undone        prometheus.Counter // lines of the access log
	healthy       *prometheus.GaugeVec
	limit         *prometheus.GaugeVec
	ejections     *prometheus.CounterVec
	poisoned      *prometheus.CounterVec
	solo          *prometheus.GaugeVec
	longest       *maxVec
	network       *prometheus.HistogramVec
	binary        *prometheus.CounterVec
	binaryRefused *prometheus.CounterVec
}

// From a small model's answer out of a full batch to a large one's under load, and 1 ms steps are left to the native
// histogram that stands beside the buckets.
var durationBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// As vLLM has them for the same two, with finer steps where tokens come fast: what the engine says and what clients see can be
// laid side by side.
var (
	firstTokenBuckets = []float64{.005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
	interTokenBuckets = []float64{.0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5}
)

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	var faults []error
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(registerer, &faults, prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "flyball", Subsystem: "batchproxy", Name: name, Help: help,
		}, labels))
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return register(registerer, &faults, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "flyball", Subsystem: "batchproxy", Name: name, Help: help,
		}, labels))
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return register(registerer, &faults, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "flyball", Subsystem: "batchproxy", Name: name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
		}, labels))
	}
	m := &metrics{
		arrivals:      counter("arrivals_total", "Requests that clients sent, counted as they came, refused ones too: the demand.", "model", "protocol", "class"),
		requests:      counter("requests_total", "Requests that were answered, by HTTP status; 499 where the client went first, error where a replica's answer broke off.", "model", "protocol", "code", "class"),
		duration:      histogram("request_duration_seconds", "From a request's arrival to its answer.", durationBuckets, "model", "protocol", "class"),
		queueDuration: histogram("queue_duration_seconds", "How long requests waited to be sent in a batch.", durationBuckets, "model", "protocol", "class"),
		running:       gauge("requests_running", "Requests that are with a replica.", "model", "protocol", "class"),
		waiting:       gauge("requests_waiting", "Requests that wait to be sent.", "model", "protocol", "class"),
		batchSize:     histogram("batch_size", "Rows in a batch.", prometheus.ExponentialBuckets(1, 2, 9), "model", "protocol"),
		batches:       counter("batches_total", "Batches by why they were sent.", "model", "reason"),
		upstream:      histogram("upstream_duration_seconds", "How long replicas took for a batch.", durationBuckets, "model"),
		retries:       counter("retries_total", "Batches that were sent again after a replica did not answer them.", "model"),
		bisects:       counter("bisect_total", "Batches that were cut in two to find the request that a replica refused.", "model"),
		cancelled:     counter("cancelled_total", "Requests whose client went before the answer.", "model", "stage"),
		shed:          counter("shed_total", "Requests that were refused because of load or shutdown.", "model", "reason"),
		ready:         gauge("replicas_ready", "Replicas that can be sent to.", "model"),
		intercept:     gauge("service_time_intercept_seconds", "The part of the fitted time of a batch that its size does not change; batching saves it.", "model"),
		slope:         gauge("service_time_slope_seconds", "The part of the fitted time of a batch that each row adds.", "model"),
		gain:          gauge("batch_gain_ratio", "How many times as many rows a second a replica does in batches of max_size as one by one, by the fitted times.", "model"),
		effective:     gauge("effective_max_batch", "Rows that a batch may have now: max_size, or less where that was learned to be better.", "model"),
		depth:         gauge("batches_at_once", "Batches that a replica is given at once, as it is set or was learned.", "model"),
		changes:       counter("parameter_changes_total", "Parameters of batching that were set anew by what was learned.", "model", "parameter"),

		firstToken:  histogram("time_to_first_token_seconds", "From a request for text, streamed, to the first piece of it.", firstTokenBuckets, "model", "protocol", "class"),
		interToken:  histogram("inter_token_latency_seconds", "From one piece of a streamed text to the next, as they were sent to the client.", interTokenBuckets, "model", "protocol", "class"),
		tokens:      counter("tokens_total", "Tokens of the texts that were generated and of their prompts; by source: usage is what the answer says, chunks are the pieces of a stream that does not.", "model", "protocol", "class", "kind", "source"),
		generations: counter("generations_total", "Texts that were generated, by how they ended.", "model", "protocol", "class", "finish"),
		undone: register(registerer, &faults, prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "flyball", Subsystem: "batchproxy", Name: "access_log_dropped_total",
			Help: "Lines of the access log that were not written: the disk was full or too slow.",
		})),
		healthy:       gauge("upstream_healthy", "Replicas of an upstream, as it stands in the configuration, that can be reached, are not ejected and pass the health checks.", "model", "upstream"),
		limit:         gauge("concurrency_limit", "Requests that are not batched which the replicas of an upstream may have at once, all together, where the model has a limit.", "model", "upstream"),
		ejections:     counter("ejections_total", "Replicas that were taken out for a time because they did worse than the others.", "model", "reason"),
		poisoned:      counter("poisoned_requests_total", "Requests that replicas refused and that a batch was cut in parts for.", "model"),
		solo:          gauge("solo_lanes", "Tenants whose requests go alone for a while, because replicas refused several of them in batches.", "model"),
		binary:        counter("binary_requests_total", "Requests whose tensors came as JSON and were put into binary.", "model"),
		binaryRefused: counter("binary_refused_total", "Requests that a replica refused in binary and took as JSON.", "model"),
		longest:       register(registerer, &faults, newMaxVec("flyball_batchproxy_request_duration_max_seconds", longestHelp)),
		network:       histogram("network_duration_seconds", "Time between the proxy and replicas by phase: connect, a new connection without TLS; response, from a request's last byte to the answer's first, less what the answer says the replica took (Server-Timing total, X-Envoy-Upstream-Service-Time), absent where none says it. No time is taken of requests that are passed on as their body comes.", networkBuckets, "model", "phase"),
	}
	return m, errors.Join(faults...)
}

// forget drops the series of a model that there no longer is.
func (m *metrics) forget(model string) {
	series := prometheus.Labels{"model": model}
	for _, v := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.arrivals, m.requests, m.duration, m.queueDuration, m.running, m.waiting, m.batchSize, m.batches, m.upstream, m.retries,
		m.bisects, m.cancelled, m.shed, m.ready,
		m.intercept, m.slope, m.gain, m.effective, m.depth, m.changes, m.firstToken, m.interToken, m.tokens, m.generations,
		m.healthy, m.limit, m.ejections, m.poisoned, m.solo, m.longest, m.network, m.binary, m.binaryRefused,
	} {
		v.DeletePartialMatch(series)
	}
}

func register[C prometheus.Collector](registerer prometheus.Registerer, faults *[]error, c C) C {
	if registerer == nil {
		return c
	}
	err := registerer.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	if err != nil {
		*faults = append(*faults, fmt.Errorf("register metrics: %w", err))
	}
	return c
}

// demand is the series of one model and protocol, looked up once.
type demand struct {
	form          form // of errors
	arrivals      prometheus.Counter
	requests      *prometheus.CounterVec // by code
	ok            prometheus.Counter     // code 200, the one that is counted most
	duration      prometheus.Observer
	queueDuration prometheus.Observer
	running       prometheus.Gauge
	waiting       prometheus.Gauge
	batchSize     prometheus.Observer
	longest       func(at time.Time, took time.Duration)
	generation    func() *generation // there from the first text that the model generates
}

// generation are the series of the texts that a model generates.
type generation struct {
	firstToken prometheus.Observer
	interToken prometheus.Observer
	tokens     func(kind, source string, n int64)
	finished   func(how string)
}

func (m *metrics) generation(model, protocol, class string) *generation {
	for _, how := range Finishes() {
		m.generations.WithLabelValues(model, protocol, class, how)
	}
	return &generation{
		firstToken: m.firstToken.WithLabelValues(model, protocol, class),
		interToken: m.interToken.WithLabelValues(model, protocol, class),
		tokens: func(kind, source string, n int64) {
			m.tokens.WithLabelValues(model, protocol, class, kind, source).Add(float64(n))
		},
		finished: func(how string) { m.generations.WithLabelValues(model, protocol, class, how).Inc() },
	}
}

// demands returns how to find a model's series by protocol. There from the start are those of the protocols that the model
// is configured for, or of those whose requests name it by their path; others come with their first request.
func (m *metrics) demands(c ModelConfig) func(protocol string, class int) *demand {
	type key struct {
		protocol string
		class    int
	}
	classes := c.classes()
	normal := normalOf(classes)
	var mu sync.Mutex
	known := make(map[key]*demand, 2)
	find := func(protocol string, class int) *demand {
		mu.Lock()
		defer mu.Unlock()
		of := key{protocol, class}
		d := known[of]
		if d == nil {
			d = m.demand(c.Name, protocol, classes[class].Name)
			known[of] = d
		}
		return d
	}
	switch c.Protocol {
	case "", protocolAuto:
		find("v1", normal)
		find("oip", normal)
	case protocolNone:
	default:
		find(c.Protocol, normal)
	}
	return find
}

// networkOf are the series of a model's network.
func (m *metrics) networkOf(model string) *network {
	return &network{
		connect:  m.network.WithLabelValues(model, phaseConnect),
		response: sync.OnceValue(func() prometheus.Observer { return m.network.WithLabelValues(model, phaseResponse) }),
	}
}

func (m *metrics) demand(model, protocol, class string) *demand {
	requests := m.requests.MustCurryWith(prometheus.Labels{"model": model, "protocol": protocol, "class": class})
	d := &demand{
		arrivals:      m.arrivals.WithLabelValues(model, protocol, class),
		requests:      requests,
		ok:            requests.WithLabelValues("200"),
		duration:      m.duration.WithLabelValues(model, protocol, class),
		queueDuration: m.queueDuration.WithLabelValues(model, protocol, class),
		running:       m.running.WithLabelValues(model, protocol, class),
		waiting:       m.waiting.WithLabelValues(model, protocol, class),
		batchSize:     m.batchSize.WithLabelValues(model, protocol),
		longest:       m.longest.with(model, protocol, class),
		generation:    sync.OnceValue(func() *generation { return m.generation(model, protocol, class) }),
	}
	if protocol == "openai" {
		d.form = openAIForm
	}
	return d
}

// ofChunk are the series of a chunk that is not the first of its request: only batches are counted, as the request is.
func (d *demand) ofChunk() *demand {
	quiet := *d
	none := prometheus.NewGauge(prometheus.GaugeOpts{Name: "none", Help: "Nobody sees it."})
	quiet.running, quiet.waiting, quiet.queueDuration = none, none, prometheus.ObserverFunc(func(float64) {})
	return &quiet
}

// answered counts an answer to a request that came at start; code 0 is one that broke off. The trace is that of the request if it is
// recorded, else empty.
func (d *demand) answered(code int, start time.Time, trace string) {
	switch code {
	case 200:
		d.ok.Inc()
	case 0:
		d.requests.WithLabelValues("error").Inc()
	default:
		d.requests.WithLabelValues(strconv.Itoa(code)).Inc()
	}
	now := time.Now()
	took := now.Sub(start)
	observe(d.duration, took, trace)
	d.longest(now, took)
}

// observe takes a duration, with the trace as its exemplar if there is one.
func observe(o prometheus.Observer, took time.Duration, trace string) {
	if e, ok := o.(prometheus.ExemplarObserver); ok && trace != "" {
		e.ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": trace})
		return
	}
	o.Observe(took.Seconds())
}

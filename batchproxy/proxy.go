package batchproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"flyball/batchproxy/protocol"
)

// Endpoints finds the replicas of a target, or of a Service.
type Endpoints interface {
	// Endpoints returns the addresses (host:port) of the replicas that are ready, and a channel that sends the whole
	// list again at every change and is closed when ctx ends.
	Endpoints(ctx context.Context, target string) (current []string, changes <-chan []string, err error)
}

// Options are what a [Proxy] uses of its surroundings. The zero value works for models whose upstreams are URLs.
type Options struct {
	Logger     *slog.Logger          // discarded if nil
	Registerer prometheus.Registerer // not registered if nil
	Endpoints  Endpoints             // needed where an upstream is a target
	Resolver   *net.Resolver         // for upstreams by dns and srv; Go's default if nil
	Services   Endpoints             // needed where an upstream is a Service; it is asked for namespace/name or namespace/name:port
	Transport  http.RoundTripper     // to upstreams; one with connections kept for every batch if nil
	Stdout     io.Writer             // where an access log to stdout goes; os.Stdout if nil

	// Tracer is what the spans of a request are made with, asked for each request: nil for none. Whether a request without a
	// trace of its own is recorded is the tracer's to say. So it is of a batch of several requests that are: its span is a
	// root with links to theirs, and one without links is of a batch of which none is.
	Tracer func() trace.Tracer
}

// Proxy takes inference requests, sends them on in batches and gives each client its part of the answer. It is an
// http.Handler; Run must be running for targets and Services to be followed and for an orderly end.
type Proxy struct {
	config    Config
	logger    *slog.Logger
	endpoints Endpoints
	services  Endpoints
	resolver  *net.Resolver
	transport http.RoundTripper
	tracer    func() trace.Tracer // nil for none
	metrics   *metrics
	models    map[string]*model
	names     []string          // of the models, in the order of the configuration
	served    map[string]*model // by the names in bodies
	created   time.Time
	patience  time.Duration // earlyTime
	buffers   buffers
	copies    copies
	passing   passing
	access    *accessLog // nil without

	successor atomic.Pointer[Proxy] // takes the requests from when it is set
	following chan struct{}         // closed when Run has found the replicas of every target and Service
	leaving   atomic.Bool           // it ends, and no other takes its place: clients shall go elsewhere
	refusing  chan struct{}         // closed when it ends and takes no more requests

	base context.Context // ends when the drain is over: what is still in flight then is given up
	stop context.CancelFunc

	mu       sync.Mutex
	draining bool
	active   int           // requests being served
	idle     chan struct{} // closed when draining and nothing is active
}

// ModelStatus is a model's state for a status page.
type ModelStatus struct {
	Name    string
	Ready   int // replicas that can be sent to
	Queued  int // requests that wait to be sent
	Running int // requests that are with a replica, those not batched included
}

// New returns a proxy for a configuration, which must be valid. It starts nothing.
func New(cfg Config, opts Options) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		config:    cfg,
		logger:    opts.Logger,
		endpoints: opts.Endpoints,
		services:  opts.Services,
		resolver:  opts.Resolver,
		transport: opts.Transport,
		tracer:    opts.Tracer,
		metrics:   m,
		models:    make(map[string]*model, len(cfg.Models)),
		served:    make(map[string]*model, len(cfg.Models)),
		created:   time.Now(),
		patience:  earlyTime,
		idle:      make(chan struct{}),
		following: make(chan struct{}),
		refusing:  make(chan struct{}),
	}
	if p.logger == nil {
		p.logger = slog.New(slog.DiscardHandler)
	}
	if p.resolver == nil {
		p.resolver = net.DefaultResolver
	}
	if p.transport == nil {
		p.transport = newWire(newTransport(p.resolver))
	}
	if cfg.AccessLog.Path != "" {
		if p.access, err = newAccessLog(cfg.AccessLog, opts.Stdout, p.logger, m.undone); err != nil {
			return nil, err
		}
	}
	p.base, p.stop = context.WithCancel(context.Background())
	for i, c := range cfg.Models {
		for _, u := range c.Upstreams {
			if u.Target != "" && p.endpoints == nil {
				return nil, fmt.Errorf("models[%d]: target %q is given, and nothing that finds its replicas", i, u.Target)
			}
			if u.Service != "" && p.services == nil {
				return nil, fmt.Errorf("models[%d]: service %q is given, and nothing that finds its endpoints", i, u.Service)
			}
		}
		p.models[c.Name] = newModel(p, c)
		p.names = append(p.names, c.Name)
		for _, name := range c.servedNames() {
			p.served[name] = p.models[c.Name]
		}
	}
	return p, nil
}

// newTransport keeps a connection for every batch or call in flight to a replica, and hands bodies on as they are.
func newTransport(resolver *net.Resolver) *http.Transport {
	return &http.Transport{
		Proxy:                 nil, // replicas are near; an HTTP_PROXY of the machine is not meant for them
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second, Resolver: resolver}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		MaxIdleConnsPerHost:   512,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
		ForceAttemptHTTP2:     true,
		WriteBufferSize:       64 << 10, // a batch in few system calls
		ReadBufferSize:        64 << 10,
	}
}

// Run follows the replicas of targets, of Services, of names in DNS and of files until ctx ends. Then the proxy is not ready any more, and after the
// configured delay new requests are refused with 503, what is queued leaves at once, and Run returns when all that was admitted is
// answered, or after the configured timeout, when it is given up. The error is that of one which cannot be followed.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.runAccessLog()()
	following, unfollow := context.WithCancel(context.WithoutCancel(ctx)) // replicas may change during the drain
	defer unfollow()
	group, failed := errgroup.WithContext(following)
	var found sync.WaitGroup
	for _, from := range p.sources() {
		found.Add(1)
		group.Go(func() error { return p.follow(failed, from, sync.OnceFunc(found.Done)) })
	}
	for _, m := range p.models {
		if m.config.Health.Path != "" {
			group.Go(func() error { m.check(failed); return nil })
		}
	}
	group.Go(func() error {
		found.Wait()
		close(p.following)
		return nil
	})
	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	p.drain()
	unfollow()
	err := group.Wait()
	if t, ok := p.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
	if last := p.last(); last != p {
		for _, name := range p.names {
			next := last.models[name]
			if next == nil {
				p.metrics.forget(name)
				continue
			}
			for _, u := range p.models[name].config.Upstreams {
				kept := slices.ContainsFunc(next.config.Upstreams, func(n Upstream) bool { return n.label() == u.label() })
				if !kept {
					p.metrics.healthy.DeleteLabelValues(name, u.label())
				}
				if !kept || next.config.Limit.Concurrent == 0 {
					p.metrics.limit.DeleteLabelValues(name, u.label())
				}
			}
		}
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// source is where replicas come from: an actuator's target, a Service, a name in DNS or files. The zero value is a URL.
type source struct {
	kind string // as the key of an upstream: target, service, dns, srv or file
	name string // of a service namespace/name or namespace/name:port
}

func (s source) String() string { return s.kind + " " + s.name }

func (u Upstream) source() source {
	switch {
	case u.Target != "":
		return source{"target", u.Target}
	case u.Service != "":
		return source{"service", u.service()}
	case u.DNS != "":
		return source{"dns", u.DNS}
	case u.SRV != "":
		return source{"srv", u.SRV}
	case u.File != "":
		return source{"file", u.File}
	}
	return source{}
}

// list is what says where the replicas of a source are.
func (p *Proxy) list(from source) Endpoints {
	l := &polled{every: p.interval(from), logger: p.logger}
	switch from.kind {
	case "service":
		return p.services
	case "dns":
		l.read = byAddress(p.resolver)
	case "srv":
		l.read = byService(p.resolver)
	case "file":
		l.read = byFile()
	default:
		return p.endpoints
	}
	return l
}

// interval is how often a source is read: as often as the model wants it that wants it most often.
func (p *Proxy) interval(from source) time.Duration {
	every := time.Duration(0)
	for _, m := range p.models {
		for _, u := range m.config.Upstreams {
			wanted := time.Duration(u.Interval)
			if wanted == 0 {
				wanted = listEvery
			}
			if u.source() == from && (every == 0 || wanted < every) {
				every = wanted
			}
		}
	}
	return every
}

// sources are the lists of replicas to follow.
func (p *Proxy) sources() []source {
	var all []source
	for _, name := range p.names {
		for _, u := range p.models[name].config.Upstreams {
			if from := u.source(); from != (source{}) && !slices.Contains(all, from) {
				all = append(all, from)
			}
		}
	}
	return all
}

// follow keeps the models' replicas of one source true, and calls found when they are for the first time, or never will be.
func (p *Proxy) follow(ctx context.Context, from source, found func()) error {
	defer found()
	current, changes, err := p.list(from).Endpoints(ctx, from.name)
	if err != nil {
		return fmt.Errorf("%s: find replicas: %w", from, err)
	}
	for {
		for _, m := range p.models {
			m.setReplicas(from, current)
		}
		found()
		var open bool
		select {
		case current, open = <-changes:
		case <-ctx.Done():
			return nil
		}
		if !open {
			if ctx.Err() != nil || p.isDraining() {
				return nil
			}
			return fmt.Errorf("%s: the list of its replicas ended", from)
		}
	}
}

func (p *Proxy) isDraining() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.draining
}

// drain goes on for the delay with sending clients elsewhere, refuses new requests and waits for those that were admitted.
func (p *Proxy) drain() {
	if p.successor.Load() == nil {
		p.leaving.Store(true)
		if delay := time.Duration(p.config.Drain.Delay); delay > 0 {
			p.logger.Info("not ready any more, and taking requests for a while", "delay", p.config.Drain.Delay)
			time.Sleep(delay)
		}
	}
	p.mu.Lock()
	active := p.active
	p.refuse()
	p.mu.Unlock()
	if p.leaving.Load() {
		close(p.refusing)
	}
	p.logger.Info("draining", "requests", active)
	for _, m := range p.models {
		m.flushNow()
	}
	timer := time.NewTimer(time.Duration(p.config.Drain.Timeout))
	defer timer.Stop()
	select {
	case <-p.idle:
	case <-timer.C:
		p.mu.Lock()
		active = p.active
		p.mu.Unlock()
		p.logger.Warn("gave up requests that were in flight when the drain ended", "requests", active)
	}
	p.stop()
	p.passing.giveUp()
	for _, m := range p.models {
		m.close()
	}
}

// enter admits a request, unless the proxy is draining.
func (p *Proxy) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining {
		return false
	}
	p.active++
	return true
}

func (p *Proxy) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	if p.draining && p.active == 0 {
		close(p.idle)
	}
}

// Drain takes the replica at an address of a target out of service and returns when nothing is in flight to it, or the
// error of ctx. A target or address that the proxy does not know has nothing in flight. The replica serves again when
// its address has left the target's list and come back.
func (p *Proxy) Drain(ctx context.Context, target, address string) error {
	var waits []<-chan struct{}
	for _, m := range p.models {
		waits = append(waits, m.drainReplica(target, address)...)
	}
	for _, idle := range waits {
		select {
		case <-idle:
		case <-ctx.Done():
			return fmt.Errorf("drain replica %s of target %s: %w", address, target, ctx.Err())
		}
	}
	return nil
}

// Refusing is closed when the proxy ends, without another in its place, and takes no more requests: connections without one
// can be closed.
func (p *Proxy) Refusing() <-chan struct{} { return p.refusing }

// Following is closed when Run knows the replicas of every target and Service.
func (p *Proxy) Following() <-chan struct{} { return p.following }

// Replace has every request from now on served by another proxy, that of a new configuration, which must be [Proxy.Following];
// those admitted before are finished here. No request is refused between the two. What was learned of models is taken along, where
// they have replicas in common. Run is ended as ever, and drains. It may be called once.
func (p *Proxy) Replace(next *Proxy) {
	for name, m := range next.models {
		if before := p.models[name]; before != nil {
			m.inherit(before)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.successor.Store(next)
	p.refuse()
}

// refuse admits no more requests; mu is held.
func (p *Proxy) refuse() {
	if p.draining {
		return
	}
	p.draining = true
	if p.active == 0 {
		close(p.idle)
	}
}

// last is the proxy that takes the requests now.
func (p *Proxy) last() *Proxy {
	for {
		next := p.successor.Load()
		if next == nil {
			return p
		}
		p = next
	}
}

// Models is the state of every model, in the order of the configuration.
func (p *Proxy) Models() []ModelStatus {
	out := make([]ModelStatus, 0, len(p.names))
	for _, name := range p.names {
		out = append(out, p.models[name].status())
	}
	return out
}

// Explain is what the batcher of every model knows and has decided, in the order of the configuration.
func (p *Proxy) Explain() []Explanation {
	out := make([]Explanation, 0, len(p.names))
	for _, name := range p.names {
		out = append(out, p.models[name].explain())
	}
	return out
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	entered := p.enter()
	if entered {
		defer p.leave()
	} else if next := p.successor.Load(); next != nil {
		next.ServeHTTP(w, r)
		return
	}
	switch r.URL.Path {
	case "/v2/health/live":
		writeJSON(w, http.StatusOK, `{"live":true}`)
		return
	case "/v2/health/ready":
		p.serveReady(w)
		return
	}
	if closesAfter(r) {
		w.Header()["Connection"] = []string{"close"}
	}
	if p.tracer != nil { // of what is not a probe
		if tracer := p.tracer(); tracer != nil {
			s, w, r := startSpans(tracer, w, r, start)
			defer s.end()
			p.direct(w, r, start, entered)
			return
		}
	}
	p.direct(w, r, start, entered)
}

// direct serves a request of a client's for a model.
func (p *Proxy) direct(w http.ResponseWriter, r *http.Request, start time.Time, entered bool) {
	if p.access != nil {
		a := newAccount(w, r, start)
		defer p.logged(a)
		w = a
	}
	to, ok := parseRoute(r.URL.Path)
	if !ok || !clean(r.URL.Path) {
		plainForm.writeError(w, http.StatusNotFound, fmt.Sprintf("no such path: %q; models are at /v1/models/NAME and /v2/models/NAME", r.URL.Path))
		return
	}
	if to.only {
		m := p.only()
		if m == nil {
			plainForm.writeError(w, http.StatusNotFound, fmt.Sprintf("%s: names no model, and there are several: %s", r.URL.Path, strings.Join(p.names, ", ")))
			return
		}
		m.serve(w, r, to.label, start, entered, func(d *demand, counted bool) (int, *demand) { return m.pass(w, r, d, counted), d })
		return
	}
	if to.model == "" {
		p.serveByBody(w, r, to, start, entered)
		return
	}
	m := p.models[to.model]
	if m == nil && to.label == "v1" { // GET /v1/models/NAME is OpenAI's too, whose names may have slashes
		m = p.served[strings.TrimPrefix(r.URL.Path, "/v1/models/")]
	}
	if m == nil {
		plainForm.writeError(w, http.StatusNotFound, unknownModel(to.model, p.names))
		return
	}
	m.serve(w, r, to.label, start, entered, func(d *demand, counted bool) (int, *demand) {
		_, binary := r.Header[protocol.HeaderLength]
		if !counted || !m.config.batches(to.protocol) || binary && to.label != "oip" {
			return m.pass(w, r, d, counted), d
		}
		return m.infer(w, r, to.protocol, d)
	})
}

func unknownModel(name string, known []string) string {
	message := fmt.Sprintf("model %q is unknown", name)
	if like := closest(name, known); like != "" {
		message += fmt.Sprintf("; did you mean %q?", like)
	}
	return message
}

// serve serves a request to the model, and counts it if it is a POST: readiness and metadata are not demand. It is counted as it
// comes by the class that its header names, and afterwards by that of the series which serving it returned. One that came when the
// proxy was draining already is refused.
func (m *model) serve(w http.ResponseWriter, r *http.Request, protocol string, start time.Time, entered bool, serve func(d *demand, counted bool) (int, *demand)) {
	class := m.classOf(r)
	d := m.demand(protocol, class)
	counted := r.Method == http.MethodPost
	code := 0
	if s := m.proxy.spansOf(r); s != nil {
		s.of(m, protocol, m.classes[class].Name, r)
		defer func() { s.answered(code) }()
	}
	if a := accountOf(w); a != nil {
		a.model, a.protocol, a.class, a.tenant = m.config.Name, protocol, m.classes[class].Name, m.tenantOf(r)
		a.broke = true
		defer func() { a.code, a.broke = code, code == 0 }()
	}
	if counted {
		d.arrivals.Inc()
		defer func() {
			// An answer that breaks off ends in a panic; one that its client does not take ends the context too.
			if code == 0 && r.Context().Err() != nil {
				code = clientGone
			}
			d.answered(code, start, sampledTrace(r.Header))
		}()
	}
	if !entered {
		m.proxy.metrics.shed.WithLabelValues(m.config.Name, "draining").Inc()
		code = writeDraining(w, d.form)
		return
	}
	m.proxy.sendElsewhere(w)
	code, d = serve(d, counted)
}

// sendElsewhere has the client's next request come on another connection, where this proxy ends.
func (p *Proxy) sendElsewhere(w http.ResponseWriter) {
	if p.leaving.Load() {
		w.Header()["Connection"] = []string{"close"}
	}
}

func writeDraining(w http.ResponseWriter, f form) int {
	w.Header().Set("Connection", "close") // or its next request may meet the end of the connection
	return f.writeRetry(w, http.StatusServiceUnavailable, time.Second, "the proxy is shutting down")
}

// serveReady answers whether every model has a replica that is ready.
func (p *Proxy) serveReady(w http.ResponseWriter) {
	if p.leaving.Load() || p.isDraining() {
		plainForm.writeError(w, http.StatusServiceUnavailable, "the proxy is shutting down")
		return
	}
	var missing []string
	for _, s := range p.Models() {
		if s.Ready == 0 {
			missing = append(missing, s.Name)
		}
	}
	if len(missing) > 0 {
		plainForm.writeError(w, http.StatusServiceUnavailable, "models without a ready replica: "+strings.Join(missing, ", "))
		return
	}
	writeJSON(w, http.StatusOK, `{"ready":true}`)
}

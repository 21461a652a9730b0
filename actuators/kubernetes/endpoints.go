package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// ServicesOptions are what Services work with. All are optional.
type ServicesOptions struct {
	Logger     *slog.Logger          // nil: no logs
	Registerer prometheus.Registerer // nil: metrics that are not registered
	UserAgent  string                // as the apiserver's audit log has it; empty for flyball
}

// Services follow the endpoints of Services of a cluster by their EndpointSlices, as kube-proxy does: those that are ready or,
// where none is, those that are terminating and still serve. What was known last is kept while the apiserver is away.
type Services struct {
	opts    ServicesOptions
	log     *slog.Logger
	metrics *serviceMetrics

	mu      sync.Mutex // guards what follows, and all that a serviceWatch has
	client  *slicesClient
	watches map[types.NamespacedName]*serviceWatch
	running sync.WaitGroup // watches, and those who follow them
	closed  bool
}

// serviceMetrics are the series of each Service that is followed.
type serviceMetrics struct {
	endpoints *prometheus.GaugeVec
	up        *prometheus.GaugeVec
	failures  *prometheus.CounterVec
}

// NewServices returns Services of no cluster yet: ServicesUpdate.Commit gives one. The error is that of a metric that cannot
// be registered.
func NewServices(o ServicesOptions) (*Services, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.UserAgent = cmp.Or(o.UserAgent, "flyball")
	s := &Services{opts: o, log: o.Logger, watches: map[types.NamespacedName]*serviceWatch{}, metrics: &serviceMetrics{
		endpoints: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flyball_batchproxy_service_endpoints",
			Help: "Endpoints of the Service that requests may be sent to.",
		}, []string{"upstream"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flyball_batchproxy_service_watch_up",
			Help: "1 while the EndpointSlices of the Service are followed, 0 while they are as they were known last.",
		}, []string{"upstream"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_batchproxy_service_watch_failures_total",
			Help: "LIST and WATCH requests for the EndpointSlices of the Service that failed.",
		}, []string{"upstream"}),
	}}
	if o.Registerer != nil {
		for _, c := range []prometheus.Collector{s.metrics.endpoints, s.metrics.up, s.metrics.failures} {
			if err := o.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("register metrics: %w", err)
			}
		}
	}
	return s, nil
}

// slicesClient reads the EndpointSlices of one cluster.
type slicesClient struct {
	slices  discoveryclient.EndpointSlicesGetter
	timeout time.Duration // of a list
	over    context.Context
	end     context.CancelFunc // ends all watches by this client
	close   func()             // closes its connections
}

// ServicesUpdate is a new configuration, checked and ready to be taken over.
type ServicesUpdate struct {
	s    *Services
	next *slicesClient
}

// Prepare checks how the cluster is reached; nil is by the service account of the pod that this runs in. It changes nothing
// and asks the cluster nothing.
func (s *Services) Prepare(config *Config) (*ServicesUpdate, error) {
	if config == nil {
		own := DefaultConfig()
		config = &own
	}
	base, err := config.rest()
	if err != nil {
		return nil, err
	}
	base.UserAgent, base.QPS = s.opts.UserAgent, -1 // a few watches, which begin again with a pause of their own
	base.ContentType, base.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	base.WarningHandlerWithContext = warnings{s.log}
	used, err := rest.HTTPClientFor(base)
	if err != nil {
		return nil, unusable(err)
	}
	client, err := discoveryclient.NewForConfigAndClient(base, used)
	if err != nil {
		return nil, unusable(err)
	}
	c := &slicesClient{slices: client, timeout: time.Duration(config.Timeout), close: func() { utilnet.CloseIdleConnectionsFor(used.Transport) }}
	c.over, c.end = context.WithCancel(context.Background())
	return &ServicesUpdate{s: s, next: c}, nil
}

// Commit takes the configuration over: what is followed is followed through it from now on, and keeps its endpoints until
// the cluster has told them again.
func (u *ServicesUpdate) Commit() {
	u.s.mu.Lock()
	before := u.s.client
	u.s.client = u.next
	u.s.mu.Unlock()
	if before != nil {
		before.end()
		before.close()
	}
}

// Close ends all that is followed, and waits for it.
func (s *Services) Close() {
	s.mu.Lock()
	s.closed = true
	client := s.client
	for _, w := range s.watches {
		w.end()
	}
	s.mu.Unlock()
	if client != nil {
		client.end()
	}
	s.running.Wait()
	if client != nil {
		client.close()
	}
}

// Warnings say of each Service that is followed what keeps its endpoints from being known.
func (s *Services) Warnings() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.SortedFunc(maps.Keys(s.watches), compareNames) {
		w := s.watches[name]
		if w.failed != "" {
			all = append(all, fmt.Sprintf("service %s: its endpoints are %s: %s", name, w.known(), w.failed))
		}
		for _, f := range w.followers {
			if text := fmt.Sprintf("service %s: %s", f, f.trouble); f.trouble != "" && !slices.Contains(all, text) {
				all = append(all, text)
			}
		}
	}
	return all
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// serviceWatch follows one Service for all who ask for it.
type serviceWatch struct {
	s      *Services
	name   types.NamespacedName
	end    context.CancelFunc
	slices map[string]*discoveryv1.EndpointSlice // by name
	synced chan struct{}                         // closed when they are known for the first time

	followers []*follower
	failed    string // why they cannot be asked for; empty where they can
	kind      string // of that failure, which is logged once
	skipped   bool   // that a slice of names was left out was said
}

// follower is one who asked for the endpoints of a Service at a port.
type follower struct {
	service types.NamespacedName
	port    string        // "": the only one
	wake    chan struct{} // has one while the endpoints may have changed
	current []string      // guarded by Services.mu
	trouble string        // why there are none, although the Service is known
	sent    []string      // its own
}

func (f *follower) String() string {
	if f.port == "" {
		return f.service.String()
	}
	return f.service.String() + ":" + f.port
}

// firstList is how long Endpoints waits for a Service that nobody follows yet.
const firstList = 5 * time.Second

// Endpoints returns the endpoints (host:port) of a Service, namespace/name or namespace/name:port, where the port is the name
// or the number of one of its EndpointSlices and may be left out where they have one only. It sends the whole list again at
// each change, and closes the channel when ctx ends. Where the apiserver does not answer within a few seconds the list is
// empty to begin with. The error is that of a name that is none.
func (s *Services) Endpoints(ctx context.Context, service string) (current []string, changes <-chan []string, err error) {
	path, port, _ := strings.Cut(service, ":")
	namespace, name, ok := strings.Cut(path, "/")
	if !ok || namespace == "" || name == "" {
		return nil, nil, fmt.Errorf("%q is not namespace/name of a Service", service)
	}
	f := &follower{service: types.NamespacedName{Namespace: namespace, Name: name}, port: port, wake: make(chan struct{}, 1)}
	w, err := s.join(f)
	if err != nil {
		return nil, nil, err
	}
	timer := time.NewTimer(firstList)
	defer timer.Stop()
	select {
	case <-w.synced:
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	f.sent = f.current
	s.mu.Unlock()
	out := make(chan []string)
	go func() {
		defer s.running.Done()
		defer close(out)
		defer s.leave(w, f)
		f.run(ctx, s, out)
	}()
	return f.sent, out, nil
}

// run sends the list at each change; one that was not taken yet gives way to the next.
func (f *follower) run(ctx context.Context, s *Services, out chan<- []string) {
	for {
		s.mu.Lock()
		next := f.current
		s.mu.Unlock()
		to := out
		if slices.Equal(next, f.sent) {
			to = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case to <- next:
			f.sent = next
		}
	}
}

// join has the Service followed, if it is not yet.
func (s *Services) join(f *follower) (*serviceWatch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil || s.closed {
		return nil, errors.New("no cluster is configured")
	}
	w := s.watches[f.service]
	if w == nil {
		ctx, end := context.WithCancel(context.Background())
		w = &serviceWatch{s: s, name: f.service, end: end, synced: make(chan struct{})}
		s.watches[f.service] = w
		s.metrics.failures.WithLabelValues(f.service.String())
		s.metrics.up.WithLabelValues(f.service.String()).Set(0)
		s.metrics.endpoints.WithLabelValues(f.service.String()).Set(0)
		s.running.Go(func() { w.run(ctx) })
	}
	s.running.Add(1) // for the follower
	w.followers = append(w.followers, f)
	w.refresh()
	return w, nil
}

// leave ends the watch of a Service that nobody follows any more.
func (s *Services) leave(w *serviceWatch, f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.followers = slices.DeleteFunc(w.followers, func(other *follower) bool { return other == f })
	if len(w.followers) > 0 {
		return
	}
	w.end()
	delete(s.watches, w.name)
	for _, v := range []interface{ DeleteLabelValues(...string) bool }{s.metrics.endpoints, s.metrics.up, s.metrics.failures} {
		v.DeleteLabelValues(w.name.String())
	}
}

// run follows the EndpointSlices, through one client after the other, until ctx ends.
func (w *serviceWatch) run(ctx context.Context) {
	ctx = klog.NewContext(ctx, logr.Discard()) // what it says of each try is said on changes alone
	for ctx.Err() == nil {
		w.s.mu.Lock()
		client, closed := w.s.client, w.s.closed
		w.s.mu.Unlock()
		if closed {
			return
		}
		through, end := context.WithCancel(ctx)
		stop := context.AfterFunc(client.over, end)
		w.reflect(through, client)
		stop()
		end()
	}
}

// reflect follows the EndpointSlices through one client until ctx ends. A watch that ends, by an expired version or with the
// apiserver, begins again, after pauses of at most a few seconds: an endpoint that is gone is missed soon.
func (w *serviceWatch) reflect(ctx context.Context, client *slicesClient) {
	endpointSlices := client.slices.EndpointSlices(w.name.Namespace)
	selector := discoveryv1.LabelServiceName + "=" + w.name.Name
	quiet := logr.Discard()
	cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			limited, cancel := context.WithTimeout(ctx, client.timeout)
			defer cancel()
			o.LabelSelector = selector
			list, err := endpointSlices.List(limited, o)
			if err != nil { // that they can be followed, only the watch after it shows
				w.asked(ctx, err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			events, err := endpointSlices.Watch(ctx, o)
			w.asked(ctx, err)
			return events, err
		},
	}, &discoveryv1.EndpointSlice{}, w, cache.ReflectorOptions{
		Logger: &quiet, Name: "endpointslices of " + w.name.String(),
		Backoff: &wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 5, Cap: 5 * time.Second},
	}).RunWithContext(ctx)
}

// asked takes note of how a request went.
func (w *serviceWatch) asked(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if len(w.followers) == 0 { // its series are gone
		return
	}
	log, name := w.s.log, w.name.String()
	if err == nil {
		w.s.metrics.up.WithLabelValues(name).Set(1)
		if w.failed != "" {
			log.Info("the endpoints of a service are followed again", "service", name)
		}
		w.failed, w.kind = "", ""
		return
	}
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) {
		return // a version that is gone, or a list that is not streamed: it asks for the whole list then
	}
	w.s.metrics.failures.WithLabelValues(name).Inc()
	w.s.metrics.up.WithLabelValues(name).Set(0)
	kind := "away"
	w.failed = messageOf(err)
	if at, ok := errors.AsType[*url.Error](err); ok { // its URL is that of a watch, which is long
		w.failed = at.Err.Error()
	}
	switch {
	case apierrors.IsForbidden(err):
		kind = "forbidden"
		w.failed = fmt.Sprintf("forbidden: a Role in the namespace %s needs the rule {apiGroups: [%q], resources: [endpointslices], verbs: [list, watch]}: %s",
			w.name.Namespace, discoveryv1.GroupName, messageOf(err))
	case apierrors.IsUnauthorized(err):
		kind = "unauthorized"
		w.failed = "unauthorized: the apiserver does not take the credentials of actuators.kubernetes: is the token or the certificate still valid?"
	}
	if kind != w.kind {
		log.Warn("the endpoints of a service cannot be followed, and are "+w.known(), "service", name, "err", w.failed)
	}
	w.kind = kind
}

// known says what the endpoints are while they cannot be followed. Services.mu is held.
func (w *serviceWatch) known() string {
	if w.slices == nil {
		return "not known yet"
	}
	return "as they were known last"
}

// change has the endpoints computed again after a change of the slices.
func (w *serviceWatch) change(f func(map[string]*discoveryv1.EndpointSlice)) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.slices == nil {
		w.slices = map[string]*discoveryv1.EndpointSlice{}
		defer close(w.synced)
	}
	f(w.slices)
	w.refresh()
}

// refresh computes the endpoints of each follower, wakes those whose endpoints changed, and logs what has become a trouble, or
// is none any more. Services.mu is held.
func (w *serviceWatch) refresh() {
	if w.slices == nil {
		return
	}
	all := slices.SortedFunc(maps.Values(w.slices), func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	if !w.skipped && slices.ContainsFunc(all, func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == discoveryv1.AddressTypeFQDN }) {
		w.skipped = true
		w.s.log.Warn("EndpointSlices of names are left out: only addresses are followed", "service", w.name.String())
	}
	distinct := map[string]bool{}
	for _, f := range w.followers {
		next, trouble := endpointsOf(all, f.port)
		for _, address := range next {
			distinct[address] = true
		}
		if trouble != f.trouble {
			if trouble != "" {
				w.s.log.Warn("a service has no endpoints", "service", f.String(), "because", trouble)
			} else {
				w.s.log.Info("a service has what its endpoints are found by", "service", f.String(), "endpoints", len(next))
			}
		}
		f.trouble = trouble
		if !slices.Equal(f.current, next) {
			f.current = next
			select {
			case f.wake <- struct{}{}:
			default:
			}
		}
	}
	if len(w.followers) > 0 {
		w.s.metrics.endpoints.WithLabelValues(w.name.String()).Set(float64(len(distinct)))
	}
}

// endpointsOf are the addresses, host:port, of the endpoints that requests may be sent to at a port, sorted; trouble says why
// there cannot be any.
func endpointsOf(all []*discoveryv1.EndpointSlice, port string) (addresses []string, trouble string) {
	if len(all) == 0 {
		return nil, "the namespace has no EndpointSlice of it: is there such a Service, and has it a selector?"
	}
	// Those that are ready come before those that are terminating and serve, and IPv4 before IPv6, which is the same pods again.
	var found [2][2]map[string]bool
	var known []string
	named := map[string]bool{} // the ports that were taken, by their names
	ported, there := false, false
	for _, s := range all {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		var number int32
		for _, p := range s.Ports {
			if p.Port == nil || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
				continue
			}
			name, digits := "", strconv.Itoa(int(*p.Port))
			if p.Name != nil {
				name = *p.Name
			}
			text := digits
			if name != "" {
				text = name + " (" + digits + ")"
			}
			if !slices.Contains(known, text) {
				known = append(known, text)
			}
			if port == "" || port == name || port == digits {
				if number == 0 {
					number = *p.Port
				}
				named[name] = true
				ported = true
			}
		}
		family := 0
		if s.AddressType == discoveryv1.AddressTypeIPv6 {
			family = 1
		}
		for _, e := range s.Endpoints {
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			serving := ready
			if e.Conditions.Serving != nil {
				serving = *e.Conditions.Serving
			}
			there = there || ready
			terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			if number == 0 || len(e.Addresses) == 0 || !ready && (!serving || !terminating) {
				continue
			}
			rank := 0
			if !ready {
				rank = 1
			}
			if found[rank][family] == nil {
				found[rank][family] = map[string]bool{}
			}
			found[rank][family][net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(number)))] = true
		}
	}
	slices.Sort(known)
	switch {
	case port == "" && len(named) > 1:
		return nil, "it has more than one port: give one of " + strings.Join(known, ", ")
	case len(known) == 0 && there: // such as a headless Service without ports
		return nil, "its EndpointSlices have no port of TCP: give the Service one"
	case port != "" && !ported && len(known) > 0:
		return nil, fmt.Sprintf("it has no port %q: its EndpointSlices have %s", port, strings.Join(known, ", "))
	}
	for _, families := range found {
		for _, addresses := range families {
			if len(addresses) > 0 {
				return slices.Sorted(maps.Keys(addresses)), ""
			}
		}
	}
	return nil, ""
}

// Add implements cache.ReflectorStore.
func (w *serviceWatch) Add(object any) error { return w.Update(object) }

// Update implements cache.ReflectorStore.
func (w *serviceWatch) Update(object any) error {
	s, ok := object.(*discoveryv1.EndpointSlice)
	if !ok {
		return fmt.Errorf("%T is no EndpointSlice", object)
	}
	w.change(func(all map[string]*discoveryv1.EndpointSlice) { all[s.Name] = s })
	return nil
}

// Delete implements cache.ReflectorStore.
func (w *serviceWatch) Delete(object any) error {
	s, ok := object.(*discoveryv1.EndpointSlice)
	if !ok {
		return fmt.Errorf("%T is no EndpointSlice", object)
	}
	w.change(func(all map[string]*discoveryv1.EndpointSlice) { delete(all, s.Name) })
	return nil
}

// Replace implements cache.ReflectorStore.
func (w *serviceWatch) Replace(objects []any, _ string) error {
	w.change(func(all map[string]*discoveryv1.EndpointSlice) {
		clear(all)
		for _, object := range objects {
			if s, ok := object.(*discoveryv1.EndpointSlice); ok {
				all[s.Name] = s
			}
		}
	})
	return nil
}

// Resync implements cache.ReflectorStore.
func (*serviceWatch) Resync() error { return nil }

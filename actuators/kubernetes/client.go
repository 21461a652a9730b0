package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/klog/v2"

	"flyball/actuators"
)

// client is a cluster, as one configuration reaches it.
type client struct {
	config  Config
	log     *slog.Logger
	scales  scale.ScalesGetter
	objects dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
	kinds   scale.ScaleKindResolver
	leases  coordinationv1.LeasesGetter
	close   func()

	complained atomic.Bool // that an Event or an annotation could not be written

	mu         sync.Mutex // guards what follows
	resources  map[schema.GroupResource]resource
	missed     map[schema.GroupResource]time.Time // resources that the cluster did not have, and when it was asked
	unread     map[ref]time.Time                  // objects that may not be read, and when that was tried
	unlisted   map[ref]bool                       // namespaces and resources that may not be listed, once that was said
	namespaces map[string]*neighbourhood
	counted    map[schema.GroupResource]bool // resources whose objects count their ready replicas at /status/readyReplicas
}

// resource is a resource as the cluster serves it.
type resource struct {
	schema.GroupVersionResource
	kind schema.GroupVersionKind
}

// forgetAfter is how long it is not asked again for what a cluster said that it has not, or does not give: a role or a
// definition that was just made is found within that time, and until then it costs one request a minute.
const forgetAfter = time.Minute

// newClient asks nothing of the cluster yet.
func newClient(config Config, log *slog.Logger, userAgent string) (*client, error) {
	base, err := config.rest()
	if err != nil {
		return nil, err
	}
	base.UserAgent = userAgent
	base.QPS = -1                                    // transport limits all clients together
	base.Timeout = time.Duration(config.Timeout) * 2 // of one request whose context has no end
	base.WarningHandlerWithContext = warnings{log}
	turns := newTurns(config.QPS, config.Burst)
	var shared []*transport
	base.Wrap(func(next http.RoundTripper) http.RoundTripper {
		t := newTransport(next, turns)
		shared = append(shared, t)
		return t
	})

	c := &client{
		config: config, log: log, resources: map[schema.GroupResource]resource{}, missed: map[schema.GroupResource]time.Time{},
		unread: map[ref]time.Time{}, unlisted: map[ref]bool{}, namespaces: map[string]*neighbourhood{}, counted: map[schema.GroupResource]bool{},
	}
	discoverer, err := discovery.NewDiscoveryClientForConfig(rest.CopyConfig(base))
	if err != nil {
		return nil, unusable(err)
	}
	cached := memory.NewMemCacheClient(discoverer)
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(cached)
	c.kinds = scale.NewDiscoveryScaleKindResolver(cached)
	if c.objects, err = dynamic.NewForConfig(rest.CopyConfig(base)); err != nil {
		return nil, unusable(err)
	}
	if c.scales, err = scale.NewForConfig(rest.CopyConfig(base), resolved{c}, dynamic.LegacyAPIPathResolverFunc, c.kinds); err != nil {
		return nil, unusable(err)
	}
	if c.leases, err = newLeases(&config, userAgent); err != nil {
		return nil, err
	}
	c.close = func() {
		for _, t := range shared {
			t.CloseIdleConnections()
		}
	}
	return c, nil
}

// limited is the context of one call. What client-go would write to stderr by itself goes nowhere: it is in the error as well.
func (c *client) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(klog.NewContext(ctx, logr.Discard()), time.Duration(c.config.Timeout))
}

// unusable is an error of what makes a client of a configuration, without what it says, which may be of what is secret.
func unusable(error) error {
	return errors.New("kubeconfig: no client can be made of it: kubectl version says why")
}

// resolved answers the scale client, which gives no context to ask the cluster with, from what was asked before.
type resolved struct{ *client }

// ResourceFor implements scale.PreferredResourceMapper.
func (r resolved) ResourceFor(partial schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.resources[partial.GroupResource()]; ok {
		return known.GroupVersionResource, nil
	}
	return schema.GroupVersionResource{}, &meta.NoResourceMatchError{PartialResource: partial}
}

// known returns a resource that find has found.
func (c *client) known(name string) (resource, bool) {
	plural, group, _ := strings.Cut(name, ".")
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.resources[schema.GroupResource{Group: group, Resource: plural}]
	return r, ok
}

// find asks the cluster for a resource, once.
func (c *client) find(ctx context.Context, name string) (resource, error) {
	plural, group, _ := strings.Cut(name, ".")
	gr := schema.GroupResource{Group: group, Resource: plural}
	c.mu.Lock()
	known, ok := c.resources[gr]
	missed := c.missed[gr]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	none := func() error {
		return fmt.Errorf("%w: the cluster has no resource %s: kubectl api-resources lists those that it has", actuators.ErrUnknownTarget, name)
	}
	if time.Since(missed) < forgetAfter {
		return resource{}, none()
	}
	if !missed.IsZero() {
		c.mapper.ResetWithContext(ctx)
	}
	gvr, err := c.mapper.ResourceForWithContext(ctx, gr.WithVersion(""))
	var kind schema.GroupVersionKind
	if err == nil {
		kind, err = c.mapper.KindForWithContext(ctx, gvr)
	}
	if meta.IsNoMatchError(err) || err == nil && gvr.GroupResource() != gr {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.missed[gr] = time.Now()
		if err == nil {
			return resource{}, fmt.Errorf("%w: the cluster has no resource %s (did you mean %q?)", actuators.ErrUnknownTarget, name, gvr.GroupResource())
		}
		return resource{}, none()
	}
	if err != nil {
		return resource{}, err
	}
	found := resource{gvr, kind}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resources[gr] = found
	delete(c.missed, gr)
	return found, nil
}

// forget has a resource asked for again, after the cluster answered that it is not there any more.
func (c *client) forget(r resource) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.resources, r.GroupResource())
	c.missed[r.GroupResource()] = time.Now()
}

// warnings has what the apiserver warns of, such as a version that goes away, in the log.
type warnings struct{ log *slog.Logger }

// HandleWarningHeaderWithContext implements rest.WarningHandlerWithContext.
func (w warnings) HandleWarningHeaderWithContext(_ context.Context, code int, _, text string) {
	if code == 299 && text != "" {
		w.log.Debug("the apiserver warns", "warning", text)
	}
}

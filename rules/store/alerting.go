package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/notifier"
	"gopkg.in/yaml.v3"
)

const (
	// alertQueue is how many alerts may wait for one Alertmanager, Prometheus's number: at 1 kB an alert 10 MB.
	alertQueue = 10_000

	// drainTimeout is how long the end of the process waits for alerts that are queued: as long as the time that an
	// Alertmanager that is well takes for all of them, and together with stopGrace below the 30 s after which Kubernetes
	// kills. Prometheus waits without a limit, which with an Alertmanager that hangs is 10 s for each 256 alerts.
	drainTimeout = 5 * time.Second

	// removeTimeout is how long alerts queued for an Alertmanager that is taken away may still be sent. Meanwhile the
	// notifier answers nobody, and so neither does /metrics.
	removeTimeout = time.Second

	// settleTime is how long a goroutine of the notifier that has taken alerts from its queue may need until it begins
	// the request; of what happens in between there is no sign. It encodes 256 alerts at most, a millisecond of work.
	settleTime = 50 * time.Millisecond

	// discoverWait is how long alerts wait after a start or a reload for the first Alertmanager to be found. Sent
	// before, they would be lost until they are due again.
	discoverWait = 5 * time.Second
)

// Alertmanagers are the URLs that alerts are posted to, and those that relabelling left out, both sorted.
type Alertmanagers struct{ Active, Dropped []string }

// alerter sends the alerts of rules to Alertmanagers. It joins Prometheus's discovery, which finds them, with its
// notifier, which queues and sends. Without an Alertmanager in the configuration neither runs.
type alerter struct {
	opts         Options
	logger       *slog.Logger
	discovery    *discovery.Manager
	endDiscovery context.CancelFunc
	notifier     *notifier.Manager
	posts        *posts
	outbox       *outbox
	drain        time.Duration // drainTimeout; less in tests
	remove       time.Duration // removeTimeout; less in tests

	running sync.WaitGroup // discovery and the notifier
	feeding sync.WaitGroup // feed and forward, which give to the notifier
	closing chan struct{}  // closed when no more alerts will come

	mu      sync.Mutex // guards what follows
	open    bool       // while Run runs
	started bool       // discovery, the notifier and forward
	applied *preparedAlerting
}

// preparedAlerting is an Alerting in Prometheus's terms.
type preparedAlerting struct {
	config        *config.Config
	discovery     map[string]discovery.Configs // by the name that the notifier gives to each Alertmanager's configuration
	alertmanagers []preparedAlertmanager
}

// preparedAlertmanager is one configuration of Alertmanagers and what tells it from others.
type preparedAlertmanager struct {
	text    string // as the user wrote it
	visible string // as the notifier compares it, which takes one secret for another
	slash   bool   // the path prefix got a slash at its end, which changes nothing but how it compares
}

func newAlerter(opts Options, sdMetrics *discovery.SDMetrics) (*alerter, error) {
	metrics, err := registerNotifications(opts.Registerer, opts.Metrics)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &alerter{
		opts:         opts,
		logger:       opts.Logger.With("component", "notifier"),
		endDiscovery: cancel,
		outbox:       newOutbox(&metrics.overflow),
		drain:        drainTimeout,
		remove:       removeTimeout,
		closing:      make(chan struct{}),
	}
	a.posts = newPosts(a.logger)
	a.discovery = discovery.NewManager(ctx, opts.Logger.With("component", "discovery"), opts.Registerer, sdMetrics,
		discovery.Name("notify"), discovery.Updatert(discoverySend))
	if a.discovery == nil {
		cancel()
		return nil, errors.New("start discovery of Alertmanagers: its metrics are registered already")
	}
	a.notifier = notifier.NewManager(&notifier.Options{
		QueueCapacity:   alertQueue,
		DrainOnShutdown: true,
		ExternalLabels:  opts.ExternalLabels,
		Do:              a.posts.do,
		Registerer:      metrics.registry,
	}, model.UTF8Validation, slog.New(quietHandler{a.logger.Handler()}))
	return a, nil
}

// ApplyAlerting makes these the Alertmanagers that alerts are sent to, all or nothing. What did not change goes on
// undisturbed. Before Run it only takes note.
func (s *Store) ApplyAlerting(alerting Alerting) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	p, err := s.alerter.prepare(*s.global.Load(), alerting)
	if err := errors.Join(err, p.check()); err != nil {
		return err
	}
	return s.alerter.commit(p)
}

// Alertmanagers returns where alerts are sent to at present.
func (s *Store) Alertmanagers() Alertmanagers {
	return Alertmanagers{
		Active:  urls(s.alerter.notifier.Alertmanagers()),
		Dropped: urls(s.alerter.notifier.DroppedAlertmanagers()),
	}
}

func urls(list []*url.URL) []string {
	var texts []string
	for _, u := range list {
		texts = append(texts, u.String())
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

// prepare puts it in Prometheus's terms, and touches nothing.
func (a *alerter) prepare(global Global, alerting Alerting) (*preparedAlerting, error) {
	cfg, err := config.Load("", a.logger)
	if err != nil {
		return nil, fmt.Errorf("prepare the alerting configuration: %w", err)
	}
	cfg.GlobalConfig.ExternalLabels = global.ExternalLabels
	cfg.AlertingConfig.AlertRelabelConfigs = alerting.relabel
	p := &preparedAlerting{config: cfg, discovery: map[string]discovery.Configs{}}
	a.mu.Lock()
	applied := a.applied
	a.mu.Unlock()
	for _, am := range alerting.alertmanagers {
		c := *am.config
		text, err := yaml.Marshal(&c)
		if err != nil {
			return nil, fmt.Errorf("prepare the alerting configuration: %w", err)
		}
		mark := preparedAlertmanager{text: am.text, visible: string(text)}
		mark.slash = applied.slash(mark)
		if mark.slash {
			c.PathPrefix += "/"
		}
		p.alertmanagers = append(p.alertmanagers, mark)
		cfg.AlertingConfig.AlertmanagerConfigs = append(cfg.AlertingConfig.AlertmanagerConfigs, &c)
	}
	for name, c := range cfg.AlertingConfig.AlertmanagerConfigs.ToMap() {
		p.discovery[name] = c.ServiceDiscoveryConfigs
	}
	return p, nil
}

// check makes the clients, as their files may have changed since they were parsed.
func (p *preparedAlerting) check() error {
	if p == nil {
		return nil
	}
	var errs []error
	for i, c := range p.config.AlertingConfig.AlertmanagerConfigs {
		errs = append(errs, at(fmt.Sprintf("alerting.alertmanagers[%d]", i), checkAlertmanager(c, true)))
	}
	return errors.Join(errs...)
}

// slash tells whether the configuration needs a slash at the end of its path prefix so that the notifier tells it from the
// one that is applied: it compares them with their secrets blotted out, and would go on with an old password.
func (p *preparedAlerting) slash(next preparedAlertmanager) bool {
	if p == nil {
		return false
	}
	slash := false
	for _, old := range p.alertmanagers {
		switch {
		case old.text == next.text:
			return old.slash
		case old.visible == next.visible:
			slash = !old.slash
		}
	}
	return slash
}

// commit puts into effect what prepare returned. An error means that what was in effect before still is. It may take as long
// as a request to an Alertmanager that is taken away and does not answer: its timeout.
func (a *alerter) commit(p *preparedAlerting) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.open {
		a.applied = p
		return nil
	}
	before := a.applied
	if err := a.apply(p); err != nil {
		if before != nil {
			err = errors.Join(err, a.apply(before))
		}
		return err
	}
	return nil
}

// apply puts the configuration into effect; mu is held. The notifier comes before discovery, which may send Alertmanagers
// that the notifier must know by then.
func (a *alerter) apply(p *preparedAlerting) error {
	if !a.started && len(p.alertmanagers) == 0 {
		a.applied = p
		return nil
	}
	if !a.started {
		a.started = true
		a.running.Go(func() { _ = a.discovery.Run() }) // the error is the end of its context
		found := make(chan map[string][]*targetgroup.Group)
		a.running.Go(func() { a.notifier.Run(found) })
		a.feeding.Go(func() { a.feed(found) })
		a.feeding.Go(a.forward)
	}
	var err error
	a.posts.limit(a.remove, func() { err = a.notifier.ApplyConfig(p.config) })
	if err == nil {
		err = a.discovery.ApplyConfig(p.discovery)
	}
	if err != nil {
		return fmt.Errorf("apply the alerting configuration: %w", err)
	}
	a.applied = p
	a.posts.closeIdle()
	a.outbox.set(len(p.alertmanagers) > 0, time.Now().Add(discoverWait))
	return nil
}

// start begins to send, if there is anything to send to.
func (a *alerter) start() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open = true
	if a.applied == nil {
		return nil
	}
	return a.apply(a.applied)
}

// feed tells the notifier of the Alertmanagers that discovery finds.
func (a *alerter) feed(found chan<- map[string][]*targetgroup.Group) {
	defer close(found)
	for groups := range a.discovery.SyncCh() {
		a.posts.limit(a.remove, func() {
			found <- groups
			found <- nil // taken when the notifier is done with the groups
		})
	}
}

// forward hands the alerts in the outbox to the notifier, until no more will come.
func (a *alerter) forward() {
	for open := true; open; {
		select {
		case <-a.outbox.filled:
			a.awaitAlertmanagers()
		case <-a.closing:
			open = false
		}
		a.notifier.Send(a.outbox.take()...)
	}
}

// awaitAlertmanagers returns when an Alertmanager is known, or it is no use to wait for one any longer.
func (a *alerter) awaitAlertmanagers() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(a.notifier.Alertmanagers()) == 0 && a.outbox.held(time.Now()) {
		select {
		case <-tick.C:
		case <-a.closing:
			return
		}
	}
}

// stop sends what is queued, for as long as drain, and ends. The rules must have stopped.
func (a *alerter) stop() {
	giveUp := time.AfterFunc(a.drain, a.posts.cut)
	defer giveUp.Stop()
	a.mu.Lock()
	started := a.started
	a.open, a.started = false, false
	a.mu.Unlock()
	a.outbox.set(false, time.Time{})
	a.endDiscovery()
	if !started {
		return
	}
	close(a.closing)
	a.feeding.Wait() // once it stops, the notifier takes nothing more
	a.notifier.Stop()
	a.running.Wait()
	a.posts.end(settleTime)
}

// close ends what was never started.
func (a *alerter) close() { a.endDiscovery() }

package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	commonconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/util/logging"
)

const (
	// discoverySend is how long a new list of targets may wait before it is handed to the scraper, and discoveryReload
	// how long the scraper waits to take it. Prometheus's 5 s each protect a server with thousands of targets; here a
	// replica that has just started is to be seen within a second, and a wake-up five times a second costs nothing.
	discoverySend   = 200 * time.Millisecond
	discoveryReload = 500 * time.Millisecond

	// defaultScrapeTimeout is Prometheus's; a job with a shorter interval has that as its timeout.
	defaultScrapeTimeout = 10 * time.Second
)

// Scrape is everything that is scraped.
type Scrape struct {
	Configs ScrapeConfigs // the user's own
	Jobs    []Job         // replicas of actuator targets
	Self    []Self        // flyball's own metrics
}

// Job scrapes the ready replicas of an actuator's target. Its series have the labels job (Name), instance (the replica's
// address), target (Target) and Labels.
type Job struct {
	Name        string
	Target      string
	Endpoints   Endpoints
	MetricsPath string            // "": /metrics
	Interval    time.Duration     // 0: Options.ScrapeInterval. The first scrape of a replica comes within one interval
	Labels      map[string]string // more labels
}

// Self scrapes one address that does not change. Its series have the labels job (Name), instance (Address) and Labels.
type Self struct {
	Name        string
	Address     string       // host:port
	Handler     http.Handler // if set, it is scraped in memory; Address is then only the label instance
	Scheme      string       // "": http; unused with a Handler
	MetricsPath string       // "": /metrics
	Interval    time.Duration
	Labels      map[string]string
	Drop        []string // names of metrics that are not taken, because the store has them from elsewhere
}

// Target is one address that is scraped at present.
type Target struct {
	Job                string
	URL                string
	Labels             labels.Labels
	Health             string // "unknown" before the first scrape, then "up" or "down"
	LastError          string // of the last scrape; empty if it went well
	LastScrape         time.Time
	LastScrapeDuration time.Duration
}

// scraper joins Prometheus's discovery, which finds targets, and its scrape manager, which scrapes them.
type scraper struct {
	opts       Options
	logger     *slog.Logger
	db         guarded
	discovery  *discovery.Manager
	scrapes    *scrape.Manager
	inProcess  *inProcess
	stop       context.CancelFunc // ends discovery
	followers  sync.WaitGroup     // of the lists of replicas
	departures sync.WaitGroup

	mu      sync.Mutex // guards what follows
	running bool
	applied *prepared // what runs, or is to run; nil: nothing was ever applied
	serial  uint64    // of the next replicaConfig
}

// prepared is a Scrape in Prometheus's terms.
type prepared struct {
	config    *config.Config
	discovery map[string]discovery.Configs // by job
	replicas  map[string]*replicaConfig    // by job
	handlers  map[string]http.Handler      // by host, of this process
}

func newScraper(opts Options, db guarded, sdMetrics *discovery.SDMetrics) (*scraper, error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &scraper{opts: opts, logger: slog.New(quietHandler{opts.Logger.With("component", "scrape").Handler()}), db: db, stop: cancel}
	s.discovery = discovery.NewManager(ctx, opts.Logger.With("component", "discovery"), opts.Registerer, sdMetrics,
		discovery.Name("scrape"), discovery.Updatert(discoverySend))
	if s.discovery == nil {
		cancel()
		return nil, errors.New("start discovery: its metrics are registered already")
	}
	s.inProcess = newInProcess(s.logger)
	var err error
	s.scrapes, err = scrape.NewManager(&scrape.Options{
		HTTPClientOptions:        []commonconfig.HTTPClientOption{commonconfig.WithDialContextFunc(s.inProcess.dial)},
		DiscoveryReloadInterval:  model.Duration(discoveryReload),
		DiscoveryReloadOnStartup: true,
	}, s.logger, logging.NewJSONFileLogger, nil, db, opts.Registerer)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start scraping: %w", err)
	}
	return s, nil
}

// ApplyScrape makes this what is scraped, all or nothing. What did not change goes on undisturbed. Before Run it only
// takes note.
func (s *Store) ApplyScrape(sc Scrape) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	p, err := s.scraper.prepare(*s.global.Load(), sc)
	if err := errors.Join(err, p.check()); err != nil {
		return err
	}
	return s.scraper.change(p)
}

// Targets returns what is scraped at present, sorted by job and instance.
func (s *Store) Targets() []Target {
	var all []Target
	for job, targets := range s.scraper.scrapes.TargetsActive() {
		for _, t := range targets {
			b := labels.NewBuilder(labels.EmptyLabels())
			target := Target{
				Job: job, URL: t.URL().String(), Labels: t.Labels(b), Health: string(t.Health()),
				LastScrape: t.LastScrape(), LastScrapeDuration: t.LastScrapeDuration(),
			}
			if err := t.LastError(); err != nil {
				target.LastError = err.Error()
			}
			all = append(all, target)
		}
	}
	slices.SortFunc(all, func(a, b Target) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), labels.Compare(a.Labels, b.Labels))
	})
	return all
}

// present is what is scraped now, nil before anything was.
func (s *scraper) present() *prepared {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied
}

// check makes the clients of the jobs, as their files may have changed since they were parsed.
func (p *prepared) check() error {
	if p == nil {
		return nil
	}
	var errs []error
	for _, c := range p.config.ScrapeConfigs {
		errs = append(errs, at("job "+c.JobName, checkClients(c.HTTPClientConfig, p.discovery[c.JobName], true)))
	}
	return errors.Join(errs...)
}

// change makes what was prepared what is scraped; with an error nothing changed.
func (s *scraper) change(next *prepared) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		s.applied = next
		return nil
	}
	before := s.scrapes.TargetsActive()
	if err := s.commit(next); err != nil {
		if s.applied != nil {
			err = errors.Join(err, s.commit(s.applied))
		}
		return err
	}
	s.applied = next
	now := time.Now()
	for job, targets := range before {
		if _, ok := next.discovery[job]; !ok {
			s.endJob(job, targets, now)
		}
	}
	return nil
}

// endJob marks the series of a job that is no longer scraped stale. Prometheus does not: it takes the end of a job for
// the end of the process, and its series would be seen for the whole lookback.
func (s *scraper) endJob(job string, targets []*scrape.Target, at time.Time) {
	for _, t := range targets {
		if err := s.markDeparted(context.Background(), t.GetValue(model.JobLabel), t.GetValue(model.InstanceLabel), at); err != nil {
			s.logger.Warn("series of a job that ended stay", "job", job, "err", err)
		}
	}
}

// commit tells the scraper before discovery, which may send targets of jobs that the scraper must know by then.
func (s *scraper) commit(p *prepared) error {
	if err := s.scrapes.ApplyConfig(p.config); err != nil {
		return fmt.Errorf("apply the scrape configuration: %w", err)
	}
	s.inProcess.handlers.Store(&p.handlers) // jobs that went are no longer scraped, new ones not yet
	if err := s.discovery.ApplyConfig(p.discovery); err != nil {
		return fmt.Errorf("apply the scrape configuration: %w", err)
	}
	return nil
}

// prepare checks the whole of a Scrape and touches nothing else.
func (s *scraper) prepare(global Global, sc Scrape) (*prepared, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg, err := config.Load("", s.logger) // only what Load made passes for a valid configuration
	if err != nil {
		return nil, fmt.Errorf("prepare the scrape configuration: %w", err)
	}
	cfg.GlobalConfig.ScrapeInterval = model.Duration(global.ScrapeInterval)
	cfg.GlobalConfig.ScrapeTimeout = model.Duration(min(defaultScrapeTimeout, global.ScrapeInterval))
	cfg.GlobalConfig.ExternalLabels = global.ExternalLabels
	p := &prepared{config: cfg, discovery: map[string]discovery.Configs{}, replicas: map[string]*replicaConfig{}, handlers: map[string]http.Handler{}}
	var errs []error
	add := func(c *config.ScrapeConfig, sd discovery.Configs) {
		if _, ok := p.discovery[c.JobName]; ok {
			errs = append(errs, fmt.Errorf("job %s: there are two of this name", c.JobName))
			return
		}
		p.discovery[c.JobName] = sd
		cfg.ScrapeConfigs = append(cfg.ScrapeConfigs, c)
	}
	for _, c := range sc.Configs.configs {
		add(c, c.ServiceDiscoveryConfigs)
	}
	for _, job := range sc.Jobs {
		c, err := s.ownConfig(job.Name, "", job.MetricsPath, job.Interval, cfg.GlobalConfig)
		if err == nil && (job.Target == "" || job.Endpoints == nil) {
			err = fmt.Errorf("job %s: it has no target to follow", job.Name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		replicas := s.replicaConfig(job)
		p.replicas[job.Name] = replicas
		add(c, discovery.Configs{replicas})
	}
	for _, self := range sc.Self {
		scheme, address := self.Scheme, self.Address
		extra := labelSet(self.Labels)
		if self.Handler != nil {
			scheme, address = "", inProcessHost(self.Name)
			extra[model.InstanceLabel] = model.LabelValue(self.Address)
			p.handlers[address] = self.Handler
		}
		c, err := s.ownConfig(self.Name, scheme, self.MetricsPath, self.Interval, cfg.GlobalConfig)
		if err == nil && self.Address == "" {
			err = fmt.Errorf("job %s: it has no address", self.Name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if len(self.Drop) > 0 {
			c.MetricRelabelConfigs = append(c.MetricRelabelConfigs, dropMetrics(self.Drop))
		}
		add(c, discovery.Configs{discovery.StaticConfig{{
			Targets: []model.LabelSet{{model.AddressLabel: model.LabelValue(address)}},
			Labels:  extra,
			Source:  "0",
		}}})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// dropMetrics is the relabelling that leaves out metrics by their names.
func dropMetrics(names []string) *relabel.Config {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	c := relabel.DefaultRelabelConfig
	c.SourceLabels = model.LabelNames{model.MetricNameLabel}
	c.Regex = relabel.MustNewRegexp(strings.Join(quoted, "|"))
	c.Action = relabel.Drop
	c.NameValidationScheme = model.UTF8Validation
	return &c
}

// ownConfig is the scrape configuration of one of our own jobs, with Prometheus's defaults.
func (s *scraper) ownConfig(name, scheme, path string, interval time.Duration, global config.GlobalConfig) (*config.ScrapeConfig, error) {
	if name == "" {
		return nil, errors.New("a job has no name")
	}
	if interval != 0 && interval < time.Millisecond {
		return nil, fmt.Errorf("job %s: an interval of %s is too short: give 1ms or more", name, interval)
	}
	c := config.DefaultScrapeConfig
	c.JobName = name
	c.Scheme = cmp.Or(scheme, c.Scheme)
	c.MetricsPath = cmp.Or(path, c.MetricsPath)
	c.ScrapeInterval = model.Duration(interval)
	if err := c.Validate(global); err != nil {
		return nil, fmt.Errorf("job %s: %w", name, err)
	}
	return &c, nil
}

// replicaConfig is the discovery of a job; the present one where nothing changed, so that Prometheus leaves it running.
func (s *scraper) replicaConfig(job Job) *replicaConfig {
	if s.applied != nil {
		if old := s.applied.replicas[job.Name]; old != nil && old.same(job) {
			return old
		}
	}
	s.serial++
	return &replicaConfig{serial: s.serial, job: job, scraper: s}
}

// start begins to scrape. The function that it returns ends it again and waits.
func (s *scraper) start() (stop func(), err error) {
	var wg, forward sync.WaitGroup
	targets := make(chan map[string][]*targetgroup.Group)
	stopping := make(chan struct{})
	s.inProcess.start()
	wg.Go(func() { _ = s.discovery.Run() }) // the error is the end of its context
	wg.Go(func() { _ = s.scrapes.Run(targets) })
	forward.Go(func() {
		for {
			select {
			case t := <-s.discovery.SyncCh():
				targets <- t
			case <-stopping:
				// The scraper may be about to take up a list that it got a moment ago, after it was stopped.
				targets <- map[string][]*targetgroup.Group{}
				return
			}
		}
	})
	stop = func() {
		s.mu.Lock()
		s.running = false
		s.mu.Unlock()
		close(stopping)
		forward.Wait() // the scraper takes what it is sent until it stops
		s.stop()
		s.followers.Wait()
		s.departures.Wait()
		s.scrapes.Stop()
		wg.Wait()
		s.inProcess.stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
	if s.applied == nil {
		return stop, nil
	}
	return stop, s.commit(s.applied)
}

// close ends what was never started.
func (s *scraper) close() { s.stop() }

func labelSet(m map[string]string) model.LabelSet {
	ls := make(model.LabelSet, len(m))
	for k, v := range m {
		ls[model.LabelName(k)] = model.LabelValue(v)
	}
	return ls
}

// same tells whether the job is still what the discovery follows.
func (c *replicaConfig) same(job Job) bool {
	a, b := c.job, job
	if a.Target != b.Target || !reflect.DeepEqual(a.Labels, b.Labels) {
		return false
	}
	return reflect.TypeOf(a.Endpoints) == reflect.TypeOf(b.Endpoints) &&
		reflect.ValueOf(a.Endpoints).Comparable() && a.Endpoints == b.Endpoints
}

package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/scrape"
)

// Endpoints tells which replicas of a target are ready, as addresses host:port: those of now, and on the channel the
// whole new list at each change, until ctx ends or the channel is closed.
type Endpoints interface {
	Endpoints(ctx context.Context, target string) (current []string, changes <-chan []string, err error)
}

const (
	// followRetry is how long to wait before an actuator that could not give its list is asked again.
	followRetry = time.Second
	// departureWait is how long the scraper may take to drop a replica that left; it is a second at most.
	departureWait = 10 * time.Second
)

// replicaConfig is the discovery configuration of a Job. Prometheus compares configurations by reflection, field by
// field, and would look into the actuator behind Endpoints while it changes; serial comes first and differs, so it never
// gets there.
type replicaConfig struct {
	serial  uint64
	job     Job
	scraper *scraper
}

// Name implements discovery.Config.
func (*replicaConfig) Name() string { return "replicas" }

// NewDiscovererMetrics implements discovery.Config.
func (*replicaConfig) NewDiscovererMetrics(prometheus.Registerer, discovery.RefreshMetricsInstantiator) discovery.DiscovererMetrics {
	return &discovery.NoopDiscovererMetrics{}
}

// NewDiscoverer implements discovery.Config. The manager runs each discoverer that it makes, exactly once, but does not
// wait for it; so it is counted from here on.
func (c *replicaConfig) NewDiscoverer(o discovery.DiscovererOptions) (discovery.Discoverer, error) {
	c.scraper.followers.Add(1)
	return &follower{job: c.job, scraper: c.scraper, logger: o.Logger}, nil
}

// follower is the discovery of the replicas of one target.
type follower struct {
	job     Job
	scraper *scraper
	logger  *slog.Logger
	present map[string]bool // the list as it was sent last
}

var errListEnded = errors.New("the list of replicas ended")

// Run implements discovery.Discoverer.
func (f *follower) Run(ctx context.Context, up chan<- []*targetgroup.Group) {
	defer f.scraper.followers.Done()
	failing := false
	for {
		err := f.follow(ctx, up)
		if ctx.Err() != nil {
			return
		}
		if !failing && !errors.Is(err, errListEnded) {
			f.logger.Warn("replicas cannot be found", "target", f.job.Target, "err", err)
		}
		failing = !errors.Is(err, errListEnded)
		select {
		case <-ctx.Done():
			return
		case <-time.After(followRetry):
		}
	}
}

// follow sends the list and each change of it until the list ends.
func (f *follower) follow(ctx context.Context, up chan<- []*targetgroup.Group) error {
	following, cancel := context.WithCancel(ctx)
	defer cancel()
	current, changes, err := f.job.Endpoints.Endpoints(following, f.job.Target)
	if err != nil {
		return err
	}
	for {
		if err := f.send(ctx, up, current); err != nil {
			return err
		}
		var ok bool
		select {
		case <-ctx.Done():
			return ctx.Err()
		case current, ok = <-changes:
			if !ok {
				return errListEnded
			}
		}
	}
}

// send hands the list to the scraper, and sees to the series of those that are no longer on it.
func (f *follower) send(ctx context.Context, up chan<- []*targetgroup.Group, addresses []string) error {
	group := &targetgroup.Group{Source: f.job.Target, Labels: labelSet(f.job.Labels)}
	group.Labels["target"] = model.LabelValue(f.job.Target)
	present := make(map[string]bool, len(addresses))
	for _, a := range addresses {
		if !present[a] {
			present[a] = true
			group.Targets = append(group.Targets, model.LabelSet{model.AddressLabel: model.LabelValue(a)})
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case up <- []*targetgroup.Group{group}:
	}
	for _, a := range slices.Sorted(maps.Keys(f.present)) {
		if !present[a] {
			f.scraper.departures.Go(func() { f.scraper.depart(ctx, f.job.Name, a) })
		}
	}
	f.present = present
	return nil
}

// depart marks the series of a replica that left the list stale as soon as the scraper has dropped it. Prometheus itself
// waits two intervals, in case the target comes back under another configuration; meanwhile rules would count a replica
// that is gone. Its markers, which come later, do no harm.
func (s *scraper) depart(ctx context.Context, job, instance string) {
	ctx, cancel := context.WithTimeout(ctx, departureWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.scraped(job, instance) {
		select {
		case <-ctx.Done(): // it came back, or the process ends
			return
		case <-tick.C:
		}
	}
	if err := s.markDeparted(ctx, job, instance, time.Now()); err != nil && ctx.Err() == nil {
		s.logger.Warn("series of a replica that left stay", "job", job, "instance", instance, "err", err)
	}
}

func (s *scraper) scraped(job, instance string) bool {
	return slices.ContainsFunc(s.scrapes.TargetsActive()[job], func(t *scrape.Target) bool {
		return t.GetValue(model.InstanceLabel) == instance
	})
}

// markDeparted ends every series of the replica that a query at the time at would still see.
func (s *scraper) markDeparted(ctx context.Context, job, instance string, at time.Time) error {
	series, err := s.seriesOf(ctx, job, instance, at)
	if err != nil {
		return fmt.Errorf("find the series: %w", err)
	}
	return markStale(ctx, s.db, series, at)
}

func (s *scraper) seriesOf(ctx context.Context, job, instance string, at time.Time) (series []labels.Labels, err error) {
	q, err := s.db.Querier(at.Add(-s.opts.LookbackDelta).UnixMilli(), at.UnixMilli())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	set := q.Select(ctx, false, nil,
		labels.MustNewMatcher(labels.MatchEqual, model.JobLabel, job),
		labels.MustNewMatcher(labels.MatchEqual, model.InstanceLabel, instance))
	for set.Next() {
		series = append(series, set.At().Labels())
	}
	return series, set.Err()
}

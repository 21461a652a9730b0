package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	promrules "github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/tsdb"

	"flyball/rules"
)

var _ rules.Querier = (*Store)(nil)

// Store is the embedded Prometheus. Its methods may be called from many goroutines at once.
type Store struct {
	opts        Options
	logger      *slog.Logger
	db          *tsdb.DB
	written     guarded // the same, for what writes
	engine      *promql.Engine
	parser      parser.Parser
	ruleOptions *promrules.ManagerOptions
	metrics     *metrics
	clock       *clock
	scraper     *scraper
	sender      *sender
	alerter     *alerter
	empty       bool // when it was opened: there is no state of alerts to restore

	places chan struct{} // taken by each answer of the API

	use    sync.RWMutex // held for reading by each query, for writing by Close
	closed bool         // guarded by use

	reload sync.Mutex // held by what changes groups or targets, from beginning to end
	global atomic.Pointer[Global]
	route  atomic.Pointer[route]

	mu       sync.Mutex // guards what follows
	runners  []*runner
	retired  []retired       // while Run does not run
	groupCtx context.Context // of Run, for the groups that it starts; nil while it does not run
	groups   sync.WaitGroup  // the goroutines of the groups
	stopRun  context.CancelFunc
	runDone  chan struct{} // closed when Run has returned; nil before Run
}

// Open opens the store in opts.Dir, which it creates if it is missing, and replays what a process that was killed had
// written. The directory is locked until Close.
func Open(opts Options) (*Store, error) {
	if err := opts.normalize(); err != nil {
		return nil, err
	}
	if err := checkDir(opts.Dir); err != nil {
		return nil, err
	}
	externalURL, err := url.Parse(opts.ExternalURL)
	if err != nil {
		return nil, fmt.Errorf("external url: %w", err)
	}
	m, err := newMetrics(opts.Metrics)
	if err != nil {
		return nil, err
	}
	disk := &room{dir: opts.Dir, least: opts.MinFree, logger: opts.Logger, free: freeBytes}
	disk.release()
	db, err := tsdb.Open(opts.Dir, slog.New(quietHandler{opts.Logger.With("component", "tsdb").Handler()}), opts.Registerer, opts.tsdbOptions(), nil)
	if err != nil {
		return nil, openError(opts.Dir, err)
	}
	p := parser.NewParser(parser.Options{})
	disk.flush = db.ForceHeadMMap
	if !opts.scratch {
		disk.reserve()
	}
	written := guarded{db, disk}
	if err := m.watch(opts.Metrics, written.room); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s := &Store{
		opts:    opts,
		logger:  opts.Logger,
		db:      db,
		written: written,
		parser:  p,
		metrics: m,
		clock:   &clock{now: time.Now, began: time.Now(), logger: opts.Logger},
		places:  make(chan struct{}, opts.APIConcurrency),
		empty:   db.Head().NumSeries() == 0 && len(db.Blocks()) == 0,
	}
	s.sender = &sender{dir: opts.Dir, deadline: flushDeadline, logger: opts.Logger.With("component", "remote write"), reg: opts.Registerer}
	db.SetWriteNotified(s.sender)
	s.route.Store(&route{})
	s.global.Store(&Global{opts.ScrapeInterval, opts.EvaluationInterval, opts.ExternalLabels})
	s.engine = promql.NewEngine(promql.EngineOpts{
		Logger:               opts.Logger.With("component", "query engine"),
		Reg:                  opts.Registerer,
		MaxSamples:           opts.MaxSamples,
		Timeout:              opts.QueryTimeout,
		LookbackDelta:        opts.LookbackDelta,
		EnableAtModifier:     true,
		EnableNegativeOffset: true,
		Parser:               p,
		// What a subquery without a step of its own steps by: Prometheus takes the global evaluation interval.
		NoStepSubqueryIntervalFn: func(int64) int64 { return s.global.Load().EvaluationInterval.Milliseconds() },
	})
	s.ruleOptions = &promrules.ManagerOptions{
		NameValidationScheme: model.UTF8Validation,
		ExternalURL:          externalURL,
		QueryFunc:            s.queryFunc(),
		Context:              context.Background(), // of the look-up that restores alerts, at most some milliseconds
		Appendable:           written,
		Queryable:            db,
		Logger:               slog.New(quietHandler{opts.Logger.With("component", "rules").Handler()}),
		OutageTolerance:      outageTolerance,
		ForGracePeriod:       forGracePeriod,
		ResendDelay:          opts.ResendDelay,
		Metrics:              promrules.NewGroupMetrics(opts.Registerer),
		Parser:               p,
	}
	sdMetrics, err := discovery.CreateAndRegisterSDMetrics(opts.Registerer)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start discovery: %w", err), db.Close())
	}
	s.scraper, err = newScraper(opts, written, sdMetrics)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.alerter, err = newAlerter(opts, sdMetrics)
	if err != nil {
		s.scraper.close()
		return nil, errors.Join(err, db.Close())
	}
	s.ruleOptions.NotifyFunc = promrules.SendAlerts(s.alerter.outbox, strings.TrimRight(opts.ExternalURL, "/"))
	return s, nil
}

// Run scrapes, evaluates and sends alerts until ctx ends. Then it stops in order: the groups, which finish the evaluation in
// progress; then the alerts that are queued are sent, for at most five seconds; then discovery and scraping end. The other
// way around, rules would see targets vanish that are still there. It returns nil after an ordered stop, and may be called
// once.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	groupCtx, stopGroups := context.WithCancel(ctx)
	defer stopGroups()
	if err := s.begin(groupCtx, cancel); err != nil {
		return err
	}
	defer close(s.runDone)

	stopScraping, scrapeErr := s.scraper.start()
	if scrapeErr == nil {
		<-ctx.Done()
	}
	s.mu.Lock()
	s.groupCtx = nil
	s.mu.Unlock()
	stopGroups()
	s.groups.Wait()
	s.alerter.stop()
	stopScraping()
	return scrapeErr
}

// begin starts the groups that there are.
func (s *Store) begin(ctx context.Context, stop context.CancelFunc) error {
	if s.isClosed() {
		return ErrClosed
	}
	s.reload.Lock()
	defer s.reload.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runDone != nil {
		return errors.New("the store runs already, or has run")
	}
	if err := s.alerter.start(); err != nil {
		s.alerter.stop()
		return err
	}
	s.groupCtx, s.stopRun, s.runDone = ctx, stop, make(chan struct{})
	for _, r := range s.runners {
		r.start(ctx, &s.groups)
	}
	for _, o := range s.retired {
		s.groups.Go(func() { o.wait(ctx) })
	}
	s.retired = nil
	return nil
}

// Close stops Run if it runs, waits for the queries in progress, sends on what waits to be sent, for some seconds at most,
// closes the database and lets go of the directory. A second call does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	stop, done := s.stopRun, s.runDone
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-done
	}
	s.reload.Lock()
	defer s.reload.Unlock()
	s.use.Lock()
	defer s.use.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.scraper.close()
	s.alerter.close()
	if err := errors.Join(s.sender.close(), s.engine.Close(), s.db.Close()); err != nil {
		return fmt.Errorf("close the data directory %s: %w", s.opts.Dir, err)
	}
	return nil
}

func (s *Store) isClosed() bool {
	s.use.RLock()
	defer s.use.RUnlock()
	return s.closed
}

// forgetGroup drops Prometheus's own metrics of a group that is gone, as its manager does.
func (s *Store) forgetGroup(key string) {
	m := s.ruleOptions.Metrics
	m.IterationsMissed.DeleteLabelValues(key)
	m.IterationsScheduled.DeleteLabelValues(key)
	m.EvalTotal.DeleteLabelValues(key)
	m.EvalFailures.DeleteLabelValues(key)
	m.GroupInterval.DeleteLabelValues(key)
	m.GroupLastEvalTime.DeleteLabelValues(key)
	m.GroupLastDuration.DeleteLabelValues(key)
	m.GroupLastRuleDurationSum.DeleteLabelValues(key)
	m.GroupLastRestoreDuration.DeleteLabelValues(key)
	m.GroupRules.DeleteLabelValues(key)
	m.GroupSamples.DeleteLabelValues(key)
}

// checkDir makes the data directory and sees that it can be written, so that the error names the directory and not a
// file inside that the user never heard of.
func checkDir(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("data directory %s cannot be made: %w", dir, pathCause(err))
	}
	f, err := os.CreateTemp(dir, ".writable-")
	if err != nil {
		return fmt.Errorf("data directory %s cannot be written: %w", dir, pathCause(err))
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return fmt.Errorf("data directory %s cannot be written: %w", dir, err)
	}
	if _, err := os.ReadDir(dir); err != nil {
		return fmt.Errorf("data directory %s cannot be read: %w", dir, pathCause(err))
	}
	return nil
}

// pathCause is what is wrong, where the path is told already.
func pathCause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// openError tells the one fault that a user can do something about from the others.
func openError(dir string, err error) error {
	var pe *fs.PathError
	if strings.HasPrefix(err.Error(), "lock DB directory: ") && !errors.As(err, &pe) {
		return fmt.Errorf("data directory %s is in use by another process (lock held): stop it, or give another directory by storage.path or --storage.path; the lock is %s", dir, filepath.Join(dir, "lock"))
	}
	return fmt.Errorf("open the data directory %s: %w", dir, err)
}

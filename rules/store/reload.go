package store

import (
	"errors"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// Config is what a Store may be told anew while it runs.
type Config struct {
	Global
	Groups   []Group  // what to evaluate
	Scrape   Scrape   // what to scrape
	Alerting Alerting // where alerts are sent

	Remote       Elsewhere    // answers queries of what the groups do not write; nil: the store answers all
	RemoteWrites RemoteWrites // where to send on what is written here
}

// Global are the settings that the parts of a Config share.
type Global struct {
	ScrapeInterval     time.Duration // of the jobs that give none; 0: that of DefaultOptions
	EvaluationInterval time.Duration // of the groups that give none, and of subqueries without a step; 0: that of DefaultOptions
	ExternalLabels     labels.Labels // in alert templates, on alerts that are sent, and part of the seed that spreads scrapes over the interval
}

func (g Global) normalize() Global {
	d := DefaultOptions()
	if g.ScrapeInterval == 0 {
		g.ScrapeInterval = d.ScrapeInterval
	}
	if g.EvaluationInterval == 0 {
		g.EvaluationInterval = d.EvaluationInterval
	}
	return g
}

// Prepared is a Config that was checked and is ready to be taken over.
type Prepared struct {
	store    *Store
	global   Global
	groups   *preparedGroups
	scrape   *prepared
	alerting *preparedAlerting
	send     sending
}

// Prepare checks a whole configuration and changes nothing. The error joins every fault.
func (s *Store) Prepare(c Config) (*Prepared, error) {
	if s.isClosed() {
		return nil, ErrClosed
	}
	p := &Prepared{store: s, global: c.normalize(), send: sending{c.RemoteWrites, c.ExternalLabels}}
	var errs [3]error
	p.groups, errs[0] = s.prepareGroups(p.global, c.Groups, c.Remote)
	p.scrape, errs[1] = s.scraper.prepare(p.global, c.Scrape)
	p.alerting, errs[2] = s.alerter.prepare(p.global, c.Alerting)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return p, nil
}

// Commit takes a prepared configuration over: what did not change goes on undisturbed; see SetGroups, ApplyScrape and
// ApplyAlerting. It fails only for what happened to a file since it was read, or where Prometheus's scraper, sender or
// notifier does; then everything stays as it was. It calls committed, which may be nil, when it can fail no more, and before
// any group that is new or changed is evaluated.
func (p *Prepared) Commit(committed func()) error {
	s := p.store
	s.reload.Lock()
	defer s.reload.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	if err := errors.Join(p.scrape.check(), p.send.check(), p.alerting.check()); err != nil {
		return err
	}
	// The scraper first: it alone can still fail for a reason of the user's, a failure log that cannot be written, and to
	// take the others back would cost them what they have queued.
	before, sent := s.scraper.present(), s.sender.applied
	if err := s.scraper.change(p.scrape); err != nil {
		return err
	}
	if err := s.sender.change(p.send); err != nil {
		return errors.Join(err, s.takeBack(before, sent))
	}
	if err := s.alerter.commit(p.alerting); err != nil {
		return errors.Join(err, s.takeBack(before, sent))
	}
	s.global.Store(&p.global)
	s.changeGroups(p.groups, committed)
	return nil
}

// takeBack returns the scraper and the sender to what they were.
func (s *Store) takeBack(scraped *prepared, sent sending) error {
	var err error
	if scraped != nil {
		err = s.scraper.change(scraped)
	}
	return errors.Join(err, s.sender.change(sent))
}

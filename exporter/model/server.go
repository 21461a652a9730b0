package model

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// server is one model server.
type server struct {
	config *exporter.ModelServer
	client *client
	descs  descs
	gpus   GPUs
	facts  func(server string) (precision, framework string)
	procs  *processes
	log    *slog.Logger

	reading *reading // of poll alone

	mu      sync.Mutex
	page    *page     // the last, if it could be read; nil where it could not
	scraped time.Time // when a page was read last; zero for never
	tried   bool
	err     error     // why there is no page
	since   time.Time // when that began
	used    usage     // of the server's process
}

func newServer(config exporter.ModelServer, o Options, d descs) (*server, error) {
	c, err := newClient(&config)
	if err != nil {
		return nil, fmt.Errorf("model server %s: %w", config.Name, err)
	}
	s := &server{config: &config, client: c, descs: d, gpus: o.GPUs, facts: o.Facts, log: o.Logger.With("server", config.Name), reading: newReading(&config)}
	s.procs = newProcesses(o.ProcFS, c)
	return s, nil
}

// run polls until ctx ends.
func (s *server) run(ctx context.Context) {
	defer s.client.close()
	ticker := time.NewTicker(time.Duration(s.config.Interval))
	defer ticker.Stop()
	for {
		s.poll(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// poll reads the page once.
func (s *server) poll(ctx context.Context) {
	p, err := s.read(ctx, s.reading)
	if ctx.Err() != nil {
		return // this is the end, not the server's failure
	}
	used := s.procs.usage(time.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.tried, s.page, s.used = true, p, used
	switch {
	case err == nil:
		s.scraped = now
		if s.err != nil {
			s.log.Info("model server is read again", "engine", p.engine, "after", now.Sub(s.since).Round(time.Millisecond))
		}
	case s.err == nil:
		s.since = now
		s.log.Warn("model server cannot be read", "url", s.config.Redacted(), "err", err)
	case s.err.Error() != err.Error():
		s.log.Warn("model server cannot be read for another reason", "url", s.config.Redacted(), "err", err, "since", s.since)
	}
	s.err = err
}

// read reads the page into r, within the timeout.
func (s *server) read(ctx context.Context, r *reading) (*page, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.config.Timeout))
	defer cancel()
	err := s.fetch(ctx, r)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("it was not there whole within %s (timeout)", s.config.Timeout)
	}
	if err != nil {
		return nil, err
	}
	return r.finish(s.descs), nil
}

// fetch reads the page, and once more where it has turned out to be one of another engine.
func (s *server) fetch(ctx context.Context, r *reading) error {
	err := s.fetchOnce(ctx, r)
	if errors.Is(err, errOther) {
		err = s.fetchOnce(ctx, r)
	}
	return err
}

func (s *server) fetchOnce(ctx context.Context, r *reading) error {
	answer, err := s.client.get(ctx)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return r.read(ctx, answer.Body, answer.Header.Get("Content-Type"), answer.Header.Get("Content-Encoding"))
}

// metrics are those of the last page, of whether there is one and of the process.
func (s *server) metrics() []prometheus.Metric {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.tried {
		return nil
	}
	return s.publish(s.page, s.scraped, s.used)
}

// labels are the labels model and engine of a server's series; model is empty where it has several, both while it is down.
func (s *server) labels() (model, engine string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.page == nil {
		return "", ""
	}
	if len(s.page.models) == 1 {
		model = s.page.models[0].model
	}
	return model, s.page.engine
}

// publish makes the metrics of a page, which is nil where there is none.
func (s *server) publish(p *page, scraped time.Time, used usage) []prometheus.Metric {
	up := 0.0
	if p != nil {
		up = 1
	}
	own := pairs("server", s.config.Name)
	all := []prometheus.Metric{s.descs.gauge(upFamily, up, own)}
	if !scraped.IsZero() {
		all = append(all, s.descs.gauge(scrapedFamily, float64(scraped.UnixMilli())/1000, own))
	}
	if p == nil {
		return all
	}
	all = append(all, p.metrics...)
	var precision, framework string
	if s.facts != nil && len(p.models) == 1 { // its files are those of its one model
		precision, framework = s.facts(s.config.Name)
	}
	for _, m := range p.models {
		all = append(all, s.descs.gauge(infoFamily, 1, pairs("model", m.model, "server", s.config.Name, "engine", p.engine, "version", m.version,
			"precision", precision, "framework", framework)))
	}
	for _, uuid := range s.uuids(used) {
		for i, m := range p.models {
			if i > 0 && p.models[i-1].model == m.model {
				continue // another version of it
			}
			all = append(all, s.descs.gauge(gpuFamily, 1, pairs("model", m.model, "server", s.config.Name, "uuid", uuid)))
		}
	}
	if used.pid != 0 {
		model := "" // of a server with several nobody knows whose it is
		if len(p.models) == 1 {
			model = p.models[0].model
		}
		labels := pairs("model", model, "server", s.config.Name, "engine", p.engine)
		all = append(all, s.descs.counter(cpuFamily, used.cpu, labels), s.descs.gauge(memoryFamily, used.memory, labels))
	}
	return all
}

// uuids are the GPUs that the server runs on.
func (s *server) uuids(used usage) []string {
	switch {
	case !s.config.GPUs.Auto():
		return s.config.GPUs
	case s.gpus == nil || len(used.pids) == 0:
		return nil
	}
	return s.gpus.GPUsOf(used.pids)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/common/version"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators"
	"flyball/actuators/process"
	"flyball/cmd/flyball/web"
	"flyball/rules"
	"flyball/rules/journal"
	"flyball/rules/source"
	"flyball/rules/store"
)

// page is the page over what this process has. It is registered before the parts are built and asked after.
func (a *app) page() web.Page {
	page := web.Page{Version: version.Version, ConfigFile: a.opts.configFile, Acting: a.opts.act, Lifecycle: a.opts.lifecycle}
	if a.opts.has(roleRules) {
		page.Decisions, page.Queries, page.Brake, page.Forecasts = decisions{a}, queries{a}, brake{a}, a.forecastStatus
	}
	f := &figures{queries: page.Queries}
	page.Warnings = a.warnings
	page.Status = func(ctx context.Context) web.Status { return a.status(ctx, f) }
	return page
}

// forecastStatus says how the forecast rules stand.
func (a *app) forecastStatus() (all []rules.ForecastStatus) {
	for _, p := range a.live.Load().predictors {
		all = append(all, p.Status())
	}
	return all
}

// warnings are what keeps this process from recording what it sees and decides, from acting at all, or from knowing what the
// proxy may send to.
func (a *app) warnings() (all []string) {
	var unrecorded *rules.Decision
	for _, s := range a.live.Load().scalers {
		for _, d := range s.Decisions() {
			if d.Result == rules.Unrecorded {
				unrecorded = d
			}
		}
	}
	if unrecorded != nil {
		all = append(all, "decisions cannot be recorded, and what is not recorded is not done, so no size changes: "+unrecorded.Error)
	}
	if a.store != nil {
		if err := a.store.Full(); err != nil {
			all = append(all, err.Error()+"; scale rules hold what they cannot see")
		}
	}
	if a.opts.act && a.elector != nil && !a.elector.Leads() {
		if leader := a.elector.Leader(); leader != "" {
			all = append(all, fmt.Sprintf("another flyball (%s) acts; this one decides, and changes nothing", leader))
		} else {
			all = append(all, "this flyball is not the one that acts, and does not know which is; it decides, and changes nothing")
		}
	}
	if a.services != nil {
		all = append(all, a.services.Warnings()...)
	}
	return all
}

// brake is the brake that the page stops acting with.
type brake struct{ *app }

// Frozen implements web.Brake.
func (b brake) Frozen() (rules.Freeze, bool) { return b.brake.Frozen() }

// Freeze implements web.Brake.
func (b brake) Freeze(by, why string) error {
	err := b.brake.Freeze(by, why)
	if err != nil {
		b.opts.log.Error("acting is frozen until a restart only", "by", by, "why", why, "err", err)
		return err
	}
	b.opts.log.Warn("acting is frozen", "by", by, "why", why)
	return nil
}

// Release implements web.Brake.
func (b brake) Release() error {
	err := b.brake.Release()
	if err == nil {
		b.opts.log.Warn("acting is released")
	}
	return err
}

// Pause implements web.Brake.
func (b brake) Pause(name string, until time.Time, by, why string) ([]string, error) {
	return b.each(name, func(target string) error {
		b.opts.log.Warn("acting on a target is paused", "target", target, "until", until, "by", by, "why", why)
		return b.brake.Pause(target, until, by, why)
	})
}

// Resume implements web.Brake.
func (b brake) Resume(name string) ([]string, error) {
	return b.each(name, func(target string) error {
		b.opts.log.Warn("acting on a target is resumed", "target", target)
		return b.brake.Resume(target)
	})
}

// each does something with each target of a name: its own, as kind/name, or that of the rule which scales it.
func (b brake) each(name string, do func(target string) error) (targets []string, err error) {
	var known []string
	for _, s := range b.live.Load().scalers {
		keys := s.Keys()
		known = append(append(known, s.Name()), keys...)
		if s.Name() == name {
			targets = keys
		} else if slices.Contains(keys, name) {
			targets = []string{name}
		}
	}
	if _, paused := b.brake.Paused(time.Now())[name]; paused && len(targets) == 0 { // of a rule that is gone
		targets = []string{name}
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("target %q: %w%s", name, web.ErrUnknownTarget, source.DidYouMean(name, known))
	}
	for _, target := range targets {
		err = errors.Join(err, do(target))
	}
	return targets, err
}

// queries adapts the store, and the Prometheus elsewhere, to what the page asks of them.
type queries struct{ *app }

// Query implements web.Queries.
func (q queries) Query(ctx context.Context, expr string, at time.Time) ([]rules.Sample, error) {
	return q.store.Router().Show(ctx, expr, at)
}

// QueryRange implements web.Queries.
func (q queries) QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) ([]web.Series, error) {
	found, err := q.store.Router().ShowRange(ctx, expr, start, end, step)
	if err != nil {
		return nil, err
	}
	out := make([]web.Series, len(found))
	for i, s := range found {
		out[i].Labels = s.Labels
		for _, p := range s.Points {
			out[i].Points = append(out[i].Points, web.Point(p))
		}
	}
	return out, nil
}

// decisions adapts the journal to what the page reads.
type decisions struct{ *app }

// Recent implements web.Decisions. A rule that has been quiet for so long that the journal's memory has passed it by
// answers with its last decision. One that could not be written to the journal is among them for as long as it is the last.
func (d decisions) Recent(f web.Filter, n int) []*rules.Decision {
	if f.Every {
		return d.memory.Decisions(f.Rule, f.Since, f.Until, n)
	}
	found := d.journal.Recent(journal.Filter{ID: f.ID, Rule: f.Rule, Since: f.Since, Until: f.Until}, n)
	quiet := len(found) == 0 && f.Rule != ""
	var others []*rules.Decision
	for _, s := range d.live.Load().scalers {
		if f.Rule != "" && s.Name() != f.Rule {
			continue
		}
		for _, last := range s.Decisions() {
			if (quiet || last.Result == rules.Unrecorded) && (f.ID == "" || f.ID == last.ID) &&
				(f.Since.IsZero() || !last.Time.Before(f.Since)) && (f.Until.IsZero() || !last.Time.After(f.Until)) {
				others = append(others, last)
			}
		}
	}
	found = append(others, found...) // they are newer than what could be written
	return found[:min(len(found), n)]
}

// status gathers what the page shows besides decisions.
func (a *app) status(ctx context.Context, f *figures) web.Status {
	now := a.live.Load()
	s := now.models(ctx, f)
	var paused map[string]rules.Freeze
	if a.brake != nil {
		paused = a.brake.Paused(time.Now())
	}
	for _, sc := range now.scalers {
		s.Rules = append(s.Rules, scaleRules(sc, paused)...)
	}
	for _, b := range now.accountants {
		s.Budgets = append(s.Budgets, web.Budget{
			Name: b.Name(), Policy: b.Budget().Policy, Period: b.Budget().Period, AppliesTo: b.Budget().AppliesTo, BudgetStatus: b.Status(),
		})
	}
	if a.processes != nil {
		for _, name := range now.targets() {
			for _, r := range a.processes.Replicas(name) {
				s.Replicas = append(s.Replicas, replica(name, r))
			}
		}
	}
	if a.store != nil {
		all := a.store.Groups()
		s.Groups, s.Targets, s.Alerts = groups(all), targets(a.store.Targets()), alerts(a.store.Alerts(), all)
	}
	if now.Prometheus.Remote() {
		s.Scraper = now.Prometheus.URL
	}
	return s
}

// scaleRules are a rule as the page lists it: once for each of its targets, and once where it has none yet.
func scaleRules(s *rules.Scaler, paused map[string]rules.Freeze) (all []web.Rule) {
	var forecasts []string
	for _, signal := range s.Rule().Signals {
		if signal.Forecast != "" {
			forecasts = append(forecasts, signal.Forecast)
		}
	}
	add := func(target string, last *rules.Decision) {
		r := web.Rule{Name: s.Name(), Target: target, Acts: s.Acts(), Last: last, Forecasts: forecasts}
		if pause, is := paused[target]; is {
			r.Paused = &pause
		}
		all = append(all, r)
	}
	for _, last := range s.Decisions() {
		add(last.Target, last)
	}
	if len(all) == 0 {
		add(s.Rule().Key(), nil)
	}
	return all
}

// models are those of the proxy in this process, with its live counts, and those that the store has from elsewhere.
func (l *live) models(ctx context.Context, f *figures) web.Status {
	found, err := f.at(ctx, time.Now(), time.Duration(l.Global.ScrapeInterval))
	s := web.Status{Window: found.window}
	if err != nil {
		s.ModelError = err.Error()
	}
	if l.proxy != nil {
		for _, counts := range l.proxy.Models() {
			m := found.model(counts.Name)
			m.Ready, m.Queued, m.Running = counts.Ready, counts.Queued, counts.Running
			for _, c := range l.Batchproxy.Models {
				if c.Name != counts.Name {
					continue
				}
				m.MaxBatch = c.Batch.MaxSize
				for _, u := range c.Upstreams {
					if u.Target != "" {
						m.Targets = append(m.Targets, actuators.Target{Kind: process.Kind, Name: u.Target}.String())
					}
				}
			}
			s.Models = append(s.Models, m)
		}
	}
	for _, name := range found.names {
		if !slices.ContainsFunc(s.Models, func(m web.Model) bool { return m.Name == name }) {
			s.Models = append(s.Models, found.model(name))
		}
	}
	return s
}

func replica(target string, r process.ReplicaStatus) web.Replica {
	return web.Replica{
		Target: target, Index: r.Index, Address: r.Address, PID: r.PID, State: string(r.State), Since: r.Since,
		Restarts: r.Restarts, LastExit: r.LastExit,
	}
}

func groups(all []store.GroupStatus) (out []web.Group) {
	for _, g := range all {
		group := web.Group{Name: g.Name, File: g.File, Interval: g.Interval, Last: g.LastEvaluation, Duration: g.Duration}
		for _, r := range g.Rules {
			if r.LastError != "" {
				group.Errors = append(group.Errors, r.Name+": "+r.LastError)
			}
		}
		group.Rules = len(g.Rules)
		out = append(out, group)
	}
	return out
}

// alerts are the active ones, with the expression of the rule that has their name.
func alerts(active []store.ActiveAlert, groups []store.GroupStatus) (out []web.Alert) {
	exprs := map[string]string{}
	for _, g := range groups {
		for _, r := range g.Rules {
			if r.Kind == store.KindAlert {
				exprs[r.Name] = r.Expr
			}
		}
	}
	for _, a := range active {
		name := a.Labels.Get(labels.AlertName)
		alert := web.Alert{
			Name: name, State: a.State, Since: a.ActiveAt, Value: a.Value, Expr: exprs[name],
			Labels:  labels.NewBuilder(a.Labels).Del(labels.AlertName).Labels(),
			Summary: a.Annotations.Get("summary"), Runbook: a.Annotations.Get("runbook_url"),
		}
		if alert.Summary == "" {
			alert.Summary = a.Annotations.Get("description")
		}
		out = append(out, alert)
	}
	return out
}

func targets(all []store.Target) (out []web.Target) {
	for _, t := range all {
		out = append(out, web.Target{
			Job: t.Job, URL: t.URL, Health: t.Health, Error: t.LastError, Last: t.LastScrape, Duration: t.LastScrapeDuration,
		})
	}
	return out
}

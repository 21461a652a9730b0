package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/version"

	"flyball/actuators/process"
	"flyball/cmd/flyball/web"
	"flyball/rules"
	"flyball/rules/journal"
	"flyball/rules/store"
)

// webHandler serves the page, /metrics, health and the API.
func (a *app) webHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metricsHandler(a.metrics))
	mux.Handle("GET /metrics/embedded", metricsHandler(a.embedded))
	a.registerLifecycle(mux)
	registerProfiles(mux)
	// What is read for the page is there once the parts are built.
	built := http.NewServeMux()
	page := web.Page{Version: version.Version, Acting: a.opts.act, Status: a.status}
	if a.opts.has(roleRules) {
		page.Decisions = decisions{a}
	}
	page.Register(built)
	web.Prometheus{Store: a.prometheusStore, Build: buildInfo()}.Register(built)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if a.phase.Load() == starting {
			w.Header().Set("Retry-After", "1")
			web.Text(w, http.StatusServiceUnavailable, "flyball is starting.\n")
			return
		}
		built.ServeHTTP(w, r)
	})
	return mux
}

// webServer is the server of one of the page's addresses.
func (a *app) webServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ErrorLog: slog.NewLogLogger(a.opts.log.With("component", "web").Handler(), slog.LevelDebug),
		// What is asked for here is small and quick; a client that takes longer is broken or hostile.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
	}
}

// prometheusStore is what answers Prometheus's API: nothing where this process has no store.
func (a *app) prometheusStore() web.PrometheusStore {
	if a.store == nil {
		return nil
	}
	return a.store
}

func buildInfo() web.BuildInfo {
	return web.BuildInfo{
		Version: store.PrometheusVersion(), Revision: version.GetRevision(), Branch: version.Branch,
		BuildUser: version.BuildUser, BuildDate: version.BuildDate, GoVersion: version.GoVersion, Flyball: version.Version,
	}
}

// proxyServer serves the batching proxy, over HTTP/1 and HTTP/2, with TLS and without.
func (a *app) proxyServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.live.Load().proxy.ServeHTTP(w, r) }), Protocols: protocols,
		// What clients do wrong with their connections; the requests themselves are counted.
		ErrorLog: slog.NewLogLogger(a.opts.log.With("component", "batchproxy").Handler(), slog.LevelDebug),
		// No WriteTimeout: it would cut long answers and streams; the proxy has its own timeout for each model.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
}

func metricsHandler(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorHandling:     promhttp.ContinueOnError, // one bad collector must not take the rest away
		EnableOpenMetrics: true,
		Registry:          reg,
	})
}

// decisions adapts the journal to what the page reads.
type decisions struct{ *app }

// Recent implements web.Decisions. A rule that has been quiet for so long that the journal's memory has passed it by
// answers with its last decision.
func (d decisions) Recent(f web.Filter, n int) []*rules.Decision {
	found := d.journal.Recent(journal.Filter{ID: f.ID, Rule: f.Rule, Since: f.Since, Until: f.Until}, n)
	if len(found) > 0 || f.Rule == "" {
		return found
	}
	for _, s := range d.live.Load().scalers {
		last := s.Last()
		if s.Name() == f.Rule && last != nil && (f.ID == "" || f.ID == last.ID) &&
			(f.Since.IsZero() || !last.Time.Before(f.Since)) && (f.Until.IsZero() || !last.Time.After(f.Until)) {
			return []*rules.Decision{last}
		}
	}
	return nil
}

// status gathers what the page shows besides decisions.
func (a *app) status(context.Context) web.Status {
	var s web.Status
	now := a.live.Load()
	if now.proxy != nil {
		for _, m := range now.proxy.Models() {
			s.Models = append(s.Models, web.Model{Name: m.Name, Ready: m.Ready, Queued: m.Queued, Running: m.Running})
		}
	}
	for _, sc := range now.scalers {
		rule := web.Rule{Name: sc.Name(), Target: sc.Rule().Target.String(), Acts: sc.Acts(), Last: sc.Last()}
		s.Rules = append(s.Rules, rule)
	}
	if a.processes != nil {
		for _, name := range now.targets() {
			for _, r := range a.processes.Replicas(name) {
				s.Replicas = append(s.Replicas, replica(name, r))
			}
		}
	}
	if a.store != nil {
		s.Groups, s.Targets = groups(a.store.Groups()), targets(a.store.Targets())
		for _, alert := range a.store.Alerts() {
			s.Alerts = append(s.Alerts, web.Alert{Labels: alert.Labels.String(), State: alert.State, Since: alert.ActiveAt, Value: alert.Value})
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

func targets(all []store.Target) (out []web.Target) {
	for _, t := range all {
		out = append(out, web.Target{
			Job: t.Job, URL: t.URL, Health: t.Health, Error: t.LastError, Last: t.LastScrape, Duration: t.LastScrapeDuration,
		})
	}
	return out
}

package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/common/version"

	"flyball/batchproxy"
	"flyball/cmd/flyball/web"
	"flyball/exporter"
	"flyball/mixin"
	"flyball/rules/remote"
	"flyball/rules/store"
)

// webHandler serves the page, /metrics, health and the API.
func (a *app) webHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metricsHandler(a.opts.exporter.maxRequests))
	mux.Handle("GET /metrics/dcgm", exporter.LimitRequests(a.metrics, "/metrics/dcgm", a.opts.exporter.maxRequests, a.dcgmPage()))
	mux.Handle("GET /metrics/embedded", exporter.NewHandler(exporter.HandlerOptions{Process: a.embedded}))
	mux.Handle("GET /probe", exporter.LimitRequests(a.metrics, "/probe", a.opts.exporter.maxRequests, http.HandlerFunc(a.probeModel)))
	mux.Handle("GET /runbooks/{alert}", mixin.RunbookHandler())
	a.registerLifecycle(mux)
	registerProfiles(mux)
	// What is read for the page is there once the parts are built.
	built := http.NewServeMux()
	a.page().Register(built)
	built.HandleFunc("GET /debug/batcher", a.explainBatcher)
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

// explainBatcher says what the batching proxy has learned and why its last batches left, as text or, where it is asked for
// by ?format=json or Accept, as JSON. It has no payloads.
func (a *app) explainBatcher(w http.ResponseWriter, r *http.Request) {
	proxy := a.live.Load().proxy
	if proxy == nil {
		web.Text(w, http.StatusNotFound, "This process has no batching proxy: it has the role batchproxy and batchproxy.models.\n")
		return
	}
	all := proxy.Explain()
	if r.URL.Query().Get("format") == "json" || strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(struct { // that the client has gone is no error of ours
			Models []batchproxy.Explanation `json:"models"`
		}{all})
		return
	}
	var text strings.Builder
	for i, x := range all {
		if i > 0 {
			text.WriteString("\n")
		}
		_ = x.WriteText(&text) // a builder takes everything
	}
	web.Text(w, http.StatusOK, text.String())
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

// prometheusStore is what answers a request to Prometheus's API: nothing where this process has no store.
func (a *app) prometheusStore(r *http.Request) web.PrometheusStore {
	switch {
	case a.store == nil:
		return nil
	case remote.Asked(r.Header):
		return a.store.Router().Here()
	}
	return a.store.Router()
}

func buildInfo() web.BuildInfo {
	return web.BuildInfo{
		Version: store.PrometheusVersion(), Revision: version.GetRevision(), Branch: version.Branch,
		BuildUser: version.BuildUser, BuildDate: version.BuildDate, GoVersion: version.GoVersion, Flyball: version.Version,
	}
}

// proxyServer serves the batching proxy, over HTTP/1 and HTTP/2, with TLS and without.
func (a *app) proxyServer() *http.Server {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.live.Load().proxy.ServeHTTP(w, r) })
	return batchproxy.NewServer(handler, a.opts.log.With("component", "batchproxy"))
}

package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/coreos/go-systemd/v22/daemon"

	"flyball/cmd/flyball/web"
)

// Paths that say how flyball is and change it, as Prometheus has them.
const (
	healthyPath = "/-/healthy"
	readyPath   = "/-/ready"
	reloadPath  = "/-/reload"
	quitPath    = "/-/quit"
)

// registerLifecycle adds health, and what reloads and ends this process.
func (a *app) registerLifecycle(mux *http.ServeMux) {
	mux.HandleFunc("GET "+healthyPath, func(w http.ResponseWriter, _ *http.Request) {
		web.Text(w, http.StatusOK, "flyball is healthy.\n")
	})
	mux.HandleFunc("GET "+readyPath, func(w http.ResponseWriter, _ *http.Request) {
		switch a.phase.Load() {
		case starting:
			web.Text(w, http.StatusServiceUnavailable, "flyball is starting.\n")
		case stopping:
			web.Text(w, http.StatusServiceUnavailable, "flyball is stopping.\n")
		default:
			web.Text(w, http.StatusOK, "flyball is ready.\n")
		}
	})
	// A page elsewhere must not make a browser, which has the password, reload or end flyball.
	sameOrigin := http.NewCrossOriginProtection()
	change := func(path string, do http.HandlerFunc) {
		if !a.opts.lifecycle {
			do = func(w http.ResponseWriter, _ *http.Request) {
				web.Text(w, http.StatusForbidden, "Lifecycle API is not enabled.\n")
			}
		}
		for _, method := range []string{http.MethodPost, http.MethodPut} {
			mux.Handle(method+" "+path, sameOrigin.Handler(do))
		}
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Allow", "POST, PUT")
			web.Text(w, http.StatusMethodNotAllowed, "Only POST or PUT requests allowed.\n")
		})
	}
	change(reloadPath, func(w http.ResponseWriter, r *http.Request) {
		if err := a.reloadNow(r.Context()); err != nil {
			web.Text(w, http.StatusInternalServerError, fmt.Sprintf("failed to reload config: %s\n", oneLine(err)))
			return
		}
		w.WriteHeader(http.StatusOK)
	})
	change(quitPath, func(w http.ResponseWriter, _ *http.Request) {
		a.opts.log.Warn("asked to end by HTTP")
		web.Text(w, http.StatusOK, "Requesting termination... Goodbye!\n")
		a.quit()
	})
}

// reloadNow reloads the configuration, and tells systemd while it does. SIGHUP and POST /-/reload both come here.
func (a *app) reloadNow(ctx context.Context) error {
	a.notify(daemon.SdNotifyMonotonicUsec() + daemon.SdNotifyReloading)
	defer a.notify(daemon.SdNotifyReady)
	return a.reload(ctx)
}

// isReady and isStopping tell all who wait for it.
func (a *app) isReady() {
	if a.phase.CompareAndSwap(starting, ready) {
		a.notify(daemon.SdNotifyReady)
	}
}

func (a *app) isStopping() {
	if a.phase.Swap(stopping) != stopping {
		a.notify(daemon.SdNotifyStopping)
	}
}

// notify tells the service manager that started this process, if one did.
func (a *app) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		a.opts.log.Warn("the service manager cannot be told", "state", state, "err", err)
	}
}

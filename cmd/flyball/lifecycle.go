package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

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
		err := a.reload(r.Context())
		switch {
		case errors.Is(err, errNotReady):
			w.Header().Set("Retry-After", "1")
			web.Text(w, http.StatusServiceUnavailable, err.Error()+".\n")
			return
		case err != nil:
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

// onHangups reloads at each hangup until ctx ends. One that comes while flyball starts, after it has read its configuration,
// is for when it is ready.
func (a *app) onHangups(ctx context.Context, hangups <-chan os.Signal) {
	select {
	case <-a.begun:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case <-hangups:
			_ = a.reload(ctx) // it logs how it went
		case <-ctx.Done():
			return
		}
	}
}

// isReady and isStopping tell all who wait for it.
func (a *app) isReady() {
	if a.phase.CompareAndSwap(starting, ready) {
		close(a.begun)
		if a.keda != nil {
			a.keda.ChangedAll()
		}
		a.notify(daemon.SdNotifyReady)
	}
}

func (a *app) isStopping() {
	if a.phase.Swap(stopping) == stopping {
		return
	}
	a.reloading.Lock() // a reload in progress is finished first, so that no part gets another one while it ends
	defer a.reloading.Unlock()
	a.notify(daemon.SdNotifyStopping)
}

// notify tells the service manager that started this process, if one did.
func (a *app) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		a.opts.log.Warn("the service manager cannot be told", "state", state, "err", err)
	}
}

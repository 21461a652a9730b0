package main

import (
	"net"
	"net/http"
	"net/http/pprof"
	"strings"

	"flyball/cmd/flyball/web"
)

// registerProfiles adds Go's profiles, for whoever is on this machine.
func registerProfiles(mux *http.ServeMux) {
	for path, handler := range map[string]http.HandlerFunc{
		"/debug/pprof/":        pprof.Index,
		"/debug/pprof/cmdline": pprof.Cmdline,
		"/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol":  pprof.Symbol,
		"/debug/pprof/trace":   pprof.Trace,
	} {
		mux.Handle(path, onLoopback(handler))
	}
}

// onLoopback lets through only what comes from this machine itself: both ends of the connection are loopback addresses,
// the name asked for is one of those, so that no page elsewhere can have its own name resolve here (DNS rebinding), and no
// proxy says that it speaks for another. Profiles hold what is in memory, and taking one costs time.
func onLoopback(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if local == nil || !isLoopback(local.String()) || !isLoopback(r.RemoteAddr) || !isLoopback(r.Host) || forwarded(r.Header) {
			web.Text(w, http.StatusForbidden, "Profiles are for this machine only: ask from it, at a loopback address and through no proxy, "+
				"such as http://127.0.0.1:9838/debug/pprof/ (from elsewhere: ssh -L).\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopback says whether an address, with a port or without, is this machine's loopback.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// forwarded says whether a proxy left its mark on a request.
func forwarded(h http.Header) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if h.Get(name) != "" {
			return true
		}
	}
	return false
}

package main

import (
	"net"
	"net/http"
	"sync"
)

// unusedConns are the connections on which no request has come yet. http.Server.Shutdown waits 5 s for them (and does not
// serve a request that still comes), and there often are some: clients that dial ahead, Go's own among them, and port probes.
// Closing them lets an idle server stop at once.
type unusedConns struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool // those that come now are closed at once
}

// track is the server's ConnState hook.
func (u *unusedConns) track(c net.Conn, state http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if state != http.StateNew {
		delete(u.conns, c)
		return
	}
	if u.closed {
		_ = c.Close() // nothing was written on it
		return
	}
	u.conns[c] = struct{}{}
}

func (u *unusedConns) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for c := range u.conns {
		_ = c.Close() // nothing was written on it
	}
}

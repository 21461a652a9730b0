package process

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
)

// endpoints is the list of addresses that serve, and those who follow it. The zero value is an empty list. It has no lock
// of its own: that of Processes guards it.
type endpoints struct {
	current   []string
	followers map[*follower]struct{}
}

// follower is one receiver of the list. Its channel holds one list: a newer one takes the place of one that was not
// received yet, so that set never waits and the receiver never misses the last.
type follower struct {
	lists  chan []string
	forget func() bool // stops waiting for the follower's context to end; may be nil
}

// set changes the list; followers hear of it only if it differs.
func (e *endpoints) set(addresses []string) {
	if slices.Equal(e.current, addresses) {
		return
	}
	e.current = addresses
	for f := range e.followers {
		select {
		case <-f.lists:
		default:
		}
		f.lists <- e.list() // has room: only set sends, and it just made sure
	}
}

func (e *endpoints) list() []string { return append([]string{}, e.current...) }

func (e *endpoints) follow() *follower {
	if e.followers == nil {
		e.followers = make(map[*follower]struct{})
	}
	f := &follower{lists: make(chan []string, 1)}
	e.followers[f] = struct{}{}
	return f
}

// unfollow closes the follower's channel, unless that was done before.
func (e *endpoints) unfollow(f *follower) {
	if _, ok := e.followers[f]; ok {
		delete(e.followers, f)
		close(f.lists)
		if f.forget != nil {
			f.forget()
		}
	}
}

// end closes the channels of all followers.
func (e *endpoints) end() {
	for f := range e.followers {
		e.unfollow(f)
	}
}

// ports hands out free ports of the loopback address, none to two replicas at a time. A port may still be taken by
// another program before the replica listens on it; the replica then fails to start, and its next start has another.
type ports struct {
	mu    sync.Mutex
	taken map[int]struct{}
}

// host is the address that replicas listen on.
const host = "127.0.0.1"

func (p *ports) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// The kernel may offer a port that a replica was given and does not listen on yet. Holding on to it makes the
	// kernel offer others.
	for range 64 {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		if _, ok := p.taken[port]; ok {
			continue
		}
		if p.taken == nil {
			p.taken = make(map[int]struct{})
		}
		p.taken[port] = struct{}{}
		return port, nil
	}
	return 0, fmt.Errorf("find a free port on %s: all that were offered are given out", host)
}

func (p *ports) release(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, port)
}

func address(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

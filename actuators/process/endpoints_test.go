package process

import (
	"slices"
	"testing"
)

func TestEndpoints(t *testing.T) {
	var e endpoints
	slow, quick := e.follow(), e.follow()
	next := func(f *follower) []string {
		t.Helper()
		select {
		case list, ok := <-f.lists:
			if !ok {
				return []string{"closed"}
			}
			return list
		default:
			return nil
		}
	}

	e.set([]string{"a"})
	if got := next(quick); !slices.Equal(got, []string{"a"}) {
		t.Errorf("quick got %v, want [a]", got)
	}
	e.set([]string{"a"})
	if got := next(quick); got != nil {
		t.Errorf("quick got %v though nothing changed", got)
	}
	e.set([]string{"a", "b"})
	e.set([]string{"b"})
	for _, f := range []*follower{slow, quick} {
		if got := next(f); !slices.Equal(got, []string{"b"}) {
			t.Errorf("got %v, want the last list, [b]", got)
		}
		if got := next(f); got != nil {
			t.Errorf("got %v after the last list", got)
		}
	}

	e.set([]string{"c", "d"})
	got := next(quick)
	got[0] = "x" // a receiver may do with its list what it likes
	if got := next(slow); !slices.Equal(got, []string{"c", "d"}) || !slices.Equal(e.list(), got) {
		t.Errorf("got %v, the list is %v, want [c d]", got, e.list())
	}

	e.unfollow(quick)
	e.unfollow(quick)
	e.set(nil)
	if got := next(quick); !slices.Equal(got, []string{"closed"}) {
		t.Errorf("quick got %v, want the end", got)
	}
	e.end()
	if got := next(slow); got == nil || len(got) != 0 {
		t.Errorf("slow got %v, want the empty list", got)
	}
	if got := next(slow); !slices.Equal(got, []string{"closed"}) {
		t.Errorf("slow got %v, want the end", got)
	}
	if e.list() == nil || len(e.list()) != 0 {
		t.Errorf("list %v, want an empty one", e.list())
	}
}

func TestPorts(t *testing.T) {
	var p ports
	seen := make(map[int]bool)
	for range 200 {
		port, err := p.take()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("port %d given out twice", port)
		}
		seen[port] = true
	}
	for port := range seen {
		p.release(port)
	}
	if len(p.taken) != 0 {
		t.Errorf("%d ports left", len(p.taken))
	}
}

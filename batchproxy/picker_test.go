package batchproxy

import (
	"testing"
	"time"
)

func TestPicker(t *testing.T) {
	now := time.Unix(100, 0)
	a, b, c := &replica{address: "a"}, &replica{address: "b"}, &replica{address: "c"}
	p := picker{replicas: []*replica{a, b, c}, inflight: 2}
	for _, tt := range []struct {
		name  string
		set   func()
		avoid *replica
		want  *replica
	}{
		{"turn", func() {}, nil, a},
		{"turn again", func() {}, nil, b},
		{"least in flight", func() { a.batches, b.calls = 1, 1 }, nil, c},
		{"a free slot", func() { c.batches, a.batches = 2, 2 }, nil, b},
		{"drained", func() { b.draining = true }, nil, nil},
		{"benched", func() { b.draining, a.batches, c.batches, a.bench = false, 0, 0, now.Add(1) }, b, c},
		{"another is busy", func() { c.batches = 2 }, b, nil},
		{"only the one to avoid", func() { c.left = true }, b, b},
	} {
		tt.set()
		if got := p.forBatch(now, tt.avoid); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := p.wake(now); !got.Equal(now.Add(1)) {
		t.Errorf("wake is %v", got)
	}
	if got := p.ready(now); got != 1 {
		t.Errorf("%d ready, want 1", got)
	}
}

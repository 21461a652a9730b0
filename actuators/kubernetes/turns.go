package kubernetes

import (
	"container/list"
	"context"
	"math"
	"sync"
	"time"
)

// turns hands out the turns to send a request: so many a second in the long run, and some at once. Those who wait for one are
// served target by target, in a circle, and of one target in the order in which they came. One that asks for a thousand, or
// whose requests are turned away again and again, so keeps each other target waiting for one turn, and not for a thousand.
//
// It has no goroutine: a timer is armed while somebody waits.
type turns struct {
	perSecond, burst float64

	mu     sync.Mutex       // guards what follows
	left   float64          // turns that may be had at once
	at     time.Time        // when they were counted
	closed time.Time        // until when nobody has one
	lines  map[string]*line // by their keys
	circle *list.List       // of *line: the same, that whose turn is next first
	timer  *time.Timer      // calls serve; nil before anybody has waited
	armed  bool             // it will
}

// line is those who wait for one target.
type line struct {
	key   string
	waits *list.List    // of chan struct{}, each closed when it is its turn; oldest first
	place *list.Element // in the circle
}

// newTurns returns turns of which burst may be had at once.
func newTurns(perSecond float64, burst int) *turns {
	return &turns{perSecond: perSecond, burst: float64(burst), lines: map[string]*line{}, circle: list.New()}
}

// take waits for a turn of a key. The error is that of the context, or a refusal at once where the context ends before the
// apiserver wants to be asked again.
func (t *turns) take(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	granted, leave, err := t.queue(ctx, key)
	if granted == nil || err != nil {
		return err
	}
	select {
	case <-granted:
		return nil
	case <-ctx.Done():
		leave()
		return ctx.Err()
	}
}

// queue joins the line of a key, which leave leaves again; granted is nil where the turn is there already.
func (t *turns) queue(ctx context.Context, key string) (granted <-chan struct{}, leave func(), _ error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if end, limited := ctx.Deadline(); limited && t.closed.After(end) {
		return nil, nil, refusal("the apiserver turned a request away and wants none for another %s", t.closed.Sub(now).Round(time.Second))
	}
	if t.circle.Len() == 0 && t.due(now) == 0 {
		t.left--
		return nil, nil, nil
	}
	l := t.lines[key]
	if l == nil {
		l = &line{key: key, waits: list.New()}
		l.place = t.circle.PushBack(l)
		t.lines[key] = l
	}
	turn := make(chan struct{})
	wait := l.waits.PushBack(turn)
	t.arm(now)
	return turn, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		select {
		case <-turn: // at the same moment: somebody else has the turn
			t.left = min(t.burst, t.left+1)
			t.armed = false
		default:
			l.waits.Remove(wait)
			t.served(l)
		}
		t.arm(time.Now())
	}, nil
}

// served takes a line in which nobody waits any more out of the circle. mu is held.
func (t *turns) served(l *line) {
	if l.waits.Len() == 0 {
		t.circle.Remove(l.place)
		delete(t.lines, l.key)
	}
}

// due is how long it is until there is a turn; 0 for at once. mu is held.
func (t *turns) due(now time.Time) time.Duration {
	if closed := t.closed.Sub(now); closed > 0 {
		return closed
	}
	if passed := now.Sub(t.at); passed > 0 {
		t.left, t.at = min(t.burst, t.left+passed.Seconds()*t.perSecond), now
	}
	const rounding = 1e-9
	if t.left >= 1-rounding {
		return 0
	}
	return max(1, time.Duration(math.Ceil((1-t.left)/t.perSecond*float64(time.Second))))
}

// arm has serve called when there is a turn for those who wait. mu is held.
func (t *turns) arm(now time.Time) {
	switch {
	case t.circle.Len() == 0:
		if t.armed {
			t.timer.Stop()
			t.armed = false
		}
	case t.armed:
	case t.timer == nil:
		t.timer, t.armed = time.AfterFunc(t.due(now), t.serve), true
	default:
		t.timer.Reset(t.due(now))
		t.armed = true
	}
}

// serve hands out the turns that there are, one to each line in the circle, and again.
func (t *turns) serve() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed = false
	now := time.Now()
	for t.circle.Len() > 0 && t.due(now) == 0 {
		t.left--
		l := t.circle.Front().Value.(*line)
		close(l.waits.Remove(l.waits.Front()).(chan struct{}))
		t.circle.MoveToBack(l.place)
		t.served(l)
	}
	t.arm(now)
}

// close has nobody get a turn for so long, and then one after the other: a burst is what was turned away.
func (t *turns) close(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if until := time.Now().Add(d); until.After(t.closed) {
		t.closed, t.at, t.left = until, until, 1
	}
}

type turnKey struct{}

// inLine returns a context whose requests wait in the line of a key.
func inLine(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, turnKey{}, key)
}

// lineOf is the key of a request's line: that of what belongs to no target, such as the list of the cluster's resources, is
// empty.
func lineOf(ctx context.Context) string {
	key, _ := ctx.Value(turnKey{}).(string)
	return key
}

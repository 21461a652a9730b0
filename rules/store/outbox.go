package store

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/notifier"
)

// outbox holds alerts on their way from the rules to the notifier. Rules must not wait, and the notifier's Send does: for
// the last requests to an Alertmanager that was taken away.
type outbox struct {
	filled  chan struct{}  // has an element when there are alerts to take
	dropped *atomic.Uint64 // alerts that found no room

	mu     sync.Mutex // guards what follows
	open   bool       // otherwise alerts are not wanted
	until  time.Time
	alerts []*notifier.Alert
}

func newOutbox(dropped *atomic.Uint64) *outbox {
	return &outbox{filled: make(chan struct{}, 1), dropped: dropped}
}

// Send takes alerts. It never blocks: when there are more than alertQueue, the oldest go.
func (o *outbox) Send(alerts ...*notifier.Alert) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.open {
		return
	}
	o.alerts = append(o.alerts, alerts...)
	if n := len(o.alerts) - alertQueue; n > 0 {
		o.alerts = slices.Clone(o.alerts[n:])
		o.dropped.Add(uint64(n))
	}
	select {
	case o.filled <- struct{}{}:
	default:
	}
}

// take empties the outbox.
func (o *outbox) take() []*notifier.Alert {
	o.mu.Lock()
	defer o.mu.Unlock()
	alerts := o.alerts
	o.alerts = nil
	return alerts
}

// set opens or closes the outbox, and says until when what is in it may wait for an Alertmanager to be found.
func (o *outbox) set(open bool, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open, o.until = open, until
}

// held tells whether alerts may still wait for an Alertmanager to be found.
func (o *outbox) held(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return now.Before(o.until)
}

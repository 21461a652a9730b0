package rules

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// RateLimit is how many changes a process makes in a minute, over all targets: what a rule that has gone wrong for very many of
// them at once can do before somebody looks. It is a bucket of one minute's changes that fills evenly, half of which is kept
// for changes up, so that a fleet on its way down cannot keep another from growing.
type RateLimit struct {
	perMinute int
	mu        sync.Mutex // of a look into the bucket and what is then taken of it
	bucket    *rate.Limiter
}

// NewRateLimit returns a limit of so many changes a minute, above 0.
func NewRateLimit(perMinute int) *RateLimit {
	return &RateLimit{perMinute: perMinute, bucket: rate.NewLimiter(rate.Limit(float64(perMinute)/60), perMinute)}
}

// take says whether one more change may be made, and counts it.
func (l *RateLimit) take(at time.Time, up bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !up && l.bucket.TokensAt(at)-1 < float64(l.perMinute/2) {
		return false
	}
	return l.bucket.AllowN(at, 1)
}

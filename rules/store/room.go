package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// ErrNoRoom says that nothing is written because the disk of the data directory is nearly full or cannot be written to.
var ErrNoRoom = errors.New("the store writes nothing")

// roomChecks is how often the disk is asked at most: a system call for each append would be one for each scrape and rule.
const roomChecks = time.Second

// room watches the disk of the data directory. Prometheus's database ends the process when it cannot write a chunk of the
// head, and a log of writes that is cut off in the middle is cut off for good at the next start: so nothing is appended
// while less than MinFree is free. What the head holds by then needs a small part of it. Queries are answered all the
// while, and appending goes on as soon as there is room again; what came in between is missing, and rules see it age.
type room struct {
	dir    string
	least  int64 // bytes that must be free
	logger *slog.Logger
	free   func(dir string) (bytes int64, readOnly bool, err error)

	mu   sync.Mutex // guards what follows
	next time.Time  // when the disk is to be asked again
	err  error      // what it said
}

// check says why nothing may be written now.
func (r *room) check(now time.Time) error {
	if r.least < 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.next) && r.next.Sub(now) <= roomChecks { // else the clock was set back
		return r.err
	}
	r.next = now.Add(roomChecks)
	before := r.err
	r.err = r.ask()
	switch {
	case before == nil && r.err != nil:
		r.logger.Error("nothing is written until there is room; rules go on with what there is, and hold", "err", r.err)
	case before != nil && r.err == nil:
		r.logger.Info("there is room again: writing goes on")
	}
	return r.err
}

func (r *room) ask() error {
	free, readOnly, err := r.free(r.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is not there any more", ErrNoRoom, r.dir)
	case err != nil:
		return nil // not known: the database will say
	case readOnly:
		return fmt.Errorf("%w: the disk of %s is read-only", ErrNoRoom, r.dir)
	case free < r.least:
		return fmt.Errorf("%w: the disk of %s has %s free, and %s must be", ErrNoRoom, r.dir, size(free), size(r.least))
	}
	return nil
}

func size(bytes int64) string { return units.Base2Bytes(bytes).Round(1).String() }

// full says whether nothing is written, by the last check.
func (r *room) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil
}

// guarded is the database for what writes to it.
type guarded struct {
	*tsdb.DB
	room *room
}

// Appender implements storage.Appendable.
func (g guarded) Appender(ctx context.Context) storage.Appender {
	if err := g.room.check(time.Now()); err != nil {
		return refusing{g.DB.Appender(ctx), err}
	}
	return g.DB.Appender(ctx)
}

// AppenderV2 implements storage.AppendableV2.
func (g guarded) AppenderV2(ctx context.Context) storage.AppenderV2 {
	if err := g.room.check(time.Now()); err != nil {
		return refusingV2{g.DB.AppenderV2(ctx), err}
	}
	return g.DB.AppenderV2(ctx)
}

// refusing takes samples and does not commit them, so that whoever appends gets one error and not one for each.
type refusing struct {
	storage.Appender
	err error
}

func (r refusing) Commit() error { return errors.Join(r.err, r.Rollback()) }

type refusingV2 struct {
	storage.AppenderV2
	err error
}

func (r refusingV2) Commit() error { return errors.Join(r.err, r.Rollback()) }

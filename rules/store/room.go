package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/fileutil"
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
	flush  func() // writes the chunks of the head that are full

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
		r.finish()
		r.logger.Error("nothing is written until there is room; rules go on with what there is, and hold", "err", r.err)
	case before != nil && r.err == nil:
		r.logger.Info("there is room again: writing goes on")
		r.reserve()
	}
	return r.err
}

// reserveBytes are kept in a file, for the last that must be written on a disk without a byte: the chunks of the head that
// are full, which the database writes once a minute and at a start after kill -9, and which end the process where they
// cannot be. In a minute 80,000 series scraped each second fill that many.
const reserveBytes = 8 << 20

func (r *room) reserved() string { return filepath.Join(r.dir, "reserve") }

// kept is how much is reserved: with that given back, the disk is still nearly full.
func (r *room) kept() int64 { return min(reserveBytes, r.least/4) }

// reserve makes the file where there is room for it. Without it flyball works as well.
func (r *room) reserve() {
	if r.least < 0 {
		return
	}
	if free, readOnly, err := r.free(r.dir); err != nil || readOnly || free < r.least+r.kept() {
		return
	}
	f, err := os.OpenFile(r.reserved(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return // it is there
	}
	if err := errors.Join(fileutil.Preallocate(f, r.kept(), true), f.Close()); err != nil {
		r.logger.Warn("no room is kept for when the disk is full", "err", errors.Join(err, os.Remove(r.reserved())))
	}
}

// release gives the reserve back where the disk has less than that, and says whether so much is free.
func (r *room) release() bool {
	free, readOnly, err := r.free(r.dir)
	if err == nil && !readOnly && free < r.kept() && os.Remove(r.reserved()) == nil {
		free, readOnly, err = r.free(r.dir)
	}
	return err == nil && !readOnly && free >= r.kept()/2
}

// finish writes what must be written while there is room for it.
func (r *room) finish() {
	if r.flush != nil && r.release() {
		r.flush()
	}
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

// Full says why nothing is written, nil where it is.
func (s *Store) Full() error {
	r := s.written.room
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

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

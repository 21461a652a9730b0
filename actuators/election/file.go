package election

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// RetryPeriod is how often who has not the lock tries to get it, and who has it looks whether the file is still there. The
// other takes over within it, which is soon beside the interval of rules.
const RetryPeriod = 2 * time.Second

// ErrUnsupported is why there is no lock on a system without flock.
var ErrUnsupported = errors.New("a lock file takes a Unix system")

// errLocked is that another process has the lock.
var errLocked = errors.New("locked")

// Options are what a File works with. All are optional.
type Options struct {
	Logger *slog.Logger // nil: no logs
}

// File is a lock file as one process sees it.
type File struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	locked *os.File   // nil: another has it, or nobody
	leader string     // the other that has it, as its file says; "": unknown
	failed string     // why it could not be tried, as it was logged
}

// New returns the lock file of a path, which Run makes where it is missing.
func New(path string, o Options) *File {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &File{path: path, log: o.Logger}
}

// Leads says whether this process has the lock, of the file that is there now.
func (f *File) Leads() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.locked != nil && f.same(f.locked)
}

// Leader is the other process that has the lock, as its file tells it; empty while that is this one, or not known.
func (f *File) Leader() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leader
}

// Run tries to get the lock until it has it, keeps it until ctx ends, and gives it up then. The error is of a file that
// cannot be used on this system at all; one that cannot be opened is tried again.
func (f *File) Run(ctx context.Context) error {
	retry := time.NewTicker(RetryPeriod)
	defer retry.Stop()
	defer f.release()
	for {
		if err := f.try(); errors.Is(err, ErrUnsupported) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-retry.C:
		}
	}
}

// try gets the lock, or looks whether the one that it has is still worth anything: whoever removes the file lets the next
// process make another one, with a lock of its own.
func (f *File) try() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locked != nil {
		if f.same(f.locked) {
			return nil
		}
		f.log.Warn("the lock file was removed or replaced: does not act", "file", f.path)
		_ = f.locked.Close()
		f.locked = nil
	}
	opened, err := f.lock()
	switch {
	case errors.Is(err, errLocked):
		f.failed = ""
		if leader := read(opened); leader != f.leader && leader != "" {
			f.leader = leader
			f.log.Info("another flyball acts", "leader", leader, "file", f.path)
		}
		return opened.Close()
	case err != nil:
		f.leader = ""
		if text := err.Error(); text != f.failed {
			f.failed = text
			f.log.Error("no lock, so this flyball does not act", "err", err)
		}
		return err
	}
	f.locked, f.leader, f.failed = opened, "", ""
	f.log.Info("this flyball acts", "file", f.path)
	return nil
}

// lock opens the file and locks it. With errLocked the file is open too.
func (f *File) lock() (*os.File, error) {
	opened, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock file: %w", err)
	}
	if err := flock(opened); err != nil {
		if errors.Is(err, errLocked) {
			return opened, err
		}
		_ = opened.Close()
		return nil, fmt.Errorf("lock file %s: %w", f.path, err)
	}
	if !f.same(opened) { // removed between the two
		_ = opened.Close()
		return nil, fmt.Errorf("lock file %s: %w", f.path, fs.ErrNotExist)
	}
	if err := write(opened); err != nil {
		_ = opened.Close()
		return nil, fmt.Errorf("lock file: %w", err)
	}
	return opened, nil
}

// same says whether an open file is the one that the path names.
func (f *File) same(opened *os.File) bool {
	at, err := os.Stat(f.path)
	if err != nil {
		return false
	}
	of, err := opened.Stat()
	return err == nil && os.SameFile(at, of)
}

func (f *File) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locked == nil {
		return
	}
	_ = f.locked.Truncate(0) // what it says is for people
	_ = f.locked.Close()
	f.locked = nil
}

// write says who has the lock.
func write(opened *os.File) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if err := opened.Truncate(0); err != nil {
		return err
	}
	_, err = opened.WriteAt(fmt.Appendf(nil, "pid %d on %s since %s\n", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339)), 0)
	return err
}

// longest is how much of a file is read: it may be any.
const longest = 512

// read is what a file says of who has it.
func read(opened *os.File) string {
	text := make([]byte, longest)
	n, err := opened.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	line, _, _ := strings.Cut(string(text[:n]), "\n")
	return strings.ToValidUTF8(line, "?")
}

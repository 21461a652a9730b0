package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"flyball/rules"
)

// Options of a journal. The zero value has the defaults.
type Options struct {
	MaxBytes int64 // of the file; 0: 64 MiB, some 50,000 decisions
	Memory   int   // newest decisions kept in memory; 0: 2,000
	ReadOnly bool  // read what there is, beside the process that writes it
	Log      *slog.Logger

	// Watch is called after each decision was written, in their order. It must not block or call the journal.
	Watch func(*rules.Decision)
}

// Journal is an open journal. Its methods may be called from several goroutines.
type Journal struct {
	path    string
	skipped int
	opts    Options
	mu      sync.Mutex // guards what follows
	file    *os.File
	sync    func() error // flushes file to the disk
	size    int64
	carried int64                        // bytes of the file that came along from the one before
	kept    []*rules.Decision            // the newest, oldest first
	state   map[string][]*rules.Decision // by target: the changes that its state is made of
}

// What goes along of each target into a new file: the last change, and of those before it as many as a policy's period or a
// cooldown could need. A day is longer than any that makes sense.
const (
	stateDecisions = 20
	stateAge       = 24 * time.Hour
)

// Open opens or makes the journal at path, reads what it holds and cuts off a torn last line. A line that is not a
// decision but has others after it is skipped and logged: the file has been edited, and the rest still counts.
func Open(path string, opts Options) (*Journal, error) {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = 64 << 20
	}
	if opts.Memory == 0 {
		opts.Memory = 2000
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	flags := os.O_RDWR | os.O_CREATE
	if opts.ReadOnly {
		flags = os.O_RDONLY
	}
	file, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{path: path, opts: opts, file: file, state: map[string][]*rules.Decision{}}
	j.sync = func() error { return j.file.Sync() }
	if err := j.load(); err != nil {
		file.Close()
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	return j, nil
}

func (j *Journal) load() error {
	r := bufio.NewReaderSize(j.file, 1<<16)
	var whole int64
	for number := 1; ; number++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 && !j.opts.ReadOnly {
				j.opts.Log.Warn("journal: cut off a line that was not finished", "path", j.path, "line", number)
			}
			break
		}
		if err != nil {
			return err
		}
		whole += int64(len(line))
		d, err := parse(line)
		if err != nil {
			j.skipped++
			j.opts.Log.Warn("journal: skipped a line that is not a decision", "path", j.path, "line", number, "err", err)
			continue
		}
		j.remember(d)
	}
	if j.opts.ReadOnly {
		return nil
	}
	if err := j.file.Truncate(whole); err != nil {
		return err
	}
	j.size = whole
	_, err := j.file.Seek(whole, io.SeekStart)
	return err
}

func parse(line []byte) (*rules.Decision, error) {
	var d rules.Decision
	if err := json.Unmarshal(bytes.TrimSpace(line), &d); err != nil {
		return nil, err
	}
	if d.Rule == "" || d.Target == "" || d.Time.IsZero() {
		return nil, errors.New("no rule, target or time")
	}
	return &d, nil
}

// remember keeps a decision in memory. One with the ID of the newest of its rule replaces it: it says how that ended.
func (j *Journal) remember(d *rules.Decision) {
	replaced := false
	for i := len(j.kept) - 1; i >= 0; i-- {
		if k := j.kept[i]; k.Rule == d.Rule && k.Target == d.Target {
			if k.ID == d.ID {
				j.kept[i], replaced = d, true
			}
			break
		}
	}
	if !replaced {
		if len(j.kept) >= 2*j.opts.Memory { // in halves, so that it is not copied at every decision
			j.kept = append(j.kept[:0:0], j.kept[len(j.kept)-j.opts.Memory:]...)
		}
		j.kept = append(j.kept, d)
	}
	changes := j.state[d.Target]
	if n := len(changes); n > 0 && changes[n-1].ID == d.ID {
		changes = changes[:n-1]
	}
	if d.Result == rules.Applied || d.Result == rules.Applying {
		changes = append(changes, d)
	}
	if len(changes) > 2*stateDecisions {
		changes = append(changes[:0:0], changes[len(changes)-stateDecisions:]...)
	}
	j.state[d.Target] = changes
}

// Append writes a decision and, when it changes a size, waits until it is on the disk.
func (j *Journal) Append(d *rules.Decision) error {
	line, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	line = append(line, '\n')
	stored := *d
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(line, &stored); err != nil {
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	if j.opts.Watch != nil {
		j.opts.Watch(&stored)
	}
	return nil
}

// append writes one line; j.mu is held.
func (j *Journal) append(line []byte, d *rules.Decision) error {
	if j.file == nil || j.opts.ReadOnly {
		return fs.ErrClosed
	}
	// Twice what goes along into the new file: with very many targets that may be more than the limit.
	if j.size > 0 && j.size+int64(len(line)) > max(j.opts.MaxBytes, 2*j.carried) {
		if err := j.rotate(); err != nil {
			return fmt.Errorf("set aside the full journal: %w", err)
		}
	}
	n, err := j.file.Write(line)
	if err != nil {
		// Half a line would spoil the next one.
		if n > 0 {
			_ = j.file.Truncate(j.size)
			_, _ = j.file.Seek(j.size, io.SeekStart)
		}
		return err
	}
	j.size += int64(n)
	j.remember(d)
	if d.Result == rules.Applying || d.Result == rules.Applied {
		return j.sync()
	}
	return nil
}

// rotate begins a new file with the changes that the targets' states are made of, and puts it in the old one's place
// only when it is whole.
func (j *Journal) rotate() error {
	fresh, size, err := j.writeState()
	if err != nil {
		return err
	}
	if err := os.Rename(j.path, j.path+".1"); err != nil {
		fresh.Close()
		os.Remove(fresh.Name())
		return err
	}
	if err := os.Rename(fresh.Name(), j.path); err != nil {
		// The old file is where it was, under the name that a rotation gives it; it goes on there.
		fresh.Close()
		os.Remove(fresh.Name())
		return errors.Join(err, os.Rename(j.path+".1", j.path))
	}
	j.file.Close()
	j.file, j.size, j.carried = fresh, size, size
	return syncDir(filepath.Dir(j.path))
}

// writeState writes the targets' last changes, oldest first, into a new file beside the journal.
func (j *Journal) writeState() (_ *os.File, size int64, err error) {
	var all []*rules.Decision
	for _, changes := range j.state {
		changes = changes[max(0, len(changes)-stateDecisions):]
		for i, d := range changes {
			if i == len(changes)-1 || time.Since(d.Time) < stateAge {
				all = append(all, d)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *rules.Decision) int { return a.Time.Compare(b.Time) })
	fresh, err := os.CreateTemp(filepath.Dir(j.path), filepath.Base(j.path)+".new-*")
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			fresh.Close()
			os.Remove(fresh.Name())
		}
	}()
	for _, d := range all {
		line, err := json.Marshal(d)
		if err != nil {
			return nil, 0, err
		}
		n, err := fresh.Write(append(line, '\n'))
		if err != nil {
			return nil, 0, err
		}
		size += int64(n)
	}
	if err := fresh.Chmod(0o644); err != nil {
		return nil, 0, err
	}
	return fresh, size, fresh.Sync()
}

// syncDir makes the names of new files survive a power cut.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Replay calls f for each applied decision that is remembered, oldest first for each target.
func (j *Journal) Replay(f func(*rules.Decision)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, changes := range j.state {
		for _, d := range changes {
			f(d)
		}
	}
}

// Filter selects decisions. Zero fields select all.
type Filter struct {
	ID    string
	Rule  string
	Since time.Time // from this time on
	Until time.Time // up to and with this time
}

// Recent returns the newest decisions that the filter selects, at most n, newest first.
func (j *Journal) Recent(f Filter, n int) []*rules.Decision {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []*rules.Decision
	for i := len(j.kept) - 1; i >= 0 && len(found) < n; i-- {
		d := j.kept[i]
		if (f.ID == "" || d.ID == f.ID) && (f.Rule == "" || d.Rule == f.Rule) &&
			(f.Since.IsZero() || !d.Time.Before(f.Since)) && (f.Until.IsZero() || !d.Time.After(f.Until)) {
			found = append(found, d)
		}
	}
	return found
}

// Skipped is how many lines were not decisions when the journal was opened.
func (j *Journal) Skipped() int { return j.skipped }

// Close flushes and closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	var err error
	if !j.opts.ReadOnly {
		err = j.file.Sync()
	}
	err = errors.Join(err, j.file.Close())
	j.file = nil
	return err
}

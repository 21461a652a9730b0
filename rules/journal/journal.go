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
	"strings"
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
	torn    bool                         // the file has more than size: what could not be written or flushed whole
	carried int64                        // bytes of the file that came along from the one before
	kept    []*rules.Decision            // the newest, oldest first
	state   map[string][]*rules.Decision // by target: the changes that its state is made of
}

// What is kept of each target, and goes along into a new file: the last change, and those before it within the longest
// period that a rule may name, which is what cooldowns, policies and flap budgets count. The newest are kept whole for a
// reader, those before them without what was observed. At one change in three minutes a day has 500.
const (
	stateDecisions = 500
	stateWhole     = 20
	stateAge       = rules.MaxPeriod
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
	if !opts.ReadOnly {
		if err := recoverRotation(path); err != nil {
			return nil, fmt.Errorf("open journal: %w", err)
		}
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

// recoverRotation ends a rotation that the process did not live to end. The new file was whole before the old one's name
// was taken away; one that is there beside the journal was not needed.
func recoverRotation(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	_, err = os.Lstat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filepath.Base(path)+freshSuffix) {
			continue
		}
		fresh := filepath.Join(filepath.Dir(path), e.Name())
		if missing {
			err, missing = os.Rename(fresh, path), false
		} else {
			err = os.Remove(fresh)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freshSuffix is in the name of a new file until it takes the journal's place.
const freshSuffix = ".new-"

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
	changes := rules.Changes(j.state[d.Target], d)
	if n := len(changes) - stateWhole; n > 0 {
		changes[n-1] = change(changes[n-1])
	}
	j.state[d.Target] = kept(changes)
}

// kept are the changes that count at the time of the newest.
func kept(changes []*rules.Decision) []*rules.Decision {
	if len(changes) == 0 {
		return changes
	}
	newest, first := changes[len(changes)-1].Time, max(0, len(changes)-stateDecisions)
	for first < len(changes)-1 && newest.Sub(changes[first].Time) > stateAge {
		first++
	}
	if first > len(changes)/2 { // so that it is not copied at every decision
		return slices.Clone(changes[first:])
	}
	return changes[first:]
}

// change is a decision without what was observed.
func change(d *rules.Decision) *rules.Decision {
	return &rules.Decision{
		ID: d.ID, Time: d.Time, Rule: d.Rule, Target: d.Target, Labels: d.Labels, Mode: d.Mode, Action: d.Action, From: d.From, To: d.To,
		Reasons: d.Reasons, Text: d.Text, Start: d.Start, Result: d.Result, Error: d.Error, Unanswered: d.Unanswered, Replicas: d.Replicas,
	}
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
	if j.torn {
		if err := j.cut(); err != nil {
			return fmt.Errorf("cut off what could not be written: %w", err)
		}
	}
	// Twice what goes along into the new file: with very many targets that may be more than the limit.
	if j.size > 0 && j.size+int64(len(line)) > max(j.opts.MaxBytes, 2*j.carried) {
		if err := j.rotate(); err != nil {
			return fmt.Errorf("set aside the full journal: %w", err)
		}
	}
	_, err := j.file.Write(line)
	if err == nil && d.Counts() {
		err = j.sync()
	}
	if err != nil {
		// Half a line would spoil the next one, and a whole one would say after a restart what its writer was told is not
		// there.
		j.torn = true
		_ = j.cut() // else before the next one
		return err
	}
	j.size += int64(len(line))
	j.remember(d)
	return nil
}

// cut takes away what could not be written whole.
func (j *Journal) cut() error {
	if err := j.file.Truncate(j.size); err != nil {
		return err
	}
	if _, err := j.file.Seek(j.size, io.SeekStart); err != nil {
		return err
	}
	j.torn = false
	return nil
}

// rotate begins a new file with the changes that the targets' states are made of, and puts it in the old one's place
// only when it is whole.
func (j *Journal) rotate() error {
	fresh, size, err := j.writeState()
	if err != nil {
		return err
	}
	if err := j.setAside(fresh.Name()); err != nil {
		fresh.Close()
		os.Remove(fresh.Name())
		return err
	}
	j.file.Close()
	j.file, j.size, j.carried = fresh, size, size
	return syncDir(filepath.Dir(j.path))
}

// setAside gives the file the name of the old one, and its own to the new one. Where the file system has links there is a
// journal of that name at any moment; where it has none, recoverRotation knows what to do.
func (j *Journal) setAside(fresh string) error {
	old := j.path + ".1"
	link := old + ".link"
	os.Remove(link)
	if os.Link(j.path, link) == nil {
		if err := os.Rename(link, old); err != nil {
			os.Remove(link)
			return err
		}
		return os.Rename(fresh, j.path)
	}
	if err := os.Rename(j.path, old); err != nil {
		return err
	}
	if err := os.Rename(fresh, j.path); err != nil {
		// The old file is where it was, under the name that a rotation gives it; it goes on there.
		return errors.Join(err, os.Rename(old, j.path))
	}
	return nil
}

// writeState writes the targets' last changes, oldest first, into a new file beside the journal.
func (j *Journal) writeState() (_ *os.File, size int64, err error) {
	newest := time.Time{} // rather than now: it is the time by which they count
	for _, changes := range j.state {
		if n := len(changes); n > 0 && changes[n-1].Time.After(newest) {
			newest = changes[n-1].Time
		}
	}
	type entry struct {
		at   time.Time
		line []byte
	}
	var all, older []entry // older give way where there are very many targets
	for _, changes := range j.state {
		for i, d := range changes {
			if i < len(changes)-1 && newest.Sub(d.Time) >= stateAge {
				continue
			}
			line, err := json.Marshal(d)
			if err != nil {
				return nil, 0, err
			}
			if e := (entry{d.Time, append(line, '\n')}); i >= len(changes)-stateWhole {
				all, size = append(all, e), size+int64(len(e.line))
			} else {
				older = append(older, e)
			}
		}
	}
	slices.SortStableFunc(older, func(a, b entry) int { return b.at.Compare(a.at) })
	for _, e := range older {
		if size += int64(len(e.line)); size > j.opts.MaxBytes/2 {
			break
		}
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(a, b entry) int { return a.at.Compare(b.at) })
	size = 0
	fresh, err := os.CreateTemp(filepath.Dir(j.path), filepath.Base(j.path)+freshSuffix+"*")
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			fresh.Close()
			os.Remove(fresh.Name())
		}
	}()
	for _, e := range all {
		n, err := fresh.Write(e.line)
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

package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"
	"time"
)

// Freeze is a stop of acting, on all targets or on one: rules go on deciding and recording, and change nothing.
type Freeze struct {
	At    time.Time `json:"at"`
	Until time.Time `json:"until,omitzero"` // when it ends by itself; zero: it does not
	By    string    `json:"by"`             // who asked for it, as far as that is known: an address, a user
	Why   string    `json:"why,omitempty"`  // in that person's words
}

// Brake holds what a person has stopped in a file, so that it outlives the process: what was stopped stays stopped until a
// person releases it, or until the time that was given has come. Its methods may be called from several goroutines at once.
type Brake struct {
	path string

	mu   sync.Mutex // guards held
	held stops
}

// stops are what is stopped, as the file has it.
type stops struct {
	Freeze *Freeze           `json:"freeze,omitempty"`
	Paused map[string]Freeze `json:"paused,omitempty"` // by target, as kind/name
}

// OpenBrake reads the file at path, which need not be there. A file that cannot be read or understood is a freeze: it was
// written to stop something.
func OpenBrake(path string) *Brake {
	b := &Brake{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b
	}
	if err == nil {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		err = decoder.Decode(&b.held)
	}
	if err != nil {
		b.held = stops{Freeze: &Freeze{At: time.Now(), By: path, Why: "the file says that acting is frozen, and cannot be understood: " + err.Error()}}
	}
	return b
}

// Frozen returns the freeze of everything that holds, if one does.
func (b *Brake) Frozen() (Freeze, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held.Freeze == nil {
		return Freeze{}, false
	}
	return *b.held.Freeze, true
}

// Freeze stops all acting from the next change on; one that is being carried out is not interrupted. It holds even if the
// error says that it could not be written down and so will not outlive the process.
func (b *Brake) Freeze(by, why string) error {
	return b.stop(func(s *stops, now time.Time) { s.Freeze = &Freeze{At: now, By: by, Why: why} })
}

// Pause stops acting on one target, as kind/name, until a time; zero: until it is resumed. Errors are as of Freeze.
func (b *Brake) Pause(target string, until time.Time, by, why string) error {
	return b.stop(func(s *stops, now time.Time) {
		s.Paused = cloned(s.Paused)
		s.Paused[target] = Freeze{At: now, Until: until, By: by, Why: why}
	})
}

func (b *Brake) stop(what func(*stops, time.Time)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	next := b.held.at(now)
	what(&next, now)
	b.held = next
	if err := next.write(b.path); err != nil {
		return fmt.Errorf("acting is stopped, but a restart will not know of it: %w", err)
	}
	return nil
}

// Release lets rules act again, but for what is paused. With an error, which says that the file could not be changed, nothing
// has.
func (b *Brake) Release() error { return b.release(func(s *stops) { s.Freeze = nil }) }

// Resume lets rules act on a target again, unless all is frozen. Errors are as of Release.
func (b *Brake) Resume(target string) error {
	return b.release(func(s *stops) {
		s.Paused = cloned(s.Paused)
		delete(s.Paused, target)
	})
}

func (b *Brake) release(what func(*stops)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.held.at(time.Now())
	what(&next)
	if err := next.write(b.path); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	b.held = next
	return nil
}

// Paused returns the pauses that hold at a time, by target.
func (b *Brake) Paused(at time.Time) map[string]Freeze {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held.at(at).Paused
}

// stopped says in words what keeps the targets from being changed at a time, "" if nothing does.
func (b *Brake) stopped(at time.Time, targets ...string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held.Freeze != nil {
		return "frozen by " + b.held.Freeze.By
	}
	for _, target := range targets {
		if pause, there := b.held.Paused[target]; there && pause.holds(at) {
			return pause.words()
		}
	}
	return ""
}

// words say who paused a target, and for how long.
func (f Freeze) words() string {
	words := "paused by " + f.By
	if !f.Until.IsZero() {
		words += " until " + f.Until.UTC().Format(time.RFC3339)
	}
	return words
}

func (f Freeze) holds(at time.Time) bool { return f.Until.IsZero() || at.Before(f.Until) }

// at is what of it holds at a time.
func (s stops) at(now time.Time) stops {
	paused := maps.Clone(s.Paused)
	maps.DeleteFunc(paused, func(_ string, pause Freeze) bool { return !pause.holds(now) })
	return stops{s.Freeze, paused}
}

func (s stops) write(path string) error {
	if s.Freeze == nil && len(s.Paused) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'))
}

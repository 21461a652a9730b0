package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// Freeze is a stop of all acting: rules go on deciding and recording, and change nothing.
type Freeze struct {
	At  time.Time `json:"at"`
	By  string    `json:"by"`            // who asked for it, as far as that is known: an address, a user
	Why string    `json:"why,omitempty"` // in that person's words
}

// Brake holds the freeze of a process in a file, so that it outlives the process: what a person stopped stays stopped
// until a person releases it. Its methods may be called from several goroutines at once.
type Brake struct {
	path string

	mu     sync.Mutex // guards freeze
	freeze *Freeze
}

// OpenBrake reads the file at path, which need not be there. A file that cannot be read or understood is a freeze: it was
// written to stop something.
func OpenBrake(path string) *Brake {
	b := &Brake{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b
	}
	f := &Freeze{}
	if err == nil {
		err = json.Unmarshal(text, f)
	}
	if err != nil {
		f = &Freeze{At: time.Now(), By: path, Why: "the file says that acting is frozen, and cannot be understood: " + err.Error()}
	}
	b.freeze = f
	return b
}

// Frozen returns the freeze that holds, if one does.
func (b *Brake) Frozen() (Freeze, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.freeze == nil {
		return Freeze{}, false
	}
	return *b.freeze, true
}

// Freeze stops all acting from the next change on; one that is being carried out is not interrupted. It holds even if the
// error says that it could not be written down and so will not outlive the process.
func (b *Brake) Freeze(by, why string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freeze = &Freeze{At: time.Now(), By: by, Why: why}
	text, err := json.Marshal(b.freeze)
	if err == nil {
		err = writeFile(b.path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("acting is frozen, but a restart will not know of it: %w", err)
	}
	return nil
}

// Release lets rules act again. With an error, which says that the file of the freeze is still there, nothing changed.
func (b *Brake) Release() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := os.Remove(b.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release: %w", err)
	}
	b.freeze = nil
	return nil
}

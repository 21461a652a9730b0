package rules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Snapshot is the file of what a [Memory] knows besides the changes, which are in the journal: the sizes that were asked for
// within the windows, since when conditions hold and data is missing, panics, fallbacks and how long starts took. It is
// written as a whole, now and then and at the end. Replicas that are not ready are waited for anew.
type Snapshot struct {
	Path    string // its directory must be there
	Memory  *Memory
	Metrics *Metrics
	Log     *slog.Logger
}

const (
	snapshotVersion  = 1
	snapshotInterval = time.Minute
	maxSnapshot      = 256 << 20 // bytes; 20,000 targets take a tenth of it

	// outageTolerance is how long a process may have been away for the `for` of steps to go on where it was: Prometheus's
	// --rules.alert.for-outage-tolerance.
	outageTolerance = time.Hour
)

// savedMemory is the file.
type savedMemory struct {
	Version int                   `json:"version"`
	At      time.Time             `json:"at"`
	Ended   bool                  `json:"ended"` // written when all was over, so that nothing has happened since
	Targets map[string]savedState `json:"targets"`
}

// savedState is a State without what the journal has.
type savedState struct {
	Evaluated      time.Time            `json:"evaluated"`
	Recommended    []savedSize          `json:"recommended,omitempty"` // those that a window can still come to
	HoldsSince     map[string]time.Time `json:"holds_since,omitempty"`
	StartupSeconds []float64            `json:"startup_seconds,omitempty"`
	Panics         map[string]savedSize `json:"panics,omitempty"`
	Constraints    map[string]bool      `json:"constraints,omitempty"`
	MissingSince   time.Time            `json:"missing_since,omitzero"`
	Good           int                  `json:"good_evaluations,omitempty"`
	Fallback       *int                 `json:"fallback,omitempty"`
	Whole          *savedSize           `json:"whole,omitempty"`       // when all replicas were last ready
	RolledBack     *savedSize           `json:"rolled_back,omitempty"` // a change up that was taken back, and to what
	Shadow         *savedShadow         `json:"shadow,omitempty"`
}

// savedShadow is the state of a shadow, of whose changes no journal knows.
type savedShadow struct {
	savedState
	Replicas int           `json:"replicas"`
	Variants []int         `json:"variants,omitempty"`
	LastUp   time.Time     `json:"last_up,omitzero"`
	LastDown time.Time     `json:"last_down,omitzero"`
	Changes  []savedChange `json:"changes,omitempty"`
}

type savedChange struct {
	At   time.Time `json:"at"`
	From int       `json:"from"`
	To   int       `json:"to"`
}

// savedSize is a size that was asked for at a time.
type savedSize struct {
	At       time.Time `json:"at"`
	Replicas int       `json:"replicas"`
}

// saved is what of a state goes into a snapshot.
func (s State) saved() savedState {
	out := savedState{
		Evaluated: s.evaluated, HoldsSince: s.holdsSince, Constraints: s.constraints,
		MissingSince: s.missingSince, Good: s.good, Fallback: s.fallback,
	}
	for to, size := range map[**savedSize]savedSize{&out.Whole: {s.whole.at, s.whole.replicas}, &out.RolledBack: {s.rolledBack.at, s.rolledBack.to}} {
		if !size.At.IsZero() {
			*to = &size
		}
	}
	for _, r := range decisive(s.recommendations) {
		out.Recommended = append(out.Recommended, savedSize{r.at, r.replicas})
	}
	for _, took := range s.starts {
		out.StartupSeconds = append(out.StartupSeconds, took.Seconds())
	}
	for signal, p := range s.panics {
		if out.Panics == nil {
			out.Panics = map[string]savedSize{}
		}
		out.Panics[signal] = savedSize{p.at, p.peak}
	}
	return out
}

// saved is what of a shadow goes into a snapshot: all.
func (s *shadowState) saved() *savedShadow {
	if s == nil {
		return nil
	}
	out := &savedShadow{savedState: s.State.saved(), Replicas: s.Replicas, Variants: s.variants, LastUp: s.LastUp, LastDown: s.LastDown}
	for _, c := range s.changes {
		out.Changes = append(out.Changes, savedChange{c.at, c.from, c.to})
	}
	return out
}

// state is the shadow that was saved.
func (s *savedShadow) state(now time.Time, ended bool) *shadowState {
	if s == nil {
		return nil
	}
	st := State{Replicas: s.Replicas, Known: true, LastUp: s.LastUp, LastDown: s.LastDown}
	for _, c := range s.Changes {
		st.changes = append(st.changes, change{at: c.At, from: c.From, to: c.To})
	}
	return &shadowState{st.resumed(s.savedState, now, ended), s.Variants}
}

// fault says what of a saved shadow cannot be.
func (s *savedShadow) fault() error {
	if s == nil {
		return nil
	}
	sizes := append([]int{s.Replicas}, s.Variants...)
	for _, c := range s.Changes {
		sizes = append(sizes, c.From, c.To)
	}
	if least := slices.Min(sizes); least < 0 {
		return fmt.Errorf("shadow: a size is %d: expected 0 or more replicas", least)
	}
	if err := s.savedState.fault(); err != nil {
		return fmt.Errorf("shadow: %w", err)
	}
	return nil
}

// decisive are the recommendations that can be the highest or the lowest of a window that ends now or later: those that no
// later one is as high as, or as low as. The last is one of them.
func decisive(all []recommendation) (kept []recommendation) {
	lowest, highest := math.MaxInt, math.MinInt
	for _, r := range slices.Backward(all) {
		if r.replicas < lowest || r.replicas > highest {
			kept = append(kept, r)
		}
		lowest, highest = min(lowest, r.replicas), max(highest, r.replicas)
	}
	slices.Reverse(kept)
	return kept
}

// fault says what of a saved state cannot be.
func (s *savedState) fault() error {
	for _, r := range s.Recommended {
		if r.Replicas < 0 {
			return fmt.Errorf("recommended is %d: expected 0 or more replicas", r.Replicas)
		}
	}
	for key, size := range map[string]*savedSize{"whole": s.Whole, "rolled_back": s.RolledBack} {
		if size != nil && size.Replicas < 0 {
			return fmt.Errorf("%s is %d: expected 0 or more replicas", key, size.Replicas)
		}
	}
	for signal, p := range s.Panics {
		if p.Replicas < 0 {
			return fmt.Errorf("panics.%s is %d: expected 0 or more replicas", signal, p.Replicas)
		}
	}
	for _, took := range s.StartupSeconds {
		if !(took >= 0) || took > math.MaxInt64/1e9 {
			return fmt.Errorf("startup_seconds is %g: expected 0 or more", took)
		}
	}
	switch {
	case s.Evaluated.IsZero():
		return errors.New("evaluated is missing")
	case s.Fallback != nil && *s.Fallback < 0:
		return fmt.Errorf("fallback is %d: expected 0 or more replicas", *s.Fallback)
	}
	return s.Shadow.fault()
}

// resumed is the state, made of the journal so far, with what a snapshot has of it. What a snapshot cannot know, since the
// process went on without writing another, is begun anew on the safe side: the window holds the size that is found.
func (s State) resumed(saved savedState, now time.Time, ended bool) State {
	away := max(0, now.Sub(saved.Evaluated))
	s.evaluated = saved.Evaluated
	s.unsure = !ended || s.LastUp.After(saved.Evaluated) || s.LastDown.After(saved.Evaluated)
	for _, r := range saved.Recommended {
		s.recommendations = append(s.recommendations, recommendation{r.At, r.Replicas})
	}
	if away <= outageTolerance { // what was not seen neither adds to a time nor ends it
		for condition, since := range saved.HoldsSince {
			s.holdsSince = cloned(s.holdsSince)
			s.holdsSince[condition] = since.Add(away)
		}
	}
	if !saved.MissingSince.IsZero() {
		s.missingSince = saved.MissingSince.Add(away)
	}
	for _, took := range saved.StartupSeconds {
		s.started(time.Duration(math.Round(took * 1e9)))
	}
	for signal, p := range saved.Panics {
		s.panicked(signal, panicked{p.At, p.Replicas})
	}
	s.constraints, s.good, s.fallback = saved.Constraints, saved.Good, saved.Fallback
	if w := saved.Whole; w != nil {
		s.whole = whole{w.At, w.Replicas}
	}
	if r := saved.RolledBack; r != nil {
		s.rolledBack = rollback{r.At, r.Replicas}
	}
	return s.notAfter(now)
}

// Load takes in the file, after the journal was replayed. Without one, or with one that cannot be understood, which is put
// aside under another name, the memory is what the journal makes of it.
func (s *Snapshot) Load(now time.Time) {
	file, err := readSnapshot(s.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		aside := s.Path + ".invalid"
		s.Log.Warn("what scale rules remembered besides the journal cannot be read; windows, `for` and fallbacks begin anew",
			"path", s.Path, "kept_as", aside, "err", errors.Join(err, os.Rename(s.Path, aside)))
		return
	}
	loaded := 0
	for target, saved := range file.Targets {
		if now.Sub(saved.Evaluated) > MaxPeriod {
			continue // nothing of it counts any more
		}
		loaded++
		r := s.Memory.of(target)
		r.mu.Lock()
		r.state, r.shadow = r.state.resumed(saved, now, file.Ended), saved.Shadow.state(now, file.Ended)
		r.mu.Unlock()
	}
	s.Log.Info("scale rules go on where they were", "targets", loaded, "away", now.Sub(file.At).Round(time.Second), "ended_in_order", file.Ended)
}

func readSnapshot(path string) (savedMemory, error) {
	f, err := os.Open(path)
	if err != nil {
		return savedMemory{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSnapshot+1))
	if err != nil {
		return savedMemory{}, err
	}
	if len(text) > maxSnapshot {
		return savedMemory{}, fmt.Errorf("it is larger than %d bytes", maxSnapshot)
	}
	return parseSnapshot(text)
}

func parseSnapshot(text []byte) (m savedMemory, err error) {
	if err := json.Unmarshal(text, &m); err != nil {
		return m, err
	}
	if m.Version != snapshotVersion {
		return m, fmt.Errorf("its version is %d: expected %d", m.Version, snapshotVersion)
	}
	for _, target := range sortedKeys(m.Targets) {
		saved := m.Targets[target]
		if err := saved.fault(); err != nil {
			return m, fmt.Errorf("target %s: %w", target, err)
		}
	}
	return m, nil
}

// Run writes the file every minute, and once more when ctx ends, by which time no rule may be evaluated any more. What
// cannot be written is said once, and tried again. It is written at the start, too: from then on the one of before is of a
// time that is over.
func (s *Snapshot) Run(ctx context.Context) error {
	ticker := time.NewTicker(snapshotInterval)
	defer ticker.Stop()
	var failing error
	save := func(ended bool) {
		err := s.Save(time.Now(), ended)
		switch {
		case err != nil && failing == nil:
			s.Log.Error("what scale rules remember cannot be saved: after a restart their windows begin anew", "err", err)
		case err == nil && failing != nil:
			s.Log.Info("what scale rules remember is saved again")
		}
		if failing = err; err != nil {
			s.Metrics.stateErrors.Inc()
		}
	}
	for save(false); ; save(false) {
		select {
		case <-ctx.Done():
			save(true)
			return nil
		case <-ticker.C:
		}
	}
}

// Save writes the file as of now; ended says that no rule will be evaluated any more.
func (s *Snapshot) Save(now time.Time, ended bool) error {
	m := savedMemory{Version: snapshotVersion, At: now, Ended: ended, Targets: map[string]savedState{}}
	for target, r := range s.Memory.all() {
		r.mu.Lock()
		state, shadow := r.state, r.shadow
		r.mu.Unlock()
		if !state.evaluated.IsZero() {
			saved := state.saved()
			saved.Shadow = shadow.saved()
			m.Targets[target] = saved
		}
	}
	var text bytes.Buffer
	if err := json.NewEncoder(&text).Encode(m); err != nil {
		return err
	}
	return writeFile(s.Path, text.Bytes())
}

// writeFile replaces a file as a whole: a reader finds the old one or the new one, also after a power cut.
func writeFile(path string, text []byte) error {
	fresh := path + ".new" // a name for all, so that a process which is killed does not leave one each time
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/actuators"
	"flyball/rules"
)

// killRule changes often, and has all that must survive: cooldowns, policies and a flap budget.
const killRule = `groups:
- name: g
  rules:
  - scale: digits
    target: {kind: file, name: digits}
    mode: act
    max: 30
    queries: {demand: demand}
    signals: [{name: load, value: demand, target_per_replica: 1}]
    behavior:
      up: {policies: [{replicas: 4, period: 2m}], cooldown: 45s}
      down: {window: 75s, policies: [{replicas: 3, period: 2m}], cooldown: 75s}
    flap_budget: {reversals: 6, window: 30m}
`

const (
	upCooldown, downCooldown = 45 * time.Second, 75 * time.Second
	window, period           = 75 * time.Second, 2 * time.Minute
	mostUp, mostDown         = 4, 3
	flapWindow, reversals    = 30 * time.Minute, 6

	tick      = 15 * time.Second
	faster    = 1500 // virtual time beside real time: a tick every 10 ms, and a start within a cooldown
	loopDir   = "FLYBALL_TEST_LOOP"
	loopStart = "FLYBALL_TEST_START"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(loopDir); dir != "" {
		fmt.Fprintln(os.Stderr, loop(dir, os.Getenv(loopStart)))
		os.Exit(1) // it only ends by being killed
	}
	os.Exit(m.Run())
}

// fileActuator is a target whose size is the last number in a file, to which each change adds a line in one write: the truth
// about what was done.
type fileActuator struct {
	path string
	now  func() time.Time
}

type done struct {
	at       time.Time
	from, to int
	id       string
}

func (f *fileActuator) Observe(context.Context, actuators.Target) (actuators.State, error) {
	if err := f.add(f.path+".ticks", "%d\n", f.now().UnixNano()); err != nil {
		return actuators.State{}, err
	}
	all, err := f.changes()
	n := 1
	if len(all) > 0 {
		n = all[len(all)-1].to
	}
	return actuators.State{Spec: n, Ready: n}, err
}

func (f *fileActuator) Apply(_ context.Context, _ actuators.Target, c actuators.Change) (actuators.Receipt, error) {
	return actuators.Receipt{Spec: c.To}, f.add(f.path, "%d %d %d %s\n", f.now().UnixNano(), c.From, c.To, c.DecisionID)
}

// add adds a line to a file.
func (f *fileActuator) add(path, format string, args ...any) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintf(file, format, args...)
	return err
}

// ticks are the times of evaluations.
func (f *fileActuator) ticks() (all map[int64]bool, err error) {
	text, err := os.ReadFile(f.path + ".ticks")
	all = map[int64]bool{}
	for _, line := range strings.Fields(string(text)) {
		at, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			return nil, err
		}
		all[at] = true
	}
	return all, err
}

func (f *fileActuator) changes() (all []done, err error) {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for line := range strings.Lines(string(text)) {
		var d done
		var at int64
		if _, err := fmt.Sscan(line, &at, &d.from, &d.to, &d.id); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		d.at = time.Unix(0, at)
		all = append(all, d)
	}
	return all, err
}

// noise is a demand that goes up and down, now and then is missing, and depends on nothing but the time.
type noise struct{}

func (noise) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]rules.Sample, error) {
	if strings.Contains(expr, "timestamp(") {
		return []rules.Sample{{Value: float64(at.UnixMilli()) / 1000, Time: at}}, nil
	}
	v, err := noise{}.demand(at)
	if err != nil {
		return nil, err
	}
	return []rules.Sample{{Value: float64(v), Time: at}}, nil
}

func (noise) demand(at time.Time) (int, error) {
	if rand.New(rand.NewPCG(uint64(at.UnixNano()), 8)).IntN(12) == 0 {
		return 0, errors.New("no answer")
	}
	return rand.New(rand.NewPCG(uint64(at.UnixNano()/int64(4*time.Minute)), 7)).IntN(30), nil
}

// loop is flyball's own: a journal, what it remembers, a scaler that acts, tick after tick.
func loop(dir, start string) error {
	began, err := time.Parse(time.RFC3339Nano, start)
	if err != nil {
		return err
	}
	now := func() time.Time { return began.Add(time.Since(began) * faster).Truncate(tick) }
	j, err := Open(filepath.Join(dir, "decisions.jsonl"), Options{MaxBytes: 40_000})
	if err != nil {
		return err
	}
	f, err := (&rules.Reader{Defaults: rules.Defaults{EvaluationInterval: tick, ScrapeInterval: tick}}).Parse("rules.yml", []byte(killRule))
	if err != nil {
		return err
	}
	memory, metrics := &rules.Memory{}, rules.NewMetrics(prometheus.NewRegistry())
	j.Replay(memory.Replay)
	snapshot := &rules.Snapshot{Path: filepath.Join(dir, "state.json"), Memory: memory, Metrics: metrics, Log: slog.New(slog.DiscardHandler)}
	snapshot.Load(now())
	var at time.Time
	s := rules.NewScaler(f.Groups[0].Rules[0].Scale, rules.ScalerOptions{
		Querier: noise{}, Journal: j, Memory: memory, Acting: true, Metrics: metrics,
		Actuators: map[string]actuators.Actuator{"file": &fileActuator{filepath.Join(dir, "size"), func() time.Time { return at }}},
	})
	fmt.Println("running")
	for {
		if next := now(); next.After(at) {
			at = next
			if _, err := s.Eval(context.Background(), at); err != nil {
				return err
			}
			if at.Unix()/15%4 == 0 {
				if err := snapshot.Save(at, false); err != nil {
					return err
				}
			}
		}
	}
}

// TestKill kills a running loop at 200 random moments and starts it again each time: what is in the journal is whole but for
// the last line, no change is missing from it, and no window, cooldown, policy or flap budget is broken by what was done.
func TestKill(t *testing.T) {
	kills := 200
	if testing.Short() {
		kills = 20
	}
	dir := t.TempDir()
	path, start := filepath.Join(dir, "decisions.jsonl"), time.Now().UTC().Format(time.RFC3339Nano)
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	sized := &fileActuator{path: filepath.Join(dir, "size")}
	seen, torn, unsure := map[string]bool{}, 0, 0
	enough := func() bool { // how far a run gets is up to the machine
		_, ups, downs := check(t, sized)
		return ups >= kills/4 && downs >= kills/4
	}
	ran := 0
	for ; ran < kills || ran < 10*kills && !enough(); ran++ {
		runAndKill(t, dir, start, time.Duration(rng.IntN(80_000))*time.Microsecond)
		half(t, path, rng)
		if _, err := os.Stat(filepath.Join(dir, "state.json.invalid")); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("kill %d: a snapshot that is none: %v", ran, err)
		}
		for _, name := range []string{path + ".1", path} {
			text, err := os.ReadFile(name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			lines := bytes.SplitAfter(text, []byte("\n"))
			var last rules.Decision
			for i, line := range lines {
				var d rules.Decision
				switch err := json.Unmarshal(line, &d); {
				case err == nil && bytes.HasSuffix(line, []byte("\n")):
					seen[d.ID], last = true, d
				case i < len(lines)-1:
					t.Fatalf("kill %d: %s:%d is not whole: %q", ran, name, i+1, line)
				case len(line) > 0:
					torn++
				}
			}
			if name == path && last.Result == rules.Applying {
				unsure++
			}
		}
	}
	all, ups, downs := check(t, sized)
	for _, d := range all {
		if !seen[d.id] {
			t.Errorf("the change %d -> %d at %s was never in the journal", d.from, d.to, d.at)
		}
	}
	t.Logf("%d kills: %d changes up, %d down, %d torn lines, %d killed between a change's two entries", ran, ups, downs, torn, unsure)
	if torn < ran/2 {
		t.Errorf("%d torn lines", torn)
	}
	if ups < kills/4 || downs < kills/4 {
		t.Errorf("%d ups and %d downs in %d runs: too few to say anything", ups, downs, ran)
	}
}

// half adds the beginning of a line, as the end of a machine may leave it.
func half(t *testing.T, path string, rng *rand.Rand) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	line := lines[len(lines)-1]
	if err := os.WriteFile(path, append(text, line[:rng.IntN(len(line)+1)]...), 0o644); err != nil {
		t.Fatal(err)
	}
}

func runAndKill(t *testing.T, dir, start string, after time.Duration) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), loopDir+"="+dir, loopStart+"="+start)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := make([]byte, 1)
	if _, err := io.ReadFull(out, running); err != nil {
		t.Fatalf("it did not start: %v: %s", err, &stderr)
	}
	<-time.After(after) // the random moment
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.Exited() {
		t.Fatalf("it ended by itself: %v: %s", err, &stderr)
	}
}

// check says where the changes break what the rule promises, by the changes and the times of the evaluations.
func check(t *testing.T, f *fileActuator) (all []done, ups, downs int) {
	t.Helper()
	all, err := f.changes()
	if err != nil {
		t.Fatal(err)
	}
	ticks, err := f.ticks()
	if err != nil {
		t.Fatal(err)
	}
	var lastUp, lastDown time.Time
	for i, d := range all {
		fault := func(format string, args ...any) {
			t.Errorf("change %d, %d -> %d at %s: %s", i, d.from, d.to, d.at.UTC().Format(time.TimeOnly), fmt.Sprintf(format, args...))
		}
		if i > 0 && d.from != all[i-1].to {
			fault("the one before ended at %d", all[i-1].to)
		}
		up := d.to > d.from
		last, cooldown := &lastDown, downCooldown
		if up {
			ups++
			last, cooldown = &lastUp, upCooldown
		} else {
			downs++
		}
		if !last.IsZero() && d.at.Sub(*last) < cooldown {
			fault("%s after the one before in its direction: the cooldown is %s", d.at.Sub(*last), cooldown)
		}
		*last = d.at
		for at := d.at.Add(-window + tick); !up && at.Before(d.at); at = at.Add(tick) {
			// What was asked for within the window, by a process that is no more as well.
			if need, err := (noise{}).demand(at); err == nil && need > d.to && ticks[at.UnixNano()] {
				fault("%s before, %d were needed: the window is %s", d.at.Sub(at), need, window)
			}
		}
		added, removed, turns := 0, 0, 0
		for k := i; k >= 0; k-- {
			age := d.at.Sub(all[k].at)
			if delta := all[k].to - all[k].from; age < period && delta > 0 {
				added += delta
			} else if age < period {
				removed -= delta
			}
			if k > 0 && age < flapWindow && (all[k].to > all[k].from) != (all[k-1].to > all[k-1].from) {
				turns++
			}
		}
		if up && added > mostUp+removed {
			fault("%d added and %d removed within %s: the policy is %d", added, removed, period, mostUp)
		}
		if !up && removed > mostDown+added {
			fault("%d removed and %d added within %s: the policy is %d", removed, added, period, mostDown)
		}
		if turns > reversals {
			fault("%d turns within %s: the flap budget is %d", turns, flapWindow, reversals)
		}
	}
	return all, ups, downs
}

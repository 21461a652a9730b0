package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"go.uber.org/goleak"

	"flyball/rules"
)

// holdEnv makes the test binary a second process that opens the directory, writes a sample, says so and waits to be
// killed.
const holdEnv = "STORE_TEST_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdEnv); dir != "" {
		hold(dir)
		return
	}
	if dir, address, ok := strings.Cut(os.Getenv(alertEnv), "|"); ok {
		fmt.Println(fireAlert(dir, address))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func hold(dir string) {
	opts := DefaultOptions()
	opts.Dir = dir
	s, err := Open(opts)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	app := s.db.Appender(context.Background())
	if _, err := app.Append(0, labels.FromStrings("__name__", "survivor"), t0.UnixMilli(), 42); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := app.Commit(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test kills this process, or ends
}

// t0 is where the tests' time begins.
var t0 = time.Date(2026, 1, 5, 8, 0, 0, 0, time.UTC)

// open opens a store in dir and closes it at the end of the test. Closing it earlier is fine.
func open(tb testing.TB, dir string, change ...func(*Options)) *Store {
	tb.Helper()
	opts := DefaultOptions()
	opts.Dir = dir
	for _, c := range change {
		c(&opts)
	}
	s, err := Open(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// put appends one sample; name may carry labels in PromQL's form.
func put(tb testing.TB, s *Store, series string, at time.Time, v float64) {
	tb.Helper()
	ls, err := s.parser.ParseMetric(series)
	if err != nil {
		tb.Fatal(err)
	}
	app := s.db.Appender(tb.Context())
	if _, err := app.Append(0, ls, at.UnixMilli(), v); err != nil {
		tb.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		tb.Fatal(err)
	}
}

// ask answers a query as lines of "series value", sorted by the engine's sort where the query has one.
func ask(tb testing.TB, s *Store, expr string, at time.Time) string {
	tb.Helper()
	samples, err := s.Query(tb.Context(), expr, at, 0)
	if err != nil {
		tb.Fatal(err)
	}
	var lines []string
	for _, sample := range samples {
		lines = append(lines, fmt.Sprintf("%s %g", sample.Labels, sample.Value))
	}
	return strings.Join(lines, "\n")
}

// setGroups and eval fail the test on an error.
func setGroups(tb testing.TB, s *Store, groups ...Group) {
	tb.Helper()
	if err := s.SetGroups(groups); err != nil {
		tb.Fatal(err)
	}
}

func eval(tb testing.TB, s *Store, at time.Time) {
	tb.Helper()
	if _, err := s.EvalGroups(tb.Context(), at); err != nil {
		tb.Fatal(err)
	}
}

// evaluator is an Evaluator made of a function.
type evaluator struct {
	name string
	eval func(ctx context.Context, at time.Time) ([]rules.Sample, error)
}

func (e *evaluator) Name() string { return e.name }

func (e *evaluator) Eval(ctx context.Context, at time.Time) ([]rules.Sample, error) {
	return e.eval(ctx, at)
}

// copyOf is an Evaluator that writes the answer of a query under another name.
func copyOf(s *Store, name, expr string) Rule {
	return Rule{Evaluator: &evaluator{name: name, eval: func(ctx context.Context, at time.Time) ([]rules.Sample, error) {
		samples, err := s.Query(ctx, expr, at, 0)
		if err != nil {
			return nil, err
		}
		for i := range samples {
			samples[i].Labels = labels.NewBuilder(samples[i].Labels).Set("__name__", name).Labels()
		}
		return samples, nil
	}}}
}

func record(name, expr string) Rule { return Rule{Record: &Record{Name: name, Expr: expr}} }

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		opts Options
		want string
	}{
		{name: "no directory", opts: Options{}, want: "path: no data directory given"},
		{name: "a file", opts: Options{Dir: file}, want: "data directory " + file + " cannot be made: not a directory"},
		{name: "below a file", opts: Options{Dir: file + "/data"}, want: "data directory " + file + "/data cannot be made: not a directory"},
		{name: "negative", opts: Options{Dir: t.TempDir(), Retention: -time.Hour}, want: "retention: -1h0m0s is too short: give 1ms or more"},
		{name: "samples", opts: Options{Dir: t.TempDir(), MaxSamples: -1}, want: "max_samples: -1 is not a number of samples: give 1 or more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Open(tt.opts)
			if err == nil {
				_ = s.Close()
				t.Fatal("it opened")
			}
			if err.Error() != tt.want {
				t.Errorf("error %q, want %q", err, tt.want)
			}
		})
	}
}

func TestOpenUnwritable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Dir: dir})
	if want := "data directory " + dir + " cannot be written: permission denied"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	want := fmt.Sprintf("data directory %s is in use by another process (lock held): ", dir)
	if _, err := Open(Options{Dir: dir}); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("second handle: error %v, want %q...", err, want)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+dir)
	out, err := cmd.Output()
	if err == nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("second process: %v, said %q, want %q...", err, out, want)
	}
	put(t, s, "up", t0, 1) // the first goes on undisturbed
	if got := ask(t, s, "up", t0); got != `{__name__="up"} 1` {
		t.Errorf("got %s", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir) // and lets go
}

// TestKilled kills a process that holds the store; what it had committed is there again, and so is the directory.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 5)
	if _, err := io.ReadFull(out, said); err != nil || string(said) != "held\n" {
		t.Errorf("the other process said %q: %v", said, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	s := open(t, dir)
	if got := ask(t, s, "survivor", t0); got != `{__name__="survivor"} 42` {
		t.Errorf("got %q", got)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, `m{a="b"}`, t0, 7)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock stays behind: %v", err)
	}
	s = open(t, dir)
	if got := ask(t, s, "m", t0.Add(time.Minute)); got != `{__name__="m", a="b"} 7` {
		t.Errorf("got %q", got)
	}
}

func TestCloseOrder(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	started, release := make(chan struct{}), make(chan struct{})
	setGroups(t, s, Group{Name: "g", Interval: 20 * time.Millisecond, Rules: []Rule{
		{Evaluator: &evaluator{name: "slow", eval: func(ctx context.Context, _ time.Time) ([]rules.Sample, error) {
			select {
			case started <- struct{}{}: // the first evaluation only
				<-release
			default:
			}
			if err := ctx.Err(); err != nil {
				return nil, err // an evaluation in progress must not be cut off
			}
			return []rules.Sample{{Labels: labels.FromStrings("__name__", "decided"), Value: 1}}, nil
		}}},
	}})
	ran := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ran <- s.Run(ctx) }()
	<-started
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		t.Fatalf("closed during an evaluation: %v", err)
	case err := <-ran:
		t.Fatalf("Run ended during an evaluation: %v", err)
	case <-time.After(50 * time.Millisecond): // it may only be too short to see the fault, never too short to pass
	}
	close(release)
	if err := <-ran; err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := s.Query(t.Context(), "up", t0, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("Query after Close: %v", err)
	}
	if _, err := s.QueryRange(t.Context(), "up", t0, t0, time.Second); !errors.Is(err, ErrClosed) {
		t.Errorf("QueryRange after Close: %v", err)
	}
	if err := s.SetGroups(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("SetGroups after Close: %v", err)
	}
	if _, err := s.EvalGroups(t.Context(), t0); !errors.Is(err, ErrClosed) {
		t.Errorf("EvalGroups after Close: %v", err)
	}
	if err := s.ApplyScrape(Scrape{}); !errors.Is(err, ErrClosed) {
		t.Errorf("ApplyScrape after Close: %v", err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Run after Close: %v", err)
	}
	s = open(t, dir)
	if got := ask(t, s, "count_over_time(decided[1h]) >= bool 1", time.Now()); got != "{} 1" {
		t.Errorf("what the last evaluation wrote is lost: %q", got)
	}
}

func TestRunOnce(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run with a context that has ended: %v", err)
	}
	if err := s.Run(ctx); err == nil {
		t.Error("it ran twice")
	}
}

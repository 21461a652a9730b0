package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flyball/batchproxy/loadgen"
)

// TestMain makes the test binary the programs that a run starts of its own.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == reverseProxyCommand || os.Args[1] == stubCommand) {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"--rounds=0", "--duration=1500ms", "--clients=0"}, []string{
			"--rounds: 0: give 1 or more", "--duration: 1.5s is not whole seconds", "--clients: 0: give 1 or more",
		}},
		{[]string{"--warm-up=-1s", "--overload=1s", "--deadline=0s", "--arrivals=0"}, []string{
			"--warm-up: -1s is not whole seconds", "--overload: 1s is too short", "--deadline: 0s: give 1ms or more", "--arrivals: 0: give 1 or more",
		}},
		{[]string{"--scene=closde"}, []string{"closde", "try --help"}},
	} {
		var out, errs bytes.Buffer
		if code := run(tt.args, &out, &errs); code != exitUsage || out.Len() > 0 {
			t.Errorf("%q: exit code %d, said %q", tt.args, code, out.String())
		}
		for _, want := range tt.want {
			if !strings.Contains(errs.String(), want) {
				t.Errorf("%q: %q is not in\n%s", tt.args, want, errs.String())
			}
		}
	}
}

// TestMissingPrograms: without what make build builds nothing is measured, and the way out is named.
func TestMissingPrograms(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	var out, errs bytes.Buffer
	code := run([]string{"--bin=" + t.TempDir(), "--quick"}, &out, &errs)
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if code != exitFailed || !strings.Contains(errs.String(), "make build builds it") {
		t.Errorf("exit code %d, said\n%s", code, errs.String())
	}
}

// TestSmoke is a whole scene with the real programs, very short. It looks at what came of the requests and not at how long they took.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("short: without linking flyball")
	}
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "flyball/cmd/flyball", "flyball/examples/modelserver")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	p := programs{flyball: filepath.Join(bin, "flyball"), modelserver: filepath.Join(bin, "modelserver"), components: "../../.cache/components"}
	c := &children{dir: t.TempDir(), env: os.Environ()}
	if lib, err := filepath.Abs(filepath.Join(p.components, "lib")); err == nil {
		c.env = append(c.env, "LD_LIBRARY_PATH="+lib)
	}
	defer c.stop()
	found, notes, err := p.find(t.Context(), c, []string{greedy, adaptive, "no such contender"})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(found) + len(notes); n != 2 || found[0].name != greedy || !found[0].batches {
		t.Errorf("found %v, notes %q: each is to be found or to have a note", found, notes)
	}
	var said []string
	b := &bench{
		settings: settings{rounds: 1, duration: 300 * time.Millisecond, arrivals: 1}, programs: p, contenders: found[:1], children: c,
		figures: newFigures(contenderNames()), progress: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) },
		wrk: wrk{program: p.component("wrk"), env: c.env, dir: c.dir},
	}
	if err := b.poisson(t.Context()); err != nil {
		c.showLogs(os.Stderr)
		t.Fatal(err)
	}
	if b.faults != 0 {
		t.Errorf("%d answers were wrong or did not come", b.faults)
	}
	if len(said) != len(poissonRates) {
		t.Fatalf("said %q", said)
	}
	for i, rate := range poissonRates {
		n := len(slices.Collect(loadgen.Constant(rate, 300*time.Millisecond).Times(loadgen.Poisson, rand.New(rand.NewPCG(1, 0)))))
		want := fmt.Sprintf("poisson %d/3, round 1, %g/s, %s: %d of %d right", i+1, rate, greedy, n, n)
		if !strings.HasPrefix(said[i], want) {
			t.Errorf("said %q\nwant %q", said[i], want)
		}
		if v, ok := b.figures.of(poissonMean, greedy, perSecond(rate)); !ok || v.Rounds != 1 || v.Median < 8 {
			t.Errorf("%g/s: %+v: the device alone takes more than 8 ms", rate, v)
		}
	}
	t.Run("wrk", func(t *testing.T) {
		if b.wrk.program == "" {
			missing(t, "there is no wrk: make components")
		}
		wrkOnce(t, b)
	})
	c.stop()
	if len(c.all) != 0 {
		t.Errorf("%d children are left", len(c.all))
	}
}

// wrkOnce is a closed loop of a second through Go's reverse proxy.
func wrkOnce(t *testing.T, b *bench) {
	upstream, err := b.startStub(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := b.find(t.Context(), b.children, []string{reverseProxy})
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := found[0].start(t.Context(), b.children, upstream)
	if err != nil {
		t.Fatal(err)
	}
	script, err := b.wrk.script("kilobyte", kilobyte)
	if err != nil {
		t.Fatal(err)
	}
	before, err := cpuTime(proxy.pids)
	if err != nil {
		t.Fatal(err)
	}
	l, err := b.wrk.drive(t.Context(), proxy.url+"/v2/models/digits/generate", script, 2, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	after, err := cpuTime(proxy.pids)
	if err != nil {
		t.Fatal(err)
	}
	if l.requests < 10 || l.faults != 0 || l.p50 <= 0 {
		t.Errorf("got %+v", l)
	}
	if after <= before {
		t.Errorf("it used no processor time: %v before and %v after", before, after)
	}
	bad, err := b.wrk.drive(t.Context(), "http://127.0.0.1:1/", script, 1, time.Second)
	if err == nil && bad.faults == 0 {
		t.Errorf("where nothing listens: %+v", bad)
	}
}

// missing skips, or fails where CI=true.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// TestChildren: one that cannot start says so with its log, and all have ended when stop returns or ctx has ended.
func TestChildren(t *testing.T) {
	self, err := selfPath()
	if err != nil {
		t.Fatal(err)
	}
	c := &children{dir: t.TempDir(), env: os.Environ()}
	defer c.stop()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.run(t.Context(), "stub", address, self, stubCommand, "--listen-address="+address)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.pids) == 0 || first.url != "http://"+address {
		t.Errorf("got %+v", first)
	}
	ctx, cancel := context.WithCancel(t.Context())
	other, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.run(ctx, "cancelled", other, self, stubCommand, "--listen-address="+other); err != nil {
		t.Fatal(err)
	}
	if err := c.died(); err != nil {
		t.Error(err)
	}
	_, err = c.run(t.Context(), "second", address, self, stubCommand, "--listen-address=127.0.0.1:nonsense")
	// The first answers at the address, so that readiness alone would not show it.
	ended := c.all[len(c.all)-1]
	<-ended.ended
	if err == nil {
		err = c.died()
	}
	if err == nil || !strings.Contains(err.Error(), "second ended") || !strings.Contains(err.Error(), "bench: listen:") {
		t.Errorf("got %v", err)
	}
	cancel()
	<-c.all[1].ended
	if code := c.all[1].cmd.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("one whose context ended: exit code %d, so it was not asked to end", code)
	}
	all := slices.Clone(c.all)
	c.stop()
	for _, ch := range all {
		select {
		case <-ch.ended:
		default:
			t.Errorf("%s goes on", ch.name)
		}
	}
	if code := all[0].cmd.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("one that was stopped: exit code %d, so it was not asked to end", code)
	}
}

//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"flyball/actuators"
)

// The test binary plays all the parts of a tree of processes: run again with one of these as its first argument, it is
// that part.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "supervise":
			os.Exit(Supervise(os.Args[2:], os.Stdin))
		case "modelserver":
			os.Exit(modelServer(os.Args[2:]))
		case "grandchild":
			signal.Ignore(syscall.SIGTERM)
			time.Sleep(2 * time.Minute) // should a test fail to end it
			os.Exit(0)
		case "parent":
			os.Exit(parent(os.Args[2:]))
		}
	}
	// Under the race detector each process would sleep for a second before it ends.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	goleak.VerifyTestMain(m)
}

// facts is what a model server says about itself.
type facts struct {
	PID, Supervisor, Grandchild int
	Group, Session              int
	Device, Dir                 string
}

// modelServer serves its readiness and facts until SIGTERM. Flags make it misbehave.
func modelServer(args []string) int {
	flags := flag.NewFlagSet("modelserver", flag.ExitOnError)
	listen := flags.String("listen", "", "address")
	neverReady := flags.Bool("never-ready", false, "answer 503 to the readiness probe")
	crashAfter := flags.Duration("crash-after", -1, "exit this long after the start")
	code := flags.Int("exit-code", 3, "exit status of a crash")
	say := flags.String("say", "", "line to print to stderr at the start")
	ignoreTerm := flags.Bool("ignore-term", false, "ignore SIGTERM")
	termFile := flags.String("term-file", "", "file to make upon SIGTERM")
	slowTerm := flags.Duration("slow-term", 0, "keep serving this long after SIGTERM")
	fork := flags.Bool("fork", false, "start a grandchild that ignores SIGTERM")
	flags.Parse(args)

	if *say != "" {
		fmt.Fprintln(os.Stderr, *say)
	}
	if *crashAfter == 0 {
		return *code
	}
	me := facts{PID: os.Getpid(), Supervisor: os.Getppid(), Device: os.Getenv("DEVICE")}
	me.Dir, _ = os.Getwd()
	me.Group, _ = syscall.Getpgid(0)
	me.Session, _ = unix.Getsid(0)
	if *fork {
		cmd := exec.Command(os.Args[0], "grandchild")
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		me.Grandchild = cmd.Process.Pid
	}

	var ready atomic.Bool
	ready.Store(!*neverReady)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /unready", func(http.ResponseWriter, *http.Request) { ready.Store(false) })
	mux.HandleFunc("GET /facts", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(me) })
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(*listen, mux) }()

	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	crash := make(<-chan time.Time)
	if *crashAfter > 0 {
		crash = time.After(*crashAfter)
	}
	for {
		select {
		case err := <-failed:
			fmt.Fprintln(os.Stderr, err)
			return 1
		case <-crash:
			return *code
		case <-term:
			if *termFile != "" {
				os.WriteFile(*termFile, nil, 0o600)
			}
			if !*ignoreTerm {
				time.Sleep(*slowTerm)
				return 0
			}
		}
	}
}

// parent runs two replicas with the given flags, prints the facts of both once they are ready, and goes on until it is
// killed or its stdin ends.
func parent(args []string) int {
	p, err := New(Config{"digits": testTarget(args...)}, Options{Supervisor: []string{os.Args[0], "supervise"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p.timing = testTiming
	ctx := context.Background()
	_, changes, err := p.Endpoints(ctx, "digits")
	if err == nil {
		_, err = p.Apply(ctx, digits, actuators.Change{To: 2, DecisionID: "1"})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go p.Run(ctx)
	for list := range changes {
		if len(list) < 2 {
			continue
		}
		var all []facts
		for _, address := range list {
			f, err := askFacts(address)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			all = append(all, f)
		}
		json.NewEncoder(os.Stdout).Encode(all)
	}
	return 0
}

func askFacts(address string) (f facts, err error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + "/facts")
	if err != nil {
		return f, err
	}
	defer resp.Body.Close()
	return f, json.NewDecoder(resp.Body).Decode(&f)
}

// exists reports whether there is a process with this id, be it a zombie.
func exists(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// alive reports whether there is a process with this id that is not a zombie: an orphan's parent may be slow to reap it.
func alive(pid int) bool {
	if !exists(pid) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return exists(pid)
	}
	for i := len(stat) - 1; i > 0; i-- {
		if stat[i] == ')' {
			return i+2 >= len(stat) || stat[i+2] != 'Z'
		}
	}
	return true
}

// eventually polls, as there is no other way to wait for what processes do.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20s", what)
		}
	}
}

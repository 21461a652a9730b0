package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

// Exit codes, which are flyball's.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitMissed = 3 // a gate was missed
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// options are the flags.
type options struct {
	flyball, nodeExporter, stub string
	scrapes                     int
	pause, idle                 time.Duration
	output                      string
}

// run is main without the exit.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once

	app := kingpin.New("bench-exporter", "Measures flyball's exporter beside node_exporter and holds it to its promises. Exits with 3 where one is missed.")
	app.UsageWriter(stdout).ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	done := -1
	app.Terminate(func(code int) { done = code })
	var o options
	app.Flag("flyball", "The program.").Default("bin/flyball").StringVar(&o.flyball)
	app.Flag("node-exporter", "node_exporter, as .ci/components gets it.").Default(".cache/components/node_exporter").StringVar(&o.nodeExporter)
	app.Flag("stub", "The stand-in for NVML in C, which gcc compiles.").Default("exporter/gpu/testdata/nvml_stub.c").StringVar(&o.stub)
	app.Flag("scrapes", "Of each.").Default("200").IntVar(&o.scrapes)
	app.Flag("pause", "Between two scrapes.").Default("50ms").DurationVar(&o.pause)
	app.Flag("idle", "How long is watched what they use when nobody scrapes.").Default("15s").DurationVar(&o.idle)
	app.Flag("output", "Format: text or json.").Short('o').Default("text").EnumVar(&o.output, "text", "json")
	_, err := app.Parse(args)
	switch {
	case done >= 0:
		return done
	case err == nil && (o.scrapes < 1 || o.pause < 0 || o.idle <= 0):
		err = errors.New("--scrapes and --idle are more than 0, --pause is not less")
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench-exporter: %s\nTry --help.\n", err)
		return exitUsage
	}
	report, err := o.measure(ctx, func(format string, args ...any) { fmt.Fprintf(stderr, "-- "+format+"\n", args...) })
	if err != nil {
		fmt.Fprintln(stderr, "bench-exporter:", err)
		return exitFailed
	}
	if err := report.write(stdout, o.output); err != nil {
		fmt.Fprintln(stderr, "bench-exporter:", err)
		return exitFailed
	}
	for _, g := range report.Gates {
		if !g.Held {
			return exitMissed
		}
	}
	return exitOK
}

// gpus is how many the stand-in has.
const gpus = 8

// measure starts both, measures, and ends them.
func (o options) measure(ctx context.Context, progress func(string, ...any)) (r Report, err error) {
	dir, err := os.MkdirTemp("", "flyball-bench-exporter-*")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	w := world{dir: dir}
	defer func() { err = errors.Join(err, w.stop()) }()
	library, err := compile(ctx, o.stub, dir)
	if err != nil {
		return r, err
	}
	if err := w.mode("normal"); err != nil {
		return r, err
	}
	node, err := w.start(ctx, "node_exporter", o.nodeExporter, func(address string) []string {
		return []string{"--web.listen-address=" + address, "--log.level=error"}
	})
	if err != nil {
		return r, err
	}
	config := filepath.Join(dir, "exporter.yml")
	if err := os.WriteFile(config, []byte("exporter: {gpu: {library: "+library+"}}\n"), 0o600); err != nil {
		return r, err
	}
	exporter := func(env ...string) (*process, error) {
		p, err := w.start(ctx, "flyball", o.flyball, func(address string) []string {
			return []string{"run", "--role=exporter", "--config.file=" + config, "--web.listen-address=" + address, "--log.level=warn"}
		}, env...)
		if err != nil {
			return nil, err
		}
		if err := p.until(ctx, func(p page) bool {
			return p.sum("flyball_gpu_up") == float64(p.count("flyball_gpu_up")) && p.count("flyball_gpu_up") > 0
		}); err != nil {
			return nil, fmt.Errorf("the GPUs are not read: %w", err)
		}
		return p, nil
	}
	progress("starting both, with the GPUs")
	flyball, err := exporter()
	if err != nil {
		return r, err
	}
	r = Report{Started: time.Now(), Machine: fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()), Scrapes: o.scrapes}
	contenders := []*process{node, flyball}
	progress("%d scrapes of each in turn, then %s of rest", o.scrapes, o.idle)
	costs, err := o.contest(ctx, contenders)
	if err != nil {
		return r, err
	}
	r.NodeExporter, r.Flyball = costs[0], costs[1]
	if err := w.stop(); err != nil {
		return r, err
	}
	// The stand-in reads this file at every call, which costs more than all the rest, so it has it only now.
	if flyball, err = exporter("NVML_STUB_MODE=" + filepath.Join(dir, "mode")); err != nil {
		return r, err
	}
	progress("all GPUs hang")
	if r.Hung, err = w.hang(ctx, flyball); err != nil {
		return r, err
	}
	progress("a worker is killed")
	if r.Respawn, err = w.respawn(ctx, flyball); err != nil {
		return r, err
	}
	r.judge()
	return r, nil
}

// write writes the report.
func (r Report) write(w io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	_, err := io.WriteString(w, r.text())
	return err
}

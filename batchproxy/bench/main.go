package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
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
	settings
	programs           programs
	scenes, contenders []string
	models             []onnxModel
	quick              bool
	output             string
}

// run is main without the exit.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once

	app := kingpin.New("bench", "Measures flyball's batching proxy beside nginx, haproxy and Go's reverse proxy, and holds it to its promises.")
	app.UsageWriter(stdout).ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	var o options
	all := app.Command("run", "Measure: the default. Exits with 3 where a gate is missed.").Default()
	all.Flag("rounds", "How often each contender has its turn; figures are medians.").Default("3").IntVar(&o.rounds)
	all.Flag("duration", "Of one measurement, in whole seconds. The scene pass has three turns of a second for each of them.").Default("2s").DurationVar(&o.duration)
	all.Flag("warm-up", "Before each measurement, in whole seconds; 0s: none.").Default("1s").DurationVar(&o.warmUp)
	all.Flag("clients", "Clients at once in the closed loops; repeatable.").Default("1", "8", "16", "24", "32", "36", "48", "64").IntsVar(&o.clients)
	all.Flag("arrivals", "Poisson: measure until so many have come.").Default("500").IntVar(&o.arrivals)
	all.Flag("overload", "How long the overload is.").Default("1m").DurationVar(&o.overload)
	all.Flag("deadline", "Overload: how long a client waits.").Default("100ms").DurationVar(&o.deadline)
	all.Flag("quick", "Under three minutes, to see that all of it works: one round of a second each at 1 and 8 clients, and 4 s of overload.").BoolVar(&o.quick)
	all.Flag("scene", "Measure this alone: "+strings.Join(sceneNames(), ", ")+"; repeatable.").EnumsVar(&o.scenes, sceneNames()...)
	all.Flag("contender", "Measure this alone: "+strings.Join(contenderNames(), "; ")+". Repeatable.").EnumsVar(&o.contenders, contenderNames()...)
	bin := all.Flag("bin", "Folder of flyball, modelserver and onnxserver.").Default("bin").String()
	all.Flag("components", "Folder of nginx, haproxy and wrk.").Default(".cache/components").StringVar(&o.programs.components)
	mlp := all.Flag("onnx.mlp", "The multilayer perceptron.").Default(".cache/models/mlp_768.onnx").String()
	convolution := all.Flag("onnx.convolution", "The convolution.").Default(".cache/models/conv_224.onnx").String()
	all.Flag("output", "Format: text or json.").Short('o').Default("text").EnumVar(&o.output, "text", "json")

	proxy := app.Command(reverseProxyCommand, "Go's own reverse proxy; a run starts it.").Hidden()
	proxyListen := proxy.Flag("listen-address", "").Required().String()
	upstream := proxy.Flag("upstream", "").Required().String()
	stubbed := app.Command(stubCommand, "A model server that answers at once; a run starts it.").Hidden()
	stubListen := stubbed.Flag("listen-address", "").Required().String()

	command, err := app.Parse(args)
	if err == nil {
		switch command {
		case reverseProxyCommand:
			err = serveReverseProxy(ctx, *proxyListen, *upstream)
		case stubCommand:
			err = serve(ctx, *stubListen, http.HandlerFunc(stub))
		default:
			o.onnx = onnxClients
			if o.quick {
				o.settings = quick(o.deadline)
			}
			o.programs.flyball, o.programs.modelserver, o.programs.onnxserver = filepath.Join(*bin, "flyball"), filepath.Join(*bin, "modelserver"), filepath.Join(*bin, "onnxserver")
			o.models = []onnxModel{{modelMLP, *mlp}, {modelConv, *convolution}}
			if err = o.validate(); err == nil {
				return o.run(ctx, stdout, stderr)
			}
			err = usageError{err}
		}
	} else {
		err = usageError{fmt.Errorf("%w (try --help)", err)}
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(stderr, "bench:", err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

type usageError struct{ error }

// quick are the settings of --quick.
func quick(deadline time.Duration) settings {
	return settings{
		rounds: 1, duration: time.Second, warmUp: time.Second, clients: []int{1, 8}, onnx: []int{8}, arrivals: 50,
		overload: 4 * time.Second, deadline: deadline,
	}
}

func (s settings) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if s.rounds < 1 {
		fault("--rounds: %d: give 1 or more", s.rounds)
	}
	if s.duration < time.Second || s.duration%time.Second != 0 {
		fault("--duration: %v is not whole seconds, which is what wrk counts in", s.duration)
	}
	if s.warmUp < 0 || s.warmUp%time.Second != 0 {
		fault("--warm-up: %v is not whole seconds, which is what wrk counts in", s.warmUp)
	}
	for _, n := range s.clients {
		if n < 1 {
			fault("--clients: %d: give 1 or more", n)
		}
	}
	if s.arrivals < 1 {
		fault("--arrivals: %d: give 1 or more", s.arrivals)
	}
	if s.overload < 2*time.Second {
		fault("--overload: %v is too short to have two halves: give 2s or more", s.overload)
	}
	if s.deadline < time.Millisecond {
		fault("--deadline: %v: give 1ms or more", s.deadline)
	}
	return errors.Join(faults...)
}

// run measures, prints the report and returns the exit code.
func (o options) run(ctx context.Context, stdout, stderr io.Writer) int {
	dir, err := os.MkdirTemp("", "batchproxy-bench-")
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return exitFailed
	}
	began := time.Now()
	c := &children{dir: dir, env: os.Environ()}
	if lib, err := filepath.Abs(filepath.Join(o.programs.components, "lib")); err == nil {
		c.env = append(c.env, "LD_LIBRARY_PATH="+lib)
	}
	if library, err := filepath.Abs(filepath.Join(o.programs.components, "libonnxruntime.so.1")); err == nil && os.Getenv(onnxLibrary) == "" {
		if _, err := os.Stat(library); err == nil {
			c.env = append(c.env, onnxLibrary+"="+library)
		}
	}
	report, err := o.measure(ctx, c, func(format string, args ...any) {
		fmt.Fprintf(stderr, "%6s  %s\n", time.Since(began).Round(time.Second), fmt.Sprintf(format, args...))
	})
	if err != nil && ctx.Err() == nil {
		c.showLogs(stderr)
	}
	c.stop()
	switch {
	case err != nil && ctx.Err() == nil:
		fmt.Fprintln(stderr, "bench:", err)
		if os.Remove(dir) != nil { // it is not empty
			fmt.Fprintf(stderr, "bench: the logs are in %s; what was measured before:\n", dir)
		}
	case err != nil:
		fmt.Fprintln(stderr, "bench: interrupted; what was measured before:")
		fallthrough
	default:
		_ = os.RemoveAll(dir)
	}
	if wrote := o.write(stdout, report); wrote != nil {
		fmt.Fprintln(stderr, "bench:", wrote)
		return exitFailed
	}
	switch {
	case err != nil:
		return exitFailed
	case missed(report.Gates):
		return exitMissed
	}
	return exitOK
}

func (o options) write(w io.Writer, r Report) error {
	if o.output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.WriteText(w)
}

// measure runs the scenes. The report is of what was measured, also where there is an error.
func (o options) measure(ctx context.Context, c *children, progress func(string, ...any)) (Report, error) {
	names := contenderNames()
	b := &bench{
		settings: o.settings, programs: o.programs, onnxModels: o.models, children: c, progress: progress, figures: newFigures(names),
		wrk: wrk{program: o.programs.component("wrk"), env: c.env, dir: c.dir},
	}
	report := Report{
		Started: time.Now(), Rounds: o.rounds, Seconds: o.duration.Seconds(), WarmUp: o.warmUp.Seconds(), Notes: []string{},
		Machine: Machine{Cores: runtime.NumCPU(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(), LoadBefore: loadAverage()},
	}
	err := func() error {
		for _, program := range []string{o.programs.flyball, o.programs.modelserver} {
			if _, err := os.Stat(program); err != nil {
				return fmt.Errorf("%w: make build builds it", err)
			}
		}
		var err error
		if b.contenders, b.notes, err = o.programs.find(ctx, c, slices.DeleteFunc(contenderNames(), func(n string) bool { return !wants(o.contenders, n) })); err != nil {
			return err
		}
		for _, s := range scenes() {
			if !wants(o.scenes, s.name) {
				continue
			}
			if b.wrk.program == "" && s.name != "poisson" && s.name != "splice" {
				b.note("the scene %s is left out: there is no wrk (make components)", s.name)
				continue
			}
			if err := s.run(b, ctx); err != nil {
				return err
			}
			c.stop()
		}
		return nil
	}()
	report.Machine.LoadAfter = loadAverage()
	report.Tables = b.figures.all()
	report.Gates = judge(b.figures, b.faults)
	report.Notes = append(report.Notes, b.notes...)
	return report, err
}

func sceneNames() []string {
	var names []string
	for _, s := range scenes() {
		names = append(names, s.name)
	}
	return names
}

func selfPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return self, nil
}

func serveReverseProxy(ctx context.Context, address, upstream string) error {
	handler, err := newReverseProxy(upstream)
	if err != nil {
		return err
	}
	return serve(ctx, address, handler)
}

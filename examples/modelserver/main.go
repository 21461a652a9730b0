package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "modelserver:", err)
	if errors.As(err, new(*usageError)) {
		os.Exit(2)
	}
	os.Exit(1)
}

// usageError is a fault of the command line; the process then exits with 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// run serves until ctx is done. Logs go to logs.
func run(ctx context.Context, args []string, logs io.Writer) error {
	opts := defaultOptions()
	if version.Version != "" { // set by the linker
		opts.Version = version.Version
	}
	logConfig := &promslog.Config{Writer: logs}

	app := kingpin.New("modelserver", "A model server for examples and tests: it reads handwritten digits over the Open Inference Protocol (v2) and the v1 protocol, as JSON over HTTP.")
	app.UsageWriter(os.Stdout) // --help and --version are answers, not errors
	app.HelpFlag.Short('h')
	app.Version(version.Print("modelserver"))
	address := app.Flag("web.listen-address", "Address to serve on; port 0 takes a free one, which is logged.").
		Default("127.0.0.1:8000").String()
	app.Flag("model.name", "Name of the model in the paths.").
		Default(opts.ModelName).StringVar(&opts.ModelName)
	app.Flag("accelerator", "An emulated accelerator: FIXED+PERITEM, such as 40ms+2ms, is how long each batch holds it, one batch at a time, first come first served. none: batches run on the CPU, beside each other.").
		Default(opts.Accelerator.String()).PlaceHolder("FIXED+PERITEM").SetValue(&opts.Accelerator)
	app.Flag("start-delay", "Time from start to ready, as if large weights were loaded.").
		Default(opts.StartDelay.String()).DurationVar(&opts.StartDelay)
	app.Flag("max-batch", "Most images in one request; more are answered with 413.").
		Default(fmt.Sprint(opts.MaxBatch)).IntVar(&opts.MaxBatch)
	maxBody := app.Flag("max-body", "Largest body of a request; a larger one is answered with 413.").
		Default("4MiB").Bytes()
	app.Flag("shutdown-timeout", "How long requests in flight may take to end after SIGTERM or SIGINT.").
		Default(opts.ShutdownTimeout.String()).DurationVar(&opts.ShutdownTimeout)
	promslogflag.AddFlags(app, logConfig)
	if _, err := app.Parse(args); err != nil {
		return &usageError{fmt.Errorf("%w (try --help)", err)}
	}
	opts.MaxBody = int64(*maxBody)
	opts.Logger = promslog.New(logConfig)

	if err := opts.validate(); err != nil {
		return &usageError{err}
	}
	s, err := newServer(opts)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", *address)
	if err != nil {
		return fmt.Errorf("--web.listen-address: %w", err)
	}
	opts.Logger.Info("listening", "address", ln.Addr().String(), "model", opts.ModelName, "version", opts.Version)
	if opts.Accelerator != (acceleratorCost{}) {
		opts.Logger.Info("emulated accelerator in use", "fixed", opts.Accelerator.Fixed, "per_item", opts.Accelerator.PerItem)
	}
	if opts.StartDelay > 0 {
		opts.Logger.Info("loading, as if the weights were large", "start_delay", opts.StartDelay)
	}
	return s.Run(ctx, ln)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
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
	fmt.Fprintln(os.Stderr, "onnxserver:", err)
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

	app := kingpin.New("onnxserver", "A model server on ONNX Runtime for examples and tests: any ONNX file of tensors over the Open Inference Protocol (v2), in JSON and binary, and the v1 protocol, by HTTP.")
	app.UsageWriter(os.Stdout) // --help and --version are answers, not errors
	app.HelpFlag.Short('h')
	app.Version(version.Print("onnxserver"))
	address := app.Flag("web.listen-address", "Address to serve on; port 0 takes a free one, which is logged.").
		Default("127.0.0.1:8000").String()
	files := app.Flag("model", "ONNX file to serve, by the name of the file without .onnx or by NAME. Repeatable.").
		PlaceHolder("[NAME=]FILE").Strings()
	app.Flag("threads", "Threads that one run uses for one operator (intra-op).").
		Default(fmt.Sprint(opts.Threads)).IntVar(&opts.Threads)
	app.Flag("concurrency", "Runs of a model at once; others wait, first come first served. 1 is how a device behaves.").
		Default(fmt.Sprint(opts.Concurrency)).IntVar(&opts.Concurrency)
	library := app.Flag("ort.library", "ONNX Runtime's shared library; without it, the libonnxruntime.so.1 that the dynamic linker finds.").
		Envar("FLYBALL_ORT_LIB").PlaceHolder("FILE").String()
	app.Flag("max-batch", "Most rows in one request; more are answered with 413.").
		Default(fmt.Sprint(opts.MaxBatch)).IntVar(&opts.MaxBatch)
	maxBody := app.Flag("max-body", "Largest body of a request; a larger one is answered with 413.").
		Default("64MiB").Bytes()
	app.Flag("shutdown-timeout", "How long requests in flight may take to end after SIGTERM or SIGINT.").
		Default(opts.ShutdownTimeout.String()).DurationVar(&opts.ShutdownTimeout)
	promslogflag.AddFlags(app, logConfig)
	if _, err := app.Parse(args); err != nil {
		return &usageError{fmt.Errorf("%w (try --help)", err)}
	}
	opts.MaxBody = int64(*maxBody)
	opts.Logger = promslog.New(logConfig)
	for _, text := range *files {
		opts.Models = append(opts.Models, parseModel(text))
	}

	if err := opts.validate(); err != nil {
		return &usageError{err}
	}
	if err := loadRuntime(*library); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", *address)
	if err != nil {
		return fmt.Errorf("--web.listen-address: %w", err)
	}
	opts.Logger.Info("listening", "address", ln.Addr().String(), "version", opts.Version)
	return newServer(opts).Run(ctx, ln)
}

// parseModel reads NAME=FILE, or FILE.
func parseModel(text string) modelFile {
	if name, file, ok := strings.Cut(text, "="); ok {
		return modelFile{Name: name, File: file}
	}
	return modelFile{Name: strings.TrimSuffix(filepath.Base(text), ".onnx"), File: text}
}

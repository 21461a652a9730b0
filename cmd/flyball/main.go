package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"

	"flyball/actuators/process"
	"flyball/exporter/gpu"
	"flyball/rules/source"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitMissed = 3 // a threshold was missed, or only lint findings
)

// Commands that flyball starts itself with; they are not for users and not in the help.
const (
	superviseCommand = "supervise"
	nvmlCommand      = "nvml-worker"
	probeCommand     = "nvml-probe"
)

// builtVersion is the version of a binary that was not built by the Makefile, which sets it at link time.
//
//go:embed VERSION
var builtVersion string

func main() { os.Exit(run(os.Args[1:])) }

// run is main without the exit, so that tests can call it.
func run(args []string) int {
	if len(args) > 0 {
		switch args[0] { // before all else: a supervisor is started for each replica
		case superviseCommand:
			return process.Supervise(args[1:], os.Stdin)
		case nvmlCommand:
			return nvmlWorker()
		case probeCommand:
			return nvmlProbe()
		}
	}
	if version.Version == "" {
		version.Version = strings.TrimSpace(builtVersion)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	return execute(ctx, args, os.Stdout, os.Stderr)
}

// command is one verb: it takes part in the command line and does its work.
type command struct {
	name string
	do   func(ctx context.Context) error
}

// execute parses the command line and does what it says.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := kingpin.New("flyball", "Measures model servers, batches their requests and decides how many replicas they have, in Prometheus's own terms.")
	addHelp(app)
	app.UsageWriter(stdout).ErrorWriter(stderr)
	done := -1
	app.Terminate(func(code int) {
		done = code
		app.UsageWriter(io.Discard) // kingpin, which would have ended here, goes on and shows the help again
	})
	commands := newCommands(app, stdout, stderr)
	if len(args) == 0 {
		app.Usage(nil)
		return exitUsage
	}
	switch args[0] {
	case "--help-man":
		if err := writeMan(stdout, app.Model(), version.Version); err != nil {
			fmt.Fprintf(stderr, "flyball: %s\n", err)
			return exitFailed
		}
		return exitOK
	case completeCommand: // asked by the shells' scripts
		if err := complete(app, args[1:], stdout); err != nil {
			return exitFailed
		}
		return exitOK
	}
	chosen, err := app.Parse(args)
	if done >= 0 { // --help and the like have been answered
		return done
	}
	if err != nil {
		fmt.Fprintf(stderr, "flyball: %s%s\nTry flyball --help.\n", err, didYouMean(app, args, err))
		return exitUsage
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == chosen })
	err = commands[i].do(ctx)
	code, coded := errors.AsType[exitError](err)
	switch {
	case err == nil:
		return exitOK
	case coded:
		if code.err != nil {
			fmt.Fprintf(stderr, "flyball: %s\n", code.err)
		}
		return code.code
	}
	if faults, ok := errors.AsType[source.Errors](err); ok {
		fmt.Fprintln(stderr, faults) // each already says where it is
		return exitFailed
	}
	fmt.Fprintf(stderr, "flyball: %s\n", err)
	return exitFailed
}

// newCommands adds every command to the command line, in the order of the help.
func newCommands(app *kingpin.Application, stdout, stderr io.Writer) []command {
	return slices.Concat([]command{
		runCommand(app, stdout, stderr),
		checkConfigCommand(app, stdout, stderr),
		checkRulesCommand(app, stdout, stderr),
		checkDashboardsCommand(app, stdout, stderr),
		checkWebConfigCommand(app, stdout),
		checkHealthyCommand(app, stdout),
		checkReadyCommand(app, stdout),
		testRulesCommand(app, stdout, stderr),
		explainCommand(app, stdout),
		reportCommand(app, stdout, stderr),
	}, forecastCommands(app, stdout, stderr), []command{
		probeGPUCommand(app, stdout),
		freezeCommand(app, stdout),
		pauseCommand(app, stdout),
		resumeCommand(app, stdout),
		releaseCommand(app, stdout, stderr),
		exportRulesCommand(app, stdout),
		exportSchemaCommand(app, stdout),
		convertHPACommand(app, stdout, stderr),
		convertScaledObjectCommand(app, stdout, stderr),
		benchCommand(app, stdout, stderr),
		calibrateCommand(app, stdout, stderr),
		probeModelsCommand(app, stdout),
		mixinRenderCommand(app, stdout),
		versionCommand(app, stdout),
		completionCommand(app, stdout),
	})
}

// exitError ends the program with a code; err may be nil when all has been said.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return fmt.Sprintf("exit %d: %v", e.code, e.err) }

// didYouMean finds the command or flag that a word on a command line that could not be parsed was probably meant to be.
func didYouMean(app *kingpin.Application, args []string, err error) string {
	model := app.Model()
	var commands, flags []string
	for _, c := range model.Commands {
		commands = append(commands, c.Name)
		for _, f := range c.Flags {
			flags = append(flags, "--"+f.Name)
		}
		for _, sub := range c.Commands {
			commands = append(commands, sub.Name)
			for _, f := range sub.Flags {
				flags = append(flags, "--"+f.Name)
			}
		}
	}
	for _, arg := range args {
		word, _, _ := strings.Cut(arg, "=")
		if !strings.Contains(err.Error(), word) {
			continue
		}
		known := commands
		if strings.HasPrefix(word, "--") {
			known = flags
		}
		if !slices.Contains(known, word) {
			return source.DidYouMean(word, known)
		}
	}
	return ""
}

func versionCommand(app *kingpin.Application, stdout io.Writer) command {
	c := app.Command("version", "Print the version.")
	return command{c.FullCommand(), func(context.Context) error {
		_, err := fmt.Fprintln(stdout, version.Print("flyball"))
		return err
	}}
}

func nvmlWorker() int {
	frugal()
	// Its parent ends it; a Ctrl-C in the terminal is the parent's to handle.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM)
	if err := gpu.Worker(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	return exitOK
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"golang.org/x/sync/errgroup"
)

// speedup makes a day two minutes.
const speedup = 720

type options struct {
	bin, config, demand, storage, web, proxy, logLevel string
	days                                               int
	bench                                              bool
}

func main() {
	var o options
	app := kingpin.New("quickstart", "Runs flyball's closed loop on one machine, under real demand.")
	app.UsageWriter(os.Stdout).ErrorWriter(os.Stderr)
	app.Flag("bin", "Directory of the programs that make build makes.").Default("bin").StringVar(&o.bin)
	app.Flag("config.file", "Configuration of flyball.").Default("examples/quickstart/flyball.yml").StringVar(&o.config)
	app.Flag("demand", "The demand to follow.").Default("examples/quickstart/demand.csv").StringVar(&o.demand)
	app.Flag("storage.path", "Where flyball keeps its history.").Default("data/quickstart").StringVar(&o.storage)
	app.Flag("web.listen-address", "Of flyball's page.").Default("127.0.0.1:9838").StringVar(&o.web)
	app.Flag("batchproxy.listen-address", "Of the model.").Default("127.0.0.1:8090").StringVar(&o.proxy)
	app.Flag("log.level", "Of flyball: debug, info, warn or error.").Default("warn").StringVar(&o.logLevel)
	app.Flag("days", "Days of demand, two minutes each, 1 to 7.").Default("7").IntVar(&o.days)
	app.Flag("load", "Put the load on; without it only flyball runs.").Default("true").BoolVar(&o.bench)
	kingpin.MustParse(app.Parse(os.Args[1:]))

	// Children are asked to end by this process, not by the terminal: see endWithParent.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	err := o.run(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "quickstart: %s\n", err)
		os.Exit(1)
	}
}

func (o options) run(ctx context.Context) error {
	if o.days < 1 || o.days > 7 {
		return fmt.Errorf("--days is %d: expected 1 to 7", o.days)
	}
	// The load ends before flyball does, so that no request is turned away at the end. Flyball goes on after the load, and
	// when it ends there is nothing to put a load on.
	loading, endLoad := context.WithCancel(ctx)
	defer endLoad()
	serving, endServer := context.WithCancel(context.WithoutCancel(ctx))
	defer endServer()
	var g errgroup.Group
	g.Go(func() error {
		defer endLoad()
		err := o.child(serving, "flyball", "run", "--config.file="+o.config, "--storage.path="+o.storage, "--act.enabled",
			"--decisions.print", "--log.level="+o.logLevel, "--web.listen-address="+o.web, "--batchproxy.listen-address="+o.proxy)
		if err == nil && serving.Err() == nil {
			err = errors.New("flyball ended by itself")
		}
		return err
	})
	g.Go(func() error {
		defer endServer()
		var err error
		if o.bench {
			err = o.load(loading)
		}
		<-loading.Done()
		return err
	})
	return g.Wait()
}

// load waits until the model answers and follows the demand.
func (o options) load(ctx context.Context) error {
	reference, err := freeAddress()
	if err != nil {
		return err
	}
	// The model server of the right answers lives as long as the bench needs it.
	learning, done := context.WithCancel(ctx)
	defer done()
	var g errgroup.Group
	g.Go(func() error {
		return o.child(learning, "modelserver", "--web.listen-address="+reference, "--log.level=error")
	})
	bench := func() error {
		defer done()
		for _, url := range []string{"http://" + reference + "/v2/health/ready", "http://" + o.proxy + "/v2/health/ready"} {
			if err := waitReady(ctx, url); err != nil {
				return nil // ended before it was ready; the child that failed says why
			}
		}
		fmt.Printf("load   real LLM demand (ServeGen, Apache-2.0), a day in 2 minutes, %d days, 78 to 455 requests/s, real digits, answers checked; Ctrl-C ends everything\n", o.days)
		err := o.child(ctx, "flyball", "bench", "http://"+o.proxy, "--reference-url=http://"+reference, "--trace="+o.demand,
			fmt.Sprintf("--speedup=%d", speedup), fmt.Sprintf("--duration=%s", time.Duration(o.days)*24*time.Hour/speedup),
			fmt.Sprintf("--report-every=%s", 24*time.Hour/speedup), "--brief")
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			fmt.Printf("%s  the load has ended; the page http://%s/ shows the rest; Ctrl-C ends everything\n", time.Now().Format(time.TimeOnly), o.web)
		} else {
			fmt.Fprintf(os.Stderr, "quickstart: load: %s\n", err)
		}
		return nil
	}
	err = bench()
	return errors.Join(err, g.Wait())
}

// child runs one of the programs until it ends, or ctx does: then it is asked to, and killed when it takes too long.
func (o options) child(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(o.bin, name), args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	endWithParent(cmd)
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() != nil {
		if status, _ := exit.Sys().(syscall.WaitStatus); exit.ExitCode() >= 0 || status.Signal() == syscall.SIGTERM {
			return nil // asked to end, and did
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return nil
}

func waitReady(ctx context.Context, url string) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

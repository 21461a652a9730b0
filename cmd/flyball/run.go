package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"

	"flyball/rules"
	"flyball/rules/source"
)

// Roles of a process. Ports of single roles differ, so that they live together on one node.
const (
	roleAll        = "all"
	roleExporter   = "exporter"
	roleBatchproxy = "batchproxy"
	roleRules      = "rules"
)

type runOptions struct {
	configFile  string
	storagePath string
	webListen   string
	proxyListen string
	roles       []string
	act         bool
	print       bool
	log         *slog.Logger
	stdout      io.Writer
}

func runCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := app.Command("run", "Run until Ctrl-C or SIGTERM: measure, batch, decide and, where it is enabled, act.")
	var o runOptions
	c.Flag("config.file", "The configuration file.").Default("flyball.yml").StringVar(&o.configFile)
	c.Flag("storage.path", "Where samples and decisions are kept, instead of storage.path in the configuration.").StringVar(&o.storagePath)
	c.Flag("role", "What this process does: all, exporter, batchproxy or rules; repeatable.").Default(roleAll).EnumsVar(&o.roles, roleAll, roleExporter, roleBatchproxy, roleRules)
	c.Flag("act.enabled", "Carry out the decisions of rules whose mode is act. Without it every rule only observes.").BoolVar(&o.act)
	c.Flag("web.listen-address", "Of the page, /metrics and the API. Default: 127.0.0.1:9838, for the exporter alone 127.0.0.1:9839, for the proxy alone 127.0.0.1:9840.").StringVar(&o.webListen)
	c.Flag("batchproxy.listen-address", "Where the batching proxy takes requests.").Default("127.0.0.1:8090").StringVar(&o.proxyListen)
	c.Flag("decisions.print", "Print each decision as a line for a person, instead of logging it.").BoolVar(&o.print)
	logging := promslog.Config{Writer: stderr}
	promslogflag.AddFlags(app, &logging)
	return command{c.FullCommand(), func(ctx context.Context) error {
		o.log, o.stdout = promslog.New(&logging), stdout
		return o.run(ctx)
	}}
}

func (o *runOptions) has(role string) bool {
	return slices.Contains(o.roles, role) || slices.Contains(o.roles, roleAll)
}

// webAddress is the default address of the roles that run here.
func (o *runOptions) webAddress() string {
	switch {
	case o.webListen != "":
		return o.webListen
	case !o.has(roleRules) && !o.has(roleBatchproxy):
		return "127.0.0.1:9839"
	case !o.has(roleRules) && !o.has(roleExporter):
		return "127.0.0.1:9840"
	}
	return "127.0.0.1:9838"
}

func (o *runOptions) run(ctx context.Context) error {
	l, err := o.load(nil)
	if err != nil {
		return err
	}
	a, err := newApp(l, o)
	if err != nil {
		return err
	}
	defer a.close()
	o.log.Info("starting", "version", version.Version, "roles", strings.Join(o.roles, ","), "config", o.configFile,
		"page", a.pageURL(), "act", o.act)
	if o.print {
		fmt.Fprintln(o.stdout, a.greeting())
	}
	slog.SetDefault(o.log) // for what the standard library logs by itself
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer func() {
		signal.Stop(hangups)
		close(hangups)
	}()
	go func() {
		for range hangups {
			_ = a.reload(ctx) // it logs how it went
		}
	}()
	return a.run(ctx)
}

// load reads the configuration; running is the one that holds now, nil at the start.
func (o *runOptions) load(running *loaded) (*loaded, error) {
	return load(o.configFile, func(l *loaded, d *source.Decoder) {
		if o.storagePath != "" {
			l.Storage.Path = o.storagePath
		}
		if running != nil {
			l.checkFixed(d, running)
		}
	})
}

// greeting is the first line that a person reads.
func (a *app) greeting() string {
	var line strings.Builder
	fmt.Fprintf(&line, "flyball %s   page %s", version.Version, a.pageURL())
	for _, m := range a.live.Load().Batchproxy.Models {
		if a.proxyListener != nil {
			fmt.Fprintf(&line, "   model http://%s/v2/models/%s/infer", reachable(a.proxyListener.Addr()), m.Name)
		}
	}
	if !a.opts.act {
		line.WriteString("   (observing: --act.enabled lets rules act)")
	}
	return line.String()
}

// tell reports a decision that was recorded: as a line for a person, or as a log entry.
func (o *runOptions) tell(d *rules.Decision) {
	if d.Result == rules.Applying {
		return // its end is told
	}
	if !o.print {
		o.log.Info("decision", "rule", d.Rule, "target", d.Target, "from", d.From, "to", d.To, "result", d.Result,
			"reasons", d.ReasonText(), "text", d.Text, "id", d.ID)
		return
	}
	if d.Action == rules.Hold && !slices.ContainsFunc(d.Reasons, worthALine) {
		return // the page and `flyball explain` have it
	}
	size := fmt.Sprintf("%d -> %d", d.From, d.To)
	if d.Action == rules.Hold {
		size = fmt.Sprintf("%d held", d.To)
	}
	line := fmt.Sprintf("%s  %s  %s  %s   %s   %s", d.Time.Local().Format(time.TimeOnly), d.Rule, size, d.Result, d.Text, d.ReasonText())
	if d.Error != "" {
		line += "   " + d.Error
	}
	fmt.Fprintln(o.stdout, line)
}

// worthALine says whether a hold for that reason is news to a person who watches.
func worthALine(r rules.Reason) bool {
	return slices.Contains([]rules.Reason{rules.MetricMissing, rules.MetricStale, rules.MetricNaN, rules.InFlight, rules.ActuatorError, rules.ExternalChange}, r)
}

// listen opens a TCP listener; the error names the flag to change.
func listen(address, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s: the address is in use: is flyball running already? --%s gives another", address, flag)
	}
	if detail, ok := errors.AsType[*net.OpError](err); ok && detail.Err != nil {
		err = detail.Err
	}
	return nil, fmt.Errorf("listen on %s (--%s): %w", address, flag, err)
}

func executable() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the program's own file, which holds replicas and reads GPUs: %w", err)
	}
	return path, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"

	"flyball/actuators"
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
	configFile   string
	configGiven  bool           // by a flag
	compat       string         // under whose names the GPUs are served too; "": as the configuration says
	autoReload   model.Duration // how often the files are looked at for changes; 0: never
	storagePath  string
	webListen    []string // none: the default of the roles
	proxyListen  string
	webSecured   string // a web configuration file; "": plain HTTP
	proxySecured string // the same for the proxy
	kedaListen   string
	kedaSecured  string // the same for the external scaler
	sockets      bool   // listen on what systemd hands over
	externalURL  string
	lifecycle    bool // POST /-/reload, /-/quit and /-/freeze
	roles        []string
	act          bool
	actTargets   []string       // regular expressions of kind/name; none: all
	actOn        *regexp.Regexp // of them together; nil: all
	actLimit     int            // changes a minute over all targets; 0: no limit
	print        bool
	exporter     exporterOptions
	log          *slog.Logger
	stdout       io.Writer
}

func runCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := app.Command("run", "Run until Ctrl-C or SIGTERM: measure, batch, decide and, where it is enabled, act.")
	var o runOptions
	c.Flag("config.file", "The configuration file. The exporter alone (--role=exporter) needs none: flyball.yml is read then where it is there.").Default("flyball.yml").IsSetByUser(&o.configGiven).StringVar(&o.configFile)
	c.Flag("config.auto-reload-interval", "How often the configuration and the rule files that it names, new ones included, are looked at for changes and reloaded, as SIGHUP does it. What was refused is tried again when it has changed. 0s: never.").Default("0s").SetValue(&o.autoReload)
	c.Flag("storage.path", "Where samples and decisions are kept, instead of storage.path in the configuration.").StringVar(&o.storagePath)
	c.Flag("role", "What this process does: all, exporter, batchproxy or rules; repeatable.").Default(roleAll).EnumsVar(&o.roles, roleAll, roleExporter, roleBatchproxy, roleRules)
	c.Flag("act.enabled", "Carry out the decisions of rules whose mode is act. Without it every rule only observes.").BoolVar(&o.act)
	c.Flag("act.targets", "Act on targets alone whose kind/name this regular expression matches as a whole, such as process/llama-.*; repeatable. Rules decide for the others, and change nothing.").PlaceHolder("REGEX").StringsVar(&o.actTargets)
	c.Flag("act.max-changes-per-minute", "How many changes are made in a minute, over all targets; half of them are kept for changes up. 0: no limit.").Default("100").IntVar(&o.actLimit)
	c.Flag("web.listen-address", "Of the page, /metrics and the API. Default: 127.0.0.1:9838, for the exporter alone 127.0.0.1:9839, for the proxy alone 127.0.0.1:9840. Repeatable.").StringsVar(&o.webListen)
	c.Flag("web.systemd-socket", "Listen on the sockets that systemd hands over: one named batchproxy is the proxy's, the others are the page's (Linux).").BoolVar(&o.sockets)
	c.Flag("web.config.file", "TLS, client certificates, passwords and headers of the page, in the format that Prometheus and its exporters share. flyball check web-config checks it.").StringVar(&o.webSecured)
	c.Flag("web.external-url", "Where users reach the page, for links in alerts, when it is not where it listens.").StringVar(&o.externalURL)
	c.Flag("web.enable-lifecycle", "Let POST /-/reload reload this process, POST /-/quit end it and POST /-/freeze stop it acting; the page gets a button for the last.").BoolVar(&o.lifecycle)
	c.Flag("batchproxy.listen-address", "Where the batching proxy takes requests.").Default("127.0.0.1:8090").StringVar(&o.proxyListen)
	c.Flag("batchproxy.web.config.file", "TLS, client certificates and passwords of the proxy, as --web.config.file has them for the page.").StringVar(&o.proxySecured)
	c.Flag("keda.listen-address", "Where KEDA's external scaler is asked (gRPC), if the configuration has actuators.keda.").Default("127.0.0.1:9841").StringVar(&o.kedaListen)
	c.Flag(kedaSecuredFlag, "TLS and client certificates of the external scaler, as --web.config.file has them for the page.").StringVar(&o.kedaSecured)
	o.compatFlags(c)
	o.exporter.add(c)
	c.Flag("decisions.print", "Print each decision as a line for a person, instead of logging it.").BoolVar(&o.print)
	logging := promslog.Config{Writer: stderr}
	promslogflag.AddFlags(app, &logging)
	return command{c.FullCommand(), func(ctx context.Context) error {
		o.log, o.stdout = promslog.New(&logging), stdout
		return o.run(ctx)
	}}
}

// checkActing reads the flags that say what may be changed.
func (o *runOptions) checkActing() error {
	if o.actLimit < 0 {
		return fmt.Errorf("--act.max-changes-per-minute is %d: expected 0 or more", o.actLimit)
	}
	if len(o.actTargets) == 0 {
		return nil
	}
	for _, text := range o.actTargets {
		if _, err := regexp.Compile(text); err != nil {
			return fmt.Errorf("--act.targets: %w", err)
		}
	}
	o.actOn = regexp.MustCompile("^(?:" + strings.Join(o.actTargets, "|") + ")$")
	return nil
}

// mayAct says whether --act.targets names a target.
func (o *runOptions) mayAct(t actuators.Target) bool {
	return o.actOn == nil || o.actOn.MatchString(t.String())
}

func (o *runOptions) has(role string) bool {
	return slices.Contains(o.roles, role) || slices.Contains(o.roles, roleAll)
}

// webAddresses are those that were given, or the default one of the roles that run here.
func (o *runOptions) webAddresses() []string {
	switch {
	case len(o.webListen) > 0:
		return o.webListen
	case !o.has(roleRules) && !o.has(roleBatchproxy):
		return []string{"127.0.0.1:9839"}
	case !o.has(roleRules) && !o.has(roleExporter):
		return []string{"127.0.0.1:9840"}
	}
	return []string{"127.0.0.1:9838"}
}

func (o *runOptions) run(ctx context.Context) error {
	if err := errors.Join(o.checkActing(), o.exporter.check()); err != nil {
		return exitError{exitUsage, err}
	}
	l, err := o.load(nil)
	if err != nil {
		return err
	}
	a, err := newApp(l, o)
	if err != nil {
		return err
	}
	defer a.close()
	switch {
	case o.has(roleRules): // the embedded Prometheus holds enough
	case o.has(roleBatchproxy):
		defer roomy()()
	default:
		frugal()
	}
	o.log.Info("starting", "version", version.Version, "roles", strings.Join(o.roles, ","), "config", o.configFile,
		"page", a.pageURL(), "act", o.act)
	if o.print {
		fmt.Fprintln(o.stdout, a.greeting())
	}
	slog.SetDefault(o.log) // for what the standard library logs by itself
	logKubernetes(o.log)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	var reloader sync.WaitGroup
	defer reloader.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	reloader.Go(func() { a.onHangups(ctx, hangups) })
	return a.run(ctx)
}

// load reads the configuration; running is the one that holds now, nil at the start.
func (o *runOptions) load(running *loaded) (*loaded, error) {
	var l *loaded
	summed, err := steady(func() string { return fingerprint(o.configFile) }, func() (err error) {
		text, err := source.Read(o.configFile)
		if errors.Is(err, fs.ErrNotExist) && !o.configGiven && slices.Equal(o.roles, []string{roleExporter}) {
			text, err = []byte("{}"), nil // as other exporters, it does what it does without a file
		}
		if err != nil {
			return fmt.Errorf("read configuration (--config.file): %w", err)
		}
		l, err = loadText(o.configFile, text, func(l *loaded, d *source.Decoder) {
			if o.storagePath != "" {
				l.Storage.Path = o.storagePath
			}
			if o.compat != "" {
				l.Exporter.Compat = o.compat
			}
			o.exporter.apply(&l.Exporter, d)
			if running != nil {
				l.checkFixed(d, running)
			}
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.print = summed
	for _, w := range asErrors(l.lint) {
		o.log.Warn("rule file", "place", fmt.Sprintf("%s:%d:%d", w.File, w.Line, w.Column), "finding", w.Message)
	}
	return l, nil
}

// greeting is the first line that a person reads.
func (a *app) greeting() string {
	var line strings.Builder
	fmt.Fprintf(&line, "flyball %s   page %s", version.Version, a.pageURL())
	for _, m := range a.live.Load().Batchproxy.Models {
		if a.proxyListener != nil {
			fmt.Fprintf(&line, "   model %s://%s/v2/models/%s/infer", a.proxySecured.scheme(), reachable(a.proxyListener.Addr()), m.Name)
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
	return slices.Contains([]rules.Reason{rules.MetricMissing, rules.MetricStale, rules.MetricNaN, rules.InFlight, rules.ActuatorError, rules.ExternalChange, rules.OwnedByHPA}, r)
}

func executable() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the program's own file, which holds replicas and reads GPUs: %w", err)
	}
	return path, nil
}

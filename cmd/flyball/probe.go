package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
	"flyball/exporter/gpu"
	"flyball/exporter/gpu/pods"
)

// probeParent is the command that has what looks at this machine below it.
func probeParent(app *kingpin.Application) *kingpin.CmdClause {
	if c := app.GetCommand("probe"); c != nil {
		return c
	}
	return app.Command("probe", "Read once what the exporter reads, and say what was found and what was not.")
}

// probeOptions are the flags of probe gpu.
type probeOptions struct {
	configFile string
	library    string
	runs       int
	timeout    time.Duration // of all
	call       time.Duration // of one call
	output     string
}

func probeGPUCommand(app *kingpin.Application, stdout io.Writer) command {
	c := probeParent(app).Command("gpu", "What can be read of the GPUs here, how long it takes, and what the exporter makes of it. It may run beside the exporter. It fails where there is no GPU, or one that cannot be read.")
	var o probeOptions
	c.Flag("config.file", "The configuration file that has the section exporter, if there is one.").StringVar(&o.configFile)
	c.Flag("library", "The file of libnvidia-ml.so.1, instead of exporter.gpu.library and of looking where drivers put it.").StringVar(&o.library)
	c.Flag("runs", "How often each call is made.").Default("10").IntVar(&o.runs)
	c.Flag("call-timeout", "How long one call may take until its GPU counts as hanging.").Default("2s").DurationVar(&o.call)
	c.Flag("timeout", "How long all may take; what is known by then is printed.").Default("30s").DurationVar(&o.timeout)
	c.Flag("output", "text or json.").Short('o').Default("text").EnumVar(&o.output, "text", "json")
	return command{c.FullCommand(), func(ctx context.Context) error {
		switch {
		case o.runs < 1:
			return exitError{exitUsage, fmt.Errorf("--runs is %d: expected 1 or more", o.runs)}
		case o.call <= 0:
			return exitError{exitUsage, fmt.Errorf("--call-timeout is %s: expected more than 0s", o.call)}
		case o.timeout <= 0:
			return exitError{exitUsage, fmt.Errorf("--timeout is %s: expected more than 0s", o.timeout)}
		}
		return o.run(ctx, stdout)
	}}
}

// moreTime is what may be done where there was not enough of it. A driver that nothing holds initialises all GPUs twice here: for the
// calls one by one, and for the exporter.
const moreTime = ": many GPUs may take longer where the persistence daemon does not run, give a longer --timeout"

// gpuReport is what probe gpu prints.
type gpuReport struct {
	Backend string `json:"backend"` // nvml, nvidia-smi, amdgpu, sim or none
	gpu.Probed
	Unread   string        `json:"unread,omitempty"`   // why the exporter has not read all
	Families []probeFamily `json:"families,omitempty"` // all that there are, whether exported or not

	Kubelet    string       `json:"kubelet"`                      // the socket that was asked for pods, and what was wrong there
	Pods       []pods.Grant `json:"pods,omitempty"`               // what they were given
	Unresolved int          `json:"unresolved_devices,omitempty"` // that pods were given and that are not found among the GPUs
}

// probeFamily is one family of metrics as the exporter would publish it.
type probeFamily struct {
	Name   string `json:"name"`
	Series int    `json:"series"`
	Why    string `json:"why,omitempty"` // there are none
}

func (o *probeOptions) run(ctx context.Context, stdout io.Writer) error {
	c := exporter.DefaultConfig()
	var sim *gpu.Sim
	if o.configFile != "" {
		l, err := load(o.configFile)
		if err != nil {
			return err
		}
		c, sim = l.Exporter, l.sim
	}
	if o.library != "" {
		c.GPU.Backend = gpu.BackendNVML
	}
	c.GPU.Library = cmp.Or(o.library, c.GPU.Library)
	self, err := executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var r gpuReport
	r.Probed = gpu.Probe(ctx, gpu.ProbeOptions{
		Command: []string{self, probeCommand}, Library: c.GPU.Library, Runs: o.runs, Timeout: o.call, StartTimeout: o.timeout,
	})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && r.Error != "" {
		r.Error += moreTime
	}
	start := o.timeout
	if slices.ContainsFunc(r.GPUs, func(g gpu.ProbedGPU) bool { return g.Error != "" }) {
		start = min(o.timeout, 5*o.call) // what hangs is known by now
	}
	o.read(ctx, &r, c, gpu.New(gpu.Options{
		Worker: []string{self, nvmlCommand}, Backend: c.GPU.Backend, Library: c.GPU.Library, Sim: sim, Require: true,
		Processes: c.GPU.Processes, MaxProcesses: c.GPU.MaxProcesses, NVLinkPerLink: c.GPU.NVLinkPerLink, CallDurations: c.GPU.CallDurations,
		ProcPath: c.Host.ProcFS, SysPath: c.Host.SysFS, Timeout: o.call, StartTimeout: start,
		Interval: 500 * time.Millisecond, // for what is measured between two readings
	}))
	if o.output == "json" {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		err = r.write(stdout)
	}
	if err != nil {
		return err
	}
	return r.verdict()
}

// verdict is what the exit code is made of.
func (r *gpuReport) verdict() error {
	var hung []string
	for _, g := range r.GPUs {
		if g.Error != "" {
			hung = append(hung, fmt.Sprintf("GPU %d: %s", g.Index, g.Error))
		}
	}
	switch {
	case len(hung) > 0:
		return fmt.Errorf("probe gpu: %s", strings.Join(hung, "; "))
	case r.Backend == "none" && r.Error != "":
		return fmt.Errorf("probe gpu: %s", r.Error)
	case r.Unread != "":
		return fmt.Errorf("probe gpu: %s", r.Unread)
	case r.Backend == "none":
		return errors.New("probe gpu: no GPU")
	}
	return nil
}

// read runs the exporter's own collector until it has read the GPUs twice, or cannot.
func (o *probeOptions) read(ctx context.Context, r *gpuReport, config exporter.Config, c *gpu.Collector) {
	defer func() {
		r.ask(ctx, newPods(config, c, slog.New(slog.DiscardHandler)), config.Kubernetes.PodResourcesSocket)
	}() // beside a snapshot, if there is one
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(running) }()
	defer func() {
		stop()
		<-ended //nolint:errcheck // it was told to
	}()
	e, err := exporter.New(exporter.Options{Logger: slog.New(slog.DiscardHandler)}, c)
	if err != nil {
		r.Unread = err.Error()
		return
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(e)
	r.Backend = "none"
	late := func() {
		r.Unread = "the exporter has not read the GPUs within " + o.timeout.String() + moreTime
		r.count(registry)
	}
	var first time.Time
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			ended <- nil
			if err == nil { // as ctx is done
				late()
				return
			}
			if tried := gpu.Tried(err); tried != nil { // by every way, not by NVML alone
				r.Tried = tried
			}
			if r.Error == "" { // else the same has been said
				r.Unread = err.Error()
			}
			return
		case <-ctx.Done():
			late()
			return
		case <-tick.C:
		}
		s := c.Snapshot()
		_, err := c.Update(ctx)
		failed := err != nil && !errors.Is(err, exporter.ErrNoData)
		switch {
		case s == nil && failed:
			r.Unread = err.Error()
			r.count(registry)
			return
		case s == nil:
			continue
		case first.IsZero():
			first = s.Taken
		case s.Taken.After(first):
			r.Backend = backendOf(s)
			if failed {
				r.Unread = err.Error()
			}
			r.count(registry)
			return
		}
	}
}

// ask notes which pods have which GPUs.
func (r *gpuReport) ask(ctx context.Context, c *pods.Collector, socket string) {
	r.Kubelet = socket
	var err error
	switch r.Pods, r.Unresolved, err = c.Ask(ctx); {
	case errors.Is(err, exporter.ErrNoData):
		r.Kubelet += ": no kubelet there"
	case err != nil:
		r.Kubelet += ": " + err.Error()
	}
}

// backendOf is what a snapshot was read by.
func backendOf(s *gpu.Snapshot) string {
	if s.Library != "" {
		return "nvml"
	}
	for _, d := range s.Devices {
		switch d.Vendor {
		case "sim":
			return "sim"
		case "amd":
			return "amdgpu"
		}
	}
	return "nvidia-smi"
}

// count notes how many series each family has.
func (r *gpuReport) count(registry *prometheus.Registry) {
	families, _ := registry.Gather() // what breaks a registry's rules was dropped, and is in Unread
	series := map[string]int{}
	for _, f := range families {
		series[f.GetName()] = len(f.GetMetric())
	}
	for _, f := range gpu.Families() {
		if slices.ContainsFunc(r.Families, func(p probeFamily) bool { return p.Name == f.Name }) {
			continue
		}
		p := probeFamily{Name: f.Name, Series: series[f.Name]}
		if p.Series == 0 {
			otherwise := "no GPU here has it"
			if r.Backend == gpu.BackendNvidiaSMI || r.Backend == gpu.BackendAMDGPU {
				otherwise = "no GPU here has it, or " + r.Backend + " does not tell it"
			}
			p.Why = cmp.Or(r.Why(f.Name), otherwise)
		}
		r.Families = append(r.Families, p)
	}
}

// write prints the report for a person.
func (r *gpuReport) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, value)
		}
	}
	row("backend", r.Backend)
	row("driver", r.Driver)
	row("cuda", r.CUDA)
	row("library", r.Library)
	for _, place := range r.Tried {
		row("tried", place)
	}
	if len(r.Symbols) > 0 {
		present := 0
		for _, s := range r.Symbols {
			if s.Present {
				present++
			}
		}
		row("symbols", fmt.Sprintf("%d of %d", present, len(r.Symbols)))
		row("missing", strings.Join(r.Missing(), " "))
	}
	row("error", r.Error)
	row("unread", r.Unread)
	for _, g := range r.GPUs {
		fmt.Fprintf(t, "\nGPU %d\t%s\n", g.Index, strings.Join(slices.DeleteFunc([]string{g.UUID, g.Name, g.PCIBusID}, func(s string) bool { return s == "" }), "  "))
		if len(g.Calls) > 0 {
			fmt.Fprintf(t, "  CALL\tP50 (us)\tMAX (us)\n")
		}
		for _, c := range g.Calls {
			switch {
			case c.NotMade != "":
				fmt.Fprintf(t, "  %s\t-\t-\tnot made: %s\n", c.Name, c.NotMade)
			case c.Error != "":
				fmt.Fprintf(t, "  %s\t-\t-\t%s\n", c.Name, c.Error)
			default:
				fmt.Fprintf(t, "  %s\t%.1f\t%.1f\n", c.Name, c.P50, c.Max)
			}
		}
		row("  error", g.Error)
	}
	fmt.Fprintf(t, "\nkubelet\t%s\n", r.Kubelet)
	for _, p := range r.Pods {
		gi := ""
		if p.GI != nil {
			gi = fmt.Sprintf("/%d", *p.GI)
		}
		fmt.Fprintf(t, "  %s%s\t%s/%s\t%s\t%s\n", p.UUID, gi, p.Namespace, p.Pod, p.Container, p.Resource)
	}
	if r.Unresolved > 0 {
		row("  not found", fmt.Sprintf("%d devices", r.Unresolved))
	}
	if len(r.Families) > 0 {
		fmt.Fprintf(t, "\nFAMILY\tSERIES\n")
	}
	for _, f := range r.Families {
		if f.Series > 0 {
			fmt.Fprintf(t, "%s\t%d\n", f.Name, f.Series)
		} else {
			fmt.Fprintf(t, "%s\t-\t%s\n", f.Name, f.Why)
		}
	}
	return t.Flush()
}

// nvmlProbe is the process that makes the calls of a probe.
func nvmlProbe() int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM) // its parent ends it
	if err := gpu.ProbeWorker(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	return exitOK
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"golang.org/x/term"

	"flyball/batchproxy/loadgen"
	"flyball/examples/modelserver/digits"
)

type benchOptions struct {
	url, reference, model, protocol, payload, check, arrivals, output, trace string
	rate, speedup, scale                                                     float64
	duration, reportEvery                                                    time.Duration
	headers                                                                  []string
	load                                                                     loadgen.Options
	brief                                                                    bool
}

func benchCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := app.Command("bench", "Put load on a model server or proxy, open loop: requests leave at their time whatever the answers do, latency counts from that time, and each answer is checked.")
	o := benchOptions{load: loadgen.DefaultOptions()}
	c.Arg("url", "Of the server: the path of each request is appended.").Default("http://127.0.0.1:8090").StringVar(&o.url)
	c.Flag("model", "Name of the model.").Default("digits").StringVar(&o.model)
	c.Flag("protocol", "Open Inference Protocol v2 or v1.").Default(string(loadgen.V2)).EnumVar(&o.protocol, string(loadgen.V2), string(loadgen.V1))
	c.Flag("payload", "What is sent: digits (719 images of handwritten digits, one a request) or a file of request bodies, one JSON object a line.").Default("digits").StringVar(&o.payload)
	c.Flag("rate", "Requests a second, constant; exclusive with --trace.").Float64Var(&o.rate)
	c.Flag("trace", "CSV of seconds and requests a second to follow.").StringVar(&o.trace)
	c.Flag("speedup", "How many times as fast the trace is replayed: 720 makes a day two minutes.").Default("1").Float64Var(&o.speedup)
	c.Flag("scale", "Factor on the rates of the trace.").Default("1").Float64Var(&o.scale)
	c.Flag("duration", "Of the load; default 30s at a --rate, the whole --trace.").DurationVar(&o.duration)
	c.Flag("arrivals", "poisson (independent clients) or uniform (evenly spaced).").Default(string(loadgen.Poisson)).EnumVar(&o.arrivals, string(loadgen.Poisson), string(loadgen.Uniform))
	c.Flag("seed", "Of the arrivals: the same seed plans the same times.").Default("1").Uint64Var(&o.load.Seed)
	c.Flag("check", "How answers are compared with the one for that request alone: exact, close or none.").Default(string(loadgen.CheckExact)).EnumVar(&o.check, "exact", "close", "none")
	c.Flag("reference-url", "Server that is asked, one request after the other, for the right answers before the load; default: the url itself. Give the model server where a proxy is tested.").StringVar(&o.reference)
	c.Flag("timeout", "Of one request.").Default(o.load.Timeout.String()).DurationVar(&o.load.Timeout)
	c.Flag("max-inflight", "Requests that may wait for answers; arrivals beyond are counted as saturated, not sent.").Default(fmt.Sprint(o.load.MaxInflight)).IntVar(&o.load.MaxInflight)
	c.Flag("header", "NAME:VALUE sent with each request; repeatable.").StringsVar(&o.headers)
	c.Flag("report-every", "Also report each interval of this length.").DurationVar(&o.reportEvery)
	c.Flag("brief", "One line a report instead of a page.").BoolVar(&o.brief)
	c.Flag("output", "Format: text or json.").Short('o').Default("text").EnumVar(&o.output, "text", "json")
	return command{c.FullCommand(), func(ctx context.Context) error { return o.run(ctx, stdout, stderr) }}
}

func (o *benchOptions) run(ctx context.Context, stdout, stderr io.Writer) error {
	if err := o.plan(); err != nil {
		return exitError{exitUsage, fmt.Errorf("bench: %w", err)}
	}
	requests, err := o.requests()
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	o.load.Requests = requests
	if o.load.Check != loadgen.CheckNone {
		if err := o.learn(ctx, stderr); err != nil {
			if ctx.Err() != nil {
				return exitError{code: exitFailed} // Ctrl-C before the load: nothing to report
			}
			return fmt.Errorf("bench: right answers from %s: %w", o.reference, err)
		}
	}
	if term.IsTerminal(int(os.Stderr.Fd())) && stderr == io.Writer(os.Stderr) && !o.brief {
		o.load.Progress = func(s loadgen.Snapshot) { fmt.Fprintf(stderr, "\r\033[K%s", s) }
	}
	write := func(r loadgen.Report) {
		if o.load.Progress != nil {
			fmt.Fprint(stderr, "\r\033[K")
		}
		o.write(stdout, r)
	}
	if o.reportEvery > 0 {
		o.load.ReportEvery, o.load.OnReport = o.reportEvery, write
	}
	report, err := loadgen.Run(ctx, o.load)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if o.reportEvery == 0 || !o.brief {
		write(report)
	}
	if bad := report.Counts.Errors() + report.Counts.Wrong - report.Counts.Cancelled; bad > 0 || report.Lost > report.Counts.Cancelled {
		return exitError{code: exitMissed}
	}
	return nil
}

// plan turns the flags into the load's options.
func (o *benchOptions) plan() error {
	o.load.URL, o.load.Arrivals, o.load.Check = o.url, loadgen.Arrivals(o.arrivals), loadgen.Check(o.check)
	if o.reference == "" {
		o.reference = o.url
	}
	o.load.Header = http.Header{}
	for _, h := range o.headers {
		name, value, found := strings.Cut(h, ":")
		if !found || strings.TrimSpace(name) == "" {
			return fmt.Errorf("--header is %q: expected NAME:VALUE", h)
		}
		o.load.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	switch {
	case o.trace != "" && o.rate != 0:
		return fmt.Errorf("--rate and --trace: expected one of them")
	case o.trace != "":
		f, err := os.Open(o.trace)
		if err != nil {
			return fmt.Errorf("--trace: %w", err)
		}
		defer f.Close()
		trace, err := loadgen.ReadTrace(f, o.trace)
		if err != nil {
			return err
		}
		if o.load.Demand, err = trace.Demand(o.speedup, o.scale); err != nil {
			return err
		}
		if o.duration > 0 {
			o.load.Demand = o.load.Demand.Limit(o.duration)
		}
	case o.rate > 0:
		if o.duration == 0 {
			o.duration = 30 * time.Second
		}
		o.load.Demand = loadgen.Constant(o.rate, o.duration)
	default:
		return fmt.Errorf("--rate is %g: give a rate above 0, or a --trace to follow", o.rate)
	}
	return nil
}

func (o *benchOptions) requests() ([]loadgen.Request, error) {
	protocol := loadgen.Protocol(o.protocol)
	if o.payload != "digits" {
		f, err := os.Open(o.payload)
		if err != nil {
			return nil, fmt.Errorf("--payload is neither digits nor a file: %w", err)
		}
		defer f.Close()
		return loadgen.ReadPayloads(f, o.payload, o.model, protocol)
	}
	images, err := digits.HeldOut()
	if err != nil {
		return nil, err
	}
	rows := make([][]float32, len(images))
	for i, image := range images {
		rows[i] = image.Floats()
	}
	return loadgen.TensorRequests(o.model, "pixels", protocol, rows)
}

// learn asks for the right answers.
func (o *benchOptions) learn(ctx context.Context, stderr io.Writer) error {
	ask := o.load
	ask.URL = o.reference
	if !o.brief {
		fmt.Fprintf(stderr, "asking %s for %d right answers, one after the other\n", o.reference, len(ask.Requests))
	}
	requests, err := loadgen.Reference(ctx, ask)
	o.load.Requests = requests
	return err
}

func (o *benchOptions) write(w io.Writer, r loadgen.Report) {
	switch {
	case o.output == "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(r)
	case o.brief:
		fmt.Fprintln(w, briefly(r, time.Now()))
	default:
		_ = r.WriteText(w)
	}
}

// briefly is a report in one line, and one for each example of what went wrong.
func briefly(r loadgen.Report, now time.Time) string {
	var line strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&line, format, args...) }
	c := r.Counts
	say("%s  %s answers, %d wrong, %d lost", now.Format(time.TimeOnly), thousands(c.OK+c.Wrong), c.Wrong, r.Lost)
	if refused := c.HTTP429 + c.HTTP4xx + c.HTTP5xx + c.HTTPOther; refused > 0 {
		say(", %d refused", refused)
	}
	if c.Saturated > 0 {
		say(", %d not sent", c.Saturated)
	}
	say(", p50 %s, p99 %s", milliseconds(r.Latency.P50), milliseconds(r.Latency.P99))
	if r.Verdict != "" {
		say("; %s", r.Verdict)
	}
	for _, e := range r.Examples {
		say("\n          %s: %s", e.Kind, e.Reason)
	}
	return line.String()
}

func milliseconds(seconds float64) string { return fmt.Sprintf("%.0f ms", seconds*1000) }

func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

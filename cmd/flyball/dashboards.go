package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/config"
	"golang.org/x/term"

	"flyball/mixin/dashboard"
	"flyball/rules/source"
)

// dashboardOptions are the flags of check dashboards.
type dashboardOptions struct {
	files           []string
	against         string
	headers         map[string]string
	httpConfig      string
	variables       map[string]string
	window, scrape  time.Duration
	lint            bool
	output          string
	stdout, stderr  io.Writer
	api             v1.API // nil without --against
	asked           time.Time
	progressWritten bool
}

func checkDashboardsCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := checkParent(app).Command("dashboards", "Check Grafana dashboards, of anybody: queries that do not parse, style (the rules of dashboard-linter) and, with --against, queries without data.")
	o := dashboardOptions{headers: map[string]string{}, variables: map[string]string{}, stdout: stdout, stderr: stderr}
	c.Arg("file", "Dashboards: classic, a Kubernetes or API envelope, or schema v2.").Required().StringsVar(&o.files)
	c.Flag("against", "URL of a Prometheus: ask it every query, and report those without series.").PlaceHolder("URL").StringVar(&o.against)
	c.Flag("header", "An HTTP header for --against, as name=value; repeatable.").StringMapVar(&o.headers)
	c.Flag("http.config.file", "HTTP client configuration for --against, in Prometheus's format: authorization, TLS, proxies.").StringVar(&o.httpConfig)
	c.Flag("var", "A variable's value for --against, as name=value; repeatable.").StringMapVar(&o.variables)
	c.Flag("range", "How far back --against asks.").Default("1h").DurationVar(&o.window)
	c.Flag("scrape-interval", "Of the data source, for $__rate_interval.").Default("15s").DurationVar(&o.scrape)
	c.Flag("lint", "Check the style too.").Default("true").BoolVar(&o.lint)
	c.Flag("output", "text or json.").Short('o').Default("text").EnumVar(&o.output, "text", "json")
	return command{c.FullCommand(), o.run}
}

// dashboardReport is what there is to say of one file.
type dashboardReport struct {
	File     string              `json:"file"`
	Title    string              `json:"title,omitempty"`
	Schema   string              `json:"schema,omitempty"`
	Panels   int                 `json:"panels"`
	Queries  int                 `json:"queries"`
	Skipped  map[string]int      `json:"skipped,omitempty"` // queries of other data sources
	Library  int                 `json:"library_panels,omitempty"`
	Findings []dashboard.Finding `json:"findings"`
}

func (o *dashboardOptions) run(ctx context.Context) error {
	if o.window < time.Second || o.scrape < time.Millisecond {
		return exitError{exitUsage, fmt.Errorf("--range=%s --scrape-interval=%s: expected at least 1s and 1ms", o.window, o.scrape)}
	}
	if o.against != "" {
		if err := o.connect(); err != nil {
			return err
		}
	}
	var reports []*dashboardReport
	faults, style := 0, 0
	for _, file := range o.files {
		r, err := o.check(ctx, file)
		if err != nil {
			if o.output == "text" { // what was found before is said all the same
				err = errors.Join(err, o.print(reports, faults, style))
			}
			return err
		}
		reports = append(reports, r)
		for _, f := range r.Findings {
			switch f.Severity {
			case dashboard.Fault:
				faults++
			case dashboard.Style:
				style++
			}
		}
	}
	if err := o.print(reports, faults, style); err != nil {
		return err
	}
	switch {
	case faults > 0:
		return exitError{code: exitFailed}
	case style > 0:
		return exitError{code: exitMissed}
	}
	return nil
}

// connect prepares the client for --against.
func (o *dashboardOptions) connect() error {
	client := config.DefaultHTTPClientConfig
	if o.httpConfig != "" {
		text, err := source.Read(o.httpConfig)
		if err != nil {
			return fmt.Errorf("read HTTP client configuration (--http.config.file): %w", err)
		}
		loaded, err := config.LoadHTTPConfig(string(text))
		if err != nil {
			return fmt.Errorf("%s: %w", o.httpConfig, err)
		}
		loaded.SetDirectory(filepath.Dir(o.httpConfig))
		client = *loaded
	}
	transport, err := config.NewRoundTripperFromConfig(client, "check")
	if err != nil {
		return fmt.Errorf("HTTP client: %w", err)
	}
	c, err := api.NewClient(api.Config{Address: o.against, RoundTripper: withHeaders{transport, o.headers}})
	if err != nil {
		return fmt.Errorf("--against=%s: %w", o.against, err)
	}
	o.api, o.asked = v1.NewAPI(c), time.Now()
	return nil
}

// withHeaders adds headers to each request.
type withHeaders struct {
	next    http.RoundTripper
	headers map[string]string
}

func (h withHeaders) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(h.headers) > 0 {
		r = r.Clone(r.Context())
		for name, value := range h.headers {
			r.Header.Set(name, value)
		}
	}
	return h.next.RoundTrip(r)
}

// check checks one file. The error says that it, or the Prometheus, could not be asked at all.
func (o *dashboardOptions) check(ctx context.Context, file string) (*dashboardReport, error) {
	text, err := source.Read(file)
	if err != nil {
		return nil, fmt.Errorf("read dashboard: %w", err)
	}
	r := &dashboardReport{File: file, Findings: []dashboard.Finding{}}
	d, err := dashboard.Read(file, text)
	if faults, ok := errors.AsType[source.Errors](err); ok {
		for _, f := range faults {
			r.Findings = append(r.Findings, dashboard.Finding{Rule: "json", Severity: dashboard.Fault, Error: f})
		}
		return r, nil
	}
	r.Title, r.Schema, r.Panels, r.Queries, r.Skipped, r.Library = d.Title, d.Schema, len(d.Panels), len(d.Queries), d.Skipped, d.Library
	r.Findings = append(r.Findings, d.Check()...)
	if o.lint {
		exclusions, err := exclusionsBeside(file)
		if err != nil {
			return nil, err
		}
		r.Findings = append(r.Findings, d.Lint(exclusions)...)
	}
	if o.api != nil {
		// As many points as a wide chart has.
		step := max((o.window / 500).Round(time.Second), o.scrape)
		a := dashboard.Against{
			API: dashboard.Prometheus(o.api), Variables: o.variables,
			Window: dashboard.Window{Start: o.asked.Add(-o.window), End: o.asked, Step: step, ScrapeInterval: o.scrape},
		}
		found, err := a.Check(ctx, d, o.progress(file))
		o.clearProgress()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		r.Findings = append(r.Findings, found...)
	}
	slices.SortStableFunc(r.Findings, func(a, b dashboard.Finding) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return r, nil
}

// exclusionsBeside reads the file .lint in the folder of a dashboard, where there is one.
func exclusionsBeside(file string) (*dashboard.Exclusions, error) {
	path := filepath.Join(filepath.Dir(file), ".lint")
	text, err := source.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read exclusions: %w", err)
	}
	return dashboard.ParseExclusions(path, text)
}

// progress shows how many queries have been asked, on a terminal.
func (o *dashboardOptions) progress(file string) func(done, of int) {
	f, ok := o.stderr.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func(done, of int) {
		o.progressWritten = true
		fmt.Fprintf(o.stderr, "\r\x1b[K%s: %d of %d queries", filepath.Base(file), done, of)
	}
}

func (o *dashboardOptions) clearProgress() {
	if o.progressWritten {
		fmt.Fprint(o.stderr, "\r\x1b[K")
	}
}

// print writes findings as they are read: to standard error with the place of each, a line for each file to standard
// output; or all of it as JSON to standard output.
func (o *dashboardOptions) print(reports []*dashboardReport, faults, style int) error {
	if o.output == "json" {
		e := json.NewEncoder(o.stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(map[string]any{"dashboards": reports, "errors": faults, "lint": style})
	}
	for _, r := range reports {
		for _, f := range r.Findings {
			if f.Severity == dashboard.Fault {
				fmt.Fprintln(o.stderr, f.Show())
			} else {
				fmt.Fprintf(o.stderr, "%s [%s]\n", f.Error.Error(), f.Rule)
			}
		}
		if _, err := fmt.Fprintf(o.stdout, "%s: %s\n", r.File, r.summary()); err != nil {
			return err
		}
	}
	if faults+style > 0 {
		fmt.Fprintf(o.stderr, "%s, %s\n", plural(faults, "error"), plural(style, "lint finding"))
	}
	return nil
}

func (r *dashboardReport) summary() string {
	if r.Schema == "" {
		return "not read"
	}
	parts := []string{plural(r.Panels, "panel")}
	if r.Queries == 1 {
		parts = append(parts, "1 query")
	} else {
		parts = append(parts, fmt.Sprintf("%d queries", r.Queries))
	}
	for kind, n := range r.Skipped {
		parts = append(parts, fmt.Sprintf("%d of %s left out", n, kind))
	}
	slices.Sort(parts[2:])
	if r.Library > 0 {
		parts = append(parts, plural(r.Library, "library panel")+" left out")
	}
	state := "ok"
	if n := len(r.Findings); n > 0 {
		state = plural(n, "finding")
	}
	return state + ": " + strings.Join(parts, ", ")
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"flyball/exporter"
	"flyball/exporter/model"
	"flyball/exporter/model/facts"
)

type probeModelsOptions struct {
	urls, names                []string
	config, engine, model, out string
}

func probeModelsCommand(app *kingpin.Application, stdout io.Writer) command {
	var o probeModelsOptions
	c := probeParent(app).Command("models", "Read the metrics of model servers: which engine each is, which series every field was found in or why it was not, and what is left. Exits with 1 where one cannot be read.")
	c.Arg("url", "Of the metrics of a model server, such as http://127.0.0.1:8000/metrics; default: exporter.model_servers of the configuration.").StringsVar(&o.urls)
	c.Flag("config.file", "The configuration, where no URL is given.").Default("flyball.yml").StringVar(&o.config)
	c.Flag("server", "Only the model server of this name in the configuration; repeatable.").StringsVar(&o.names)
	c.Flag("engine", "Of the URLs: "+strings.Join(exporter.Engines, ", ")+".").Default("auto").EnumVar(&o.engine, exporter.Engines...)
	c.Flag("model", "Name of the model of the URLs, where their pages have none.").StringVar(&o.model)
	c.Flag("output", "Format: text or json.").Short('o').Default("text").EnumVar(&o.out, "text", "json")
	return command{c.FullCommand(), func(ctx context.Context) error { return o.run(ctx, stdout) }}
}

// servers returns the configuration with the model servers that are to be read.
func (o *probeModelsOptions) servers() (exporter.Config, error) {
	if len(o.urls) == 0 {
		l, err := load(o.config)
		if err != nil {
			return exporter.Config{}, err
		}
		if len(l.Exporter.ModelServers) == 0 {
			return exporter.Config{}, exitError{exitUsage, fmt.Errorf("probe models: no URL given, and no exporter.model_servers in %s", o.config)}
		}
		if len(o.names) == 0 {
			return l.Exporter, nil
		}
		byName := map[string]exporter.ModelServer{}
		for _, s := range l.Exporter.ModelServers {
			byName[s.Name] = s
		}
		var chosen []exporter.ModelServer
		for _, name := range o.names {
			s, known := byName[name]
			if !known {
				return exporter.Config{}, exitError{exitUsage, fmt.Errorf("probe models: no model server %q in %s", name, o.config)}
			}
			chosen = append(chosen, s)
		}
		l.Exporter.ModelServers = chosen
		return l.Exporter, nil
	}
	if len(o.names) > 0 {
		return exporter.Config{}, exitError{exitUsage, errors.New("probe models: --server is for those of the configuration, and a URL is given")}
	}
	c := exporter.DefaultConfig()
	for i, url := range o.urls {
		s := exporter.DefaultModelServer()
		s.URL, s.Engine, s.Model = url, o.engine, o.model
		if s.Name = s.Redacted(); len(o.urls) > 1 {
			s.Name = fmt.Sprintf("%s (%d)", s.Redacted(), i+1)
		}
		c.ModelServers = append(c.ModelServers, s)
	}
	if err := c.Validate(); err != nil {
		return exporter.Config{}, exitError{exitUsage, fmt.Errorf("probe models: %w", err)}
	}
	return c, nil
}

func (o *probeModelsOptions) run(ctx context.Context, stdout io.Writer) error {
	config, err := o.servers()
	if err != nil {
		return err
	}
	collector, err := model.New(config.ModelServers, modelOptions(config, nil, nil))
	if err != nil {
		return fmt.Errorf("probe models: %w", err)
	}
	var reports []probedServer
	down := 0
	for _, s := range config.ModelServers {
		report, err := collector.Probe(ctx, s.Name)
		if err != nil {
			return fmt.Errorf("probe models: %w", err)
		}
		if !report.Up {
			down++
		}
		reports = append(reports, withProtocol(ctx, s, report))
	}
	if o.out == "json" {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(struct {
			Servers []probedServer `json:"servers"`
		}{reports})
	} else {
		for i, report := range reports {
			if i > 0 {
				fmt.Fprintln(stdout)
			}
			err = errors.Join(err, writeModelReport(stdout, report))
		}
	}
	if err == nil && down > 0 {
		return exitError{code: exitFailed} // which the report says already
	}
	return err
}

// probedServer is a server with what it says of its models where it speaks the Open Inference Protocol.
type probedServer struct {
	model.Report
	Served []servedModel `json:"served,omitempty"`
	Fault  string        `json:"served_error,omitempty"` // why not all of them are known
}

// servedModel is a model as the Open Inference Protocol tells it.
type servedModel struct {
	Name     string   `json:"name"`
	Ready    bool     `json:"ready"`
	Versions []string `json:"versions,omitempty"`
	Platform string   `json:"platform,omitempty"`
	Server   string   `json:"server,omitempty"`
}

// withProtocol asks a server for its models, where its engine is oip.
func withProtocol(ctx context.Context, s exporter.ModelServer, r model.Report) probedServer {
	p := probedServer{Report: r}
	if s.Engine != "oip" {
		return p
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	client, root, err := model.NewClient(s)
	var models []facts.ModelStatus
	if err == nil {
		defer client.CloseIdleConnections()
		if models, err = facts.OIP(ctx, client, root); errors.Is(err, facts.ErrNoList) && s.Model != "" {
			models, err = facts.OIP(ctx, client, root, s.Model)
		}
	}
	if err != nil {
		p.Fault = err.Error()
	}
	for _, m := range models {
		p.Served = append(p.Served, servedModel{m.Name, m.Ready, m.Versions, m.Platform, m.Server})
	}
	return p
}

// writeModelReport writes a report for a person.
func writeModelReport(out io.Writer, r probedServer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if r.Server == r.URL {
		fmt.Fprintln(w, r.URL)
	} else {
		fmt.Fprintf(w, "%s  %s\n", r.Server, r.URL)
	}
	if !r.Up {
		fmt.Fprintf(w, "  down: %s\n", r.Error)
		r.writeServed(w)
		return w.Flush()
	}
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %s\t%s\n", name, value)
		}
	}
	line("engine", r.Engine)
	line("models", strings.Join(r.Models, ", "))
	line("versions", strings.Join(r.Versions, ", "))
	if r.PID != 0 {
		line("process", fmt.Sprint(r.PID))
	}
	line("GPUs", strings.Join(r.GPUs, ", "))
	line("read in", fmt.Sprintf("%.1f ms, %d series for something", r.Took*1000, r.Series))
	r.writeServed(w)
	fmt.Fprintln(w, "\n  FIELD\tFROM\tAS\tSERIES")
	for _, f := range r.Fields {
		if f.Mapped {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%d\n", f.Field, strings.Join(f.Found, ", "), f.Family, f.Series)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\n  NOT FOUND\tWHY")
	for _, f := range r.Fields {
		if !f.Mapped {
			fmt.Fprintf(w, "  %s\t%s\n", f.Field, f.Reason)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(r.Unmapped) > 0 {
		fmt.Fprintf(w, "\n  not for any field (%d): %s\n", len(r.Unmapped), strings.Join(r.Unmapped, ", "))
	}
	return w.Flush()
}

// writeServed writes what the protocol says.
func (p *probedServer) writeServed(w io.Writer) {
	for _, m := range p.Served {
		state := "not ready"
		if m.Ready {
			state = "ready"
		}
		words := []string{state}
		if len(m.Versions) > 0 {
			words = append(words, "version "+strings.Join(m.Versions, " "))
		}
		if m.Platform != "" {
			words = append(words, m.Platform)
		}
		if m.Server != "" {
			words = append(words, "on "+m.Server)
		}
		fmt.Fprintf(w, "  model %s\t%s\n", m.Name, strings.Join(words, ", "))
	}
	if p.Fault != "" {
		fmt.Fprintf(w, "  models\t%s\n", p.Fault)
	}
}

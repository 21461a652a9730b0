package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"flyball/cmd/flyball/web"
	"flyball/exporter"
	"flyball/exporter/gpu"
	"flyball/exporter/model"
	"flyball/exporter/model/facts"
)

// newModels makes the collectors of model servers, by their metrics and by their files; nil where they are switched off, and the
// second where there is nothing to read. The GPUs, nil where they are not read, are those that models run on.
func (a *app) newModels(c exporter.Config, gpus *gpu.Collector) (models *model.Collector, of *facts.Collector, err error) {
	o := modelOptions(c, gpus, a.opts.log.With("component", "exporter"))
	var sources []facts.Source
	for _, s := range c.ModelServers {
		source := facts.Source{
			Server: s.Name, Model: s.Model, Files: s.Files, Accuracy: s.Accuracy, Timeout: time.Duration(s.Timeout),
		}
		if c.Collectors.Models {
			source.Labels = func() (string, string) { return models.Labels(s.Name) } // once New has returned
		}
		if s.Engine != "auto" {
			source.Engine = s.Engine
		}
		if s.Engine == "oip" {
			if source.Client, source.URL, err = model.NewClient(s); err != nil {
				return nil, nil, err
			}
		}
		if source.Files != "" || source.Accuracy != "" || source.URL != "" {
			sources = append(sources, source)
		}
	}
	if sources != nil && c.Collectors.Facts {
		of = facts.New(sources...)
		o.Facts = func(server string) (precision, framework string) {
			f, _ := of.Facts(server)
			return f.Precision, f.Framework
		}
	}
	if c.Collectors.Models {
		models, err = model.New(c.ModelServers, o)
	}
	return models, of, err
}

// modelOptions are those of the collector of model servers; gpus is nil where none are read.
func modelOptions(c exporter.Config, gpus *gpu.Collector, log *slog.Logger) model.Options {
	o := model.Options{ProcFS: c.Host.ProcFS, Logger: log}
	if gpus != nil {
		o.GPUs = processGPUs{gpus}
	}
	return o
}

// processGPUs finds the GPUs of processes in what was read of the GPUs last.
type processGPUs struct{ gpus *gpu.Collector }

// GPUsOf implements model.GPUs.
func (p processGPUs) GPUsOf(pids []int) []string {
	snapshot := p.gpus.Snapshot()
	if snapshot == nil {
		return nil
	}
	var uuids []string
	for _, d := range snapshot.Devices {
		uses := slices.ContainsFunc(d.Processes, func(p gpu.Process) bool { return slices.Contains(pids, p.PID) })
		if uses && d.UUID != "" && !slices.Contains(uuids, d.UUID) {
			uuids = append(uuids, d.UUID)
		}
	}
	return uuids
}

// probeModel reads a model server now and answers with what is published of it. Only names of the configuration can be asked
// for: a URL would let anybody who reaches this port have it ask any other.
func (a *app) probeModel(w http.ResponseWriter, r *http.Request) {
	models := a.live.Load().sensors.models
	if models == nil || len(models.Servers()) == 0 {
		web.Text(w, http.StatusNotFound, "There are no exporter.model_servers in the configuration, or this process has not the role exporter.\n")
		return
	}
	targets := r.URL.Query()["target"]
	if len(targets) != 1 || targets[0] == "" {
		web.Text(w, http.StatusBadRequest, "Give one target, the name of one of exporter.model_servers: "+strings.Join(models.Servers(), ", ")+".\n")
		return
	}
	report, err := models.Probe(r.Context(), targets[0])
	if errors.Is(err, model.ErrUnknown) {
		web.Text(w, http.StatusNotFound, fmt.Sprintf("%s. The configuration has: %s.\n", err, strings.Join(models.Servers(), ", ")))
		return
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collected(report.Metrics))
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true}).ServeHTTP(w, r)
}

// collected is a collector of metrics that are there already.
type collected []prometheus.Metric

// Describe implements prometheus.Collector.
func (collected) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collected) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c {
		ch <- m
	}
}

package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"flyball/exporter"
	"flyball/exporter/gpu"
	"flyball/exporter/gpu/pods"
	"flyball/exporter/model"
)

// sensors are the collectors that read in the background; nil for those that are off.
type sensors struct {
	gpus   *gpu.Collector
	pods   *pods.Collector
	models *model.Collector
}

// run runs them until ctx is done or one of them fails.
func (s sensors) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if s.gpus != nil {
		g.Go(func() error { return s.gpus.Run(ctx) })
	}
	if s.pods != nil {
		g.Go(func() error { return s.pods.Run(ctx) })
	}
	if s.models != nil {
		g.Go(func() error { return s.models.Run(ctx) })
	}
	g.Go(func() error {
		<-ctx.Done()
		return nil
	})
	return g.Wait()
}

// newPods makes the collector of the pods on these GPUs; gpus is nil where none are read.
func newPods(c exporter.Config, gpus *gpu.Collector, log *slog.Logger) *pods.Collector {
	return pods.New(podOptions(c, gpus, log))
}

func podOptions(c exporter.Config, gpus *gpu.Collector, log *slog.Logger) pods.Options {
	o := pods.Options{ProcPath: c.Host.ProcFS, Socket: c.Kubernetes.PodResourcesSocket, IdleWatts: c.GPU.IdleWatts.Watts, Logger: log}
	if gpus != nil {
		o.Snapshot = gpus.Snapshot
	}
	return o
}

// readsProcesses says whether the processes on GPUs are to be read: where that is asked for, to find the GPUs of model servers, and on
// the node of a cluster, where pods may share them. There the directory of the kubelet's socket is there from the first start of a kubelet
// on.
func readsProcesses(c exporter.Config) bool {
	if c.GPU.Processes || c.Collectors.Models && len(c.ModelServers) > 0 {
		return true
	}
	if !c.Collectors.Pods {
		return false
	}
	_, err := os.Stat(filepath.Dir(c.Kubernetes.PodResourcesSocket))
	return err == nil
}

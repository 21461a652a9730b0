package dcgm

import (
	"cmp"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"flyball/exporter"
	"flyball/exporter/gpu"
)

// Source has the last reading of the GPUs; nil while there is none. A *gpu.Collector is one.
type Source interface {
	Snapshot() *gpu.Snapshot
}

// Pods says which pod has a GPU, or the GPU instance gi of one that MIG divides; nil for the whole. It is false where none
// has it, and where several share it.
type Pods interface {
	Pod(uuid string, gi *int) (Pod, bool)
}

// Pod is a container in a pod.
type Pod struct{ Namespace, Name, Container string }

// Options are what a page is made of.
type Options struct {
	GPUs          Source
	Pods          Pods   // nil: no labels of pods
	Hostname      string // of the node; empty: no label
	HostnameLabel string // its label; empty for exporter.DefaultHostnameLabel
}

// Handler serves the page.
func Handler(o Options) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(Collector{o})
	// Without OpenMetrics, which would rename counters.
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Collector is the page as a prometheus.Collector. It describes nothing, as what there is depends on the GPUs.
type Collector struct{ opts Options }

// NewCollector returns the collector of a page.
func NewCollector(o Options) Collector { return Collector{o} }

// Describe sends nothing: see Collector.
func (c Collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the series of every GPU that can be read.
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	s := c.opts.GPUs.Snapshot()
	if s == nil {
		return
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		if d.Error != "" || d.Vendor == "amd" {
			continue
		}
		if len(d.Instances) == 0 {
			labels := c.labels(s, d, nil)
			for _, f := range families {
				if v, ok := f.gpu(d); ok {
					labels.send(ch, f, v)
				}
			}
			continue
		}
		seen := map[int]bool{} // GPU instances: memory and activity are theirs, not that of the compute instances in them
		for j := range d.Instances {
			in := &d.Instances[j]
			if seen[in.GI] {
				continue
			}
			seen[in.GI] = true
			labels := c.labels(s, d, in)
			for _, f := range families {
				if v, ok := f.of(d, in); ok {
					labels.send(ch, f, v)
				}
			}
		}
	}
}

// labels are the labels of all series of a GPU or of an instance; in is nil for the former.
func (c Collector) labels(s *gpu.Snapshot, d *gpu.Device, in *gpu.Instance) (l labels) {
	index := strconv.Itoa(d.Index)
	l.add("gpu", index)
	l.add("UUID", d.UUID)
	l.add("pci_bus_id", d.PCIBusID)
	l.add("device", "nvidia"+index)
	l.add("modelName", d.Name)
	var gi *int
	if in != nil {
		l.add("GPU_I_PROFILE", in.Profile)
		l.add("GPU_I_ID", strconv.Itoa(in.GI))
		gi = &in.GI
	}
	if c.opts.Hostname != "" {
		l.add(cmp.Or(c.opts.HostnameLabel, exporter.DefaultHostnameLabel), c.opts.Hostname)
	}
	if s.Driver != "" {
		l.add("DCGM_FI_DRIVER_VERSION", s.Driver)
	}
	if c.opts.Pods == nil {
		return l
	}
	if pod, ok := c.opts.Pods.Pod(d.UUID, gi); ok {
		l.add("namespace", pod.Namespace)
		l.add("pod", pod.Name)
		l.add("container", pod.Container)
	}
	return l
}

// labels are names and values in the same order.
type labels struct{ names, values []string }

func (l *labels) add(name, value string) {
	l.names, l.values = append(l.names, name), append(l.values, value)
}

func (l *labels) send(ch chan<- prometheus.Metric, f family, v float64) {
	desc := prometheus.NewDesc(f.name, f.help, l.names, nil)
	ch <- prometheus.MustNewConstMetric(desc, f.kind, v, l.values...)
}

// Families lists what the page may have, in its order.
func Families() []exporter.Family {
	list := make([]exporter.Family, len(families))
	for i, f := range families {
		kind := "gauge"
		if f.kind == prometheus.CounterValue {
			kind = "counter"
		}
		list[i] = exporter.Family{
			Name: f.name, Help: f.help, Type: kind, Collector: "gpu",
			Labels: []string{
				"gpu", "UUID", "pci_bus_id", "device", "modelName", "GPU_I_PROFILE", "GPU_I_ID",
				exporter.DefaultHostnameLabel, "DCGM_FI_DRIVER_VERSION", "namespace", "pod", "container",
			},
		}
	}
	return list
}

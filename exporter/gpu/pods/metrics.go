package pods

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// labels of what is told of a pod on one GPU.
var labels = []string{"uuid", "gpu", "namespace", "pod", "container"}

// families is what this package publishes.
var families = []exporter.Family{
	{
		Name: "flyball_podresources_up", Type: "gauge", Labels: []string{},
		Help: "Whether the kubelet told which pod has which GPU the last time it was asked (1) or not (0). Absent where there is no kubelet.",
	},
	{
		Name: "flyball_podresources_stale_seconds", Type: "gauge", Labels: []string{},
		Help: "Time since the kubelet told which pod has which GPU. While it does not answer, what it told last stays.",
	},
	{
		Name: "flyball_podresources_unresolved_devices", Type: "gauge", Labels: []string{},
		Help: "Devices of pods, as the kubelet names them, of which it is not known which GPU or which part of one they are; the log has each.",
	},
	{
		Name: "flyball_gpu_pod_info", Type: "gauge", Labels: []string{"uuid", "gpu", "gi", "namespace", "pod", "container", "resource"},
		Help: "Which container has which GPU or, with gi, which instance of MIG on it; always 1. Containers that share a GPU each have a series.",
	},
	{
		Name: "flyball_gpu_pod_sm_utilization_ratio", Type: "gauge", Labels: labels,
		Help: "Share of time in which kernels of the pod ran on what it has of the GPU: the whole, also where it shares it, or its instances of MIG.",
	},
	{
		Name: "flyball_gpu_pod_memory_bytes", Type: "gauge", Labels: labels,
		Help: "Memory of the GPU that the pod uses: all that is used where it has the GPU or instance for itself, else that of its processes.",
	},
	{
		Name: "flyball_gpu_pod_energy_joules_total", Type: "counter", Labels: labels,
		Help: "Energy that the GPU used for the pod above what it uses idle, by the pod's share of the SM utilisation, since flyball saw the pod on it.",
	},
}

// Families lists what this package publishes, for the reference page.
func Families() []exporter.Family {
	all := make([]exporter.Family, len(families))
	copy(all, families)
	for i := range all {
		all[i].Collector = "pods"
	}
	return all
}

var (
	upDesc          = describe("flyball_podresources_up")
	staleDesc       = describe("flyball_podresources_stale_seconds")
	unresolvedDesc  = describe("flyball_podresources_unresolved_devices")
	infoDesc        = describe("flyball_gpu_pod_info")
	utilizationDesc = describe("flyball_gpu_pod_sm_utilization_ratio")
	memoryDesc      = describe("flyball_gpu_pod_memory_bytes")
	energyDesc      = describe("flyball_gpu_pod_energy_joules_total")
)

// describe describes the family of that name.
func describe(name string) *prometheus.Desc {
	for _, f := range families {
		if f.Name == name {
			return prometheus.NewDesc(f.Name, f.Help, f.Labels, nil)
		}
	}
	panic(name + " is not among the families")
}

// page collects metrics.
type page struct{ metrics []prometheus.Metric }

func (p *page) gauge(desc *prometheus.Desc, v float64, labels ...string) {
	p.metrics = append(p.metrics, prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...))
}

func (p *page) view(v view) {
	type info struct{ uuid, gi, namespace, pod, container, resource string }
	seen := map[info]bool{} // two compute instances of one GPU instance have the same labels
	for _, at := range v.places {
		i := info{at.uuid, digits(at.gi), at.namespace, at.pod, at.container, at.resource}
		if !seen[i] {
			seen[i] = true
			p.gauge(infoDesc, 1, i.uuid, digits(at.index), i.gi, i.namespace, i.pod, i.container, i.resource)
		}
	}
	for k, u := range v.uses {
		values := []string{k.uuid, digits(u.index), k.namespace, k.pod, k.container}
		if u.utilization != nil {
			p.gauge(utilizationDesc, *u.utilization, values...)
		}
		if u.memory != nil {
			p.gauge(memoryDesc, float64(*u.memory), values...)
		}
		if u.energy != nil {
			p.metrics = append(p.metrics, prometheus.MustNewConstMetric(energyDesc, prometheus.CounterValue, *u.energy, values...))
		}
	}
}

// digits writes a number, and nothing for one that is not known.
func digits(n int) string {
	if n < 0 {
		return ""
	}
	return strconv.Itoa(n)
}

package exporter

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"
)

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		name, yaml string
		want       Config
		fault      string
	}{
		{name: "empty", yaml: "{}", want: DefaultConfig()},
		{name: "idle power learned", yaml: "{gpu: {idle_watts: auto}}", want: DefaultConfig()},
		{
			name: "everything",
			yaml: "{collectors: {host: false, gpu: true, pods: false, models: false, facts: false, textfile: false}, timeout: 500ms, gpu: {backend: nvml, library: /opt/libnvidia-ml.so.1, require: true, interval: 1s, slow_interval: 1m, timeout: 3s, processes: true, max_processes: 16, idle_watts: 55.5}, kubernetes: {pod_resources_socket: /k.sock}, " +
				"host: {procfs: /host/proc, sysfs: /host/sys, rootfs: /host}, textfile: {directory: /var/lib/flyball/textfile}}",
			want: Config{
				Collectors: Collectors{GPU: true},
				Timeout:    model.Duration(500 * time.Millisecond),
				GPU: GPU{
					Backend: "nvml", Library: "/opt/libnvidia-ml.so.1", Require: true,
					Interval: model.Duration(time.Second), SlowInterval: model.Duration(time.Minute), Timeout: model.Duration(3 * time.Second), Processes: true, MaxProcesses: 16,
					IdleWatts: IdleWatts{Watts: new(55.5)},
				},
				Kubernetes: Kubernetes{PodResourcesSocket: "/k.sock"},
				Host:       Host{ProcFS: "/host/proc", SysFS: "/host/sys", RootFS: "/host"},
				Textfile:   Textfile{Directory: "/var/lib/flyball/textfile"},
			},
		},
		{
			name: "all faults at once",
			yaml: "{timeout: 2m, collectors: {gpu: false}, gpu: {backend: rocm, require: true, library: x.so, sim: gpus.yml, interval: 10m, slow_interval: 2h, timeout: 0s, max_processes: 0, idle_watts: -1}, kubernetes: {pod_resources_socket: kubelet.sock}, host: {procfs: proc}, textfile: {directory: metrics}}",
			want: Config{
				Collectors: Collectors{Host: true, Pods: true, Models: true, Facts: true, Textfile: true}, Timeout: model.Duration(2 * time.Minute),
				GPU:        GPU{Backend: "rocm", Require: true, Library: "x.so", Sim: "gpus.yml", Interval: model.Duration(10 * time.Minute), SlowInterval: model.Duration(2 * time.Hour), IdleWatts: IdleWatts{Watts: new(-1.0)}},
				Kubernetes: Kubernetes{PodResourcesSocket: "kubelet.sock"}, Host: Host{ProcFS: "proc"}, Textfile: Textfile{Directory: "metrics"},
			},
			fault: `timeout: 2m is not a deadline for a scrape: give more than 0s and at most 1m, such as 2s
gpu.backend: "rocm" is none of auto, nvml, nvidia-smi, amdgpu, sim, none
gpu.library: the backend rocm does not use it
gpu.sim: the backend rocm reads real GPUs: give gpu.backend: sim with it
gpu.require: true while collectors.gpu is false: switch the collector on, or require nothing
gpu.interval: 10m: give from 200ms to 5m, such as 5s
gpu.slow_interval: 2h: give more than 0s and at most 1h, such as 30s
gpu.timeout: 0s: give more than 0s and at most 1m, such as 2s
gpu.max_processes: 0: give from 1 to 1024, such as 64
kubernetes.pod_resources_socket: "kubelet.sock" is no absolute path: give one such as /var/lib/kubelet/pod-resources/kubelet.sock, or collectors.pods: false
gpu.idle_watts: -1: give auto, or from 0 to 1000 such as 50
host.procfs: "proc" depends on where flyball is started: give an absolute path, such as /host/proc
textfile.directory: "metrics" depends on where flyball is started: give an absolute path, such as /var/lib/node_exporter/textfile`,
		},
		{
			name: "simulated, of no file", yaml: "{gpu: {backend: sim}}",
			want: func() Config {
				c := DefaultConfig()
				c.GPU.Backend = "sim"
				return c
			}(),
			fault: "gpu.sim: missing: the backend sim needs a file that describes the GPUs",
		},
		{
			name: "names of DCGM",
			yaml: "{compat: dcgm, compat_hostname_label: hostname}",
			want: func() Config {
				c := DefaultConfig()
				c.Compat, c.CompatHostnameLabel = CompatDCGM, "hostname"
				return c
			}(),
		},
		{
			name: "names of DCGM, every fault",
			yaml: "{compat: dcgm, compat_hostname_label: host, collectors: {gpu: false}}",
			want: func() Config {
				c := DefaultConfig()
				c.Compat, c.CompatHostnameLabel, c.Collectors.GPU = CompatDCGM, "host", false
				return c
			}(),
			fault: `compat: dcgm has nothing to show while collectors.gpu is false
compat_hostname_label: "host" is not a label that dcgm-exporter has: expected Hostname or hostname`,
		},
		{
			name: "names of somebody else",
			yaml: "{compat: rocm}",
			want: func() Config {
				c := DefaultConfig()
				c.Compat = "rocm"
				return c
			}(),
			fault: `compat: "rocm" is not known: expected none or dcgm`,
		},
		{
			name:  "no time at all",
			yaml:  "{timeout: 0s}",
			want:  Config{Collectors: DefaultConfig().Collectors, GPU: DefaultConfig().GPU, Kubernetes: DefaultConfig().Kubernetes},
			fault: "timeout: 0s is not a deadline for a scrape: give more than 0s and at most 1m, such as 2s",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := DefaultConfig()
			if err := yaml.Unmarshal([]byte(tt.yaml), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
			var fault string
			if err := got.Validate(); err != nil {
				fault = err.Error()
			}
			if diff := cmp.Diff(tt.fault, fault); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIdleWatts(t *testing.T) {
	for _, text := range []string{"often", "50W", "[50]", "true"} {
		var w IdleWatts
		if err := yaml.Unmarshal([]byte(text), &w); err == nil || err.Error() != "expected auto or a number of watts such as 50" {
			t.Errorf("%s: %v %v", text, w, err)
		}
	}
}

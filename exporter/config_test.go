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
			yaml: "{collectors: {host: false, gpu: true, pods: false}, timeout: 500ms, gpu: {library: /opt/libnvidia-ml.so.1, require: true, processes: true, idle_watts: 55.5}, kubernetes: {pod_resources_socket: /k.sock}}",
			want: Config{
				Collectors: Collectors{GPU: true},
				Timeout:    model.Duration(500 * time.Millisecond),
				GPU:        GPU{Library: "/opt/libnvidia-ml.so.1", Require: true, Processes: true, IdleWatts: IdleWatts{Watts: new(55.5)}},
				Kubernetes: Kubernetes{PodResourcesSocket: "/k.sock"},
			},
		},
		{
			name: "all faults at once",
			yaml: "{timeout: 2m, collectors: {gpu: false}, gpu: {require: true, idle_watts: -1}, kubernetes: {pod_resources_socket: kubelet.sock}}",
			want: Config{
				Collectors: Collectors{Host: true, Pods: true}, Timeout: model.Duration(2 * time.Minute),
				GPU: GPU{Require: true, IdleWatts: IdleWatts{Watts: new(-1.0)}}, Kubernetes: Kubernetes{PodResourcesSocket: "kubelet.sock"},
			},
			fault: `timeout: 2m is not a deadline for a scrape: give more than 0s and at most 1m, such as 2s
gpu.require: true while collectors.gpu is false: switch the collector on, or require nothing
kubernetes.pod_resources_socket: "kubelet.sock" is no absolute path: give one such as /var/lib/kubelet/pod-resources/kubelet.sock, or collectors.pods: false
gpu.idle_watts: -1: give auto, or from 0 to 1000 such as 50`,
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
			want:  Config{Collectors: DefaultConfig().Collectors, Kubernetes: DefaultConfig().Kubernetes},
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

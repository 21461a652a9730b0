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
		{
			name: "everything",
			yaml: "{collectors: {host: false, gpu: true, textfile: false}, timeout: 500ms, gpu: {library: /opt/libnvidia-ml.so.1, require: true}, " +
				"host: {procfs: /host/proc, sysfs: /host/sys, rootfs: /host}, textfile: {directory: /var/lib/flyball/textfile}}",
			want: Config{
				Collectors: Collectors{GPU: true},
				Timeout:    model.Duration(500 * time.Millisecond),
				GPU:        GPU{Library: "/opt/libnvidia-ml.so.1", Require: true},
				Host:       Host{ProcFS: "/host/proc", SysFS: "/host/sys", RootFS: "/host"},
				Textfile:   Textfile{Directory: "/var/lib/flyball/textfile"},
			},
		},
		{
			name: "all faults at once",
			yaml: "{timeout: 2m, collectors: {gpu: false}, gpu: {require: true}, host: {procfs: proc}, textfile: {directory: metrics}}",
			want: Config{
				Collectors: Collectors{Host: true, Textfile: true}, Timeout: model.Duration(2 * time.Minute), GPU: GPU{Require: true},
				Host: Host{ProcFS: "proc"}, Textfile: Textfile{Directory: "metrics"},
			},
			fault: `timeout: 2m is not a deadline for a scrape: give more than 0s and at most 1m, such as 2s
gpu.require: true while collectors.gpu is false: switch the collector on, or require nothing
host.procfs: "proc" depends on where flyball is started: give an absolute path, such as /host/proc
textfile.directory: "metrics" depends on where flyball is started: give an absolute path, such as /var/lib/node_exporter/textfile`,
		},
		{
			name:  "no time at all",
			yaml:  "{timeout: 0s}",
			want:  Config{Collectors: DefaultConfig().Collectors},
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

package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"flyball/exporter"
)

// aKubelet has one pod with one GPU.
type aKubelet struct {
	podresources.UnimplementedPodResourcesListerServer
}

func (aKubelet) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	return &podresources.ListPodResourcesResponse{PodResources: []*podresources.PodResources{{
		Namespace: "ml", Name: "llama-0", Containers: []*podresources.ContainerResources{{Name: "vllm", Devices: []*podresources.ContainerDevices{
			{ResourceName: "nvidia.com/gpu", DeviceIds: []string{"GPU-4a5b6c7d-0000-4000-8000-000000000000"}},
		}}},
	}}}, nil
}

// TestPods: what the kubelet tells is on the page of a process that runs, and no longer when a reload switches it off.
func TestPods(t *testing.T) {
	dir, err := os.MkdirTemp("", "kubelet") // a socket's path has 107 characters at most
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "kubelet.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(server, aKubelet{})
	go server.Serve(listener)
	defer server.Stop()

	config := "exporter: {collectors: {gpu: false, host: false}, kubernetes: {pod_resources_socket: '" + socket + "'}}\n"
	w := startWithin(t, map[string]string{"flyball.yml": config}, func(o *runOptions) { o.roles = []string{roleExporter} })
	page := func() string {
		response, err := http.Get(w.pageURL() + "metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const info = `flyball_gpu_pod_info{container="vllm",gi="",gpu="",namespace="ml",pod="llama-0",resource="nvidia.com/gpu",uuid="GPU-4a5b6c7d-0000-4000-8000-000000000000"} 1`
	w.eventually("the pod is there", func() bool { return strings.Contains(page(), info) })
	w.write(map[string]string{"flyball.yml": strings.Replace(config, "host: false", "host: false, pods: false", 1)})
	if err := w.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := page(); strings.Contains(text, "flyball_gpu_pod_info") || strings.Contains(text, `collector="pods"`) {
		t.Error("the collector is off and there all the same")
	}
}

func TestReadsProcesses(t *testing.T) {
	node := filepath.Join(t.TempDir(), "kubelet.sock") // which is not there now
	for _, tt := range []struct {
		name            string
		processes, pods bool
		socket          string
		want            bool
	}{
		{"no node", false, true, filepath.Join(filepath.Dir(node), "none", "kubelet.sock"), false},
		{"a node", false, true, node, true},
		{"a node whose pods are not told", false, false, node, false},
		{"asked for", true, false, "", true},
	} {
		c := exporter.Config{Collectors: exporter.Collectors{Pods: tt.pods}, GPU: exporter.GPU{Processes: tt.processes}, Kubernetes: exporter.Kubernetes{PodResourcesSocket: tt.socket}}
		if got := readsProcesses(c); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}

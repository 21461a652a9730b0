//go:build !nokubernetes

package store

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"go.uber.org/goleak"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: test}}]
clusters: [{name: test, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: test, user: {token: very-secret}}]
`

// TestKubernetesDiscovery reads each role, with a kubeconfig beside the configuration file, without asking a cluster.
func TestKubernetesDiscovery(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kube.yml"), []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, role := range []kubernetes.Role{
		kubernetes.RolePod, kubernetes.RoleEndpointSlice, kubernetes.RoleService, kubernetes.RoleNode, kubernetes.RoleIngress, kubernetes.RoleEndpoint,
	} {
		item := "{kubernetes_sd_configs: [{role: " + string(role) + ", kubeconfig_file: kube.yml, namespaces: {names: [ml]}}]"
		scrapes, err := ParseScrapeConfigs([]byte("- "+item+", job_name: x}"), ScrapeGlobal{Dir: dir})
		if err != nil {
			t.Errorf("%s: %v", role, err)
			continue
		}
		sd := scrapes.configs[0].ServiceDiscoveryConfigs[0].(*kubernetes.SDConfig)
		if sd.Role != role || sd.KubeConfig != filepath.Join(dir, "kube.yml") || sd.NamespaceDiscovery.Names[0] != "ml" {
			t.Errorf("%s: %+v", role, sd)
		}
		if _, err := ParseAlerting([]byte("alertmanagers: ["+item+"}]"), dir); err != nil {
			t.Errorf("Alertmanagers by %s: %v", role, err)
		}
	}
	// That of a pod is no fault where it is checked, and one where it is to run and there is no pod.
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	own, err := ParseScrapeConfigs([]byte("- {job_name: x, kubernetes_sd_configs: [{role: pod}]}"), ScrapeGlobal{})
	if err != nil {
		t.Fatal(err)
	}
	alerting, err := ParseAlerting([]byte("alertmanagers: [{kubernetes_sd_configs: [{role: pod}]}]"), "")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	const noPod = "kubernetes_sd_configs[0]: this process does not run in a pod: give kubeconfig_file or api_server"
	if err := s.ApplyScrape(Scrape{Configs: own}); err == nil || err.Error() != "job x: "+noPod {
		t.Errorf("no pod: %v", err)
	}
	if err := s.ApplyAlerting(alerting); err == nil || err.Error() != "alerting.alertmanagers[0]: "+noPod {
		t.Errorf("no pod: %v", err)
	}
}

func TestKubernetesDiscoveryErrors(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"broken.yml": "token: very-secret\n  x: [", "no-context.yml": strings.Replace(kubeconfig, "current-context: test", "current-context: none", 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ name, sd, want string }{
		{"no role", "{namespaces: {names: [ml]}}", `x.kubernetes_sd_configs[0]: role missing (one of: pod, service, endpoints, endpointslice, node, ingress)`},
		{"unknown role", "{role: pods}", `x.kubernetes_sd_configs[0]: unknown Kubernetes SD role "pods"`},
		{"unknown key", "{role: pod, namespace: ml}", `x.kubernetes_sd_configs[0].namespace: unknown key "namespace" (did you mean "namespaces"?)`},
		{"unknown key below", "{role: pod, namespaces: {name: [ml]}}", `x.kubernetes_sd_configs[0].namespaces.name: unknown key "name" (did you mean "names"?)`},
		{"selector", "{role: pod, selectors: [{role: service}]}", `x.kubernetes_sd_configs[0]: pod role supports only pod, node selectors`},
		{"two clusters", "{role: pod, api_server: 'https://a', kubeconfig_file: a}", `x.kubernetes_sd_configs[0]: cannot use 'kubeconfig_file' and 'api_server' simultaneously`},
		{"no file", "{role: pod, kubeconfig_file: none.yml}", `x.kubernetes_sd_configs[0]: kubeconfig_file: open DIR/none.yml: no such file or directory`},
		{"no kubeconfig", "{role: pod, kubeconfig_file: broken.yml}", `x.kubernetes_sd_configs[0]: kubeconfig_file: DIR/broken.yml is not one: kubectl config view --kubeconfig=DIR/broken.yml says why`},
		{"no context", "{role: pod, kubeconfig_file: no-context.yml}", `x.kubernetes_sd_configs[0]: kubeconfig_file: the current-context "none" of DIR/no-context.yml is not usable: kubectl --kubeconfig=DIR/no-context.yml version says why`},
		{"certificate", "{role: pod, api_server: 'https://a', tls_config: {ca_file: ca.pem}}", `x.kubernetes_sd_configs[0]: unable to read CA cert: unable to read file DIR/ca.pem: open DIR/ca.pem: no such file or directory`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			said := func(err error, at string) string {
				if err == nil {
					return ""
				}
				return strings.Replace(strings.ReplaceAll(err.Error(), dir, "DIR"), at, "x", 1)
			}
			_, err := ParseScrapeConfigs([]byte("- job_name: x\n  file_sd_configs: [{files: [a.yml]}]\n  kubernetes_sd_configs: ["+tt.sd+"]"), ScrapeGlobal{Dir: dir})
			if diff := cmp.Diff(tt.want, said(err, "scrape_configs[0]")); diff != "" {
				t.Error(diff)
			}
			_, err = ParseAlerting([]byte("alertmanagers:\n- kubernetes_sd_configs: ["+tt.sd+"]"), dir)
			if diff := cmp.Diff(tt.want, said(err, "alerting.alertmanagers[0]")); diff != "" {
				t.Errorf("Alertmanagers: %s", diff)
			}
		})
	}
}

// podsServer answers for pods as an apiserver with one of them does, and keeps watches open.
type podsServer struct {
	lists, watches atomic.Int64 // watches that are open
}

func (s *podsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch q := r.URL.Query(); {
	case q.Get("sendInitialEvents") != "":
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
	case q.Get("watch") == "":
		s.lists.Add(1)
		_, _ = io.WriteString(w, `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[{
			"metadata":{"name":"llama","namespace":"ml","uid":"1","annotations":{"prometheus.io/path":"/m"}},
			"spec":{"nodeName":"n","containers":[{"name":"vllm","ports":[{"name":"http","containerPort":1,"protocol":"TCP"}]}]},
			"status":{"phase":"Running","podIP":"127.0.0.1","podIPs":[{"ip":"127.0.0.1"}]}}]}`)
	default:
		s.watches.Add(1)
		defer s.watches.Add(-1)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// TestKubernetesDiscoveryEnds: a job that a reload takes away leaves no watch and no goroutine, and neither does the end.
func TestKubernetesDiscoveryEnds(t *testing.T) {
	pods := &podsServer{}
	server := httptest.NewServer(pods)
	defer server.Close()
	configs, err := ParseScrapeConfigs([]byte("- job_name: x\n  kubernetes_sd_configs: [{role: pod, api_server: '"+server.URL+"'}]\n"+
		"  relabel_configs:\n  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}\n"+
		"  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], target_label: __metrics_path__}\n"), ScrapeGlobal{})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	quiet := goleak.IgnoreCurrent()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	until(t, "scraper that runs", func() bool {
		s.scraper.mu.Lock()
		defer s.scraper.mu.Unlock()
		return s.scraper.running
	})
	before := goleak.IgnoreCurrent()
	for range 2 {
		apply(t, s, Scrape{Configs: configs})
		until(t, "pod", func() bool {
			found := s.Targets()
			return len(found) == 1 && found[0].Labels.Get("pod") == "llama" && strings.HasPrefix(found[0].URL, "http://127.0.0.1:1/m")
		})
		until(t, "watch", func() bool { return pods.watches.Load() == 1 })
		apply(t, s, Scrape{})
		until(t, "end of the watch", func() bool { return pods.watches.Load() == 0 && len(s.Targets()) == 0 })
		server.CloseClientConnections()
		if err := goleak.Find(before); err != nil {
			t.Error(err)
		}
	}
	apply(t, s, Scrape{Configs: configs})
	until(t, "watch", func() bool { return pods.watches.Load() == 1 })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	until(t, "end of the watch", func() bool { return pods.watches.Load() == 0 })
	server.CloseClientConnections()
	if err := goleak.Find(quiet); err != nil {
		t.Error(err)
	}
}

//go:build linux && !nokubernetes

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"flyball/actuators/kubernetes/kubetest"
)

// served are pods of a model server behind a Service, and two identities: what the proxy needs to follow the Service, and what
// the scraper needs for the roles pod and endpointslice.
const served = `apiVersion: v1
kind: Namespace
metadata: {name: ml}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: digits, namespace: ml}
spec:
  replicas: 3
  selector: {matchLabels: {app: digits}}
  template:
    metadata: {labels: {app: digits}, annotations: {prometheus.io/scrape: "true"}}
    spec:
      nodeName: loopback
      containers:
      - {name: modelserver, image: none, ports: [{name: http, containerPort: 8000}, {name: grpc, containerPort: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: digits, namespace: ml, labels: {team: vision}}
spec: {selector: {app: digits}, ports: [{name: http, port: 80, targetPort: http}, {name: grpc, port: 9000, targetPort: grpc}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: flyball-proxy, namespace: ml}
rules:
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flyball-proxy, namespace: ml}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: flyball-proxy}
subjects: [{kind: ServiceAccount, name: flyball-proxy, namespace: ml}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: flyball-scraper, namespace: ml}
rules:
- {apiGroups: [""], resources: [pods, services], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flyball-scraper, namespace: ml}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: flyball-scraper}
subjects: [{kind: ServiceAccount, name: flyball-scraper, namespace: ml}]
`

// cluster is a control plane with model servers at the addresses of pods.
type cluster struct {
	*kubetest.Cluster
	t       *testing.T
	servers map[string]*exec.Cmd // by their IPs
}

// serve starts a model server at the address of a pod.
func (c *cluster) serve(ip string) {
	c.t.Helper()
	cmd := exec.Command(built.path("modelserver"), "--web.listen-address="+ip+":8000", "--accelerator=2ms+1ms", "--log.level=error")
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.servers[ip] = cmd
	c.t.Cleanup(func() { c.kill(ip, cmd) })
	for deadline := time.Now().Add(20 * time.Second); status("http://"+ip+":8000/v2/health/ready") != http.StatusOK; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("no model server at %s", ip)
		}
	}
}

func (c *cluster) kill(ip string, cmd *exec.Cmd) {
	if c.servers[ip] != cmd {
		return
	}
	delete(c.servers, ip)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// pods are those of the Deployment.
func (c *cluster) pods() []unstructured.Unstructured {
	c.t.Helper()
	list, err := c.Admin.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("ml").List(c.t.Context(), metav1.ListOptions{LabelSelector: "app=digits"})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

// ready makes a pod ready, or not.
func (c *cluster) ready(pod string, is metav1.ConditionStatus) {
	c.t.Helper()
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":%q}]}}`, is)
	pods := c.Admin.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("ml")
	if _, err := pods.Patch(c.t.Context(), pod, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) scale(n int) {
	c.t.Helper()
	deployments := c.Admin.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("ml")
	if _, err := deployments.Patch(c.t.Context(), "digits", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// newProxy is a flyball that is the proxy alone.
func newProxy(t *testing.T, kubeconfig string, services ...string) *instance {
	t.Helper()
	i := &instance{t: t, dir: t.TempDir(), web: freePort(t), proxy: freePort(t)}
	i.configure(kubeconfig, services...)
	return i
}

// configure writes the configuration of a proxy: a model for each Service, named digits, digits2 and so on.
func (i *instance) configure(kubeconfig string, services ...string) {
	i.t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "actuators: {kubernetes: {kubeconfig: %q}}\nbatchproxy:\n  models:\n", kubeconfig)
	for n, service := range services {
		name := "digits"
		if n > 0 {
			name = fmt.Sprintf("digits%d", n+1)
		}
		fmt.Fprintf(&text, "  - {name: %s, upstreams: [%s], batch: {max_size: 4, max_wait: 1ms}}\n", name, service)
	}
	if err := os.WriteFile(filepath.Join(i.dir, "flyball.yml"), []byte(text.String()), 0o600); err != nil {
		i.t.Fatal(err)
	}
}

// reload has the configuration read again.
func (i *instance) reload() {
	i.t.Helper()
	before := strings.Count(i.out.String(), "msg=reloaded")
	if err := i.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		i.t.Fatal(err)
	}
	i.eventually(time.Minute, "it has reloaded", func() bool { return strings.Count(i.out.String(), "msg=reloaded") > before })
}

// end ends a process that has no replicas, and sees that it ends well.
func (i *instance) end() {
	i.t.Helper()
	if err := i.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		i.t.Fatal(err)
	}
	<-i.ended
	if i.err != nil {
		i.t.Errorf("it ended with %v", i.err)
	}
}

func (i *instance) readyReplicas(n int) {
	i.t.Helper()
	i.eventually(time.Minute, fmt.Sprintf("%d replicas are ready", n), func() bool {
		return metric(i.web, "flyball_batchproxy_replicas_ready", `model="digits"`) == float64(n)
	})
}

// clients send one request after the other to a proxy until they are told to stop.
type clients struct {
	t      *testing.T
	sent   atomic.Int64
	failed atomic.Int64
	stop   func()
}

func (i *instance) clients(n int) *clients {
	c := &clients{t: i.t}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	body := `{"instances":[[` + strings.TrimSuffix(strings.Repeat("0,", 64), ",") + `]]}`
	for range n {
		all.Go(func() {
			for ctx.Err() == nil {
				response, err := http.Post("http://"+i.proxy+"/v1/models/digits:predict", "application/json", strings.NewReader(body))
				text := []byte{}
				if err == nil {
					text, err = io.ReadAll(response.Body)
					_ = response.Body.Close()
				}
				if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(text), "predictions") {
					if c.failed.Add(1) < 5 {
						i.t.Errorf("a request failed: %v %s", err, text)
					}
				}
				c.sent.Add(1)
			}
		})
	}
	c.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	i.t.Cleanup(c.stop)
	return c
}

// more returns when so many more requests were answered.
func (c *clients) more(i *instance, n int64) {
	i.t.Helper()
	until := c.sent.Load() + n
	i.eventually(time.Minute, fmt.Sprintf("%d more requests", n), func() bool { return c.sent.Load() >= until })
}

// TestServices: a real proxy, as an identity that may list and watch EndpointSlices and nothing else, sends to the pods of a
// Service. Under load, and without a failed request, a pod that is not ready leaves, a Deployment goes to zero and back, the
// apiserver is killed and comes back, and a reload changes the Service.
func TestServices(t *testing.T) {
	if !kubetest.Isolated(t, builtBefore+"="+built.dir) {
		return
	}
	c := &cluster{Cluster: kubetest.Start(t), t: t, servers: map[string]*exec.Cmd{}}
	c.ApplyText(t, served)
	for n := 1; n <= 4; n++ {
		c.serve(kubetest.PodIP(n))
	}
	kubeconfig := c.ServiceAccount(t, "ml", "flyball-proxy")
	const service = "{service: ml/digits, port: http}"
	i := newProxy(t, kubeconfig, service)
	i.start("--role=batchproxy")
	i.readyReplicas(3)
	load := i.clients(8)
	for n := 1; n <= 3; n++ {
		address := kubetest.PodIP(n) + ":8000"
		i.eventually(time.Minute, "each pod has requests", func() bool { return metric(address, "modelserver_requests_total") > 20 })
	}

	t.Run("a pod that is not ready", func(t *testing.T) {
		pod := c.pods()[0]
		ip, _, _ := unstructured.NestedString(pod.Object, "status", "podIP")
		c.ready(pod.GetName(), metav1.ConditionFalse)
		i.readyReplicas(2)
		load.more(i, 50) // those that were with it are answered
		c.kill(ip, c.servers[ip])
		load.more(i, 100)
		c.serve(ip)
		c.ready(pod.GetName(), metav1.ConditionTrue)
		i.readyReplicas(3)
		i.eventually(time.Minute, "it has requests again", func() bool { return metric(ip+":8000", "modelserver_requests_total") > 10 })
	})

	t.Run("a pod that is deleted", func(t *testing.T) {
		pod := c.pods()[0]
		ip, _, _ := unstructured.NestedString(pod.Object, "status", "podIP")
		server := c.servers[ip]
		delete(c.servers, ip)
		if err := c.Admin.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("ml").Delete(t.Context(), pod.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := server.Process.Signal(syscall.SIGTERM); err != nil { // as a kubelet does, whoever still sends to it
			t.Fatal(err)
		}
		if err := server.Wait(); err != nil {
			t.Errorf("the model server: %v", err)
		}
		c.serve(ip) // another pod may get the address
		i.eventually(time.Minute, "there is another pod", func() bool {
			all := c.pods()
			return len(all) == 3 && !slices.ContainsFunc(all, func(p unstructured.Unstructured) bool { return p.GetUID() == pod.GetUID() })
		})
		i.readyReplicas(3)
		load.more(i, 100)
	})

	t.Run("to zero and back", func(t *testing.T) {
		c.scale(0)
		i.readyReplicas(0)
		c.scale(2)
		i.readyReplicas(2)
		load.more(i, 100)
		if got := metric(i.web, "flyball_batchproxy_service_endpoints", `upstream="ml/digits"`); got != 2 {
			t.Errorf("flyball_batchproxy_service_endpoints %v, want 2", got)
		}
	})

	t.Run("the apiserver is away", func(t *testing.T) {
		up := func() float64 { return metric(i.web, "flyball_batchproxy_service_watch_up", `upstream="ml/digits"`) }
		if up() != 1 {
			t.Errorf("flyball_batchproxy_service_watch_up %v, want 1", up())
		}
		c.APIServer.Kill()
		i.eventually(time.Minute, "it is found to be away", func() bool { return up() == 0 })
		load.more(i, 100)
		i.configure(kubeconfig, service, "{service: ml/digits, port: 8000}")
		i.reload()
		i.readyReplicas(2)
		load.more(i, 100)
		if got := metric(i.web, "flyball_batchproxy_service_watch_failures_total", `upstream="ml/digits"`); got < 1 {
			t.Errorf("flyball_batchproxy_service_watch_failures_total %v", got)
		}
		if _, page := i.send(http.MethodGet, "/", nil); !strings.Contains(page, "service ml/digits: its endpoints are as they were known last: ") {
			t.Error("the page does not say that the endpoints may be old")
		}
		late := newProxy(t, kubeconfig, service)
		late.start("--role=batchproxy")
		late.readyReplicas(0)
		c.APIServer.Restart()
		c.WaitReady(t)
		i.eventually(time.Minute, "it is back", func() bool { return up() == 1 })
		late.readyReplicas(2)
		c.scale(3)
		i.readyReplicas(3)
		late.readyReplicas(3)
		load.more(i, 100)
		late.end()
		if _, page := i.send(http.MethodGet, "/", nil); strings.Contains(page, "known last") {
			t.Error("the page still says that the endpoints may be old")
		}
	})

	golden(t, "metrics_services.golden", slices.DeleteFunc(metricNames(t, i.web), func(name string) bool {
		return !strings.HasPrefix(name, "flyball_batchproxy_service_") || strings.HasPrefix(name, "flyball_batchproxy_service_time_")
	}))

	t.Run("another Service", func(t *testing.T) {
		c.ApplyText(t, "apiVersion: v1\nkind: Service\nmetadata: {name: again, namespace: ml}\n"+
			"spec: {selector: {app: digits}, ports: [{port: 80, targetPort: 8000}]}\n")
		i.configure(kubeconfig, "{service: ml/again}")
		i.reload()
		i.readyReplicas(3)
		load.more(i, 100)
		i.eventually(time.Minute, "the other is not followed any more", func() bool {
			_, page := i.send(http.MethodGet, "/metrics", nil)
			return !strings.Contains(page, `upstream="ml/digits"`) && strings.Contains(page, `upstream="ml/again"`)
		})
	})
	load.stop()
	t.Logf("%d requests, %d failed", load.sent.Load(), load.failed.Load())

	t.Run("a Service that comes later", func(t *testing.T) {
		warns := func(text string) func() bool {
			return func() bool {
				_, page := i.send(http.MethodGet, "/", nil)
				return strings.Contains(page, text)
			}
		}
		i.configure(kubeconfig, "{service: ml/later, port: http}", "{service: ml/digits, port: htpp}", "{service: ml/digits}", "{service: other/digits}")
		i.reload()
		i.readyReplicas(0)
		for _, text := range []string{
			"service ml/later:http: the namespace has no EndpointSlice of it: is there such a Service, and has it a selector?",
			"service ml/digits:htpp: it has no port &#34;htpp&#34;: its EndpointSlices have grpc (9000), http (8000)",
			"service ml/digits: it has more than one port: give one of grpc (9000), http (8000)",
			"service other/digits: its endpoints are not known yet: forbidden: a Role in the namespace other needs the rule {apiGroups: [&#34;discovery.k8s.io&#34;], resources: [endpointslices], verbs: [list, watch]}",
		} {
			i.eventually(time.Minute, "the page says: "+text, warns(text))
		}
		c.ApplyText(t, "apiVersion: v1\nkind: Service\nmetadata: {name: later, namespace: ml}\n"+
			"spec: {selector: {app: digits}, ports: [{name: http, port: 80, targetPort: http}]}\n")
		i.readyReplicas(3)
		if warns("service ml/later")() {
			t.Error("the page still says that the Service is not there")
		}
		log := i.out.String()
		for _, text := range []string{"service=ml/later:http because=", "service=ml/digits:htpp because=", "service=other/digits err=\"forbidden"} {
			if got := strings.Count(log, text); got != 1 {
				t.Errorf("the log has %s %d times, want once", text, got)
			}
		}
		if strings.Contains(log, tokenOf(t, kubeconfig)) {
			t.Error("the token is in the log")
		}
	})
}

// TestKubernetesDiscovery: a real scraper finds the same pods by kubernetes_sd_configs, as an identity that may list and watch
// what its roles need, and their labels are what the relabelling makes of Prometheus's meta labels.
func TestKubernetesDiscovery(t *testing.T) {
	if !kubetest.Isolated(t, builtBefore+"="+built.dir) {
		return
	}
	c := &cluster{Cluster: kubetest.Start(t), t: t, servers: map[string]*exec.Cmd{}}
	c.ApplyText(t, served)
	for n := 1; n <= 3; n++ {
		c.serve(kubetest.PodIP(n))
	}
	i := &instance{t: t, dir: t.TempDir(), web: freePort(t), proxy: freePort(t)}
	kubeconfig := c.ServiceAccount(t, "ml", "flyball-scraper")
	sd := func(role, namespace string) string {
		return fmt.Sprintf("kubernetes_sd_configs: [{role: %s, kubeconfig_file: %q, namespaces: {names: [%s]}}]\n", role, kubeconfig, namespace)
	}
	pods := "- job_name: pods\n  " + sd("pod", "ml") + `  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], regex: "true", action: keep}
  - {source_labels: [__meta_kubernetes_pod_container_port_name], regex: http, action: keep}
  - {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
`
	slicesJob := "- job_name: slices\n  " + sd("endpointslice", "ml") + `  relabel_configs:
  - {source_labels: [__meta_kubernetes_service_name, __meta_kubernetes_endpointslice_port_name], regex: digits;http, action: keep}
  - {source_labels: [__meta_kubernetes_service_label_team], target_label: team}
  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
`
	forbidden := "- job_name: forbidden\n  " + sd("pod", "other")
	write := func(jobs ...string) {
		t.Helper()
		text := "global: {scrape_interval: 200ms, evaluation_interval: 200ms}\nscrape_configs:\n" + strings.Join(jobs, "")
		if err := os.WriteFile(filepath.Join(i.dir, "flyball.yml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(pods, slicesJob, forbidden)
	if out, err := exec.Command(built.path("flyball"), "check", "config", filepath.Join(i.dir, "flyball.yml")).CombinedOutput(); err != nil {
		t.Fatalf("check config: %v\n%s", err, out)
	}
	i.start("--role=rules")
	up := func() []string {
		_, body := i.send(http.MethodGet, "/api/v1/query?query="+url.QueryEscape(`up{job=~"pods|slices"}`), nil)
		var answer struct {
			Data struct {
				Result []struct {
					Metric map[string]string
					Value  [2]any
				}
			}
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		all := []string{}
		for _, r := range answer.Data.Result {
			m := r.Metric
			all = append(all, fmt.Sprintf("%s %s namespace=%s pod=%s team=%s %v", m["job"], m["instance"], m["namespace"], m["pod"], m["team"], r.Value[1]))
		}
		slices.Sort(all)
		return all
	}
	expected := func(jobs ...string) []string {
		all := []string{}
		for _, pod := range c.pods() {
			ip, _, _ := unstructured.NestedString(pod.Object, "status", "podIP")
			for _, job := range jobs {
				namespace, team := "ml", ""
				if job == "slices" {
					namespace, team = "", "vision"
				}
				all = append(all, fmt.Sprintf("%s %s:8000 namespace=%s pod=%s team=%s 1", job, ip, namespace, pod.GetName(), team))
			}
		}
		slices.Sort(all)
		return all
	}
	becomes := func(what string, n int, jobs ...string) {
		t.Helper()
		i.eventually(time.Minute, what, func() bool {
			want := expected(jobs...)
			return len(want) == n*len(jobs) && slices.Equal(up(), want)
		})
	}
	becomes("three pods are scraped, by either role", 3, "pods", "slices")
	c.scale(1)
	becomes("one pod is scraped", 1, "pods", "slices")
	c.scale(3)
	becomes("three are again", 3, "pods", "slices")
	write(slicesJob)
	i.reload()
	becomes("one job is left", 3, "slices")
	_, embedded := i.send(http.MethodGet, "/metrics/embedded", nil)
	if !strings.Contains(embedded, `prometheus_sd_kubernetes_events_total{event="add",role="pod"}`) || !strings.Contains(embedded, "prometheus_sd_kubernetes_failures_total") {
		t.Error("Prometheus's own metrics of the discovery are missing")
	}
	log := i.out.String()
	if !strings.Contains(log, `component=client-go`) || !strings.Contains(log, `cannot list resource \"pods\" in API group \"\" in the namespace \"other\"`) {
		t.Error("the log does not say what is forbidden")
	}
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "E1") || strings.HasPrefix(line, "W1") || strings.HasPrefix(line, "I1") {
			t.Errorf("client-go writes by itself: %s", line)
		}
	}
	i.end()
}

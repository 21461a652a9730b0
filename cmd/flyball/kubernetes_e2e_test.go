//go:build linux && !nokubernetes

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"flyball/actuators/kubernetes/kubetest"
	"flyball/rules"
)

// deployment is the workload that examples/kubernetes names, and the namespace of flyball.
const deployment = `apiVersion: v1
kind: Namespace
metadata: {name: ml}
---
apiVersion: v1
kind: Namespace
metadata: {name: flyball}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: llama, namespace: ml}
spec:
  replicas: 1
  selector: {matchLabels: {app: llama}}
  template:
    metadata: {labels: {app: llama}}
    spec: {nodeName: loopback, containers: [{name: vllm, image: none}]}
`

// TestKubernetes: the real program scales a Deployment of a real cluster up, down, to zero and back, as the identity of
// examples/kubernetes and with its files, and writes nothing but sizes and Events.
func TestKubernetes(t *testing.T) {
	c := kubetest.Start(t)
	c.ApplyText(t, deployment)
	c.Apply(t, []string{"../../examples/kubernetes/rules/rbac.yml"})
	kubeconfig := c.ServiceAccount(t, "flyball", "flyball")
	token := tokenOf(t, kubeconfig)

	var demand atomic.Int64
	demand.Store(60)
	vllm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "vllm:num_requests_running{model_name=\"llama\"} %d\nvllm:num_requests_waiting{model_name=\"llama\"} 0\n", demand.Load())
	}))
	t.Cleanup(vllm.Close)

	i := newInstanceOf(t, "kubernetes/rules",
		"election: {lease: {namespace: flyball, name: flyball}}\n", "",
		"prometheus:\n  url: http://prometheus-operated.monitoring.svc:9090\n",
		"global: {scrape_interval: 200ms, evaluation_interval: 200ms}\nscrape_configs:\n- {job_name: vllm, static_configs: [{targets: ["+
			strings.TrimPrefix(vllm.URL, "http://")+"]}]}\n",
		"    # kubeconfig: /etc/flyball/kubeconfig ", "    kubeconfig: "+kubeconfig+" # ",
		"interval: 15s", "interval: 200ms", "min: 1", "min: 0",
		"    startup: auto", "    behavior: {up: {policies: [{replicas: 10, period: 1s}]}, down: {window: 0s, policies: [{percent: 100, period: 1s}], cooldown: 0s}}\n"+
			"    flap_budget: {reversals: 100, window: 1m}\n    startup: auto",
	)
	i.start("--role=rules", "--log.level=debug")

	deployments := c.Admin.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("ml")
	sizes := func() (spec, ready int64) {
		live, err := deployments.Get(t.Context(), "llama", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		spec, _, _ = unstructured.NestedInt64(live.Object, "spec", "replicas")
		ready, _, _ = unstructured.NestedInt64(live.Object, "status", "readyReplicas")
		return spec, ready
	}
	becomes := func(n int64) {
		t.Helper()
		i.eventually(time.Minute, fmt.Sprintf("the Deployment has %d replicas, all ready", n), func() bool {
			spec, ready := sizes()
			return spec == n && ready == n && metric(i.web, "flyball_scale_ready_replicas", `target="kubernetes/ml/deployments.apps/llama"`) == float64(n)
		})
	}
	// While the rule observes, the apiserver checks what it would do, and does nothing.
	user := "system:serviceaccount:flyball:flyball"
	i.eventually(time.Minute, "the apiserver was asked for 3 replicas in a dry run", func() bool {
		return slices.ContainsFunc(c.Writes(t, user), func(w kubetest.Write) bool {
			return w.DryRun && w.Code == http.StatusOK && w.Resource == "deployments.apps/scale" && strings.Contains(w.Body, `"replicas":3`)
		})
	})
	if spec, _ := sizes(); spec != 1 {
		t.Errorf("%d replicas while the rule observes, want 1", spec)
	}
	observed := i.decisions()
	if last := observed[len(observed)-1]; last.Result != rules.Observed || last.Error != "" || last.To != 3 {
		t.Errorf("the last decision is %s, to %d, with the error %q; want observed, to 3, without", last.Result, last.To, last.Error)
	}
	reload := func(file string, text []byte, successful float64) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(i.dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
		before := strings.Count(i.out.String(), "reloaded")
		if err := i.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		i.eventually(time.Minute, "the hangup was answered", func() bool { return strings.Count(i.out.String(), "reloaded") > before })
		if got := metric(i.web, "flyball_config_last_reload_successful"); got != successful {
			t.Errorf("flyball_config_last_reload_successful %v, want %v", got, successful)
		}
	}
	file, err := os.ReadFile(filepath.Join(i.dir, "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	reload("rules.yml", bytes.Replace(file, []byte("mode: observe"), []byte("mode: act"), 1), 1)
	becomes(3) // 60 at 24 each
	demand.Store(20)
	becomes(1)
	demand.Store(0)
	becomes(0)
	demand.Store(100)
	becomes(5)

	// What somebody else makes of it is found, and brought back.
	if _, err := deployments.Patch(t.Context(), "llama", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes(5)

	t.Run("reload", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(i.dir, "flyball.yml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, edit := range [][2]string{
			{kubeconfig, kubeconfig + ".gone"},
			{"max_replicas: 100", "max_replicas: 7"}, // the rule's max is 8
			{"qps: 200", "qps: -1"},
		} {
			reload("flyball.yml", bytes.Replace(text, []byte(edit[0]), []byte(edit[1]), 1), 0)
		}
		demand.Store(40)
		becomes(2)
		reload("flyball.yml", bytes.Replace(text, []byte("max_replicas: 100"), []byte("max_replicas: 9"), 1), 1)
		demand.Store(60)
		becomes(3)
	})

	t.Run("paused by its annotation", func(t *testing.T) {
		annotate := func(value string) {
			t.Helper()
			patch := `{"metadata":{"annotations":{"flyball/paused":` + value + `}}}`
			if _, err := deployments.Patch(t.Context(), "llama", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		annotate(`"true"`)
		demand.Store(100)
		i.eventually(time.Minute, "the decision is held", func() bool {
			return metric(i.web, "flyball_scale_blocked", `reason="Paused"`) == 1 && metric(i.web, "flyball_scale_desired_replicas") == 5
		})
		if spec, _ := sizes(); spec != 3 {
			t.Errorf("%d replicas while paused, want 3", spec)
		}
		i.eventually(time.Minute, "it is told on the Deployment", func() bool {
			return slices.ContainsFunc(c.Writes(t, user), func(w kubetest.Write) bool {
				return w.Resource == "events.events.k8s.io" && w.Code == http.StatusCreated && strings.Contains(w.Body, `"reason":"FlyballHeld"`) &&
					strings.Contains(w.Body, "held at 3 replicas: load 100 at 24 a replica needs 5, paused by the annotation flyball/paused")
			})
		})
		annotate("null")
		becomes(5)
	})

	t.Run("writes", func(t *testing.T) {
		writes := c.Writes(t, user)
		if len(writes) == 0 {
			t.Fatal("no writes")
		}
		scaled, events := 0, 0
		for _, w := range writes {
			switch {
			case w.Verb == "update" && w.Resource == "deployments.apps/scale" && w.Name == "ml/llama":
				var scale struct{ Metadata metav1.ObjectMeta }
				if err := json.Unmarshal([]byte(w.Body), &scale); err != nil || scale.Metadata.ResourceVersion == "" {
					t.Errorf("a write without its precondition: %s (%v)", w.Body, err)
				}
				if w.Code == http.StatusOK && !w.DryRun {
					scaled++
				}
			case w.Verb == "create" && w.Resource == "events.events.k8s.io" && w.Code == http.StatusCreated:
				if strings.Contains(w.Body, `"reason":"FlyballScaled"`) {
					events++
				}
			default:
				t.Errorf("%s of %s %s was answered %d", w.Verb, w.Resource, w.Name, w.Code)
			}
		}
		applied := 0
		for _, d := range i.decisions() {
			if d.Result == rules.Applied {
				applied++
			}
		}
		if scaled != applied || events != scaled {
			t.Errorf("%d writes of the size and %d Events, and %d decisions applied: want one of each", scaled, events, applied)
		}
	})

	t.Run("credentials", func(t *testing.T) {
		for _, path := range []string{"/", "/metrics", "/api/v1/flyball/decisions?limit=1000", "/api/v1/flyball/rules"} {
			if status, body := i.send(http.MethodGet, path, nil); status != http.StatusOK || strings.Contains(body, token) {
				t.Errorf("%s: status %d, the token is in it: %v", path, status, strings.Contains(body, token))
			}
		}
		if strings.Contains(i.out.String(), token) {
			t.Error("the token is in the log")
		}
	})
}

// tokenOf is the token of a kubeconfig.
func tokenOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`token: "([^"]{20,})"`).FindSubmatch(text)
	if found == nil {
		t.Fatal("no token")
	}
	return string(found[1])
}

// TestWithoutKubernetes: a binary with the tag nokubernetes has none of its client, and says so.
func TestWithoutKubernetes(t *testing.T) {
	if testing.Short() {
		t.Skip("short: without another build")
	}
	out, err := exec.Command("go", "list", "-deps", "-tags", "nokubernetes", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range strings.Fields(string(out)) {
		// Prometheus's service discovery has some of client-go: its metrics, and what they need.
		if slices.ContainsFunc([]string{"dynamic", "discovery", "scale", "restmapper", "kubernetes"}, func(part string) bool {
			return strings.HasPrefix(pkg+"/", "k8s.io/client-go/"+part+"/")
		}) {
			t.Errorf("it links %s", pkg)
		}
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "flyball")
	if out, err := exec.Command("go", "build", "-tags", "nokubernetes", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	services := filepath.Join(dir, "services.yml")
	if err := os.WriteFile(services, []byte("scrape_configs: [{job_name: pods, kubernetes_sd_configs: [{role: pod}]}]\n"+
		"alerting: {alertmanagers: [{kubernetes_sd_configs: [{role: service}]}]}\n"+
		"batchproxy: {models: [{name: llama, upstreams: [{service: ml/llama}]}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(binary, "check", "config", services).CombinedOutput()
	if err == nil {
		t.Error("it takes a configuration with Services")
	}
	for _, want := range []string{
		": scrape_configs[0].kubernetes_sd_configs: this flyball was built without Kubernetes (-tags nokubernetes)",
		": alerting.alertmanagers[0].kubernetes_sd_configs: this flyball was built without Kubernetes (-tags nokubernetes)",
		": batchproxy.models[0].upstreams[0].service: this flyball was built without Kubernetes (-tags nokubernetes)",
	} {
		if !strings.Contains(string(said), want) {
			t.Errorf("it says\n%s\nwant %s", said, want)
		}
	}
	said, err = exec.Command(binary, "check", "config", "../../examples/kubernetes/rules/flyball.yml").CombinedOutput()
	if err == nil {
		t.Error("it takes a configuration with a cluster")
	}
	for _, want := range []string{
		"actuators.kubernetes: this flyball was built without Kubernetes (-tags nokubernetes)",
		`target.kind: no actuator of kind "kubernetes": this version has process, keda, none: it was built without Kubernetes`,
	} {
		if !strings.Contains(string(said), want) {
			t.Errorf("it says\n%s\nwant %s", said, want)
		}
	}
}

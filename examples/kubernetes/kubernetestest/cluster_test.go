package kubernetestest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"flyball/actuators/kubernetes/kubetest"
)

// surroundings are what the cluster of a user has: the namespace of the workloads, held to the same standard as flyball's to
// see that the sidecar keeps to it, the workload that the rules name, and NVIDIA's runtime class.
const surroundings = `apiVersion: v1
kind: Namespace
metadata: {name: ml, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: llama, namespace: ml}
spec: {replicas: 1, selector: {matchLabels: {app: llama}}, template: {metadata: {labels: {app: llama}}, spec: {containers: [{name: vllm, image: none}]}}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: nvidia}
handler: nvidia
`

var podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// TestCluster: a real apiserver takes all that kustomize builds, with no field that it does not know, and admits the pods
// under the restricted standard. The identity of each part may do what it needs, and no more, and the rules of a flyball
// that runs follow its ConfigMap.
func TestCluster(t *testing.T) {
	c := kubetest.Start(t)
	c.ApplyText(t, surroundings)
	definitions := filepath.Join(moduleFolder(t, "github.com/prometheus-operator/prometheus-operator"), "example/prometheus-operator-crd")
	for _, kind := range []string{"servicemonitors", "podmonitors", "prometheusrules"} {
		c.Apply(t, []string{filepath.Join(definitions, "monitoring.coreos.com_"+kind+".yaml")})
	}
	established(t, c)
	var built []*part
	for _, name := range parts {
		p := buildPart(t, name)
		built = append(built, p)
		apply(t, c, p)
	}
	apply(t, c, built[slices.Index(parts, "rules")]) // what acting, keda and embedded made of it

	t.Run("pods", func(t *testing.T) { admitted(t, c, built) })
	t.Run("rights", func(t *testing.T) { rights(t, c) })
	t.Run("configmap", func(t *testing.T) { followed(t, c, built[slices.Index(parts, "rules")]) })
	c.ApplyText(t, serving)
	t.Run("gateway", func(t *testing.T) { found(t, c, built[slices.Index(parts, "gateway")]) })
	t.Run("embedded", func(t *testing.T) { scraped(t, c, built[slices.Index(parts, "embedded")]) })
}

func moduleFolder(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatalf("go list -m %s: %v", path, err)
	}
	return strings.TrimSpace(string(out))
}

// established waits until the operator's kinds are served.
func established(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		list, err := client.ServerResourcesForGroupVersion("monitoring.coreos.com/v1")
		if err == nil && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == "PrometheusRule" }) &&
			slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == "PodMonitor" }) &&
			slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == "ServiceMonitor" }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the operator's kinds are not served after a minute: %v", err)
		}
	}
}

// apply brings a part to the cluster with strict validation, as kubectl apply --server-side does.
func apply(t *testing.T, c *kubetest.Cluster, p *part) {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
	for _, text := range strings.Split(strings.TrimSuffix(p.text, "---\n"), "---\n") {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			t.Fatal(err)
		}
		kind := o.GroupVersionKind()
		mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		var resource dynamic.ResourceInterface = c.Admin.Resource(mapping.Resource)
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			resource = c.Admin.Resource(mapping.Resource).Namespace(o.GetNamespace())
		}
		body, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		force := true
		if _, err := resource.Patch(t.Context(), o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{
			FieldManager: "kubectl", Force: &force, FieldValidation: metav1.FieldValidationStrict,
		}); err != nil {
			t.Errorf("%s: %s %s: %v", p.name, kind.Kind, o.GetName(), err)
		}
	}
}

// admitted has the apiserver admit a pod of each template, and refuse one that wants more; one that sees its node is refused in
// the namespace of the others.
func admitted(t *testing.T, c *kubetest.Cluster, built []*part) {
	create := func(namespace string, spec core.PodTemplateSpec) error {
		t.Helper()
		pod := core.Pod{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{GenerateName: "tried-", Namespace: namespace, Labels: spec.Labels}, Spec: spec.Spec,
		}
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&pod)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Admin.Resource(podResource).Namespace(namespace).Create(t.Context(), &unstructured.Unstructured{Object: object},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
		return err
	}
	for _, p := range built {
		for _, w := range p.workloads() {
			if err := create(w.GetNamespace(), w.template); err != nil {
				t.Errorf("%s: a pod of %s: %v", p.name, w, err)
			}
			if _, node := onNode[p.name]; node {
				if err := create("flyball", w.template); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "restricted") {
					t.Errorf("%s: a pod of %s in flyball: %v, want that the standard forbids it", p.name, w, err)
				}
				continue
			}
			wants := *w.template.DeepCopy()
			wants.Spec.Containers[0].SecurityContext.Capabilities.Drop = nil
			if err := create(w.GetNamespace(), wants); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "restricted") {
				t.Errorf("%s: a pod of %s with capabilities: %v, want that the standard forbids it", p.name, w, err)
			}
		}
	}
}

// rights compares what each identity may do with what it needs.
func rights(t *testing.T, c *kubetest.Cluster) {
	for _, tt := range []struct {
		account, namespace string
		want               []string
	}{
		{"flyball", "ml", []string{
			"create,patch events.k8s.io/events",
			"get admissionregistration.k8s.io/validatingadmissionpolicies,admissionregistration.k8s.io/validatingadmissionpolicybindings flyball-fence",
			"get apps/deployments llama",
			"get,update apps/deployments/scale llama",
			"list autoscaling/horizontalpodautoscalers",
			"list keda.sh/scaledobjects",
			"list,watch /pods", // of embedded, which was applied as well
		}},
		{"flyball", "flyball", []string{
			"create coordination.k8s.io/leases",
			"get admissionregistration.k8s.io/validatingadmissionpolicies,admissionregistration.k8s.io/validatingadmissionpolicybindings flyball-fence",
			"get,update coordination.k8s.io/leases flyball",
		}},
		{"flyball", "default", []string{
			"get admissionregistration.k8s.io/validatingadmissionpolicies,admissionregistration.k8s.io/validatingadmissionpolicybindings flyball-fence",
		}},
		{"flyball-gateway", "ml", []string{"list,watch discovery.k8s.io/endpointslices"}},
		{"flyball-gateway", "flyball", nil},
	} {
		nobody := allowed(t, c, "nobody", tt.namespace)
		var got []string
		for _, rule := range allowed(t, c, tt.account, tt.namespace) {
			if !slices.Contains(nobody, rule) {
				got = append(got, rule)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s in %s may (-want +got):\n%s", tt.account, tt.namespace, diff)
		}
	}
}

// allowed is what the apiserver says that a service account of the namespace flyball may do in a namespace.
func allowed(t *testing.T, c *kubetest.Cluster, account, namespace string) []string {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.ServiceAccount(t, "flyball", account))
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	review := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": map[string]any{"namespace": namespace},
	}}
	reviews := schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "selfsubjectrulesreviews"}
	var status authorization.SubjectRulesReviewStatus
	rules := func() []string {
		answer, err := client.Resource(reviews).Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(answer.Object["status"])
		if err == nil {
			err = json.Unmarshal(text, &status)
		}
		if err != nil || status.Incomplete {
			t.Fatalf("the rules of %s: incomplete %t, %v", account, status.Incomplete, err)
		}
		var all []string
		for _, r := range status.ResourceRules {
			var resources []string
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					resources = append(resources, group+"/"+resource)
				}
			}
			slices.Sort(r.Verbs)
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", strings.Join(r.Verbs, ","), strings.Join(resources, ","), strings.Join(r.ResourceNames, ","))))
		}
		for _, r := range status.NonResourceRules {
			all = append(all, strings.Join(r.Verbs, ",")+" "+strings.Join(r.NonResourceURLs, ","))
		}
		slices.Sort(all)
		return all
	}
	return rules()
}

// followed runs the flyball of the rules as a pod of the cluster would, beside a Prometheus that knows nothing, and changes its
// ConfigMap.
func followed(t *testing.T, c *kubetest.Cluster, p *part) {
	prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"vector","result":[]}}`)
	}))
	t.Cleanup(prometheus.Close)
	const pod = "flyball-1"
	kubeconfig := c.Pod(t, "flyball", "flyball", pod)
	w := p.workloads()[0]
	files := newConfigMap(t, p.config(t, w), "http://prometheus-operated.monitoring.svc:9090", prometheus.URL,
		"    # kubeconfig: /etc/flyball/kubeconfig ", "    kubeconfig: "+kubeconfig+" # ")
	i := start(t, w.flyball(t), files, pod)
	i.probes()
	i.eventually("it leads, under the name of its pod", func() bool {
		lease, err := c.Admin.Resource(schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}).
			Namespace("flyball").Get(context.Background(), "flyball", metav1.GetOptions{})
		if err != nil {
			return false
		}
		holder, _, _ := unstructured.NestedString(lease.Object, "spec", "holderIdentity")
		_, metrics := i.get("web", "/metrics")
		return holder == pod && strings.Contains(metrics, "\nflyball_leader 1\n")
	})
	rules := func() string {
		_, text := i.get("web", "/api/v1/rules")
		return text
	}
	i.eventually("the rule is in force", func() bool { return strings.Contains(rules(), "vllm:num_requests_waiting") })
	began := func() string {
		_, metrics := i.get("web", "/metrics")
		_, rest, _ := strings.Cut(metrics, "\nprocess_start_time_seconds ")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	before := began()
	files.edit(t, "vllm:num_requests_running + vllm:num_requests_waiting", "vllm:num_requests_swapped")
	i.eventually("the changed rule is in force", func() bool {
		now := rules()
		return strings.Contains(now, "vllm:num_requests_swapped") && !strings.Contains(now, "vllm:num_requests_waiting")
	})
	if after := began(); before == "" || after != before {
		t.Errorf("it began at %q, and before the change at %q", after, before)
	}
	if strings.Contains(i.said(), "level=ERROR") {
		t.Error("it logs an error")
	}
	if !strings.Contains(i.said(), "the apiserver fences") {
		t.Error("it does not say that the apiserver fences")
	}
}

// serving is a pod of each model server, where nothing answers: that it is found is what is asked.
const serving = `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: digits-1, namespace: ml, labels: {kubernetes.io/service-name: digits}}
addressType: IPv4
ports: [{name: http, port: 8000, protocol: TCP}]
endpoints: [{addresses: [10.244.0.9], conditions: {ready: true}}]
---
apiVersion: v1
kind: Pod
metadata: {name: llama-1, namespace: ml, labels: {app: llama}}
spec:
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: vllm
    image: none
    ports: [{name: http, containerPort: 8000}, {name: other, containerPort: 8001}]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`

// found runs the gateway with the rights that it has: it sends to the pods of the Service.
func found(t *testing.T, c *kubetest.Cluster, p *part) {
	w := p.workloads()[0]
	files := newConfigMap(t, p.config(t, w), "batchproxy:\n",
		"actuators: {kubernetes: {kubeconfig: "+c.ServiceAccount(t, "flyball", w.template.Spec.ServiceAccountName)+"}}\nbatchproxy:\n")
	i := start(t, w.flyball(t), files, "")
	i.probes()
	i.eventually("it has a model server", func() bool {
		_, metrics := i.get("web", "/metrics")
		return strings.Contains(metrics, "\nflyball_batchproxy_replicas_ready{model=\"digits\"} 1\n")
	})
	if strings.Contains(i.said(), "forbidden") {
		t.Error("it may not do what it does")
	}
}

// scraped runs the rules with a store of their own, with the rights that they have: it scrapes the port of the servers alone.
func scraped(t *testing.T, c *kubetest.Cluster, p *part) {
	if _, err := c.Admin.Resource(podResource).Namespace("ml").Patch(t.Context(), "llama-1", types.MergePatchType,
		[]byte(`{"status":{"phase":"Running","podIP":"10.244.0.9","podIPs":[{"ip":"10.244.0.9"}]}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	const pod = "flyball-2"
	kubeconfig := c.Pod(t, "flyball", "flyball", pod)
	w := p.workloads()[0]
	files := newConfigMap(t, p.config(t, w), "{role: pod, ", "{role: pod, kubeconfig_file: "+kubeconfig+", ",
		"  kubernetes:\n", "  kubernetes:\n    kubeconfig: "+kubeconfig+"\n")
	i := start(t, w.flyball(t), files, pod)
	i.probes()
	i.eventually("it scrapes the server", func() bool {
		_, targets := i.get("web", "/api/v1/targets")
		return strings.Contains(targets, `"http://10.244.0.9:8000/metrics"`) && strings.Contains(targets, `"pod":"llama-1"`)
	})
	if _, targets := i.get("web", "/api/v1/targets?state=active"); strings.Contains(targets, `"http://10.244.0.9:8001/metrics"`) {
		t.Error("it scrapes another port of the pod")
	}
	if strings.Contains(i.said(), "forbidden") {
		t.Error("it may not do what it does")
	}
}

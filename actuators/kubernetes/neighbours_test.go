package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
)

var scaledObjects = schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"}

const hpaText = `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: %[1]s, namespace: ml}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %[1]s}
  minReplicas: 2
  maxReplicas: 6
  behavior: # at once, whatever it did just before
    scaleUp: {policies: [{type: Pods, value: 100, periodSeconds: 1}]}
    scaleDown: {stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 100, periodSeconds: 1}]}
  metrics: [{type: External, external: {metric: {name: load}, target: {type: AverageValue, averageValue: "1"}}}]
`

const scaledText = `
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: %[1]s-queue, namespace: ml}
spec: {scaleTargetRef: {name: %[1]s}, minReplicaCount: 1, maxReplicaCount: 8}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: keda-hpa-%[1]s-queue
  namespace: ml
  ownerReferences: [{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, name: %[1]s-queue, uid: 4bdc5a1c-0000-4000-8000-000000000001}]
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %[1]s}
  maxReplicas: 8
  metrics: [{type: External, external: {metric: {name: none}, target: {type: AverageValue, averageValue: "1"}}}]
`

// crowd are the workloads of a cluster, and what sets their sizes.
type crowd struct {
	t *testing.T
	c *kubetest.Cluster
}

func (n crowd) get(resource schema.GroupVersionResource, name string) *unstructured.Unstructured {
	n.t.Helper()
	o, err := n.c.Admin.Resource(resource).Namespace("ml").Get(n.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return o
}

// patch changes an object as somebody else does.
func (n crowd) patch(resource schema.GroupVersionResource, name, patch string) {
	n.t.Helper()
	if _, err := n.c.Admin.Resource(resource).Namespace("ml").Patch(n.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// apply changes a target as it is now, even if its HPA does so too at the moment.
func (n crowd) apply(k *Kubernetes, at actuators.Target, to int, id string) (actuators.Receipt, error) {
	n.t.Helper()
	for {
		before := observe(n.t, k, at)
		receipt, err := k.Apply(n.t.Context(), at, actuators.Change{From: before.Spec, To: to, IfVersion: before.Version, DecisionID: id})
		if !errors.Is(err, actuators.ErrConflict) {
			return receipt, err
		}
	}
}

// workload makes a Deployment, and an autoscaler for it.
func (n crowd) workload(name, autoscaler string) actuators.Target {
	n.t.Helper()
	n.c.Apply(n.t, []string{"testdata/neighbours.yml"}, "NAME", name)
	if autoscaler != "" {
		n.c.ApplyText(n.t, fmt.Sprintf(autoscaler, name))
	}
	return named("ml/deployments.apps/" + name)
}

// with is an actuator with a way, for all targets or for those that are named, and its log.
func (n crowd) with(conflict Conflict, of ...actuators.Target) (*Kubernetes, *lines) {
	log := &lines{}
	return newLogged(n.t, slog.New(slog.NewTextHandler(log, nil)), n.c.Kubeconfig(), func(config *Config) {
		if config.Conflict = conflict; len(of) > 0 {
			config.Conflict, config.Conflicts = ConflictRefuse, map[string]Conflict{}
		}
		for _, target := range of {
			config.Conflicts[target.Name] = conflict
		}
	}), log
}

// wants gives an HPA another load, and returns once its controller has seen it.
func (n crowd) wants(name string, load int) {
	n.t.Helper()
	n.patch(schema.GroupVersionResource{Group: "external.metrics.k8s.io", Version: "v1beta1", Resource: "load"}, "load", fmt.Sprintf(`{"value":"%d"}`, load))
	eventually(n.t, fmt.Sprintf("the HPA %s has seen a load of %d", name, load), func() bool {
		status, _, _ := unstructured.NestedSlice(n.get(hpas, name).Object, "status", "currentMetrics")
		if len(status) == 0 {
			return false
		}
		average, _, _ := unstructured.NestedString(status[0].(map[string]any), "external", "current", "averageValue")
		size := number(n.get(deployments, name), "spec", "replicas")
		return size > 0 && (average == fmt.Sprint(int64(load)/size) || strings.HasSuffix(average, "m") && average == fmt.Sprintf("%dm", (int64(load)*1000+size-1)/size))
	})
}

func number(o *unstructured.Unstructured, field ...string) int64 {
	n, _, _ := unstructured.NestedInt64(o.Object, field...)
	return n
}

// testNeighbours: an HPA, with its controller, and a ScaledObject that set the size of the same target.
func testNeighbours(t *testing.T, c *kubetest.Cluster) {
	n := crowd{t, c}
	get, apply, workload, wants := n.get, n.apply, n.workload, n.wants
	with := func(conflict Conflict) (*Kubernetes, *lines) { return n.with(conflict) }
	t.Run("refuse", func(t *testing.T) {
		at := workload("refused", hpaText)
		k, log := with(ConflictRefuse)
		eventually(t, "the HPA acts on its metric", func() bool { return observe(t, k, at).Spec == 5 })
		blocked := len(events(t, c, "refused", reasonBlocked))
		for i := range 2 {
			if _, err := apply(k, at, 3, fmt.Sprint("n", i)); !errors.Is(err, actuators.ErrOwned) || !errors.Is(err, actuators.ErrRefused) || !strings.Contains(err.Error(), "HPA ml/refused: ") {
				t.Fatalf("error %v, want ErrOwned", err)
			}
		}
		if got := observe(t, k, at).Spec; got != 5 {
			t.Errorf("size %d, want the 5 of the HPA", got)
		}
		if want := `autoscaler="HPA ml/refused" conflict=refuse`; strings.Count(log.String(), want) != 1 {
			t.Errorf("the log has\n%s\nwant once %s", log, want)
		}
		if got := len(events(t, c, "refused", reasonBlocked)); got != blocked+1 {
			t.Errorf("%d events of refusals, want one more than %d", got, blocked)
		}
		if err := c.Admin.Resource(hpas).Namespace("ml").Delete(t.Context(), "refused", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		later, _ := with(ConflictRefuse)
		if _, err := apply(later, at, 3, "n9"); err != nil {
			t.Errorf("the HPA is gone: %v", err)
		}
	})
	t.Run("floor", func(t *testing.T) {
		at := workload("raised", hpaText)
		k, log := with(ConflictFloor)
		eventually(t, "the HPA acts on its metric", func() bool { return observe(t, k, at).Spec == 5 })
		wants("raised", 2)
		eventually(t, "the HPA has gone to its minimum", func() bool { return observe(t, k, at).Spec == 2 })
		for i, tt := range []struct{ to, floor, spec int }{{4, 4, 4}, {9, 6, 6}, {1, 2, 2}, {3, 3, 3}} {
			before := observe(t, k, at)
			if _, err := k.Apply(t.Context(), at, actuators.Change{From: before.Spec, To: tt.to, IfVersion: before.Version, DryRun: true}); err != nil {
				t.Fatal(err)
			}
			is := number(get(hpas, "raised"), "spec", "minReplicas")
			receipt, err := apply(k, at, tt.to, fmt.Sprint("n", i))
			if err != nil || !receipt.Changed || receipt.Spec != max(before.Spec, tt.floor) {
				t.Fatalf("to %d: %+v, %v", tt.to, receipt, err)
			}
			hpa := get(hpas, "raised")
			if got := number(hpa, "spec", "minReplicas"); got != int64(tt.floor) || is == got || hpa.GetAnnotations()[MinReplicas] != "2" {
				t.Errorf("to %d: the floor went from %d to %d, and was %q at first", tt.to, is, got, hpa.GetAnnotations()[MinReplicas])
			}
			eventually(t, fmt.Sprintf("the HPA has made %d of it", tt.spec), func() bool { return observe(t, k, at).Spec == tt.spec })
		}
		if want := `autoscaler="HPA ml/raised" replicas=9 max=6`; strings.Count(log.String(), want) != 1 {
			t.Errorf("the log has\n%s\nwant once %s", log, want)
		}
	})
	t.Run("adopt", func(t *testing.T) {
		at := workload("adopted", hpaText)
		k, log := with(ConflictAdopt)
		wants("adopted", 5)
		eventually(t, "the HPA acts on its metric", func() bool { return observe(t, k, at).Spec == 5 })
		before := observe(t, k, at)
		if _, err := k.Apply(t.Context(), at, actuators.Change{From: 5, To: 3, IfVersion: before.Version, DryRun: true}); err != nil {
			t.Fatal(err)
		}
		if _, changed := get(hpas, "adopted").GetAnnotations()[Behavior]; changed {
			t.Error("a dry run took the HPA out of charge")
		}
		if _, err := apply(k, at, 7, "above"); !errors.Is(err, actuators.ErrOutOfRange) {
			t.Errorf("above maxReplicas: error %v, want ErrOutOfRange", err)
		}
		if _, err := apply(k, at, 3, "n1"); err != nil {
			t.Fatal(err)
		}
		for _, load := range []int{6, 2} {
			wants("adopted", load)
			if got := observe(t, k, at).Spec; got != 3 {
				t.Errorf("at a load of %d the size is %d: the HPA is in charge still", load, got)
			}
		}
		hpa := get(hpas, "adopted")
		if was := hpa.GetAnnotations()[Behavior]; !strings.Contains(was, `"stabilizationWindowSeconds":0`) || strings.Contains(was, "Disabled") {
			t.Errorf("the behavior before is said to be %q", was)
		}
		if _, err := apply(k, at, 4, "n2"); err != nil {
			t.Fatal(err)
		}
		if want := "an autoscaler was taken out of charge"; strings.Count(log.String(), want) != 1 {
			t.Errorf("the log has\n%s\nwant once %s", log, want)
		}
	})
	t.Run("ScaledObject", func(t *testing.T) {
		at := workload("queued", scaledText)
		k, _ := with(ConflictRefuse)
		if _, err := apply(k, at, 3, "n1"); !errors.Is(err, actuators.ErrOwned) || !strings.Contains(err.Error(), "target: ScaledObject ml/queued-queue: delete") {
			t.Errorf("error %v, want ErrOwned by the ScaledObject alone", err)
		}
		k, _ = with(ConflictFloor)
		if _, err := apply(k, at, 12, "n2"); err != nil {
			t.Fatal(err)
		}
		o := get(scaledObjects, "queued-queue")
		if got := number(o, "spec", "minReplicaCount"); got != 8 || o.GetAnnotations()[MinReplicas] != "1" {
			t.Errorf("the floor is %d, and was %q at first", got, o.GetAnnotations()[MinReplicas])
		}
		k, _ = with(ConflictAdopt)
		if _, err := apply(k, at, 3, "n3"); err != nil {
			t.Fatal(err)
		}
		if got := get(scaledObjects, "queued-queue").GetAnnotations()[paused]; got != "true" {
			t.Errorf("the annotation %s is %q", paused, got)
		}
		if got := observe(t, k, at).Spec; got != 3 {
			t.Errorf("size %d, want 3", got)
		}
	})
	t.Run("not to be listed", func(t *testing.T) {
		var log lines
		k := newLogged(t, slog.New(slog.NewTextHandler(&log, nil)), c.ServiceAccount(t, "ml", "scales-only"))
		for range 3 {
			observe(t, k, llama)
		}
		for _, want := range []string{
			`needs the rule {apiGroups: [\"autoscaling\"], resources: [horizontalpodautoscalers], verbs: [list]}`,
			`needs the rule {apiGroups: [\"keda.sh\"], resources: [scaledobjects], verbs: [list]}`,
		} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("the log has\n%s\nwant once %s", log.String(), want)
			}
		}
	})
}

// testGitOps: a manager that has a target's size in its sources is said once in the log and by one Event.
func testGitOps(t *testing.T, c *kubetest.Cluster) {
	c.Apply(t, []string{"testdata/neighbours.yml"}, "NAME", "synced")
	at := named("ml/deployments.apps/synced")
	deployment := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "synced", "namespace": "ml"},
		"spec": map[string]any{"replicas": int64(2)},
	}}
	var log lines
	k := newLogged(t, slog.New(slog.NewTextHandler(&log, nil)), c.Kubeconfig())
	const said = "manager=argocd-controller"
	observe(t, k, at)
	if strings.Contains(log.String(), said) {
		t.Fatalf("before the sync the log has\n%s", log.String())
	}
	for i := range 2 {
		if _, err := c.Admin.Resource(deployments).Namespace("ml").Apply(t.Context(), "synced", deployment, metav1.ApplyOptions{FieldManager: "argocd-controller", Force: true}); err != nil {
			t.Fatal(err)
		}
		before := observe(t, k, at)
		if before.Spec != 2 {
			t.Fatalf("size %d after a sync, want 2", before.Spec)
		}
		if _, err := k.Apply(t.Context(), at, actuators.Change{From: 2, To: 3, IfVersion: before.Version, DecisionID: fmt.Sprint("g", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(log.String(), said) != 1 || !strings.Contains(log.String(), "ignoreDifferences") {
		t.Errorf("the log has\n%s\nwant once %s", log.String(), said)
	}
	if got := events(t, c, "synced", reasonSynced); len(got) != 1 {
		t.Errorf("%d events, want 1", len(got))
	}
}

// inProcess is an apiserver that answers with JSON.
type inProcess func(*http.Request) (code int, body string)

func (a inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	code, text := a(r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(text)), Request: r,
	}, nil
}

// TestNeighboursAreListedOnce: many targets of a namespace cost one list in a while, and namespaces are forgotten.
func TestNeighboursAreListedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		hang := false
		objects, err := dynamic.NewForConfigAndClient(&rest.Config{Host: "http://cluster", QPS: -1}, &http.Client{Transport: inProcess(func(r *http.Request) (int, string) {
			asked.Add(1)
			if hang {
				<-r.Context().Done()
			}
			return http.StatusOK, `{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscalerList", "metadata": {}, "items": [{
				"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "llama", "namespace": "ml"},
				"spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llama"}, "maxReplicas": 3}}]}`
		})})
		if err != nil {
			t.Fatal(err)
		}
		c := &client{
			objects: objects, namespaces: map[string]*neighbourhood{}, unread: map[ref]time.Time{}, unlisted: map[ref]bool{},
			missed: map[schema.GroupResource]time.Time{scaledObjects.GroupResource(): time.Now().Add(time.Hour)}, // the cluster has no KEDA
		}
		look := func(namespace, name string, maxAge time.Duration) []owner {
			t.Helper()
			found := resource{deployments, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}}
			all, err := c.neighbours(t.Context(), ref{namespace: namespace, resource: "deployments.apps", name: name}, found, maxAge)
			if err != nil {
				t.Error(err)
			}
			return all
		}
		lists := func(want int) {
			t.Helper()
			if got := int(asked.Load()); got != want {
				t.Fatalf("%d lists, want %d", got, want)
			}
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { look("ml", fmt.Sprint("other-", i), actedFor) })
		}
		wg.Wait()
		lists(1)
		if got := look("ml", "llama", observedFor); len(got) != 1 || got[0].String() != "HPA ml/llama" || got[0].min != 1 || got[0].max != 3 {
			t.Errorf("%+v", got)
		}
		time.Sleep(actedFor + time.Second)
		look("ml", "llama", observedFor)
		lists(1)
		look("ml", "llama", actedFor)
		lists(2)
		c.relist(t.Context(), "ml")
		look("ml", "llama", observedFor)
		lists(3)
		time.Sleep(keptFor + time.Second)
		look("eu", "llama", observedFor)
		lists(4)
		if len(c.namespaces) != 1 {
			t.Errorf("%d namespaces are remembered, want the one that is asked for", len(c.namespaces))
		}

		// An apiserver that hangs keeps nobody longer than for its own time, and is not asked by each of them.
		hang = true
		began := time.Now()
		for range 100 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if _, err := c.neighbours(ctx, ref{namespace: "us"}, resource{}, actedFor); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v, want that of the time that is over", err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("they waited for %s, want 3s", took)
		}
		lists(5)
		hang = false
		time.Sleep(failedFor + time.Second)
		look("us", "llama", actedFor)
		lists(6)
	})
}

// TestNeighboursNotToBeListed: that a Role has no list is said once, and not tried at each look.
func TestNeighboursNotToBeListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		objects, err := dynamic.NewForConfigAndClient(&rest.Config{Host: "http://cluster", QPS: -1}, &http.Client{Transport: inProcess(func(*http.Request) (int, string) {
			asked++
			return http.StatusForbidden, `{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403,
				"message": "flyball cannot list resource \"horizontalpodautoscalers\""}`
		})})
		if err != nil {
			t.Fatal(err)
		}
		var log lines
		c := &client{
			objects: objects, log: slog.New(slog.NewTextHandler(&log, nil)), namespaces: map[string]*neighbourhood{},
			unread: map[ref]time.Time{}, unlisted: map[ref]bool{},
			missed: map[schema.GroupResource]time.Time{scaledObjects.GroupResource(): time.Now().Add(time.Hour)},
		}
		for range 20 { // 5 minutes
			if all, err := c.neighbours(t.Context(), ref{namespace: "ml", resource: "deployments.apps", name: "llama"}, resource{}, actedFor); err != nil || len(all) > 0 {
				t.Fatalf("%v, %v; want none that is known", all, err)
			}
			time.Sleep(15 * time.Second)
		}
		if asked != 5 {
			t.Errorf("it was tried %d times in 5 minutes, want once a minute", asked)
		}
		if want := "needs the rule {apiGroups: [\\\"autoscaling\\\"], resources: [horizontalpodautoscalers], verbs: [list]}"; strings.Count(log.String(), want) != 1 {
			t.Errorf("the log has\n%s\nwant once %s", log.String(), want)
		}
	})
}

func TestOwnerOf(t *testing.T) {
	scaled := func(annotations map[string]any, ref map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "q", "namespace": "ml", "annotations": annotations}, "spec": map[string]any{"scaleTargetRef": ref},
		}}
	}
	for _, tt := range []struct {
		name        string
		annotations map[string]any
		ref         map[string]any
		of          string
		hands       bool
	}{
		{name: "a Deployment, unless it says so", ref: map[string]any{"name": "q"}, of: "Deployment.apps"},
		{name: "of another kind", ref: map[string]any{"name": "q", "apiVersion": "example.com/v1", "kind": "Pool"}, of: "Pool.example.com"},
		{name: "of the core group", ref: map[string]any{"name": "q", "apiVersion": "v1", "kind": "ReplicationController"}, of: "ReplicationController"},
		{name: "paused", annotations: map[string]any{paused: "true"}, of: "Deployment.apps", hands: true},
		{name: "paused in KEDA's reading", annotations: map[string]any{paused: "yes"}, of: "Deployment.apps", hands: true},
		{name: "not paused", annotations: map[string]any{paused: "false"}, of: "Deployment.apps"},
		{name: "kept at a size", annotations: map[string]any{paused: "true", pausedAt: "3"}, of: "Deployment.apps"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ownerOf(scaled(tt.annotations, tt.ref), scaledResource); got.of.String() != tt.of || got.hands != tt.hands {
				t.Errorf("%s, hands off %t; want %s, %t", got.of, got.hands, tt.of, tt.hands)
			}
		})
	}
}

// testFloor: the minimum of a real HPA is raised, and its controller makes the Deployment at least that large.
func testFloor(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.Kubeconfig())
	hpa := named("ml/horizontalpodautoscalers.autoscaling/floored")
	before := observe(t, k, hpa)
	if _, err := k.Apply(t.Context(), hpa, actuators.Change{From: before.Spec, To: 7, IfVersion: before.Version, DecisionID: "floor"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the HPA has made 7 replicas", func() bool {
		return observe(t, k, named("ml/deployments.apps/floored")).Ready == 7
	})
	if got := observe(t, k, hpa).Spec; got != 7 {
		t.Errorf("the floor is %d, want 7", got)
	}
	if _, err := k.Apply(t.Context(), hpa, actuators.Change{To: 21, DecisionID: "above"}); !errors.Is(err, actuators.ErrOutOfRange) {
		t.Errorf("a floor above maxReplicas: error %v, want ErrOutOfRange", err)
	}
}

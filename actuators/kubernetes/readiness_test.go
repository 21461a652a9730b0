package kubernetes

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
)

// testReadiness: which replicas count as ready, and that the log says so.
func testReadiness(t *testing.T, c *kubetest.Cluster) {
	status := func(at actuators.Target, resource schema.GroupVersionResource, status string) {
		t.Helper()
		r, err := new(Config).parse(at.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Admin.Resource(resource).Namespace(r.namespace).Patch(t.Context(), r.name, types.MergePatchType,
			[]byte(`{"status":`+status+`}`), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	lws := schema.GroupVersionResource{Group: "leaderworkerset.x-k8s.io", Version: "v1", Resource: "leaderworkersets"}
	pools := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "pools"}
	set, pool := named("ml/leaderworkersets.leaderworkerset.x-k8s.io/llama-405b"), named("ml/pools.example.com/plain")

	t.Run("pods that start", func(t *testing.T) {
		k := newKubernetes(t, c.Kubeconfig())
		to := func(n int) {
			t.Helper()
			before := observe(t, k, llama)
			if _, err := k.Apply(t.Context(), llama, actuators.Change{From: before.Spec, To: n, IfVersion: before.Version, DecisionID: fmt.Sprint("p", n)}); err != nil {
				t.Fatal(err)
			}
		}
		settles := func(ready, pending int) {
			t.Helper()
			eventually(t, fmt.Sprintf("%d ready and %d pending", ready, pending), func() bool {
				s := observe(t, k, llama)
				return s.Spec == ready+pending && s.Ready == ready && s.Pending == pending
			})
		}
		to(1)
		settles(1, 0)
		c.HoldPods()
		to(4)
		eventually(t, "the Deployment has 4 pods", func() bool {
			live, err := c.Admin.Resource(deployments).Namespace("ml").Get(t.Context(), "llama", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			n, _, _ := unstructured.NestedInt64(live.Object, "status", "replicas")
			return n == 4
		})
		settles(1, 3)
		c.ReleasePods()
		settles(4, 0)
	})
	t.Run("counted", func(t *testing.T) {
		var log lines
		k := newLogged(t, slog.New(slog.NewTextHandler(&log, nil)), c.Kubeconfig())
		if _, err := k.Apply(t.Context(), set, actuators.Change{To: 3, DecisionID: "r1"}); err != nil {
			t.Fatal(err)
		}
		status(set, lws, `{"replicas":3,"readyReplicas":1}`)
		if s := observe(t, k, set); s.Spec != 3 || s.Ready != 1 || s.Pending != 2 {
			t.Errorf("%+v, want 3 of which 1 is ready", s)
		}
		status(set, lws, `{"replicas":3,"readyReplicas":null}`)
		if s := observe(t, k, set); s.Ready != 0 || s.Pending != 3 {
			t.Errorf("%+v, want none ready: a count of 0 is left out", s)
		}
		if want := "level=INFO msg=\"ready replicas of a target\" target=kubernetes/" + set.Name + " are=\"those that its /status/readyReplicas counts\""; strings.Count(log.String(), want) != 1 {
			t.Errorf("the log has\n%s\nwant once %s", log.String(), want)
		}
	})
	t.Run("not counted", func(t *testing.T) {
		var log lines
		k := newLogged(t, slog.New(slog.NewTextHandler(&log, nil)), c.Kubeconfig())
		if _, err := k.Apply(t.Context(), pool, actuators.Change{To: 3, DecisionID: "r2"}); err != nil {
			t.Fatal(err)
		}
		status(pool, pools, `{"size":2}`)
		if s := observe(t, k, pool); s.Spec != 3 || s.Ready != 2 || s.Pending != 1 {
			t.Errorf("%+v, want 3 of which the 2 that there are count as ready", s)
		}
		if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "its status does not count those that are ready") {
			t.Errorf("the log does not say that ready replicas are not counted:\n%s", log.String())
		}
		status(pool, pools, `{"size":3,"readyReplicas":1}`)
		if s := observe(t, k, pool); s.Ready != 1 {
			t.Errorf("%+v, want the 1 that status.readyReplicas has", s)
		}
		status(pool, pools, `{"readyReplicas":null}`)
		if s := observe(t, k, pool); s.Ready != 0 {
			t.Errorf("%+v, want none: objects of this resource count them", s)
		}
	})
	t.Run("configured", func(t *testing.T) {
		k := newKubernetes(t, c.Kubeconfig(), func(config *Config) {
			config.Resources = map[string]Resource{"pools.example.com": {Ready: "/status/serving"}}
		})
		status(pool, pools, `{"size":3,"serving":2}`)
		if s := observe(t, k, pool); s.Ready != 2 {
			t.Errorf("%+v, want the 2 that the configured field has", s)
		}
	})
	t.Run("not to be read", func(t *testing.T) {
		var log lines
		k := newLogged(t, slog.New(slog.NewTextHandler(&log, nil)), c.ServiceAccount(t, "ml", "scales-only"))
		for range 3 {
			observe(t, k, llama)
		}
		if want := "the Role has no get on deployments.apps llama"; strings.Count(log.String(), want) != 1 || !strings.Contains(log.String(), "level=WARN") {
			t.Errorf("the log has\n%s\nwant once, as a warning, %q", log.String(), want)
		}
	})
}

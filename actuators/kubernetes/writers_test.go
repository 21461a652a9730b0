package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
)

// testOtherWriters: writers that change all but the size and the spec, as controllers do, delay a change and do not keep it.
func testOtherWriters(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.ServiceAccount(t, "ml", "busy"), func(config *Config) { config.Events = false })
	c.ApplyText(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: busy, namespace: ml}
rules: [{apiGroups: [apps], resources: [deployments, deployments/scale], verbs: [get, update]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: busy, namespace: ml}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: busy}
subjects: [{kind: ServiceAccount, name: busy, namespace: ml}]
`)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond) // a rollout of a thousand pods
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				<-tick.C
				patch := fmt.Sprintf(`{"metadata":{"annotations":{"writer-%d":"%d"}}}`, w, i)
				_, err := c.Admin.Resource(deployments).Namespace("ml").Patch(ctx, "llama", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	eventually(t, "the Role is in force", func() bool {
		_, err := k.Observe(t.Context(), llama)
		return err == nil
	})
	const changes = 20
	for i := range changes {
		before := observe(t, k, llama)
		to := before.Spec%4 + 1
		receipt, err := k.Apply(t.Context(), llama, actuators.Change{From: before.Spec, To: to, IfVersion: before.Version, DecisionID: fmt.Sprint("w", i)})
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		if !receipt.Changed || receipt.Spec != to {
			t.Errorf("change %d: %+v, want %d", i, receipt, to)
		}
	}
	cancel()
	wg.Wait()

	accepted, late := 0, 0
	count := func() bool {
		accepted, late = 0, 0
		for _, w := range c.Writes(t, "system:serviceaccount:ml:busy") {
			var scale struct{ Metadata metav1.ObjectMeta }
			if err := json.Unmarshal([]byte(w.Body), &scale); err != nil {
				t.Fatal(err)
			}
			if w.Verb != "update" || w.Resource != "deployments.apps/scale" || scale.Metadata.ResourceVersion == "" {
				t.Errorf("%s of %s with %s: want updates of the scale subresource with the version that was read", w.Verb, w.Resource, w.Body)
			}
			switch w.Code {
			case 200:
				accepted++
			case 409:
				late++
			default:
				t.Errorf("a write was answered %d", w.Code)
			}
		}
		return accepted >= changes
	}
	eventually(t, "all writes are in the audit log", count)
	if accepted != changes {
		t.Errorf("%d writes were accepted, want %d: one a change", accepted, changes)
	}
	t.Logf("%d changes took %d writes", changes, accepted+late)
	if late == 0 {
		t.Error("no write came too late: the writers were in nobody's way")
	}
}

// testAnotherSpec: a size or a spec that is another since the decision refuses the change, even if the size came back.
func testAnotherSpec(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.Kubeconfig())
	patch := func(text string) {
		t.Helper()
		if _, err := c.Admin.Resource(deployments).Namespace("ml").Patch(t.Context(), "llama", types.MergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		patches []string
		want    string
	}{
		{"another size", []string{`{"spec":{"replicas":5}}`}, "it has 5 replicas, and the decision was made for 2"},
		{"there and back", []string{`{"spec":{"replicas":5}}`, `{"spec":{"replicas":2}}`}, "its spec is another since"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			patch(`{"spec":{"replicas":2}}`)
			before := observe(t, k, llama)
			for _, text := range tt.patches {
				patch(text)
			}
			observe(t, k, llama)
			_, err := k.Apply(t.Context(), llama, actuators.Change{From: 2, To: 3, IfVersion: before.Version, DecisionID: "s-" + tt.name})
			if !errors.Is(err, actuators.ErrConflict) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want a conflict with %q", err, tt.want)
			}
			if got := observe(t, k, llama).Spec; got == 3 {
				t.Error("the change was carried out")
			}
		})
	}
}

// testLastMoment: what changes between the look and the write is noticed by the apiserver, and the object looked at again.
func testLastMoment(t *testing.T, c *kubetest.Cluster) {
	const groups = `{"spec":{"rayClusterConfig":{"workerGroupSpecs":[%s]}}}`
	ray := schema.GroupVersionResource{Group: "ray.io", Version: "v1", Resource: "rayservices"}
	keda := schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"}
	kserve := schema.GroupVersionResource{Group: "serving.kserve.io", Version: "v1beta1", Resource: "inferenceservices"}
	for _, tt := range []struct {
		name, target  string
		resource      schema.GroupVersionResource
		before, after string // patches of the object: before it is observed, and after
		from, to      int
		conflict      bool
	}{
		{
			name: "another size of a Deployment", target: llama.Name, resource: deployments, from: 2, to: 3, conflict: true,
			before: `{"spec":{"replicas":2}}`, after: `{"spec":{"replicas":5}}`,
		},
		{
			name: "a label of a Deployment", target: llama.Name, resource: deployments, from: 2, to: 3,
			before: `{"spec":{"replicas":2}}`, after: `{"metadata":{"labels":{"a":"b"}}}`,
		},
		{
			name: "another minimum", target: "ml/scaledobjects.keda.sh/whisper", resource: keda, from: 2, to: 3, conflict: true,
			before: `{"spec":{"minReplicaCount":2}}`, after: `{"spec":{"minReplicaCount":5}}`,
		},
		{
			name: "another field of the spec", target: "ml/scaledobjects.keda.sh/whisper", resource: keda, from: 2, to: 3,
			before: `{"spec":{"minReplicaCount":2}}`, after: `{"spec":{"maxReplicaCount":30}}`,
		},
		{
			name: "a minimum where there was none", target: "ml/inferenceservices.serving.kserve.io/bert", resource: kserve, from: 1, to: 3, conflict: true,
			before: `{"spec":{"predictor":{"minReplicas":null}}}`, after: `{"spec":{"predictor":{"minReplicas":5}}}`,
		},
		{
			name: "a worker group in another place", target: "ml/rayservices.ray.io/mixtral/gpu", resource: ray, from: 2, to: 3,
			before: fmt.Sprintf(groups, `{"groupName":"cpu","replicas":2},{"groupName":"gpu","replicas":2}`),
			after:  fmt.Sprintf(groups, `{"groupName":"gpu","replicas":2},{"groupName":"cpu","replicas":2}`),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newKubernetes(t, c.Kubeconfig())
			at := named(tt.target)
			r, err := k.client.Load().config.parse(tt.target)
			if err != nil {
				t.Fatal(err)
			}
			patch := func(text string) *unstructured.Unstructured {
				t.Helper()
				live, err := c.Admin.Resource(tt.resource).Namespace("ml").Patch(t.Context(), r.name, types.MergePatchType, []byte(text), metav1.PatchOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return live
			}
			patch(tt.before)
			before := observe(t, k, at)
			if before.Spec != tt.from {
				t.Fatalf("size %d, want %d", before.Spec, tt.from)
			}
			patch(tt.after)
			_, err = k.Apply(t.Context(), at, actuators.Change{From: tt.from, To: tt.to, IfVersion: before.Version, DecisionID: "m-" + tt.name})
			if tt.conflict != errors.Is(err, actuators.ErrConflict) || !tt.conflict && err != nil {
				t.Errorf("error %v, conflict wanted: %v", err, tt.conflict)
			}
			if got := observe(t, k, at).Spec; (got == tt.to) == tt.conflict {
				t.Errorf("size %d after a change to %d, conflict wanted: %v", got, tt.to, tt.conflict)
			}
			if tt.resource == ray {
				if got := observe(t, k, named("ml/rayservices.ray.io/mixtral/cpu")).Spec; got != 2 {
					t.Errorf("the other worker group has %d replicas, want 2", got)
				}
			}
		})
	}
}

// testDryRun: a dry run is the apiserver's own, with all that admits changes, and a Role that does not give the change is found.
func testDryRun(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.ServiceAccount(t, "ml", "scales-only"))
	before := observe(t, k, llama)
	change := actuators.Change{From: before.Spec, To: before.Spec + 1, IfVersion: before.Version, DecisionID: "dry", DryRun: true}
	user := "system:serviceaccount:ml:scales-only"
	tried := func() (n int) {
		for _, w := range c.Writes(t, user) {
			if w.DryRun && strings.Contains(w.Body, fmt.Sprintf(`"replicas":%d`, change.To)) {
				n++
			}
		}
		return n
	}
	already := tried()
	if receipt, err := k.Apply(t.Context(), llama, change); err != nil || receipt.Changed || receipt.Spec != before.Spec {
		t.Fatalf("%+v, %v; want that nothing changed", receipt, err)
	}
	eventually(t, "the dry run is in the audit log", func() bool { return tried() > already })
	if got := observe(t, k, llama).Spec; got != before.Spec {
		t.Errorf("size %d, was %d", got, before.Spec)
	}
	looks := newKubernetes(t, c.ServiceAccount(t, "ml", "looks-only"))
	change.IfVersion = observe(t, looks, llama).Version
	if _, err := looks.Apply(t.Context(), llama, change); err == nil || !strings.Contains(err.Error(), "verbs: [update]") {
		t.Errorf("error %v, want that update is missing", err)
	}
}

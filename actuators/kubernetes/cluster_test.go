package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
	"flyball/actuators/kubernetes/kubetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func named(name string) actuators.Target { return actuators.Target{Kind: Kind, Name: name} }

var (
	llama       = named("ml/deployments.apps/llama")
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
)

// newKubernetes is an actuator of a cluster, with a kubeconfig and changes to the defaults.
func newKubernetes(t *testing.T, kubeconfig string, edits ...func(*Config)) *Kubernetes {
	t.Helper()
	return newLogged(t, nil, kubeconfig, edits...)
}

func newLogged(t *testing.T, log *slog.Logger, kubeconfig string, edits ...func(*Config)) *Kubernetes {
	t.Helper()
	config := DefaultConfig()
	config.Kubeconfig, config.QPS, config.Burst = kubeconfig, 1000, 1000
	for _, edit := range edits {
		edit(&config)
	}
	k := New(Options{Logger: log, Instance: "flyball-0"})
	update, err := k.Prepare(&config)
	if err != nil {
		t.Fatal(err)
	}
	update.Commit()
	t.Cleanup(k.Close)
	return k
}

func observe(t *testing.T, k *Kubernetes, at actuators.Target) actuators.State {
	t.Helper()
	state, err := k.Observe(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// eventually polls what controllers and the audit log do in their own time.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// TestCluster holds what the actuator does against a real apiserver with its controllers.
func TestCluster(t *testing.T) {
	c := kubetest.Start(t)
	c.Apply(t, []string{"testdata/workloads.yml", "testdata/definitions.yml", "testdata/custom.yml"})
	for _, tt := range []struct {
		name string
		test func(*testing.T, *kubetest.Cluster)
	}{
		{"conformance", testConformance},
		{"readiness", testReadiness},
		{"forbidden", testForbidden},
		{"refused", testRefused},
		{"other writers", testOtherWriters},
		{"another spec", testAnotherSpec},
		{"changed at the last moment", testLastMoment},
		{"dry run", testDryRun},
		{"lost answers", testLostAnswers},
		{"credentials", testCredentials},
		{"events", testEvents},
		{"annotation", testAnnotation},
		{"a floor below an HPA", testFloor},
		{"neighbours", testNeighbours},
		{"given back", testGivenBack},
		{"rights over autoscalers", testRights},
		{"who leads by the clock", testLeads},
		{"GitOps", testGitOps},
		{"a resource that comes later", testLater},
		{"the apiserver is away", testAway},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, c) })
	}
}

func testConformance(t *testing.T, c *kubetest.Cluster) {
	const soon = 30 * time.Second // of a controller that is busy
	for _, tt := range []struct {
		name, kubeconfig, target, unknown string
		min                               int
		readyWithin                       time.Duration
		sizeIsVersion                     bool
	}{
		{name: "Deployment", target: "ml/deployments.apps/llama", unknown: "ml/deployments.apps/none", readyWithin: soon},
		{name: "StatefulSet", target: "ml/statefulsets.apps/shards", unknown: "none/statefulsets.apps/shards", readyWithin: soon},
		{name: "ReplicaSet", target: "ml/replicasets.apps/bare", unknown: "ml/replicasets.apps/none", readyWithin: soon},
		{name: "LeaderWorkerSet", target: "ml/leaderworkersets.leaderworkerset.x-k8s.io/llama-405b", unknown: "ml/leaderworkersets.leaderworkerset.x-k8s.io/none"},
		{name: "other scale subresource", target: "ml/pools.example.com/plain", unknown: "ml/pools.example.com/none"},
		{
			name: "scale subresource alone", kubeconfig: c.ServiceAccount(t, "ml", "scales-only"), readyWithin: soon, sizeIsVersion: true,
			target: "ml/deployments.apps/llama", unknown: "ml/llamas.example.com/llama",
		},
		{name: "InferenceService", target: "ml/inferenceservices.serving.kserve.io/bert", unknown: "ml/inferenceservices.serving.kserve.io/none"},
		{name: "RayService", target: "ml/rayservices.ray.io/mixtral/gpu", unknown: "ml/rayservices.ray.io/none/gpu"},
		{name: "ScaledObject", target: "ml/scaledobjects.keda.sh/whisper", unknown: "ml/scaledobjects.keda.sh/none"},
		{name: "HPA", target: "ml/horizontalpodautoscalers.autoscaling/floored", unknown: "ml/horizontalpodautoscalers.autoscaling/none", min: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.kubeconfig == "" {
				tt.kubeconfig = c.Kubeconfig()
			}
			actuatortest.Run(t, actuatortest.Harness{
				New: func(t *testing.T) actuators.Actuator {
					return newKubernetes(t, tt.kubeconfig, func(config *Config) { config.MaxReplicas = 6 })
				},
				Target: named(tt.target), Unknown: named(tt.unknown),
				Min: tt.min, Max: 6, ReadyWithin: tt.readyWithin, SizeIsVersion: tt.sizeIsVersion,
			})
		})
	}
	for group, want := range map[string]int{"cpu": 2} {
		if got := observe(t, newKubernetes(t, c.Kubeconfig()), named("ml/rayservices.ray.io/mixtral/"+group)).Spec; got != want {
			t.Errorf("the worker group %s beside the one that was changed has %d replicas, want %d", group, got, want)
		}
	}
}

// lines is a log that a test reads while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

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

// testForbidden: what a Role does not give is named by the rule that it needs.
func testForbidden(t *testing.T, c *kubetest.Cluster) {
	looks := newKubernetes(t, c.ServiceAccount(t, "ml", "looks-only"))
	nobody := newKubernetes(t, c.ServiceAccount(t, "ml", "nobody"))
	before := observe(t, looks, llama)
	for _, tt := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"update", func() error {
			_, err := looks.Apply(t.Context(), llama, actuators.Change{From: before.Spec, To: before.Spec + 1, IfVersion: before.Version, DecisionID: "f1"})
			return err
		}, []string{
			`forbidden: a Role in the namespace ml needs the rule {apiGroups: ["apps"], resources: [deployments/scale], resourceNames: [llama], verbs: [update]}`,
			"system:serviceaccount:ml:looks-only",
		}},
		{"get", func() error {
			_, err := nobody.Observe(t.Context(), llama)
			return err
		}, []string{`{apiGroups: ["apps"], resources: [deployments/scale], resourceNames: [llama], verbs: [get]}`}},
		{"another name", func() error {
			_, err := looks.Observe(t.Context(), named("ml/deployments.apps/floored"))
			return err
		}, []string{"resourceNames: [floored]"}},
		{"patch", func() error {
			_, err := nobody.Observe(t.Context(), named("ml/scaledobjects.keda.sh/whisper"))
			return err
		}, []string{`{apiGroups: ["keda.sh"], resources: [scaledobjects], resourceNames: [whisper], verbs: [get]}`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.do()
			if !errors.Is(err, actuators.ErrRefused) {
				t.Fatalf("error %v, want ErrRefused: nothing was changed for certain", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
		})
	}
	if after := observe(t, looks, llama); after.Spec != before.Spec {
		t.Errorf("size %d, was %d", after.Spec, before.Spec)
	}
}

// testRefused: what the apiserver itself does not take, and what is no target.
func testRefused(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.Kubeconfig())
	for _, tt := range []struct {
		name, target string
		to           int
		want         error
		text         string
	}{
		{"above what the definition takes", "ml/pools.example.com/plain", 9, actuators.ErrOutOfRange, "should be less than or equal to 8"},
		{"no such worker group", "ml/rayservices.ray.io/mixtral/tpu", 1, nil, `has no groupName "tpu": it has cpu, gpu`},
		{"no scale subresource", "ml/configmaps/none", 1, actuators.ErrUnknownTarget, "configmaps have no scale subresource: say in actuators.kubernetes.resources"},
		{"nothing to put the field in", "ml/inferenceservices.serving.kserve.io/empty", 2, nil, "is there something at /spec/predictor to put it in?"},
		{"no such resource", "ml/llamas.example.com/none", 1, actuators.ErrUnknownTarget, "the cluster has no resource llamas.example.com"},
		{"singular", "ml/pool.example.com/plain", 1, actuators.ErrUnknownTarget, `(did you mean "pools.example.com"?)`},
		{"no such namespace", "nowhere/deployments.apps/llama", 1, actuators.ErrUnknownTarget, "there is no deployments.apps llama in the namespace nowhere"},
		{"no name", "llama", 1, actuators.ErrUnknownTarget, "is not namespace/resource.group/name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := k.Apply(t.Context(), named(tt.target), actuators.Change{To: tt.to, DecisionID: "x"})
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

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

// testLostAnswers: what the apiserver turns away is tried again, and a change that was carried out although its answer said
// otherwise is one.
func testLostAnswers(t *testing.T, c *kubetest.Cluster) {
	transport, err := rest.TransportFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	host, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	var puts atomic.Int32
	var spoil []func(http.ResponseWriter, func()) // the PUTs, in their order; those after are answered as they are
	forward := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(host) }}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			if n := int(puts.Add(1)); n <= len(spoil) {
				spoil[n-1](w, func() { forward.ServeHTTP(httptest.NewRecorder(), r) })
				return
			}
		}
		forward.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\ncurrent-context: p\ncontexts: [{name: p, context: {cluster: p, user: p}}]\nclusters: [{name: p, cluster: {server: \"" +
		proxy.URL + "\"}}]\nusers: [{name: p, user: {}}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(http.ResponseWriter, func())
		puts  int32
		least time.Duration
	}{
		{"turned away", func(w http.ResponseWriter, _ func()) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}, 2, time.Second},
		{"unavailable", func(w http.ResponseWriter, _ func()) { w.WriteHeader(http.StatusServiceUnavailable) }, 2, 0},
		{"carried out, and no answer", func(w http.ResponseWriter, carryOut func()) {
			carryOut()
			w.WriteHeader(http.StatusGatewayTimeout)
		}, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			puts.Store(0)
			spoil = []func(http.ResponseWriter, func()){tt.spoil}
			k := newKubernetes(t, file)
			before := observe(t, k, llama)
			to := before.Spec%4 + 1
			change := actuators.Change{From: before.Spec, To: to, IfVersion: before.Version, DecisionID: "lost-" + tt.name}
			began := time.Now()
			receipt, err := k.Apply(t.Context(), llama, change)
			if err != nil || !receipt.Changed || receipt.Spec != to {
				t.Errorf("%+v, %v; want %d replicas, changed", receipt, err, to)
			}
			// A controller that writes the status at the same time costs one more.
			if got := puts.Load(); got < tt.puts || got > tt.puts+3 {
				t.Errorf("%d writes, want %d", got, tt.puts)
			}
			if took := time.Since(began); took < tt.least {
				t.Errorf("it came back after %s, and was asked to stay away for %s", took, tt.least)
			}
			after := observe(t, k, llama)
			if after.Spec != to {
				t.Errorf("size %d, want %d", after.Spec, to)
			}
			if again, err := k.Apply(t.Context(), llama, change); err != nil || again.Changed {
				t.Errorf("the same decision again: %+v, %v; want that it changes nothing", again, err)
			}
		})
	}

	// What is refused after it was turned away, or stumbled over, ends there.
	forbidden := func(w http.ResponseWriter, _ func()) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,
			"message":"deployments.apps \"llama\" is forbidden: User \"flyball\" cannot update resource \"deployments/scale\" in API group \"apps\""}`)
	}
	answers := func(status int) func(http.ResponseWriter, func()) {
		return func(w http.ResponseWriter, _ func()) { w.WriteHeader(status) }
	}
	for _, tt := range []struct {
		name    string
		first   int
		certain bool // that nothing was changed
	}{
		{"turned away, then forbidden", http.StatusTooManyRequests, true},
		{"unavailable, then forbidden", http.StatusServiceUnavailable, false},
		{"an internal error, then forbidden", http.StatusInternalServerError, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			puts.Store(0)
			spoil = []func(http.ResponseWriter, func()){answers(tt.first), answers(tt.first), forbidden}
			k := newKubernetes(t, file)
			before := observe(t, k, llama)
			_, err := k.Apply(t.Context(), llama, actuators.Change{From: before.Spec, To: before.Spec%4 + 1, IfVersion: before.Version, DecisionID: "refused-" + tt.name})
			if err == nil || !strings.Contains(err.Error(), "resources: [deployments/scale], resourceNames: [llama], verbs: [update]") || puts.Load() != 3 {
				t.Errorf("error %v after %d writes, want the refusal after the third", err, puts.Load())
			}
			unknown := strings.Contains(fmt.Sprint(err), "whether an earlier try was carried out is not known")
			if errors.Is(err, actuators.ErrRefused) != tt.certain || unknown == tt.certain {
				t.Errorf("error %v; want that nothing was changed for certain: %v", err, tt.certain)
			}
			if got := observe(t, k, llama).Spec; got != before.Spec {
				t.Errorf("size %d, was %d", got, before.Spec)
			}
		})
	}
}

// testCredentials: those that the apiserver does not take are in no error and no log.
func testCredentials(t *testing.T, c *kubetest.Cluster) {
	text, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	const secret = "s3cr3t-t0k3n"
	text = regexp.MustCompile(`token: "[^"]*"`).ReplaceAll(text, []byte(`token: "`+secret+`"`))
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var log lines
	k := newLogged(t, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), file)
	_, err = k.Observe(t.Context(), llama)
	if !errors.Is(err, actuators.ErrRefused) || !strings.Contains(err.Error(), "unauthorized: the apiserver does not take the credentials") {
		t.Errorf("error %v, want that the credentials are not taken", err)
	}
	if strings.Contains(fmt.Sprint(err, log.String()), secret) {
		t.Errorf("the token is in %v\n%s", err, log.String())
	}
}

// events are those on the Deployment llama, oldest first.
func events(t *testing.T, c *kubetest.Cluster, on, reason string) (found []unstructured.Unstructured) {
	t.Helper()
	list, err := c.Admin.Resource(schema.GroupVersionResource{Group: "events.k8s.io", Version: "v1", Resource: "events"}).Namespace("ml").
		List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		name, _, _ := unstructured.NestedString(e.Object, "regarding", "name")
		if got, _, _ := unstructured.NestedString(e.Object, "reason"); got == reason && name == on {
			found = append(found, e)
		}
	}
	return found
}

func testEvents(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.Kubeconfig())
	scaled, blocked := len(events(t, c, "llama", reasonScaled)), len(events(t, c, "llama", reasonBlocked))
	before := observe(t, k, llama)
	change := actuators.Change{From: before.Spec, To: before.Spec%4 + 1, IfVersion: before.Version, DecisionID: "e1", Reason: "AboveTarget, ScaleUpRate"}
	if _, err := k.Apply(t.Context(), llama, change); err != nil {
		t.Fatal(err)
	}
	all := events(t, c, "llama", reasonScaled)
	if len(all) != scaled+1 {
		t.Fatalf("%d events of a change, want one more than %d", len(all), scaled)
	}
	e := all[len(all)-1].Object
	live, err := c.Admin.Resource(deployments).Namespace("ml").Get(t.Context(), "llama", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		value string
		path  []string
	}{
		{"Normal", []string{"type"}},
		{"Scale", []string{"action"}},
		{"flyball", []string{"reportingController"}},
		{"flyball-0", []string{"reportingInstance"}},
		{fmt.Sprintf("%d to %d replicas: AboveTarget, ScaleUpRate", before.Spec, change.To), []string{"note"}},
		{"Deployment", []string{"regarding", "kind"}},
		{"apps/v1", []string{"regarding", "apiVersion"}},
		{string(live.GetUID()), []string{"regarding", "uid"}},
	} {
		found := false
		for _, e := range all {
			got, _, _ := unstructured.NestedString(e.Object, want.path...)
			found = found || got == want.value
		}
		if !found {
			t.Errorf("no event has %s %q; the last is %v", strings.Join(want.path, "."), want.value, e)
		}
	}
	// The same refusal again and again is told once.
	for i := range 5 {
		change := actuators.Change{From: 1, To: 50 + i, IfVersion: "stale", DecisionID: fmt.Sprint("e2-", i), Reason: "AboveTarget"}
		if _, err := k.Apply(t.Context(), llama, change); !errors.Is(err, actuators.ErrConflict) {
			t.Fatalf("error %v, want a conflict", err)
		}
	}
	if got := len(events(t, c, "llama", reasonBlocked)); got != blocked+1 {
		t.Errorf("%d events of refusals, want one more than %d", got, blocked)
	}
	// A Role without events keeps no change from being made.
	var log lines
	mute := newLogged(t, slog.New(slog.NewTextHandler(&log, nil)), c.ServiceAccount(t, "ml", "scales-only"))
	for i := range 2 {
		before = observe(t, mute, llama)
		if _, err := mute.Apply(t.Context(), llama, actuators.Change{From: before.Spec, To: before.Spec%4 + 1, IfVersion: before.Version, DecisionID: fmt.Sprint("e3-", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if want := `needs the rule {apiGroups: [\"events.k8s.io\"], resources: [events], verbs: [create]}`; strings.Count(log.String(), want) != 1 {
		t.Errorf("the log has\n%s\nwant once %s", log.String(), want)
	}
}

func testAnnotation(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.Kubeconfig(), func(config *Config) { config.Annotate = true })
	before := observe(t, k, llama)
	change := actuators.Change{From: before.Spec, To: before.Spec%4 + 1, IfVersion: before.Version, DecisionID: "a1", Reason: "Panic"}
	if _, err := k.Apply(t.Context(), llama, change); err != nil {
		t.Fatal(err)
	}
	live, err := c.Admin.Resource(deployments).Namespace("ml").Get(t.Context(), "llama", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var last struct {
		ID, Reason string
		From, To   int
		Time       time.Time
	}
	if err := json.Unmarshal([]byte(live.GetAnnotations()[LastDecision]), &last); err != nil {
		t.Fatal(err)
	}
	if last.ID != "a1" || last.From != change.From || last.To != change.To || last.Reason != "Panic" || last.Time.IsZero() {
		t.Errorf("annotation %+v, want the change %+v", last, change)
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

// testLater: a resource that was not there when it was asked for first is found once it is defined.
func testLater(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.Kubeconfig())
	late := named("ml/fleets.example.org/llama")
	if _, err := k.Observe(t.Context(), late); !errors.Is(err, actuators.ErrUnknownTarget) {
		t.Fatalf("error %v, want ErrUnknownTarget", err)
	}
	c.ApplyText(t, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: fleets.example.org}
spec:
  group: example.org
  names: {kind: Fleet, plural: fleets, singular: fleet}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: example.org/v1
kind: Fleet
metadata: {name: llama, namespace: ml}
spec: {replicas: 3}
`)
	if _, err := k.Observe(t.Context(), late); !errors.Is(err, actuators.ErrUnknownTarget) {
		t.Errorf("error %v: the cluster was asked for the resource again at once", err)
	}
	group := schema.GroupResource{Group: "example.org", Resource: "fleets"}
	cl := k.client.Load()
	cl.mu.Lock()
	cl.missed[group] = cl.missed[group].Add(-forgetAfter)
	cl.mu.Unlock()
	if got := observe(t, k, late).Spec; got != 3 {
		t.Errorf("size %d, want 3", got)
	}
}

// testAway: an apiserver that is away is an error, and none any more when it is back. It comes last: it ends connections.
func testAway(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.Kubeconfig(), func(config *Config) { config.Timeout /= 2 })
	before := observe(t, k, llama)
	c.APIServer.Kill()
	change := actuators.Change{From: before.Spec, To: before.Spec + 1, IfVersion: before.Version, DecisionID: "away"}
	_, err := k.Observe(t.Context(), llama)
	if err == nil || errors.Is(err, actuators.ErrUnknownTarget) {
		t.Errorf("observe: error %v, want one that says nothing of the target", err)
	}
	if _, err := k.Apply(t.Context(), llama, change); err == nil || errors.Is(err, actuators.ErrConflict) {
		t.Errorf("apply: error %v, want one that says nothing of the target", err)
	}
	c.APIServer.Restart()
	c.WaitReady(t)
	after := observe(t, k, llama)
	if after.Spec != before.Spec || after.Version != before.Version {
		t.Errorf("%+v, was %+v", after, before)
	}
	if receipt, err := k.Apply(t.Context(), llama, change); err != nil || !receipt.Changed {
		t.Errorf("%+v, %v; want that it is carried out", receipt, err)
	}
}

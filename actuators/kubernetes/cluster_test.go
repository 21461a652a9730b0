package kubernetes

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/runtime/schema"

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
		{"a Lease that another has since", testGivesUpItsOwn},
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

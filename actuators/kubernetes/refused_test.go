package kubernetes

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
)

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

package kubetest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"flyball/actuators/kubernetes/kubetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const manifests = `apiVersion: v1
kind: Namespace
metadata: {name: ml}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: llama, namespace: ml}
spec:
  replicas: 1
  selector: {matchLabels: {app: llama}}
  template:
    metadata: {labels: {app: llama}}
    spec: {nodeName: NODE, containers: [{name: server, image: none}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: lister, namespace: ml}
rules: [{apiGroups: [apps], resources: [deployments], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: lister, namespace: ml}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: lister}
subjects: [{kind: ServiceAccount, name: lister, namespace: ml}]
`

// TestCluster: pods come and go, an identity may do what its Role says, writes are in the audit log.
func TestCluster(t *testing.T) {
	c := kubetest.Start(t)
	file := filepath.Join(t.TempDir(), "manifests.yml")
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Apply(t, []string{file}, "NODE", kubetest.Node)

	deployments := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	pods := c.Admin.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("ml")
	count := func() int {
		list, err := pods.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	ready := func() int64 {
		live, err := c.Admin.Resource(deployments).Namespace("ml").Get(t.Context(), "llama", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, _, _ := unstructured.NestedInt64(live.Object, "status", "readyReplicas")
		return n
	}
	eventually(t, "a pod is ready", func() bool { return count() == 1 && ready() == 1 })
	c.Apply(t, []string{file}, "replicas: 1", "replicas: 3", "NODE", kubetest.Node)
	eventually(t, "three pods are ready", func() bool { return count() == 3 && ready() == 3 })
	c.Apply(t, []string{file}, "replicas: 1", "replicas: 0", "NODE", kubetest.Node)
	eventually(t, "the pods are gone", func() bool { return count() == 0 && ready() == 0 })

	config, err := clientcmd.BuildConfigFromFlags("", c.ServiceAccount(t, "ml", "lister"))
	if err != nil {
		t.Fatal(err)
	}
	lister, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "its Role lets it list", func() bool {
		_, err := lister.Resource(deployments).Namespace("ml").List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	err = lister.Resource(deployments).Namespace("ml").Delete(t.Context(), "llama", metav1.DeleteOptions{})
	if err == nil || !strings.Contains(err.Error(), `cannot delete resource "deployments"`) {
		t.Errorf("error %v, want that it may not delete", err)
	}
	want := kubetest.Write{Verb: "delete", Resource: "deployments.apps", Name: "ml/llama", Code: 403}
	eventually(t, "the audit log has the write", func() bool {
		for _, w := range c.Writes(t, "system:serviceaccount:ml:lister") {
			received := time.Since(w.At)
			w.Body, w.At = "", time.Time{}
			if w == want && received >= 0 && received < time.Hour {
				return true
			}
		}
		return false
	})

	c.APIServer.Kill()
	c.APIServer.Restart()
	c.WaitReady(t)
	c.Apply(t, []string{file}, "replicas: 1", "replicas: 2", "NODE", kubetest.Node)
	eventually(t, "two pods are ready after a restart of the apiserver", func() bool { return ready() == 2 })
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

package kubernetes

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
)

// testRights: what a Role lets flyball do about autoscalers.
func testRights(t *testing.T, c *kubetest.Cluster) {
	n := crowd{t, c}
	t.Run("a ScaledObject that may not be listed", func(t *testing.T) {
		at := n.workload("hidden", scaledText)
		c.ApplyText(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: hpas-only, namespace: ml}
rules:
- {apiGroups: [apps], resources: [deployments, deployments/scale], verbs: [get, update]}
- {apiGroups: [autoscaling], resources: [horizontalpodautoscalers], verbs: [list, get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: hpas-only, namespace: ml}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: hpas-only}
subjects: [{kind: ServiceAccount, name: hpas-only, namespace: ml}]
`)
		kubeconfig := c.ServiceAccount(t, "ml", "hpas-only")
		for _, how := range []Conflict{ConflictRefuse, ConflictFloor, ConflictAdopt} {
			k := newKubernetes(t, kubeconfig, func(config *Config) { config.Conflict = how })
			before := observe(t, k, at)
			_, err := n.apply(k, at, before.Spec+1, "r-"+string(how))
			if !errors.Is(err, actuators.ErrOwned) || !strings.Contains(err.Error(), "ScaledObject ml/hidden-queue") || strings.Contains(err.Error(), "HPA") {
				t.Errorf("%s: error %v, want ErrOwned by the ScaledObject whose HPA is there", how, err)
			}
			const want = `needs the rule {apiGroups: ["keda.sh"], resources: [scaledobjects], verbs: [list]}`
			if how != ConflictRefuse && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: error %v, want %s in it", how, err, want)
			}
			if got := observe(t, k, at).Spec; got != before.Spec {
				t.Errorf("%s: size %d, was %d", how, got, before.Spec)
			}
		}
		if hpa := n.get(hpas, "keda-hpa-hidden-queue"); len(hpa.GetAnnotations()) > 0 || number(hpa, "spec", "minReplicas") != 1 {
			t.Errorf("KEDA's own HPA was changed: %v", hpa.Object)
		}
	})
	t.Run("the Role of the example", func(t *testing.T) {
		at := n.workload("shipped", hpaText)
		c.ApplyText(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: flyball}\n---\n"+
			strings.ReplaceAll(shippedRole(t), "resourceNames: [llama]", "resourceNames: [shipped]"))
		kubeconfig := c.ServiceAccount(t, "flyball", "flyball")
		with := func(how Conflict) *Kubernetes {
			return newKubernetes(t, kubeconfig, func(config *Config) { config.Conflict = how })
		}
		k := with(ConflictFloor)
		eventually(t, "the Role holds", func() bool {
			_, err := k.Observe(t.Context(), at)
			return err == nil
		})
		if _, err := n.apply(k, at, 3, "s1"); err != nil {
			t.Fatal(err)
		}
		if got := number(n.get(hpas, "shipped"), "spec", "minReplicas"); got != 3 {
			t.Errorf("the floor is %d, want 3", got)
		}
		if _, err := n.apply(with(ConflictAdopt), at, 4, "s2"); err != nil {
			t.Fatal(err)
		}
		if got := observe(t, k, at).Spec; got != 4 {
			t.Errorf("size %d, want 4", got)
		}
		if done, err := with(ConflictRefuse).Release(t.Context(), at, false); err != nil || len(done) != 1 {
			t.Errorf("%q, %v", done, err)
		}
		wrote := map[string]int{}
		for _, w := range c.Writes(t, "system:serviceaccount:flyball:flyball") {
			wrote[w.Verb+" "+w.Resource]++
			if w.Code == http.StatusForbidden {
				t.Errorf("%s of %s %s was forbidden", w.Verb, w.Resource, w.Name)
			}
		}
		for what := range wrote {
			switch what {
			case "update deployments.apps/scale", "patch horizontalpodautoscalers.autoscaling", "create events.events.k8s.io":
			default:
				t.Errorf("it made %d times a %s", wrote[what], what)
			}
		}
	})
}

// shippedRole is the Role that examples/kubernetes ships, with what its comment says that floor and adopt take.
func shippedRole(t *testing.T) string {
	t.Helper()
	const path = "../../examples/kubernetes/rules/rbac.yml"
	const comment = "# With `conflict: floor` or `adopt`, these as well, on the one that is there:\n"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(text), comment)
	if !found {
		t.Fatalf("%s has not the comment %q", path, comment)
	}
	rules := 0
	for line := range strings.Lines(after) {
		rule, commented := strings.CutPrefix(line, "# ")
		if !commented || rules > 0 && !strings.HasPrefix(rule, "- ") && !strings.HasPrefix(rule, "  ") {
			break
		}
		if rules == 0 && !strings.HasPrefix(rule, "- ") {
			t.Fatalf("the comment is followed by %q, and not by a rule", rule)
		}
		rules++
		before += rule
		after = strings.TrimPrefix(after, line)
	}
	return before + after
}

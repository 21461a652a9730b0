//go:build linux && !nokubernetes

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"flyball/actuators/kubernetes/kubetest"
	"flyball/rules"
)

// TestKubernetesQuickstart: the rules of the quickstart scale a Deployment in the place of processes. Requests that come through
// the proxy make it go up and, when they end, down; and what its pods take to be ready is measured by `startup: auto`.
func TestKubernetesQuickstart(t *testing.T) {
	c := kubetest.Start(t)
	c.ApplyText(t, strings.ReplaceAll(deployment, "llama", "digits"))
	c.Apply(t, []string{"../../examples/kubernetes/rules/rbac.yml"}, "resourceNames: [llama]", "resourceNames: [digits]")

	file, err := os.ReadFile("../../examples/quickstart/flyball.yml")
	if err != nil {
		t.Fatal(err)
	}
	_, processes, found := strings.Cut(strings.ReplaceAll(string(file), "bin/modelserver", built.path("modelserver")), "actuators:\n")
	if !found {
		t.Fatal("examples/quickstart/flyball.yml has no actuators")
	}
	// What answers is one model server, at once: how many replicas there are follows from what arrives alone.
	upstream := &instance{t: t}
	server := upstream.modelserver()
	i := newInstance(t,
		"actuators:\n"+processes, "actuators: {kubernetes: {kubeconfig: "+c.ServiceAccount(t, "flyball", "flyball")+"}}\n",
		"{target: digits}", `{url: "http://`+server+`"}`,
		"{kind: process, name: digits}", "{kind: kubernetes, name: ml/deployments.apps/digits}",
		"startup: 2s", "startup: auto",
		"down: {window: 10s, cooldown: 10s, policies: [{replicas: 1, period: 10s}]}", "down: {window: 2s, cooldown: 0s, policies: [{replicas: 6, period: 1s}]}",
		"up: {policies: [{replicas: 4, period: 10s}]}", "up: {policies: [{replicas: 4, period: 1s}]}",
	)
	i.start()

	deployments := c.Admin.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("ml")
	const target = `target="kubernetes/ml/deployments.apps/digits"`
	becomes := func(size, ready int64) {
		t.Helper()
		i.eventually(time.Minute, fmt.Sprintf("the Deployment has %d replicas, of which %d are ready", size, ready), func() bool {
			live, err := deployments.Get(t.Context(), "digits", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			spec, _, _ := unstructured.NestedInt64(live.Object, "spec", "replicas")
			return spec == size && metric(i.web, "flyball_scale_current_replicas", target) == float64(size) &&
				metric(i.web, "flyball_scale_ready_replicas", target) == float64(ready)
		})
	}
	becomes(1, 1)

	ctx, quiet := context.WithCancel(t.Context())
	defer quiet()
	arrive := func(rate int) { // beside what arrives already
		t.Helper()
		bench := exec.CommandContext(ctx, built.path("flyball"), "bench", "http://"+i.proxy, "--reference-url=http://"+server,
			fmt.Sprintf("--rate=%d", rate), "--duration=10m", "--arrivals=uniform")
		bench.Cancel = func() error { return bench.Process.Signal(os.Interrupt) }
		if err := bench.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			quiet()
			_ = bench.Wait()
		})
	}
	evaluated := func() float64 {
		return metric(i.web, "flyball_rule_group_last_evaluation_timestamp_seconds", `quickstart"`)
	}
	var least, most time.Duration // of the longest start
	for n, rate := range []int{170, 130, 130} {
		c.HoldPods()
		arrive(rate)
		size := int64(n + 2)
		becomes(size, size-1)
		ups := i.applied(rules.Up)
		up := ups[len(ups)-1]
		if len(ups) != n+1 || up.To != int(size) || up.Reasons[0] != rules.AboveTarget || up.Target != "kubernetes/ml/deployments.apps/digits" {
			t.Fatalf("%d changes up, the last of %s to %d by %s; want one to %d for each rise", len(ups), up.Target, up.To, up.ReasonText(), size)
		}
		if n < 2 && up.StartupSeconds != 0 {
			t.Errorf("after %d starts one is said to take %g s", n, up.StartupSeconds)
		}
		held := evaluated()
		i.eventually(time.Minute, "the pods have taken 2 s to start", func() bool { return evaluated() >= held+2 })
		least = max(least, time.Since(up.Time))
		c.ReleasePods()
		becomes(size, size)
		most = max(most, time.Since(up.Time))
	}
	quiet()
	becomes(1, 1)

	downs := i.applied(rules.Down)
	if len(downs) == 0 {
		t.Fatal("no change down was applied")
	}
	for _, d := range downs {
		if took := time.Duration(d.StartupSeconds * float64(time.Second)); took < least || took > most {
			t.Errorf("a decision after three starts says that one takes %s; the pods of the longest were held for %s, and seen ready after %s", took, least, most)
		}
	}
	out, err := exec.Command(built.path("flyball"), "explain", "digits", "--url=http://"+i.web).CombinedOutput()
	want := fmt.Sprintf("startup     %s", time.Duration(downs[0].StartupSeconds*float64(time.Second)).Round(10*time.Millisecond))
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("explain: %v, no %q in\n%s", err, want, out)
	}

	t.Run("release", func(t *testing.T) {
		release := func(more ...string) string {
			out, err := exec.Command(built.path("flyball"), append([]string{"release", "kubernetes/ml/deployments.apps/digits", "--config.file=" + filepath.Join(i.dir, "flyball.yml")}, more...)...).CombinedOutput()
			if err != nil {
				return fmt.Sprintf("%s(%s)", out, err)
			}
			return string(out)
		}
		if got := release(); got != "ml/deployments.apps/digits: nothing to give back\n" {
			t.Errorf("without an HPA it says %q", got)
		}
		c.ApplyText(t, taken)
		autoscalers := c.Admin.Resource(schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}).Namespace("ml")
		if _, err := autoscalers.Patch(t.Context(), "digits", types.MergePatchType, []byte(`{"spec":{"minReplicas":4},"metadata":{"annotations":{"flyball/min-replicas":"2"}}}`),
			metav1.PatchOptions{FieldManager: "flyball"}); err != nil {
			t.Fatal(err)
		}
		if got := release(); !strings.Contains(got, `a Role in the namespace ml needs the rule {apiGroups: ["autoscaling"], resources: [horizontalpodautoscalers], resourceNames: [digits], verbs: [get]}`) ||
			!strings.HasSuffix(got, "(exit status 1)") {
			t.Errorf("without the right it says %q", got)
		}
		c.ApplyText(t, takes)
		least := func() int64 {
			live, err := autoscalers.Get(t.Context(), "digits", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			n, _, _ := unstructured.NestedInt64(live.Object, "spec", "minReplicas")
			return n
		}
		i.eventually(time.Minute, "the Role holds", func() bool {
			return release("--dry-run") == "ml/deployments.apps/digits: would be given back: HPA ml/digits: minReplicas is 2, as it was\n"
		})
		if got := least(); got != 4 {
			t.Errorf("after a dry run minReplicas is %d, want 4", got)
		}
		if got := release(); got != "ml/deployments.apps/digits: given back: HPA ml/digits: minReplicas is 2, as it was\n" {
			t.Errorf("it says %q", got)
		}
		if got := least(); got != 2 {
			t.Errorf("minReplicas is %d, want the 2 that it was", got)
		}
	})
}

// taken is an HPA, and takes the right to give it back what was taken.
const (
	taken = `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: digits, namespace: ml}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: digits}
  minReplicas: 2
  maxReplicas: 6
  metrics: [{type: External, external: {metric: {name: none}, target: {type: AverageValue, averageValue: "1"}}}]
`
	takes = `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: takes, namespace: ml}
rules: [{apiGroups: [autoscaling], resources: [horizontalpodautoscalers], resourceNames: [digits], verbs: [get, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: takes, namespace: ml}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: takes}
subjects: [{kind: ServiceAccount, name: flyball, namespace: flyball}]
`
)

//go:build linux && !nokubernetes

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"flyball/actuators/kubernetes/kubetest"
	"flyball/rules"
)

// TestKubernetesQuickstart: the rules of the quickstart scale a Deployment in the place of processes. Requests that come through
// the proxy make it go up and, when they end, down; and what its pods take to be ready is measured by `startup: auto`.
func TestKubernetesQuickstart(t *testing.T) {
	c := kubetest.Start(t)
	c.ApplyText(t, strings.ReplaceAll(deployment, "llama", "digits"))
	c.Apply(t, []string{"../../examples/kubernetes/rbac.yml"}, "resourceNames: [llama]", "resourceNames: [digits]")

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
		"actuators:\n"+processes, "actuators: {kubernetes: {kubeconfig: "+c.ServiceAccount(t, "ml", "flyball")+"}}\n",
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
}

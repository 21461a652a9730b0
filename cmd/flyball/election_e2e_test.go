//go:build linux && !nokubernetes

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"flyball/actuators/kubernetes/kubetest"
	"flyball/rules"
)

// demanded is a model server that says how much it has to do.
func demanded(t *testing.T, demand *atomic.Int64) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "vllm:num_requests_running{model_name=\"llama\"} %d\nvllm:num_requests_waiting{model_name=\"llama\"} 0\n", demand.Load())
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// newElected is a flyball with the files of examples/kubernetes that may act, and takes part in an election.
func newElected(t *testing.T, election, kubeconfig, server, upCooldown string) *instance {
	t.Helper()
	return newInstanceOf(t, "kubernetes/rules",
		"election: {lease: {namespace: flyball, name: flyball}}\n", "",
		"prometheus:\n  url: http://prometheus-operated.monitoring.svc:9090\n",
		"election: "+election+"\nglobal: {scrape_interval: 200ms, evaluation_interval: 200ms}\n"+
			"scrape_configs:\n- {job_name: vllm, static_configs: [{targets: ["+server+"]}]}\n",
		"    # kubeconfig: /etc/flyball/kubeconfig ", "    kubeconfig: "+kubeconfig+" # ",
		"interval: 15s", "interval: 200ms", "mode: observe", "mode: act",
		"    startup: auto", "    behavior: {up: {policies: [{replicas: 10, period: 1s}], cooldown: "+upCooldown+"}, "+
			"down: {window: 0s, policies: [{percent: 100, period: 1s}], cooldown: 0s}}\n"+
			"    flap_budget: {reversals: 100, window: 1m}\n    startup: auto",
	)
}

func (i *instance) leads() bool { return metric(i.web, "flyball_leader") == 1 }

// follows says whether the last decision of a flyball was kept from being carried out since another leads, to a size.
func (i *instance) follows(to int) bool {
	all := i.decisions()
	return len(all) > 0 && all[len(all)-1].To == to && slices.Contains(all[len(all)-1].Reasons, rules.NotLeader)
}

func replicasOf(t *testing.T, c *kubetest.Cluster) int64 {
	t.Helper()
	live, err := c.Admin.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("ml").
		Get(t.Context(), "llama", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n, _, _ := unstructured.NestedInt64(live.Object, "spec", "replicas")
	return n
}

// TestElectionFile: of two flyballs with one lock file, one acts. When it is killed the other does, within seconds, and keeps
// to the cooldown of what the first had changed.
func TestElectionFile(t *testing.T) {
	c := kubetest.Start(t)
	c.ApplyText(t, deployment)
	c.Apply(t, []string{"../../examples/kubernetes/rules/rbac.yml"})
	kubeconfig := c.ServiceAccount(t, "flyball", "flyball")
	var demand atomic.Int64
	demand.Store(20)
	server := demanded(t, &demand)
	election := "{file: " + filepath.Join(t.TempDir(), "leader") + "}"
	first, second := newElected(t, election, kubeconfig, server, "1h"), newElected(t, election, kubeconfig, server, "1h")
	first.start("--role=rules")
	first.eventually(time.Minute, "the first acts", first.leads)
	second.start("--role=rules")
	other := fmt.Sprintf("pid %d on ", first.cmd.Process.Pid)
	second.eventually(time.Minute, "the second says who acts", func() bool {
		_, page := second.send(http.MethodGet, "/", nil)
		return strings.Contains(page, "another flyball ("+other)
	})
	if second.leads() {
		t.Error("both act")
	}
	second.eventually(time.Minute, "the second has seen the target", func() bool {
		return metric(second.web, "flyball_scale_current_replicas") > 0 && len(second.decisions()) > 0
	})
	demand.Store(60)
	second.eventually(time.Minute, "the first makes it larger, and the second sees it", func() bool {
		return replicasOf(t, c) == 3 && metric(second.web, "flyball_scale_current_replicas") == 3 && len(second.decisions()) > 0
	})
	if n := len(second.applied(rules.Up)); n != 0 {
		t.Errorf("the second made %d changes", n)
	}

	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.ended
	demand.Store(100)
	second.eventually(time.Minute, "the second acts", second.leads)
	second.eventually(time.Minute, "the second holds for the cooldown of the first's change", func() bool { return second.held(rules.Cooldown) })
	if got := replicasOf(t, c); got != 3 {
		t.Errorf("%d replicas within the cooldown, want 3", got)
	}
	demand.Store(20) // there is none for changes down
	second.eventually(time.Minute, "the second makes it smaller", func() bool { return replicasOf(t, c) == 1 })
}

// TestElectionLease: of three flyballs with one Lease, one acts. It is stopped, another takes over once the Lease has passed, and
// when the first is woken, with a demand of its own that asks for another size, it writes nothing. What it could write, a
// client with its pod's token, the apiserver refuses.
func TestElectionLease(t *testing.T) {
	c := kubetest.Start(t)
	c.ApplyText(t, deployment)
	c.Apply(t, []string{"../../examples/kubernetes/rules/rbac.yml", "../../examples/kubernetes/rules/fence.yml"})
	const user = "system:serviceaccount:flyball:flyball"
	var stale, demand atomic.Int64
	stale.Store(60)
	demand.Store(60)
	var all []*instance
	var kubeconfigs []string
	for n, server := range []string{demanded(t, &stale), demanded(t, &demand), demanded(t, &demand)} {
		pod := fmt.Sprintf("flyball-%d", n)
		kubeconfig := c.Pod(t, "flyball", "flyball", pod)
		i := newElected(t, "{lease: {namespace: flyball, name: flyball, identity: "+pod+", duration: 3s, renew_deadline: 2s, retry_period: 500ms}}",
			kubeconfig, server, "0s")
		i.start("--role=rules")
		if n == 0 {
			i.eventually(time.Minute, "the first acts", i.leads)
		}
		all, kubeconfigs = append(all, i), append(kubeconfigs, kubeconfig)
	}
	leaders := func() (found []int) {
		for n, i := range all {
			if i.leads() {
				found = append(found, n)
			}
		}
		return found
	}
	becomes := func(n int64) {
		t.Helper()
		all[1].eventually(time.Minute, fmt.Sprintf("there are %d replicas", n), func() bool { return replicasOf(t, c) == n })
	}
	becomes(3)
	if got := leaders(); !slices.Equal(got, []int{0}) {
		t.Errorf("the leaders are %v, want the first", got)
	}
	if !strings.Contains(all[0].out.String(), "the apiserver fences") {
		t.Error("the log does not say that the apiserver fences")
	}

	pid := all[0].cmd.Process
	if err := pid.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	before := len(c.Writes(t, user))
	stale.Store(100)
	demand.Store(20)
	all[1].eventually(time.Minute, "another acts", func() bool { return all[1].leads() || all[2].leads() })
	becomes(1)
	if err := pid.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	all[0].eventually(time.Minute, "the first would have 5 replicas, and follows", func() bool { return all[0].follows(5) })
	if got := leaders(); len(got) != 1 || got[0] == 0 {
		t.Fatalf("the leaders are %v, want one of the others", got)
	}
	leader := leaders()[0]
	all[0].eventually(time.Minute, "its page says who acts", func() bool { // it has to ask first: until then it knows that it does not
		_, page := all[0].send(http.MethodGet, "/", nil)
		return strings.Contains(page, fmt.Sprintf("another flyball (flyball-%d) acts", leader))
	})
	if got := replicasOf(t, c); got != 1 {
		t.Errorf("%d replicas, want 1", got)
	}
	changed := 0
	for _, w := range c.Writes(t, user)[before:] {
		if w.Resource != "deployments.apps/scale" {
			continue
		}
		changed++
		if w.Pod == "flyball-0" {
			t.Errorf("the first wrote after it was stopped: %s %d", w.Body, w.Code)
		}
	}
	if changed == 0 {
		t.Error("the audit log has no change by the others")
	}

	// The policy alone.
	write := func(n int) error {
		t.Helper()
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfigs[n])
		if err != nil {
			t.Fatal(err)
		}
		client, err := dynamic.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		resource := client.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("ml")
		for {
			scale, err := resource.Get(t.Context(), "llama", metav1.GetOptions{}, "scale")
			if err != nil {
				t.Fatal(err)
			}
			if _, err = resource.Update(t.Context(), scale, metav1.UpdateOptions{}, "scale"); !apierrors.IsConflict(err) {
				return err
			}
		}
	}
	if err := write(0); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), fmt.Sprintf("the lease is held by flyball-%d", leader)) {
		t.Errorf("a write with the token of the pod that led: %v, want 403", err)
	}
	if err := write(leader); err != nil {
		t.Errorf("a write with the token of the pod that leads: %v", err)
	}

	// One that ends gives the Lease up.
	if err := all[leader].cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-all[leader].ended
	all[0].eventually(time.Minute, "another acts", func() bool {
		got := leaders()
		return len(got) == 1 && got[0] != leader
	})
}

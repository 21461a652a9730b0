package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
)

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

// TestHeldInItsLine: what is told of one target waits behind no other's.
func TestHeldInItsLine(t *testing.T) {
	server := &asking{began: time.Now(), at: map[string][]time.Duration{}}
	k := newKubernetes(t, kubeconfigOf(t, "http://127.0.0.1:1"))
	objects, err := dynamic.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1", Transport: server})
	if err != nil {
		t.Fatal(err)
	}
	k.client.Load().objects = objects
	_, known, _, err := k.begin(t.Context(), llama)
	if err != nil {
		t.Fatal(err)
	}
	known.seen = &object{}
	k.TellHeld(t.Context(), llama, "MetricMissing", "held at 2 replicas")
	if diff := cmp.Diff([]string{llama.String()}, server.who); diff != "" {
		t.Error(diff)
	}
}

// TestPausedAnnotation: what pauses KEDA pauses flyball, so that nobody who writes yes takes a workload for one that is left alone.
func TestPausedAnnotation(t *testing.T) {
	for value, want := range map[string]bool{"true": true, "True": true, "1": true, "yes": true, "": true, "false": false, "0": false} {
		o := &unstructured.Unstructured{}
		o.SetAnnotations(map[string]string{PausedBy: value})
		if got := isPaused(o); got != want {
			t.Errorf("%s: %q pauses: %v, want %v", PausedBy, value, got, want)
		}
	}
	if isPaused(&unstructured.Unstructured{}) {
		t.Error("an object without the annotation is paused")
	}
}

// TestShortened: what is sent of a note is never longer than an apiserver takes.
func TestShortened(t *testing.T) {
	for _, note := range []string{"short", strings.Repeat("n", 1024), strings.Repeat("n", 2000), strings.Repeat("負", 700), "n" + strings.Repeat("負", 700), "nn" + strings.Repeat("負", 700)} {
		text, err := json.Marshal(shortened(note))
		if err != nil {
			t.Fatal(err)
		}
		var sent string
		if err := json.Unmarshal(text, &sent); err != nil {
			t.Fatal(err)
		}
		whole, cut := strings.CutSuffix(sent, "...")
		if len(sent) > 1024 || cut != (len(note) > 1024) || !strings.HasPrefix(note, whole) || len(whole) < min(len(note), 1018) {
			t.Errorf("of %d bytes are sent %d: %.20s", len(note), len(sent), sent)
		}
	}
}

package kubernetes

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
)

// testGivenBack: what floor and adopt took of an autoscaler is as it was once they hold no longer, and its controller is in
// charge again.
func testGivenBack(t *testing.T, c *kubetest.Cluster) {
	n := crowd{t, c}
	spec := func(name string) map[string]any {
		t.Helper()
		of, _, _ := unstructured.NestedMap(n.get(hpas, name).Object, "spec")
		return of
	}
	unmarked := func(t *testing.T, o *unstructured.Unstructured) {
		t.Helper()
		for _, mark := range []string{MinReplicas, Behavior, KEDAPaused} {
			if v, there := o.GetAnnotations()[mark]; there {
				t.Errorf("%s %s has the annotation %s: %q still", o.GetKind(), o.GetName(), mark, v)
			}
		}
	}
	t.Run("a floor of one target", func(t *testing.T) {
		at, other := n.workload("lifted", hpaText), n.workload("beside", hpaText)
		before := spec("lifted")
		n.wants("lifted", 2)
		k, _ := n.with(ConflictFloor, at)
		if _, err := n.apply(k, at, 4, "b1"); err != nil {
			t.Fatal(err)
		}
		if got := number(n.get(hpas, "lifted"), "spec", "minReplicas"); got != 4 {
			t.Fatalf("the floor is %d, want 4", got)
		}
		if _, err := n.apply(k, other, 4, "b2"); !errors.Is(err, actuators.ErrOwned) {
			t.Errorf("the target beside it: error %v, want ErrOwned", err)
		}
		eventually(t, "the HPA has made 4 of it", func() bool { return observe(t, k, at).Spec == 4 })

		k, log := n.with(ConflictRefuse)
		is := observe(t, k, at)
		if _, err := k.Apply(t.Context(), at, actuators.Change{From: is.Spec, To: 5, IfVersion: is.Version, DryRun: true}); !errors.Is(err, actuators.ErrOwned) {
			t.Errorf("a dry run: error %v, want ErrOwned", err)
		}
		if got := number(n.get(hpas, "lifted"), "spec", "minReplicas"); got != 4 {
			t.Errorf("after a dry run the floor is %d, want the 4 still", got)
		}
		if _, err := n.apply(k, at, 5, "b3"); !errors.Is(err, actuators.ErrOwned) {
			t.Errorf("error %v, want ErrOwned", err)
		}
		if diff := cmp.Diff(before, spec("lifted")); diff != "" {
			t.Errorf("the HPA is not as it was: %s", diff)
		}
		unmarked(t, n.get(hpas, "lifted"))
		if want := `autoscaler="HPA ml/lifted" how="minReplicas is 2, as it was"`; strings.Count(log.String(), want) != 1 {
			t.Errorf("the log has\n%s\nwant once %s", log, want)
		}
		eventually(t, "the HPA has gone to its minimum", func() bool { return observe(t, k, at).Spec == 2 })
	})
	t.Run("adopted", func(t *testing.T) {
		at := n.workload("lent", hpaText)
		before := spec("lent")
		n.wants("lent", 2)
		k, _ := n.with(ConflictFloor)
		if _, err := n.apply(k, at, 4, "b1"); err != nil {
			t.Fatal(err)
		}
		k, _ = n.with(ConflictAdopt) // which keeps no floor
		if _, err := n.apply(k, at, 3, "b2"); err != nil {
			t.Fatal(err)
		}
		hpa := n.get(hpas, "lent")
		if _, floored := hpa.GetAnnotations()[MinReplicas]; floored || number(hpa, "spec", "minReplicas") != 2 || !ownerOf(hpa, hpaResource).hands {
			t.Fatalf("it is not out of charge alone: %v", hpa.Object["spec"])
		}
		k, _ = n.with(ConflictRefuse)
		if dry, err := k.Release(t.Context(), at, true); err != nil || len(dry) != 1 || !ownerOf(n.get(hpas, "lent"), hpaResource).hands {
			t.Errorf("a dry run: %q, %v; want what would be done", dry, err)
		}
		// Of an adopted HPA no change is made as if nothing was there.
		if _, err := n.apply(k, at, 4, "b3"); !errors.Is(err, actuators.ErrOwned) {
			t.Errorf("error %v, want ErrOwned", err)
		}
		if diff := cmp.Diff(before, spec("lent")); diff != "" {
			t.Errorf("the HPA is not as it was: %s", diff)
		}
		unmarked(t, n.get(hpas, "lent"))
		n.wants("lent", 5)
		eventually(t, "the HPA is in charge", func() bool { return observe(t, k, at).Spec == 5 })
		if again, err := k.Release(t.Context(), at, false); err != nil || len(again) > 0 {
			t.Errorf("there is nothing to give back: %q, %v", again, err)
		}
	})
	t.Run("no behavior", func(t *testing.T) {
		head, rest, _ := strings.Cut(hpaText, "  behavior:")
		_, metrics, found := strings.Cut(rest, "  metrics:")
		if !found {
			t.Fatal("the HPA of the tests has no behavior before its metrics")
		}
		at := n.workload("plain", head+"  metrics:"+metrics)
		before := spec("plain")
		k, _ := n.with(ConflictAdopt)
		eventually(t, "the HPA acts on its metric", func() bool { return observe(t, k, at).Spec == 5 })
		if _, err := n.apply(k, at, 3, "b1"); err != nil {
			t.Fatal(err)
		}
		if done, err := k.Release(t.Context(), at, false); err != nil || len(done) != 1 || done[0] != "HPA ml/plain: behavior is not given, as it was" {
			t.Errorf("%q, %v", done, err)
		}
		if diff := cmp.Diff(before, spec("plain")); diff != "" {
			t.Errorf("the HPA is not as it was: %s", diff)
		}
	})
	t.Run("changed by somebody since", func(t *testing.T) {
		at := n.workload("edited", hpaText)
		k, _ := n.with(ConflictFloor)
		if _, err := n.apply(k, at, 4, "b1"); err != nil {
			t.Fatal(err)
		}
		n.patch(hpas, "edited", `{"spec":{"minReplicas":3}}`)
		done, err := k.Release(t.Context(), at, false)
		if err != nil || len(done) != 1 || done[0] != "HPA ml/edited: minReplicas is left as somebody else has set it since" {
			t.Errorf("%q, %v", done, err)
		}
		if got := number(n.get(hpas, "edited"), "spec", "minReplicas"); got != 3 {
			t.Errorf("the minimum is %d, want the 3 of somebody else", got)
		}
		unmarked(t, n.get(hpas, "edited"))
	})
	t.Run("raised by somebody since", func(t *testing.T) {
		at := n.workload("raised-since", hpaText)
		n.wants("raised-since", 2)
		k, _ := n.with(ConflictFloor)
		if _, err := n.apply(k, at, 3, "b1"); err != nil {
			t.Fatal(err)
		}
		n.patch(hpas, "raised-since", `{"spec":{"minReplicas":5}}`)
		for i, tt := range []struct {
			to    int
			floor int64
		}{{4, 5}, {6, 6}, {4, 5}, {2, 5}} {
			if _, err := n.apply(k, at, tt.to, fmt.Sprint("b2-", i)); err != nil {
				t.Fatal(err)
			}
			if got := number(n.get(hpas, "raised-since"), "spec", "minReplicas"); got != tt.floor {
				t.Errorf("to %d: the floor is %d, want %d: not below the 5 of somebody else", tt.to, got, tt.floor)
			}
		}
		if _, err := k.Release(t.Context(), at, false); err != nil {
			t.Fatal(err)
		}
		if got := number(n.get(hpas, "raised-since"), "spec", "minReplicas"); got != 5 {
			t.Errorf("given back with %d, want 5", got)
		}
	})
	t.Run("one direction changed by somebody since", func(t *testing.T) {
		for name, again := range map[string]bool{"half": false, "halved": true} {
			at := n.workload(name, hpaText)
			before := spec(name)
			k, _ := n.with(ConflictAdopt)
			eventually(t, "the HPA acts on its metric", func() bool { return observe(t, k, at).Spec == 5 })
			if _, err := n.apply(k, at, 4, "b1"); err != nil {
				t.Fatal(err)
			}
			n.patch(hpas, name, `{"spec":{"behavior":{"scaleUp":{"stabilizationWindowSeconds":30},"scaleDown":{"selectPolicy":"Min"}}}}`)
			if again { // adopted once more, it is not given back as flyball itself had left it
				k, _ = n.with(ConflictAdopt)
				if _, err := n.apply(k, at, 3, "b2"); err != nil {
					t.Fatal(err)
				}
				if !ownerOf(n.get(hpas, name), hpaResource).hands {
					t.Fatal("it is in charge")
				}
			}
			done, err := k.Release(t.Context(), at, false)
			want := "HPA ml/" + name + ": behavior.scaleUp is as it was, behavior.scaleDown is left as somebody else has set it since"
			if again {
				want = "HPA ml/" + name + ": behavior is as it was"
			}
			if err != nil || len(done) != 1 || done[0] != want {
				t.Errorf("%q, %v; want %q", done, err, want)
			}
			for path, value := range map[string]any{"scaleUp/stabilizationWindowSeconds": int64(30), "scaleDown/selectPolicy": "Min"} {
				if err := unstructured.SetNestedField(before, value, append([]string{"behavior"}, strings.Split(path, "/")...)...); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, spec(name)); diff != "" {
				t.Errorf("the HPA is not as it was but for what somebody else has set: %s", diff)
			}
			unmarked(t, n.get(hpas, name))
		}
	})
	t.Run("ScaledObject", func(t *testing.T) {
		for name, first := range map[string]string{"fresh": "", "resumed": "false"} {
			at := n.workload(name, scaledText)
			if first != "" {
				n.patch(scaledObjects, name+"-queue", `{"metadata":{"annotations":{"`+paused+`":"`+first+`"}}}`)
			}
			k, _ := n.with(ConflictFloor)
			if _, err := n.apply(k, at, 4, "b1"); err != nil {
				t.Fatal(err)
			}
			k, _ = n.with(ConflictAdopt)
			for i := range 2 {
				if _, err := n.apply(k, at, 3+i, fmt.Sprint("b2-", i)); err != nil {
					t.Fatal(err)
				}
			}
			if got := n.get(scaledObjects, name+"-queue").GetAnnotations(); got[paused] != "true" || got[KEDAPaused] != first {
				t.Errorf("adopted it has the annotations %v", got)
			}
			if done, err := k.Release(t.Context(), at, false); err != nil || len(done) != 1 {
				t.Errorf("%q, %v", done, err)
			}
			o := n.get(scaledObjects, name+"-queue")
			if got, there := o.GetAnnotations()[paused]; got != first || there != (first != "") || number(o, "spec", "minReplicaCount") != 1 {
				t.Errorf("it is paused: %q, %v, with a minimum of %d", got, there, number(o, "spec", "minReplicaCount"))
			}
			unmarked(t, o)
		}
	})
	t.Run("while it is written to", func(t *testing.T) {
		at := n.workload("written", hpaText)
		k, _ := n.with(ConflictFloor)
		if _, err := n.apply(k, at, 4, "b1"); err != nil {
			t.Fatal(err)
		}
		looks := 0
		o := ownerOf(n.get(hpas, "written"), hpaResource)
		if _, err := k.client.Load().revise(t.Context(), o, false, func(now *unstructured.Unstructured) ([]operation, error) {
			if looks++; looks == 1 { // between the look and the write
				n.patch(hpas, "written", `{"metadata":{"annotations":{"of-others":"1"}},"spec":{"maxReplicas":9}}`)
			}
			operations, _, err := before(now, hpaResource, true, true)
			return operations, err
		}); err != nil || looks < 2 { // more where the HPA's own controller writes too
			t.Errorf("%d looks, %v; want a second one after somebody has written", looks, err)
		}
		hpa := n.get(hpas, "written")
		if got := hpa.GetAnnotations()["of-others"]; got != "1" || number(hpa, "spec", "minReplicas") != 2 {
			t.Errorf("the annotation of others is %q, want 1; the minimum is %d, want 2", got, number(hpa, "spec", "minReplicas"))
		}
		unmarked(t, hpa)
	})
	t.Run("not to be listed", func(t *testing.T) {
		k := newKubernetes(t, c.ServiceAccount(t, "ml", "scales-only"))
		if _, err := k.Release(t.Context(), llama, false); !errors.Is(err, actuators.ErrRefused) || !strings.Contains(err.Error(), "resources: [horizontalpodautoscalers], verbs: [list]") {
			t.Errorf("error %v, want the rule that is missing", err)
		}
	})
}

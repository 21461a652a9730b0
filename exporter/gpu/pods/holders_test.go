package pods

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/exporter"
	"flyball/exporter/gpu"
)

func TestHolders(t *testing.T) {
	at := func(pod, uuid string, gi int, instance string) place {
		return place{holder: holder{"ml", pod}, container: "server", uuid: uuid, gi: gi, instance: instance}
	}
	twice := at("alone", "GPU-1", -1, "")
	twice.resource = "another"
	c := Collector{view: view{places: []place{
		at("alone", "GPU-1", -1, ""), twice,
		at("shared-a", "GPU-2", -1, ""), at("shared-b", "GPU-2", -1, ""),
		at("instance", "GPU-3", 1, "MIG-a"), at("unknown", "GPU-3", -1, "MIG-b"),
	}}}
	one := 1
	nine := 9
	for _, tt := range []struct {
		uuid string
		gi   *int
		want []Holder
	}{
		{"GPU-1", nil, []Holder{{"ml", "alone", "server"}}},
		{"GPU-2", nil, []Holder{{"ml", "shared-a", "server"}, {"ml", "shared-b", "server"}}},
		{"GPU-3", nil, nil},
		{"GPU-3", &one, []Holder{{"ml", "instance", "server"}}},
		{"GPU-3", &nine, nil},
		{"GPU-4", nil, nil},
	} {
		if diff := cmp.Diff(tt.want, c.Holders(tt.uuid, tt.gi)); diff != "" {
			t.Errorf("%s: %s", tt.uuid, diff)
		}
	}
}

// TestAsk: one question to a real server of the API, without Run.
func TestAsk(t *testing.T) {
	reply, at, n := scene(t)
	k := newKubelet(t)
	c := collect(k, n, nil, func() *gpu.Snapshot { return at(0) })
	if grants, _, err := c.Ask(t.Context()); !errors.Is(err, exporter.ErrNoData) || grants != nil {
		t.Errorf("without a kubelet: %v, %v", grants, err)
	}
	k.start(t)
	k.set(reply, nil, false)
	grants, unresolved, err := c.Ask(t.Context())
	if err != nil || unresolved != 1 || len(grants) < 6 {
		t.Fatalf("%d unresolved, %v: %+v", unresolved, err, grants)
	}
	if diff := cmp.Diff(Grant{UUID: grants[0].UUID, Resource: "nvidia.com/gpu", Namespace: "ml", Pod: "alone", Container: "server"}, grants[0]); diff != "" {
		t.Error(diff)
	}
	instances := map[int]string{}
	for _, g := range grants {
		if g.GI != nil {
			instances[*g.GI] = g.Pod
		}
	}
	if diff := cmp.Diff(map[int]string{7: "parted-a", 2: "parted-b"}, instances); diff != "" {
		t.Errorf("pods by GPU instance: %s", diff)
	}
	k.set(nil, errors.New("broken"), false)
	if _, _, err := c.Ask(t.Context()); err == nil || errors.Is(err, exporter.ErrNoData) {
		t.Errorf("a kubelet that fails: %v", err)
	}
}

package pods

import (
	"testing"

	"github.com/google/go-cmp/cmp"
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

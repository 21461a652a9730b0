package pods

import "slices"

// Holder is a container that was given a GPU or a part of it.
type Holder struct{ Namespace, Name, Container string }

// Holders returns the containers that have the GPU with this UUID or, unless gi is nil, its GPU instance gi of MIG; as the
// kubelet told it last, in its order.
func (c *Collector) Holders(uuid string, gi *int) (all []Holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.view.places {
		if p.uuid != uuid || gi == nil && (p.gi >= 0 || p.instance != "") || gi != nil && p.gi != *gi {
			continue
		}
		if h := (Holder{p.namespace, p.pod, p.container}); !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all
}

package pods

import (
	"context"
	"fmt"
	"slices"

	"flyball/exporter"
)

// Holder is a container that was given a GPU or a part of it.
type Holder struct{ Namespace, Name, Container string }

// Grant is a device that a container was given.
type Grant struct {
	UUID      string `json:"uuid"`         // of the GPU
	GI        *int   `json:"gi,omitempty"` // the GPU instance of MIG; nil for a whole GPU, and where it is not known
	Resource  string `json:"resource"`     // as the pod asked for it, such as nvidia.com/gpu
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
}

// Ask asks the kubelet once, for a collector that does not run. It returns which devices containers were given, and how many
// of them were not found among the GPUs. The error wraps exporter.ErrNoData where there is no kubelet.
func (c *Collector) Ask(ctx context.Context) (grants []Grant, unresolved int, err error) {
	c.poll(ctx)
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("pods: ask the kubelet: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == absent {
		return nil, 0, fmt.Errorf("pods: %w", exporter.ErrNoData)
	}
	if c.err != nil {
		return nil, 0, fmt.Errorf("pods: %w", c.err)
	}
	for _, p := range c.view.places {
		g := Grant{UUID: p.uuid, Resource: p.resource, Namespace: p.namespace, Pod: p.pod, Container: p.container}
		if p.gi >= 0 {
			g.GI = &p.gi
		}
		grants = append(grants, g)
	}
	return grants, c.view.unresolved, nil
}

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

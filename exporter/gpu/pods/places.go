package pods

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"flyball/exporter/gpu"
)

// grant is a GPU, or a part of one, that the kubelet gave to a container.
type grant struct {
	holder
	container string
	resource  string // that was asked for; of a claim, its driver
	name      string // the device's identifier, as the kubelet has it
	device    id
	err       error // why nothing can be made of name
}

// grants picks from the kubelet's answer what is about GPUs.
func grants(reply *podresources.ListPodResourcesResponse) []grant {
	var all []grant
	for _, pod := range reply.GetPodResources() {
		for _, container := range pod.GetContainers() {
			g := grant{holder: holder{pod.GetNamespace(), pod.GetName()}, container: container.GetName()}
			for _, devices := range container.GetDevices() {
				g.resource = devices.GetResourceName()
				for _, g.name = range devices.GetDeviceIds() {
					if isGPU(g.resource, g.name) {
						g.device, g.err = parseID(g.name)
						all = append(all, g)
					}
				}
			}
			for _, dynamic := range container.GetDynamicResources() {
				for _, claim := range dynamic.GetClaimResources() {
					var cdi []string
					for _, device := range claim.GetCdiDevices() {
						cdi = append(cdi, device.GetName())
					}
					var ok bool
					if g.device, ok, g.err = parseDRA(claim.GetDriverName(), claim.GetDeviceName(), cdi); ok {
						g.resource, g.name = claim.GetDriverName(), cmp.Or(claim.GetDeviceName(), strings.Join(cdi, ","))
						all = append(all, g)
					}
				}
			}
		}
	}
	return all
}

// place is where a container's device is.
type place struct {
	holder
	container string
	resource  string
	uuid      string // of the GPU
	index     int    // of the GPU; -1 where it is not known
	gi        int    // -1 for a whole GPU, and where it is not known
	instance  string // UUID of the MIG device; empty for a whole GPU, and where it is not known
	part      bool   // it is a part of the GPU
}

// inventory is what is known of the GPUs of this machine, to find one by what an identifier says.
type inventory struct {
	index     map[string]int            // by UUID in lower case
	uuid      map[string]string         // likewise, as the driver writes it
	byBus     map[string]string         // UUID by PCI address
	byMinor   map[int]string            // UUID by number of /dev/nvidiaN
	instances map[string][]gpu.Instance // by the GPU's UUID
}

// newInventory returns what a snapshot, nil for none, and the driver's procfs say.
func newInventory(s *gpu.Snapshot, byMinor map[int]string) inventory {
	inv := inventory{index: map[string]int{}, uuid: map[string]string{}, byBus: map[string]string{}, byMinor: byMinor, instances: map[string][]gpu.Instance{}}
	if s == nil {
		return inv
	}
	for _, d := range s.Devices {
		if d.UUID == "" {
			continue
		}
		key := strings.ToLower(d.UUID)
		inv.index[key], inv.uuid[key] = d.Index, d.UUID
		inv.instances[d.UUID] = d.Instances
		if address, err := bus(d.PCIBusID); err == nil {
			inv.byBus[address] = d.UUID
		}
	}
	return inv
}

// resolve finds the place of a device. The error says what cannot be told. With an error there may be a place all the
// same: the GPU is known, and which part of it is not.
func (inv inventory) resolve(d id) (p place, err error) {
	p = place{index: -1, gi: d.gi, part: d.inside}
	switch {
	case d.mig != "":
		for uuid, instances := range inv.instances {
			for _, i := range instances {
				if strings.EqualFold(i.UUID, d.mig) {
					return inv.at(p, uuid, i), nil
				}
			}
		}
		return place{}, errors.New("no GPU that is read has this MIG device")
	case d.bus != "":
		if p.uuid = inv.byBus[d.bus]; p.uuid == "" {
			return place{}, fmt.Errorf("no GPU that is read is at %s", d.bus)
		}
	case d.minor >= 0:
		if p.uuid = inv.byMinor[d.minor]; p.uuid == "" {
			return place{}, fmt.Errorf("the driver's procfs (driver/nvidia/gpus) has no GPU with the number %d", d.minor)
		}
	default:
		p.uuid = d.uuid
	}
	key := strings.ToLower(p.uuid)
	if uuid, known := inv.uuid[key]; known {
		p.uuid, p.index = uuid, inv.index[key]
	}
	if !d.inside {
		return p, nil
	}
	var found []gpu.Instance
	for _, i := range inv.instances[p.uuid] {
		if (d.gi < 0 || i.GI == d.gi) && (d.ci < 0 || i.CI == d.ci) && (d.profile == "" || plain(i.Profile) == d.profile) {
			found = append(found, i)
		}
	}
	switch {
	case len(found) == 1 && (d.gi >= 0 || d.profile != ""):
		return inv.at(p, p.uuid, found[0]), nil
	case d.gi >= 0: // the label is known; of several compute instances it is not known which
		return p, nil
	case len(found) == 0:
		return p, fmt.Errorf("%s has no MIG device like this", p.uuid)
	default:
		return p, fmt.Errorf("it may be any of %d MIG devices of %s", len(found), p.uuid)
	}
}

func (inv inventory) at(p place, uuid string, i gpu.Instance) place {
	p.uuid, p.index, p.gi, p.instance, p.part = uuid, inv.index[strings.ToLower(uuid)], i.GI, i.UUID, true
	return p
}

// plain is a profile as it is in names of DRA: 1g10gb for 1g.10gb, 1g10gb-me for 1g.10gb+me.
func plain(profile string) string {
	return strings.Trim(strings.NewReplacer(".", "", "+", "-", ",", "-").Replace(strings.ToLower(profile)), "-")
}

// locate finds the places of all grants, each place once, in order. Those that have no place, or one that is not wholly
// known, are in the second list, with what is not known of each.
func (inv inventory) locate(all []grant) (places []place, unresolved []grant) {
	seen := map[place]bool{}
	for _, g := range all {
		var p place
		if g.err == nil {
			p, g.err = inv.resolve(g.device)
		}
		if g.err != nil {
			unresolved = append(unresolved, g)
		}
		p.holder, p.container, p.resource = g.holder, g.container, g.resource
		if p.uuid != "" && !seen[p] {
			seen[p] = true
			places = append(places, p)
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.uuid, b.uuid), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.pod, b.pod),
			cmp.Compare(a.container, b.container), cmp.Compare(a.resource, b.resource), cmp.Compare(a.gi, b.gi), cmp.Compare(a.instance, b.instance))
	})
	return places, unresolved
}

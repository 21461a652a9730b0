package gpu

// merge returns what is known of a GPU after a reading of some tiers: what was read now, and for the rest what held
// before. A value that was read and is not there any more is gone.
func merge(before, now Device, read tiers) Device {
	if read&tierSlow == 0 {
		keep(&now.MIGMode, before.MIGMode)
		keepMap(&now.PowerLimit, before.PowerLimit)
		keepMap(&now.Threshold, before.Threshold)
		keepList(&now.FanSpeed, before.FanSpeed)
		keepList(&now.ECC, before.ECC)
		keepMap(&now.RemappedRows, before.RemappedRows)
		keep(&now.RowRemapPending, before.RowRemapPending)
		keep(&now.RowRemapFailure, before.RowRemapFailure)
		keepMap(&now.RetiredPages, before.RetiredPages)
		keep(&now.RecoveryAction, before.RecoveryAction)
		keepList(&now.Instances, before.Instances)
		if before.PCIe != nil {
			p := PCIe{}
			if now.PCIe != nil {
				p = *now.PCIe
			}
			keep(&p.Replays, before.PCIe.Replays)
			keepMap(&p.Generation, before.PCIe.Generation)
			keepMap(&p.Width, before.PCIe.Width)
			now.PCIe = &p
		}
		if before.NVLink != nil {
			l := NVLink{}
			if now.NVLink != nil {
				l = *now.NVLink
			}
			keepMap(&l.Errors, before.NVLink.Errors)
			keepList(&l.Up, before.NVLink.Up)
			now.NVLink = &l
		}
	}
	if read&tierProcesses == 0 {
		keepList(&now.Processes, before.Processes)
		keep(&now.ProcessesDropped, before.ProcessesDropped)
	}
	if read&tierStatic == 0 {
		keep(&now.Vendor, before.Vendor)
		keep(&now.Name, before.Name)
		keep(&now.PCIBusID, before.PCIBusID)
		keep(&now.Serial, before.Serial)
		keep(&now.VBIOS, before.VBIOS)
		keep(&now.Arch, before.Arch)
		keepMap(&now.ClockMax, before.ClockMax)
	}
	return now
}

// keep sets v to before where it is not set.
func keep[T comparable](v *T, before T) {
	var zero T
	if *v == zero {
		*v = before
	}
}

func keepMap[K comparable, V any](v *map[K]V, before map[K]V) {
	if *v == nil {
		*v = before
	}
}

func keepList[V any](v *[]V, before []V) {
	if *v == nil {
		*v = before
	}
}

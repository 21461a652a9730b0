package gpu

import "time"

// The reasons for which a GPU is taken for unhealthy.
const (
	unhealthyLost     = "lost"            // it was seen and cannot be read: gone, given up by the driver, hanging, or it crashes the worker
	unhealthyXID      = "xid"             // an XID of class hardware, less than xidWindow ago
	unhealthyECC      = "ecc_uncorrected" // an uncorrected memory error since the driver was loaded or the GPU was reset
	unhealthyRemap    = "remap_failure"   // a row of memory could not be replaced: none is left
	unhealthyRecovery = "recovery_action" // the driver asks for a reset, a reboot, or to drain it
)

// xidWindow is how long an XID of class hardware makes a GPU unhealthy: most of them leave nothing behind that can be read,
// and a GPU that had one is not to be trusted with a job of hours at once. The driver's recovery action and error counts
// have no window.
const xidWindow = time.Hour

// judgement is one reason and whether it holds.
type judgement struct {
	reason string
	holds  bool
}

// judge returns the reasons that can be told of a GPU, each with whether it holds. d has what is known of it, also where
// it cannot be read now.
func judge(d *Device, now time.Time) []judgement {
	recent := false
	for _, x := range d.XIDs {
		recent = recent || x.Count > 0 && xidClass(x.Number) == classHardware && now.Sub(x.Last) < xidWindow
	}
	list := []judgement{{unhealthyLost, d.Error != ""}}
	if d.XIDs != nil {
		list = append(list, judgement{unhealthyXID, recent})
	}
	if d.Error != "" {
		return list // the rest is of another time
	}
	for _, e := range d.ECC {
		if e.Type == "uncorrected" && e.Scope == "volatile" {
			list = append(list, judgement{unhealthyECC, e.Count > 0})
		}
	}
	if d.RowRemapFailure != nil {
		list = append(list, judgement{unhealthyRemap, *d.RowRemapFailure})
	}
	if d.RecoveryAction != nil {
		list = append(list, judgement{unhealthyRecovery, *d.RecoveryAction != 0})
	}
	return list
}

package gpu

import (
	"errors"
	"time"
)

// tiers says which values to read of a GPU: the dearer ones less often.
type tiers uint8

const (
	tierFast tiers = 1 << iota
	tierSlow
	tierStatic
	tierProcesses
)

// errLost says that a GPU will not answer any more.
var errLost = errors.New("the GPU is lost")

// events are the errors that the driver reports as they happen.
type events interface {
	// Wait returns the next event, or false where there is none within the timeout. It cannot be interrupted.
	Wait(timeout time.Duration) (event, bool, error)
	Close() error
}

// event is one error that the driver reported.
type event struct {
	UUID string `json:"uuid"`
	XID  uint64 `json:"xid"`
	GI   *int   `json:"gi,omitempty"` // of MIG; nil where the error is one of the whole GPU
	CI   *int   `json:"ci,omitempty"`
}

// readDevice fills in d. It stops at the first error that is not errUnsupported: such a GPU is lost, mostly until the
// machine is started again, and another worker would not find it either.
func readDevice(lib library, d *Device, _ tiers) error {
	dev, err := lib.Device(d.Index)
	if err != nil {
		return err
	}
	if d.UUID, err = dev.UUID(); err != nil {
		return err
	}
	if d.Name, err = dev.Name(); unexpected(err) {
		return err
	}
	if d.PCIBusID, err = dev.PCIBusID(); unexpected(err) {
		return err
	}

	gpu, memory, err := dev.Utilization()
	if unexpected(err) {
		return err
	}
	if err == nil {
		d.Utilization, d.MemoryUtilization = &gpu, &memory
	}
	m, err := dev.Memory()
	if unexpected(err) {
		return err
	}
	if err == nil {
		d.Memory = &m
	}
	power, err := dev.Power()
	if unexpected(err) {
		return err
	}
	if err == nil {
		d.Power = &power
	}
	energy, err := dev.Energy()
	if unexpected(err) {
		return err
	}
	if err == nil {
		d.Energy = &energy
	}
	celsius, err := dev.Temperature()
	if unexpected(err) {
		return err
	}
	if err == nil {
		d.Temperature = map[string]float64{"gpu": celsius}
	}
	for _, domain := range domains {
		hertz, err := dev.Clock(domain)
		if unexpected(err) {
			return err
		}
		if err == nil {
			if d.Clock == nil {
				d.Clock = map[string]float64{}
			}
			d.Clock[domain] = hertz
		}
	}
	return nil
}

func unexpected(err error) bool { return err != nil && !errors.Is(err, errUnsupported) }

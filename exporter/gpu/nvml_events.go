//go:build linux && cgo

package gpu

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// nvmlEvents is a set of events of the GPUs.
type nvmlEvents struct {
	library *nvmlLibrary
	set     nvml.EventSet
	uuids   map[nvml.Device]string
}

// Events leaves out GPUs that do not report errors or cannot be read. The error wraps errUnsupported where none is left
// that may do so at another time.
func (l *nvmlLibrary) Events(skip ...string) (events, error) {
	const create, register = "nvmlEventSetCreate", "nvmlDeviceRegisterEvents"
	if err := l.hasAll(create, register, "nvmlEventSetFree"); err != nil {
		return nil, err
	}
	if err := l.hasOne("nvmlEventSetWait_v2", "nvmlEventSetWait"); err != nil {
		return nil, err
	}
	n, err := l.DeviceCount()
	if err != nil {
		return nil, err
	}
	set, ret := timedValue(l, create, l.nvml.EventSetCreate)
	if err := l.check(create, ret); err != nil {
		return nil, err
	}
	e := &nvmlEvents{library: l, set: set, uuids: map[nvml.Device]string{}}
	var faults []error
	for i := range n {
		at := place{index: i, count: n}
		if at.in(skip...) {
			continue
		}
		handle, err := l.handle(i)
		if err != nil {
			faults = append(faults, fmt.Errorf("GPU %d: %w", i, err))
			continue
		}
		uuid, err := nvmlDevice{library: l, device: handle}.UUID()
		at.uuid = uuid
		if err == nil && at.in(skip...) {
			continue
		}
		if err == nil {
			err = l.check(register, timed(l, register, func() nvml.Return { return handle.RegisterEvents(nvml.EventTypeXidCriticalError, set) }))
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("GPU %d: %w", i, err))
			continue
		}
		e.uuids[handle] = uuid
	}
	if len(e.uuids) == 0 {
		_ = e.Close()
		if slices.ContainsFunc(faults, unexpected) {
			faults = slices.DeleteFunc(faults, func(err error) bool { return !unexpected(err) }) // the others may do so later
		}
		if len(faults) == 0 {
			return nil, fmt.Errorf("no GPU reports errors: %w", errUnsupported)
		}
		return nil, fmt.Errorf("no GPU reports errors: %w", errors.Join(faults...))
	}
	return e, nil
}

func (e *nvmlEvents) Wait(timeout time.Duration) (event, bool, error) {
	data, ret := e.set.Wait(uint32(timeout.Milliseconds()))
	if ret == nvml.ERROR_TIMEOUT {
		return event{}, false, nil
	}
	if err := e.library.check("nvmlEventSetWait", ret); err != nil {
		return event{}, false, err
	}
	if data.EventType != nvml.EventTypeXidCriticalError {
		return event{}, false, nil
	}
	return event{
		UUID: e.uuids[data.Device], XID: data.EventData,
		GI: instanceID(data.GpuInstanceId), CI: instanceID(data.ComputeInstanceId),
	}, true, nil
}

func (e *nvmlEvents) UUIDs() []string { return slices.Sorted(maps.Values(e.uuids)) }

func (e *nvmlEvents) Close() error {
	const call = "nvmlEventSetFree"
	return e.library.check(call, timed(e.library, call, e.set.Free))
}

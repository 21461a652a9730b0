//go:build linux && cgo

package gpu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// unbound says why this binary cannot call NVML: it can.
func unbound() string { return "" }

// nvmlLibrary is NVML by way of go-nvml. go-nvml keeps versioned functions in package variables, so a process may open
// one library only. A symbol that the library lacks ends the process when it is called, so every call is looked up
// first, but for those that NVML has had from the beginning: init, shutdown, count, handle by index.
type nvmlLibrary struct {
	nvml     nvml.Interface
	calls    *stopwatch          // nil where calls are not measured
	procfs   string              // empty for /proc
	samplers map[string]*sampler // of activity, by UUID, with /GI for an instance of MIG
	seen     map[string]uint64   // by UUID: the driver's time of the last sample of a process's utilisation

	mu    sync.Mutex
	found map[string]error // by symbol: nil where the library has it
}

// open loads the first of the candidates that can be loaded and starts NVML. It returns the path that worked. The error
// is an *absentError where there is no library, or none with a driver behind it.
func open(o opening) (library, string, error) {
	absent := &absentError{}
	for _, path := range candidates(o.library) {
		// go-nvml does not say why a library could not be opened; the loader does. A library that opens stays open.
		probe := dl.New(path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
		if err := probe.Open(); err != nil {
			absent.tried = append(absent.tried, err.Error())
			continue
		}
		lib := newLibrary(nvml.New(nvml.WithLibraryPath(path)))
		if err := probe.Lookup("nvmlInit_v2"); err != nil {
			if err := probe.Lookup("nvmlInit"); err != nil {
				absent.tried = append(absent.tried, path+": is not NVML: "+err.Error())
				_ = probe.Close()
				continue
			}
		}
		lib.calls, lib.procfs = o.calls, o.procfs
		switch ret := timed(lib, "nvmlInit_v2", lib.nvml.Init); ret {
		case nvml.SUCCESS:
			return lib, path, nil
		case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
			return nil, path, fmt.Errorf("nvmlInit: %s: %w", lib.text(ret), errMismatch)
		case nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIBRARY_NOT_FOUND:
			absent.tried = append(absent.tried, fmt.Sprintf("%s: nvmlInit: %s", path, lib.text(ret)))
			return nil, path, absent
		default:
			return nil, path, fmt.Errorf("nvmlInit: %s", lib.text(ret))
		}
	}
	return nil, "", absent
}

func newLibrary(api nvml.Interface) *nvmlLibrary {
	return &nvmlLibrary{nvml: api, samplers: map[string]*sampler{}, seen: map[string]uint64{}, found: map[string]error{}}
}

// Close ends NVML.
func (l *nvmlLibrary) Close() error {
	for _, s := range l.samplers {
		s.free()
	}
	clear(l.samplers)
	return l.check("nvmlShutdown", l.nvml.Shutdown())
}

func (l *nvmlLibrary) DriverVersion() (string, error) {
	return invoke(l, "nvmlSystemGetDriverVersion", l.nvml.SystemGetDriverVersion)
}

func (l *nvmlLibrary) CUDAVersion() (string, error) {
	const v1, v2 = "nvmlSystemGetCudaDriverVersion", "nvmlSystemGetCudaDriverVersion_v2"
	version, err := invoke(l, v2, l.nvml.SystemGetCudaDriverVersion_v2)
	if errors.Is(err, errUnsupported) {
		version, err = invoke(l, v1, l.nvml.SystemGetCudaDriverVersion)
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d.%d", version/1000, version%1000/10), nil
}

func (l *nvmlLibrary) DeviceCount() (int, error) {
	const call = "nvmlDeviceGetCount"
	n, ret := timedValue(l, call, l.nvml.DeviceGetCount)
	return n, l.check(call, ret)
}

func (l *nvmlLibrary) Device(index int) (device, error) {
	d, err := l.handle(index)
	if err != nil {
		return nil, err
	}
	return nvmlDevice{library: l, device: d}, nil
}

func (l *nvmlLibrary) handle(index int) (nvml.Device, error) {
	const call = "nvmlDeviceGetHandleByIndex"
	d, ret := timedValue(l, call, func() (nvml.Device, nvml.Return) { return l.nvml.DeviceGetHandleByIndex(index) })
	return d, l.check(call, ret)
}

func (l *nvmlLibrary) Missing() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var missing []string
	for symbol, err := range l.found {
		if err != nil {
			missing = append(missing, symbol)
		}
	}
	slices.Sort(missing)
	return missing
}

// has returns an error that wraps errUnsupported where the library has no such symbol. It asks the loader once.
func (l *nvmlLibrary) has(symbol string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err, known := l.found[symbol]
	if !known {
		if l.nvml.Extensions().LookupSymbol(symbol) != nil {
			err = fmt.Errorf("%s: %w by this driver", symbol, errUnsupported)
		}
		l.found[symbol] = err
	}
	return err
}

// hasOne returns nil where the library has one of the symbols, the versions of a function among which go-nvml chooses.
func (l *nvmlLibrary) hasOne(symbols ...string) (err error) {
	for _, symbol := range symbols {
		if err = l.has(symbol); err == nil {
			return nil
		}
	}
	return err
}

// hasAll returns nil where the library has all of the symbols.
func (l *nvmlLibrary) hasAll(symbols ...string) error {
	for _, symbol := range symbols {
		if err := l.has(symbol); err != nil {
			return err
		}
	}
	return nil
}

// timed makes a call that is known to be there.
func timed(l *nvmlLibrary, call string, f func() nvml.Return) nvml.Return {
	began := l.calls.start()
	ret := f()
	l.calls.stop(call, began)
	return ret
}

// timedValue is timed for a call that returns a value too.
func timedValue[T any](l *nvmlLibrary, call string, f func() (T, nvml.Return)) (T, nvml.Return) {
	began := l.calls.start()
	v, ret := f()
	l.calls.stop(call, began)
	return v, ret
}

// invoke makes a call that returns one value, if the library has it.
func invoke[T any](l *nvmlLibrary, call string, f func() (T, nvml.Return)) (T, error) {
	if err := l.has(call); err != nil {
		var zero T
		return zero, err
	}
	v, ret := timedValue(l, call, f)
	return v, l.check(call, ret)
}

// check turns NVML's return value into an error.
func (l *nvmlLibrary) check(call string, ret nvml.Return) error {
	switch ret {
	case nvml.SUCCESS:
		return nil
	case nvml.ERROR_NOT_SUPPORTED: // NVML's words for it are the same
		return fmt.Errorf("%s: %w", call, errUnsupported)
	case nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_NO_PERMISSION, nvml.ERROR_DEPRECATED,
		nvml.ERROR_ARGUMENT_VERSION_MISMATCH, nvml.ERROR_VGPU_ECC_NOT_SUPPORTED, nvml.ERROR_NO_DATA:
		return fmt.Errorf("%s: %s: %w", call, l.text(ret), errUnsupported)
	case nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return fmt.Errorf("%s: %s: %w", call, l.text(ret), errDriverGone)
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_GPU_NOT_FOUND:
		return fmt.Errorf("%s: %w", call, errLost)
	default:
		return fmt.Errorf("%s: %s", call, l.text(ret))
	}
}

// text returns NVML's words for its return value.
func (l *nvmlLibrary) text(ret nvml.Return) string {
	if l.has("nvmlErrorString") != nil {
		return fmt.Sprintf("return value %d", int(ret))
	}
	return ret.Error()
}

// nvmlDevice is one GPU, or one instance of MIG.
type nvmlDevice struct {
	library *nvmlLibrary
	device  nvml.Device
}

func (d nvmlDevice) UUID() (string, error) {
	return invoke(d.library, "nvmlDeviceGetUUID", d.device.GetUUID)
}

func (d nvmlDevice) Name() (string, error) {
	return invoke(d.library, "nvmlDeviceGetName", d.device.GetName)
}

// PCIBusID returns domain:bus:device.function with a domain of 8 digits, as NVML has it.
func (d nvmlDevice) PCIBusID() (string, error) {
	const v3, v2, v1 = "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo"
	if err := d.library.hasOne(v3, v2, v1); err != nil {
		return "", err
	}
	pci, ret := timedValue(d.library, v1, d.device.GetPciInfo)
	if err := d.library.check(v1, ret); err != nil {
		return "", err
	}
	var id []byte
	for _, c := range pci.BusId {
		if c == 0 {
			break
		}
		id = append(id, byte(c))
	}
	return string(id), nil
}

func (d nvmlDevice) Serial() (string, error) {
	return invoke(d.library, "nvmlDeviceGetSerial", d.device.GetSerial)
}

func (d nvmlDevice) VBIOS() (string, error) {
	return invoke(d.library, "nvmlDeviceGetVbiosVersion", d.device.GetVbiosVersion)
}

// Architecture returns NVIDIA's name for it in lower case. One that is newer than this binary is unsupported.
func (d nvmlDevice) Architecture() (string, error) {
	const call = "nvmlDeviceGetArchitecture"
	arch, err := invoke(d.library, call, d.device.GetArchitecture)
	if err != nil {
		return "", err
	}
	name := map[nvml.DeviceArchitecture]string{
		nvml.DEVICE_ARCH_KEPLER: "kepler", nvml.DEVICE_ARCH_MAXWELL: "maxwell", nvml.DEVICE_ARCH_PASCAL: "pascal",
		nvml.DEVICE_ARCH_VOLTA: "volta", nvml.DEVICE_ARCH_TURING: "turing", nvml.DEVICE_ARCH_AMPERE: "ampere",
		nvml.DEVICE_ARCH_ADA: "ada", nvml.DEVICE_ARCH_HOPPER: "hopper", nvml.DEVICE_ARCH_BLACKWELL: "blackwell",
		nvml.DEVICE_ARCH_RUBIN: "rubin",
	}[arch]
	if name == "" {
		return "", fmt.Errorf("%s: architecture %d is not known: %w", call, arch, errUnsupported)
	}
	return name, nil
}

func (d nvmlDevice) Utilization() (gpu, memory float64, err error) {
	u, err := invoke(d.library, "nvmlDeviceGetUtilizationRates", d.device.GetUtilizationRates)
	return float64(u.Gpu) / 100, float64(u.Memory) / 100, err
}

func (d nvmlDevice) EncoderUtilization() (float64, error) {
	percent, err := invoke(d.library, "nvmlDeviceGetEncoderUtilization", func() (uint32, nvml.Return) {
		percent, _, ret := d.device.GetEncoderUtilization()
		return percent, ret
	})
	return float64(percent) / 100, err
}

func (d nvmlDevice) DecoderUtilization() (float64, error) {
	percent, err := invoke(d.library, "nvmlDeviceGetDecoderUtilization", func() (uint32, nvml.Return) {
		percent, _, ret := d.device.GetDecoderUtilization()
		return percent, ret
	})
	return float64(percent) / 100, err
}

// Memory prefers the second version of the call: the first counts what the driver reserves as used.
func (d nvmlDevice) Memory() (Memory, error) {
	m, err := invoke(d.library, "nvmlDeviceGetMemoryInfo_v2", d.device.GetMemoryInfo_v2)
	if err == nil {
		return Memory{Total: m.Total, Used: m.Used, Free: m.Free, Reserved: &m.Reserved}, nil
	}
	if unexpected(err) {
		return Memory{}, err
	}
	v1, err := invoke(d.library, "nvmlDeviceGetMemoryInfo", d.device.GetMemoryInfo)
	return Memory{Total: v1.Total, Used: v1.Used, Free: v1.Free}, err
}

func (d nvmlDevice) Power() (float64, error) {
	milliwatts, err := invoke(d.library, "nvmlDeviceGetPowerUsage", d.device.GetPowerUsage)
	return float64(milliwatts) / 1000, err
}

func (d nvmlDevice) PowerLimit(kind string) (float64, error) {
	call, f := "nvmlDeviceGetPowerManagementLimitConstraints", func() (uint32, nvml.Return) {
		least, most, ret := d.device.GetPowerManagementLimitConstraints()
		if kind == "min" {
			return least, ret
		}
		return most, ret
	}
	switch kind {
	case "enforced":
		call, f = "nvmlDeviceGetEnforcedPowerLimit", d.device.GetEnforcedPowerLimit
	case "default":
		call, f = "nvmlDeviceGetPowerManagementDefaultLimit", d.device.GetPowerManagementDefaultLimit
	}
	milliwatts, err := invoke(d.library, call, f)
	return float64(milliwatts) / 1000, err
}

func (d nvmlDevice) Energy() (float64, error) {
	millijoules, err := invoke(d.library, "nvmlDeviceGetTotalEnergyConsumption", d.device.GetTotalEnergyConsumption)
	return float64(millijoules) / 1000, err
}

func (d nvmlDevice) Temperature() (float64, error) {
	celsius, err := invoke(d.library, "nvmlDeviceGetTemperature", func() (uint32, nvml.Return) {
		return d.device.GetTemperature(nvml.TEMPERATURE_GPU)
	})
	return float64(celsius), err
}

func (d nvmlDevice) Threshold(kind string) (float64, error) {
	threshold := map[string]nvml.TemperatureThresholds{
		"slowdown": nvml.TEMPERATURE_THRESHOLD_SLOWDOWN, "shutdown": nvml.TEMPERATURE_THRESHOLD_SHUTDOWN,
		"max": nvml.TEMPERATURE_THRESHOLD_GPU_MAX,
	}[kind]
	celsius, err := invoke(d.library, "nvmlDeviceGetTemperatureThreshold", func() (uint32, nvml.Return) {
		return d.device.GetTemperatureThreshold(threshold)
	})
	return float64(celsius), err
}

var clockTypes = map[string]nvml.ClockType{
	"graphics": nvml.CLOCK_GRAPHICS, "sm": nvml.CLOCK_SM, "mem": nvml.CLOCK_MEM, "video": nvml.CLOCK_VIDEO,
}

func (d nvmlDevice) Clock(domain string) (float64, error) {
	megahertz, err := invoke(d.library, "nvmlDeviceGetClockInfo", func() (uint32, nvml.Return) {
		return d.device.GetClockInfo(clockTypes[domain])
	})
	return float64(megahertz) * 1e6, err
}

func (d nvmlDevice) ClockMax(domain string) (float64, error) {
	megahertz, err := invoke(d.library, "nvmlDeviceGetMaxClockInfo", func() (uint32, nvml.Return) {
		return d.device.GetMaxClockInfo(clockTypes[domain])
	})
	return float64(megahertz) * 1e6, err
}

func (d nvmlDevice) PState() (int, error) {
	const call = "nvmlDeviceGetPerformanceState"
	state, err := invoke(d.library, call, d.device.GetPerformanceState)
	if err == nil && state == nvml.PSTATE_UNKNOWN {
		err = fmt.Errorf("%s: the state is not known: %w", call, errUnsupported)
	}
	return int(state), err
}

func (d nvmlDevice) Fans() (int, error) {
	return invoke(d.library, "nvmlDeviceGetNumFans", d.device.GetNumFans)
}

func (d nvmlDevice) FanSpeed(fan int) (float64, error) {
	percent, err := invoke(d.library, "nvmlDeviceGetFanSpeed_v2", func() (uint32, nvml.Return) {
		return d.device.GetFanSpeed_v2(fan)
	})
	return float64(percent) / 100, err
}

// ClockEvents falls back to the name that the call had before driver 535.
func (d nvmlDevice) ClockEvents() (map[string]bool, error) {
	mask, err := invoke(d.library, "nvmlDeviceGetCurrentClocksEventReasons", d.device.GetCurrentClocksEventReasons)
	if errors.Is(err, errUnsupported) {
		mask, err = invoke(d.library, "nvmlDeviceGetCurrentClocksThrottleReasons", d.device.GetCurrentClocksThrottleReasons)
	}
	if err != nil {
		return nil, err
	}
	events := make(map[string]bool, len(clockEventReasons))
	for bit, reason := range clockEventReasons {
		events[reason] = mask&(1<<bit) != 0
	}
	return events, nil
}

func (d nvmlDevice) ECC(kind, scope string) (uint64, error) {
	errorType, counter := nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC
	if kind == "uncorrected" {
		errorType = nvml.MEMORY_ERROR_TYPE_UNCORRECTED
	}
	if scope == "aggregate" {
		counter = nvml.AGGREGATE_ECC
	}
	return invoke(d.library, "nvmlDeviceGetTotalEccErrors", func() (uint64, nvml.Return) {
		return d.device.GetTotalEccErrors(errorType, counter)
	})
}

func (d nvmlDevice) RemappedRows() (remappedRows, error) {
	return invoke(d.library, "nvmlDeviceGetRemappedRows", func() (remappedRows, nvml.Return) {
		correctable, uncorrectable, pending, failure, ret := d.device.GetRemappedRows()
		return remappedRows{uint64(correctable), uint64(uncorrectable), pending, failure}, ret
	})
}

func (d nvmlDevice) RetiredPages(cause string) (uint64, error) {
	pages, err := invoke(d.library, "nvmlDeviceGetRetiredPages", func() ([]uint64, nvml.Return) {
		if cause == "double_bit" {
			return d.device.GetRetiredPages(nvml.PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
		}
		return d.device.GetRetiredPages(nvml.PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS)
	})
	return uint64(len(pages)), err
}

func (d nvmlDevice) RetiredPagesPending() (bool, error) {
	pending, err := invoke(d.library, "nvmlDeviceGetRetiredPagesPendingStatus", d.device.GetRetiredPagesPendingStatus)
	return pending == nvml.FEATURE_ENABLED, err
}

func (d nvmlDevice) PCIeReplays() (uint64, error) {
	replays, err := invoke(d.library, "nvmlDeviceGetPcieReplayCounter", d.device.GetPcieReplayCounter)
	return uint64(replays), err
}

func (d nvmlDevice) PCIeGeneration(state string) (int, error) {
	if state == "max" {
		return invoke(d.library, "nvmlDeviceGetMaxPcieLinkGeneration", d.device.GetMaxPcieLinkGeneration)
	}
	return invoke(d.library, "nvmlDeviceGetCurrPcieLinkGeneration", d.device.GetCurrPcieLinkGeneration)
}

func (d nvmlDevice) PCIeWidth(state string) (int, error) {
	if state == "max" {
		return invoke(d.library, "nvmlDeviceGetMaxPcieLinkWidth", d.device.GetMaxPcieLinkWidth)
	}
	return invoke(d.library, "nvmlDeviceGetCurrPcieLinkWidth", d.device.GetCurrPcieLinkWidth)
}

// NVLinkUp returns errUnsupported for a link that the GPU does not have.
func (d nvmlDevice) NVLinkUp(link int) (bool, error) {
	const call = "nvmlDeviceGetNvLinkState"
	if err := d.library.has(call); err != nil {
		return false, err
	}
	state, ret := timedValue(d.library, call, func() (nvml.EnableState, nvml.Return) { return d.device.GetNvLinkState(link) })
	return state == nvml.FEATURE_ENABLED, d.link(call, link, ret)
}

func (d nvmlDevice) NVLinkErrors(link int, kind string) (uint64, error) {
	const call = "nvmlDeviceGetNvLinkErrorCounter"
	if err := d.library.has(call); err != nil {
		return 0, err
	}
	counter := map[string]nvml.NvLinkErrorCounter{
		"crc_flit": nvml.NVLINK_ERROR_DL_CRC_FLIT, "crc_data": nvml.NVLINK_ERROR_DL_CRC_DATA,
		"replay": nvml.NVLINK_ERROR_DL_REPLAY, "recovery": nvml.NVLINK_ERROR_DL_RECOVERY,
	}[kind]
	n, ret := timedValue(d.library, call, func() (uint64, nvml.Return) { return d.device.GetNvLinkErrorCounter(link, counter) })
	return n, d.link(call, link, ret)
}

// link is check for a call about one link.
func (d nvmlDevice) link(call string, link int, ret nvml.Return) error {
	if ret == nvml.ERROR_INVALID_ARGUMENT {
		return fmt.Errorf("%s: no link %d: %w", call, link, errUnsupported)
	}
	return d.library.check(call, ret)
}

// Fields takes a field that the driver does not know, an invalid argument to it, for one that is not supported.
func (d nvmlDevice) Fields(fields []field) ([]fieldValue, error) {
	const call = "nvmlDeviceGetFieldValues"
	if err := d.library.has(call); err != nil {
		return nil, err
	}
	raw := make([]nvml.FieldValue, len(fields))
	for i, f := range fields {
		raw[i].FieldId, raw[i].ScopeId = f.id, f.scope
	}
	if err := d.library.check(call, timed(d.library, call, func() nvml.Return { return d.device.GetFieldValues(raw) })); err != nil {
		return nil, err
	}
	values := make([]fieldValue, len(fields))
	for i, v := range raw {
		name := fmt.Sprintf("%s: field %d", call, v.FieldId)
		switch ret := nvml.Return(v.NvmlReturn); ret {
		case nvml.SUCCESS:
			values[i].value, values[i].err = number(v)
		case nvml.ERROR_INVALID_ARGUMENT, nvml.ERROR_NOT_FOUND:
			values[i].err = fmt.Errorf("%s: %s: %w", name, d.library.text(ret), errUnsupported)
		default:
			values[i].err = d.library.check(name, ret)
		}
	}
	return values, nil
}

// number returns the value of a field. All that are read are counts, so a negative one is none.
func number(v nvml.FieldValue) (uint64, error) {
	bits := binary.NativeEndian.Uint64(v.Value[:])
	low := binary.NativeEndian.Uint32(v.Value[:4])
	var n int64 // of a signed value
	switch nvml.ValueType(v.ValueType) {
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG:
		return bits, nil
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		return uint64(low), nil
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		return uint64(binary.NativeEndian.Uint16(v.Value[:2])), nil
	case nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		n = int64(bits)
	case nvml.VALUE_TYPE_SIGNED_INT:
		n = int64(int32(low))
	case nvml.VALUE_TYPE_DOUBLE:
		n = int64(math.Float64frombits(bits))
	default:
		return 0, fmt.Errorf("field %d: a value of type %d: %w", v.FieldId, v.ValueType, errUnsupported)
	}
	if n < 0 {
		return 0, fmt.Errorf("field %d: %d: %w", v.FieldId, n, errUnsupported)
	}
	return uint64(n), nil
}

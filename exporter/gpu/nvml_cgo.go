//go:build linux && cgo

package gpu

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// unbound says why this binary cannot call NVML: it can.
func unbound() string { return "" }

// nvmlLibrary is NVML by way of go-nvml. go-nvml keeps versioned functions in package variables, so a process may open
// one library only. A symbol that the library lacks ends the process when it is called, so every call is looked up
// first, but for those that NVML has had from the beginning: init, shutdown, count, handle by index.
type nvmlLibrary struct {
	nvml nvml.Interface
}

// open loads the first of the candidates that can be loaded and starts NVML. It returns the path that worked. The error
// is an *absentError where there is no library, or none with a driver behind it.
func open(asked string) (library, string, error) {
	absent := &absentError{}
	for _, path := range candidates(asked) {
		// go-nvml does not say why a library could not be opened; the loader does. A library that opens stays open.
		probe := dl.New(path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
		if err := probe.Open(); err != nil {
			absent.tried = append(absent.tried, err.Error())
			continue
		}
		lib := nvmlLibrary{nvml: nvml.New(nvml.WithLibraryPath(path))}
		if err := probe.Lookup("nvmlInit_v2"); err != nil {
			if err := probe.Lookup("nvmlInit"); err != nil {
				absent.tried = append(absent.tried, path+": is not NVML: "+err.Error())
				_ = probe.Close()
				continue
			}
		}
		switch ret := lib.nvml.Init(); ret {
		case nvml.SUCCESS:
			return lib, path, nil
		case nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIBRARY_NOT_FOUND:
			absent.tried = append(absent.tried, fmt.Sprintf("%s: nvmlInit: %s", path, lib.text(ret)))
			return nil, path, absent
		default:
			return nil, path, fmt.Errorf("nvmlInit: %s", lib.text(ret))
		}
	}
	return nil, "", absent
}

// Close ends NVML.
func (l nvmlLibrary) Close() error {
	return l.check("nvmlShutdown", l.nvml.Shutdown())
}

func (l nvmlLibrary) DriverVersion() (string, error) {
	const call = "nvmlSystemGetDriverVersion"
	if err := l.has(call); err != nil {
		return "", err
	}
	version, ret := l.nvml.SystemGetDriverVersion()
	return version, l.check(call, ret)
}

func (l nvmlLibrary) DeviceCount() (int, error) {
	n, ret := l.nvml.DeviceGetCount()
	return n, l.check("nvmlDeviceGetCount", ret)
}

func (l nvmlLibrary) Device(index int) (device, error) {
	d, ret := l.nvml.DeviceGetHandleByIndex(index)
	if err := l.check("nvmlDeviceGetHandleByIndex", ret); err != nil {
		return nil, err
	}
	return nvmlDevice{library: l, device: d}, nil
}

// has returns an error that wraps errUnsupported where the library has no such symbol.
func (l nvmlLibrary) has(symbol string) error {
	if err := l.nvml.Extensions().LookupSymbol(symbol); err != nil {
		return fmt.Errorf("%s: %w by this driver", symbol, errUnsupported)
	}
	return nil
}

// check turns NVML's return value into an error.
func (l nvmlLibrary) check(call string, ret nvml.Return) error {
	switch ret {
	case nvml.SUCCESS:
		return nil
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_NO_PERMISSION,
		nvml.ERROR_ARGUMENT_VERSION_MISMATCH:
		return fmt.Errorf("%s: %s: %w", call, l.text(ret), errUnsupported)
	case nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return fmt.Errorf("%s: %s: %w", call, l.text(ret), errDriverGone)
	default:
		return fmt.Errorf("%s: %s", call, l.text(ret))
	}
}

// text returns NVML's words for its return value.
func (l nvmlLibrary) text(ret nvml.Return) string {
	if l.has("nvmlErrorString") != nil {
		return fmt.Sprintf("return value %d", int(ret))
	}
	return ret.Error()
}

// nvmlDevice is one GPU.
type nvmlDevice struct {
	library nvmlLibrary
	device  nvml.Device
}

func (d nvmlDevice) UUID() (string, error) {
	const call = "nvmlDeviceGetUUID"
	if err := d.library.has(call); err != nil {
		return "", err
	}
	uuid, ret := d.device.GetUUID()
	return uuid, d.library.check(call, ret)
}

func (d nvmlDevice) Name() (string, error) {
	const call = "nvmlDeviceGetName"
	if err := d.library.has(call); err != nil {
		return "", err
	}
	name, ret := d.device.GetName()
	return name, d.library.check(call, ret)
}

// PCIBusID returns domain:bus:device.function with a domain of 8 digits, as NVML has it.
func (d nvmlDevice) PCIBusID() (string, error) {
	const call = "nvmlDeviceGetPciInfo"
	if d.library.has(call+"_v3") != nil && d.library.has(call+"_v2") != nil {
		if err := d.library.has(call); err != nil {
			return "", err
		}
	}
	pci, ret := d.device.GetPciInfo()
	if err := d.library.check(call, ret); err != nil {
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

func (d nvmlDevice) Utilization() (gpu, memory float64, err error) {
	const call = "nvmlDeviceGetUtilizationRates"
	if err := d.library.has(call); err != nil {
		return 0, 0, err
	}
	u, ret := d.device.GetUtilizationRates()
	return float64(u.Gpu) / 100, float64(u.Memory) / 100, d.library.check(call, ret)
}

// Memory prefers the second version of the call: the first counts what the driver reserves as used.
func (d nvmlDevice) Memory() (Memory, error) {
	const v1, v2 = "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"
	if d.library.has(v2) == nil {
		m, ret := d.device.GetMemoryInfo_v2()
		if err := d.library.check(v2, ret); err == nil {
			return Memory{Total: m.Total, Used: m.Used, Free: m.Free}, nil
		} else if unexpected(err) {
			return Memory{}, err
		}
	}
	if err := d.library.has(v1); err != nil {
		return Memory{}, err
	}
	m, ret := d.device.GetMemoryInfo()
	return Memory{Total: m.Total, Used: m.Used, Free: m.Free}, d.library.check(v1, ret)
}

func (d nvmlDevice) Power() (float64, error) {
	const call = "nvmlDeviceGetPowerUsage"
	if err := d.library.has(call); err != nil {
		return 0, err
	}
	milliwatts, ret := d.device.GetPowerUsage()
	return float64(milliwatts) / 1000, d.library.check(call, ret)
}

func (d nvmlDevice) Energy() (float64, error) {
	const call = "nvmlDeviceGetTotalEnergyConsumption"
	if err := d.library.has(call); err != nil {
		return 0, err
	}
	millijoules, ret := d.device.GetTotalEnergyConsumption()
	return float64(millijoules) / 1000, d.library.check(call, ret)
}

func (d nvmlDevice) Temperature() (float64, error) {
	const call = "nvmlDeviceGetTemperature"
	if err := d.library.has(call); err != nil {
		return 0, err
	}
	celsius, ret := d.device.GetTemperature(nvml.TEMPERATURE_GPU)
	return float64(celsius), d.library.check(call, ret)
}

func (d nvmlDevice) Clock(domain string) (float64, error) {
	const call = "nvmlDeviceGetClockInfo"
	if err := d.library.has(call); err != nil {
		return 0, err
	}
	kind := map[string]nvml.ClockType{
		"graphics": nvml.CLOCK_GRAPHICS, "sm": nvml.CLOCK_SM, "mem": nvml.CLOCK_MEM, "video": nvml.CLOCK_VIDEO,
	}[domain]
	megahertz, ret := d.device.GetClockInfo(kind)
	return float64(megahertz) * 1e6, d.library.check(call, ret)
}

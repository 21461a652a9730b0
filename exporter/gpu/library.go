package gpu

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"time"
)

// library is what is used of NVML. Its errors wrap errUnsupported where a GPU or driver does not have the value, errLost
// where a GPU will not answer any more, and errDriverGone where nothing will work before the library is opened anew.
// Missing and Events with what it returns may be used beside the rest, which is for one goroutine.
type library interface {
	DriverVersion() (string, error)
	CUDAVersion() (string, error) // the newest that the driver supports, such as 12.8
	DeviceCount() (int, error)
	Device(index int) (device, error)
	Events(skip ...string) (events, error) // of the GPUs that are there now, but for those that it names as request.Skip does
	Missing() []string                     // the symbols that were wanted and that the library lacks, sorted
	Close() error
}

// opening says which library to open, and how it is used.
type opening struct {
	library string     // as Options.Library
	procfs  string     // where procfs is mounted; empty for /proc
	calls   *stopwatch // of the calls; nil to take none
}

// device is what is used of one GPU, in base units.
type device interface {
	UUID() (string, error)
	Name() (string, error)
	PCIBusID() (string, error)
	Serial() (string, error)
	VBIOS() (string, error)
	Architecture() (string, error) // such as hopper
	MIGMode() (bool, error)
	Instances() ([]Instance, error) // of MIG; none where it is disabled

	Utilization() (gpu, memory float64, err error) // ratios
	EncoderUtilization() (float64, error)          // a ratio
	DecoderUtilization() (float64, error)          // likewise
	Memory() (Memory, error)                       // bytes
	Power() (float64, error)                       // watts
	PowerLimit(kind string) (float64, error)       // watts; of powerLimits
	Energy() (float64, error)                      // joules
	Temperature() (float64, error)                 // degrees Celsius, of the GPU itself
	Threshold(kind string) (float64, error)        // degrees Celsius; of thresholds
	Clock(domain string) (float64, error)          // hertz; of domains
	ClockMax(domain string) (float64, error)       // likewise
	PState() (int, error)
	Fans() (int, error)                    // how many
	FanSpeed(fan int) (float64, error)     // a ratio of full speed
	ClockEvents() (map[string]bool, error) // by clockEventReasons, all of them

	ECC(kind, scope string) (uint64, error) // of eccTypes and eccScopes
	RemappedRows() (remappedRows, error)
	RetiredPages(cause string) (uint64, error) // of retirementCauses
	RetiredPagesPending() (bool, error)
	PCIeReplays() (uint64, error)
	PCIeGeneration(state string) (int, error) // of linkStates
	PCIeWidth(state string) (int, error)      // lanes; likewise
	NVLinkUp(link int) (bool, error)
	NVLinkErrors(link int, kind string) (uint64, error) // of nvlinkErrors

	// Fields reads many values with one call. The error is one of the call; each value has its own beside that.
	Fields(fields []field) ([]fieldValue, error)
	// Activity returns what the units did between the call before and this one, by unit as Device.Active has them, and
	// the occupancy of the SMs. At the first call there is none, and less than gpmInterval later that of before.
	Activity() (map[string]float64, *float64, error)
	// Processes returns what runs on the GPU. Utilisation is that since the call before.
	Processes() ([]Process, error)
}

// events are the errors that the driver reports as they happen.
type events interface {
	// Wait returns the next event, or false where there is none within the timeout. It cannot be interrupted.
	Wait(timeout time.Duration) (event, bool, error)
	UUIDs() []string // of the GPUs that report errors
	Close() error
}

// event is one error that the driver reported.
type event struct {
	UUID string `json:"uuid"`
	XID  uint64 `json:"xid"`
	GI   *int   `json:"gi,omitempty"` // of MIG; nil where the error is one of the whole GPU
	CI   *int   `json:"ci,omitempty"`
}

// remappedRows are rows of memory that were replaced by spare ones.
type remappedRows struct {
	correctable, uncorrectable uint64
	pending, failure           bool
}

// field names a value of nvmlDeviceGetFieldValues.
type field struct {
	id    uint32 // NVML_FI_...
	scope uint32 // a link, or allLinks, or 0 where the field has no scope
}

// fieldValue is what was read of a field. The error wraps errUnsupported where GPU or driver do not have it.
type fieldValue struct {
	value uint64
	err   error
}

// allLinks is the scope of a field that is summed up over all links of NVLink.
const allLinks = math.MaxUint32

// gpmInterval is how far apart two samples of activity have to be: the driver takes its own every 100 ms.
const gpmInterval = 100 * time.Millisecond

// The values of the labels of a device's values.
var (
	domains           = [...]string{"graphics", "sm", "mem", "video"} // clocks
	powerLimits       = [...]string{"enforced", "default", "min", "max"}
	thresholds        = [...]string{"slowdown", "shutdown", "max"} // temperatures
	eccTypes          = [...]string{"corrected", "uncorrected"}
	eccScopes         = [...]string{"volatile", "aggregate"}
	retirementCauses  = [...]string{"single_bit", "double_bit"} // and pending
	linkStates        = [...]string{"current", "max"}           // PCIe
	nvlinkErrors      = [...]string{"crc_flit", "crc_data", "replay", "recovery"}
	activeUnits       = [...]string{"graphics", "sm", "tensor", "dram", "fp16", "fp32", "fp64"}
	clockEventReasons = [...]string{ // by bit of NVML's mask, from the lowest
		"idle", "app_clocks", "sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "hw_power_brake", "display",
	}
)

var (
	errUnsupported = errors.New("not supported")
	errLost        = errors.New("the GPU is lost")
	errDriverGone  = errors.New("the driver is gone or was replaced")
	errMismatch    = fmt.Errorf("%w: this library is of another version than the kernel module that is loaded", errDriverGone)
	errAbsent      = errors.New("no driver")
)

// Symbols returns the symbols of NVML that are called, sorted. A library that lacks one is read without it, but for those
// that every library has had from the beginning. A symbol in two versions is called in the newer one that is there.
func Symbols() []string { return slices.Clone(symbols[:]) }

var symbols = [...]string{
	"nvmlDeviceGetArchitecture",
	"nvmlDeviceGetAttributes",
	"nvmlDeviceGetAttributes_v2",
	"nvmlDeviceGetClockInfo",
	"nvmlDeviceGetComputeInstanceId",
	"nvmlDeviceGetComputeRunningProcesses",
	"nvmlDeviceGetComputeRunningProcesses_v2",
	"nvmlDeviceGetComputeRunningProcesses_v3",
	"nvmlDeviceGetCount",
	"nvmlDeviceGetCount_v2",
	"nvmlDeviceGetCurrPcieLinkGeneration",
	"nvmlDeviceGetCurrPcieLinkWidth",
	"nvmlDeviceGetCurrentClocksEventReasons",
	"nvmlDeviceGetCurrentClocksThrottleReasons",
	"nvmlDeviceGetDecoderUtilization",
	"nvmlDeviceGetEncoderUtilization",
	"nvmlDeviceGetEnforcedPowerLimit",
	"nvmlDeviceGetFanSpeed_v2",
	"nvmlDeviceGetFieldValues",
	"nvmlDeviceGetGpuInstanceId",
	"nvmlDeviceGetHandleByIndex",
	"nvmlDeviceGetHandleByIndex_v2",
	"nvmlDeviceGetMaxClockInfo",
	"nvmlDeviceGetMaxMigDeviceCount",
	"nvmlDeviceGetMaxPcieLinkGeneration",
	"nvmlDeviceGetMaxPcieLinkWidth",
	"nvmlDeviceGetMemoryInfo",
	"nvmlDeviceGetMemoryInfo_v2",
	"nvmlDeviceGetMigDeviceHandleByIndex",
	"nvmlDeviceGetMigMode",
	"nvmlDeviceGetName",
	"nvmlDeviceGetNumFans",
	"nvmlDeviceGetNvLinkErrorCounter",
	"nvmlDeviceGetNvLinkState",
	"nvmlDeviceGetPciInfo",
	"nvmlDeviceGetPciInfo_v2",
	"nvmlDeviceGetPciInfo_v3",
	"nvmlDeviceGetPcieReplayCounter",
	"nvmlDeviceGetPerformanceState",
	"nvmlDeviceGetPowerManagementDefaultLimit",
	"nvmlDeviceGetPowerManagementLimitConstraints",
	"nvmlDeviceGetPowerUsage",
	"nvmlDeviceGetProcessUtilization",
	"nvmlDeviceGetRemappedRows",
	"nvmlDeviceGetRetiredPages",
	"nvmlDeviceGetRetiredPagesPendingStatus",
	"nvmlDeviceGetSerial",
	"nvmlDeviceGetTemperature",
	"nvmlDeviceGetTemperatureThreshold",
	"nvmlDeviceGetTotalEccErrors",
	"nvmlDeviceGetTotalEnergyConsumption",
	"nvmlDeviceGetUUID",
	"nvmlDeviceGetUtilizationRates",
	"nvmlDeviceGetVbiosVersion",
	"nvmlDeviceRegisterEvents",
	"nvmlErrorString",
	"nvmlEventSetCreate",
	"nvmlEventSetFree",
	"nvmlEventSetWait",
	"nvmlEventSetWait_v2",
	"nvmlGpmMetricsGet",
	"nvmlGpmMigSampleGet",
	"nvmlGpmQueryDeviceSupport",
	"nvmlGpmSampleAlloc",
	"nvmlGpmSampleFree",
	"nvmlGpmSampleGet",
	"nvmlInit",
	"nvmlInit_v2",
	"nvmlShutdown",
	"nvmlSystemGetCudaDriverVersion",
	"nvmlSystemGetCudaDriverVersion_v2",
	"nvmlSystemGetDriverVersion",
}

// absentError says that there is no library or no driver.
type absentError struct {
	tried []string // each place with what was wrong there
}

func (e *absentError) Error() string { return "no NVIDIA driver" }
func (e *absentError) Unwrap() error { return errAbsent }

// libraryVariable is the environment variable that names the library.
const libraryVariable = "FLYBALL_NVML_LIBRARY"

// candidates returns the libraries to try, in order. One that was asked for is the only one: to fall back to another
// would hide that it does not work.
func candidates(asked string) []string {
	if asked != "" {
		return []string{asked}
	}
	if asked = os.Getenv(libraryVariable); asked != "" {
		return []string{asked}
	}
	triplet := "x86_64-linux-gnu"
	if runtime.GOARCH == "arm64" {
		triplet = "aarch64-linux-gnu"
	}
	return []string{
		"libnvidia-ml.so.1", // wherever the loader looks
		"/run/nvidia/driver/usr/lib/" + triplet + "/libnvidia-ml.so.1", // NVIDIA's GPU operator
		"/usr/lib/wsl/lib/libnvidia-ml.so.1",                           // Windows Subsystem for Linux
	}
}

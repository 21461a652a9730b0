package gpu

import (
	"errors"
	"os"
	"runtime"
)

// library is what is used of NVML. Its errors wrap errUnsupported where a GPU or driver does not have the value, and
// errDriverGone where nothing will work before the library is opened anew.
type library interface {
	DriverVersion() (string, error)
	DeviceCount() (int, error)
	Device(index int) (device, error)
	Close() error
}

// device is what is used of one GPU, in base units.
type device interface {
	UUID() (string, error)
	Name() (string, error)
	PCIBusID() (string, error)
	Utilization() (gpu, memory float64, err error) // ratios
	Memory() (Memory, error)                       // bytes
	Power() (float64, error)                       // watts
	Energy() (float64, error)                      // joules
	Temperature() (float64, error)                 // degrees Celsius, of the GPU itself
	Clock(domain string) (float64, error)          // hertz; of domains
}

// domains are the clocks that are read.
var domains = [...]string{"graphics", "sm", "mem", "video"}

var (
	errUnsupported = errors.New("not supported")
	errDriverGone  = errors.New("the driver is gone or was replaced")
	errAbsent      = errors.New("no driver")
)

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

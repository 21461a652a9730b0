package gpu

// request is the line that the parent writes for one poll.
type request struct {
	Seq     uint64 `json:"seq"`
	Library string `json:"library,omitempty"` // the library to open; only that of the first request counts
}

// reply is the line that the worker answers with.
type reply struct {
	Seq     uint64   `json:"seq"`
	State   state    `json:"state"`
	Error   string   `json:"error,omitempty"`   // why State is not ok
	Library string   `json:"library,omitempty"` // the library that was opened
	Tried   []string `json:"tried,omitempty"`   // where it was looked for, when State is absent
	Driver  string   `json:"driver,omitempty"`  // the driver's version
	Devices []Device `json:"devices,omitempty"` // by index
}

// state is how a poll went.
type state string

const (
	stateOK     state = "ok"     // Devices is what there is
	stateAbsent state = "absent" // there is no library, or no driver behind it
	stateFailed state = "failed" // NVML does not work; another worker may do better
)

// Device is one GPU at one moment, in base units. A nil value or a missing key is something that the GPU does not
// support or that may not be read.
type Device struct {
	Index    int    `json:"index"`
	UUID     string `json:"uuid,omitempty"` // with its prefix GPU-; empty only beside an Error
	Name     string `json:"name,omitempty"`
	PCIBusID string `json:"pci_bus_id,omitempty"`
	Error    string `json:"error,omitempty"` // why the GPU could not be read; what was read before that is kept

	Utilization       *float64 `json:"utilization,omitempty"`        // ratio
	MemoryUtilization *float64 `json:"memory_utilization,omitempty"` // ratio
	Memory            *Memory  `json:"memory,omitempty"`
	Power             *float64 `json:"power,omitempty"`  // watts
	Energy            *float64 `json:"energy,omitempty"` // joules since the driver was loaded

	Temperature map[string]float64 `json:"temperature,omitempty"` // degrees Celsius by sensor
	Clock       map[string]float64 `json:"clock,omitempty"`       // hertz by domain: graphics, sm, mem, video
}

// Memory is a GPU's memory in bytes.
type Memory struct {
	Total uint64 `json:"total"`
	Used  uint64 `json:"used"`
	Free  uint64 `json:"free"`
}

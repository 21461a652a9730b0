package gpu

import "time"

// reply is what one poll came to.
type reply struct {
	Seq      uint64
	State    state    // empty where the poll ended early: Devices is what was read until then
	Error    string   // why State is not ok
	Gone     bool     // State is failed because the driver was unloaded or replaced: a library that is opened anew may work
	Mismatch bool     // beside Gone: the library is of another version than the driver that is loaded
	Backend  string   // how GPUs are read; empty for what a worker alone says
	Library  string   // the library that was opened
	From     string   // what was read in place of a library
	Looked   []string // the ways by which GPUs were looked for, in words, likewise
	Tried    []string // where it was looked for, when State is absent
	Driver   string   // the driver's version
	CUDA     string   // the newest CUDA that the driver supports
	Devices  []Device // by index, each with all that is known of it, also where the poll read a part only
	Skipped  []Device // index, UUID and PCI bus id of those that were not read because the request said so
	Events   []xidEvent
	Calls    map[string]callBuckets // into NVML, since the poll before, where they are measured
	Missing  []string               // the symbols that were wanted and that the library lacks

	Watching []string // the GPUs of which errors are reported as Events, by UUID
}

// xidEvent is an error that the driver reported since the poll before.
type xidEvent struct {
	event
	At time.Time
}

// state is how a poll went.
type state string

const (
	stateOK     state = "ok"     // Devices is what there is
	stateAbsent state = "absent" // there is no library, or no driver behind it
	stateFailed state = "failed" // NVML does not work; another worker may do better
)

// Snapshot is what was read of the GPUs at one moment. Nobody may change it.
type Snapshot struct {
	Taken   time.Time // of the newest of Devices
	Driver  string    // the driver's version
	CUDA    string    // the newest CUDA that the driver supports, such as 12.8; empty where not known
	Backend string    // how GPUs are read: nvml, nvidia-smi, amdgpu or sim
	Library string    // the library that was opened; empty for other backends
	Devices []Device  // by index; those that cannot be read now have an Error
}

// Device is one GPU at one moment, in base units: ratios from 0 to 1, bytes, watts, joules, seconds, hertz, degrees Celsius. A nil
// value, a missing key or an empty list is something that the GPU does not support or that may not be read: it has no series.
type Device struct {
	Index    int       `json:"index"`
	Taken    time.Time `json:"taken,omitzero"`   // when it was read; filled in by the parent, and zero beside an Error
	UUID     string    `json:"uuid,omitempty"`   // with its prefix GPU-; empty only beside an Error
	Error    string    `json:"error,omitempty"`  // why the GPU could not be read; what was read before that is kept
	Lost     bool      `json:"lost,omitempty"`   // beside an Error: the driver has given the GPU up
	Vendor   string    `json:"vendor,omitempty"` // nvidia, amd or sim; empty for nvidia
	Name     string    `json:"name,omitempty"`
	PCIBusID string    `json:"pci_bus_id,omitempty"`
	Serial   string    `json:"serial,omitempty"`
	VBIOS    string    `json:"vbios,omitempty"`
	Arch     string    `json:"arch,omitempty"`     // such as hopper, lower case
	MIGMode  string    `json:"mig_mode,omitempty"` // enabled or disabled

	Utilization        *float64 `json:"utilization,omitempty"`
	MemoryUtilization  *float64 `json:"memory_utilization,omitempty"`
	EncoderUtilization *float64 `json:"encoder_utilization,omitempty"`
	DecoderUtilization *float64 `json:"decoder_utilization,omitempty"`
	Memory             *Memory  `json:"memory,omitempty"`
	Power              *float64 `json:"power,omitempty"`
	Energy             *float64 `json:"energy,omitempty"` // since the driver was loaded, as the worker reads it; since flyball first saw the GPU, as published
	PState             *int     `json:"pstate,omitempty"` // 0 is the fastest

	PowerLimit  map[string]float64 `json:"power_limit,omitempty"` // by type: enforced, default, min, max
	Temperature map[string]float64 `json:"temperature,omitempty"` // by sensor: gpu, memory
	Threshold   map[string]float64 `json:"threshold,omitempty"`   // of temperature, by type: slowdown, shutdown, max
	Clock       map[string]float64 `json:"clock,omitempty"`       // by domain: graphics, sm, mem, video
	ClockMax    map[string]float64 `json:"clock_max,omitempty"`   // likewise
	FanSpeed    []float64          `json:"fan_speed,omitempty"`   // by fan

	ClockEvents       map[string]bool    `json:"clock_events,omitempty"`        // by reason, all nine of clockEventReasons
	ClockEventSeconds map[string]float64 `json:"clock_event_seconds,omitempty"` // by reason, of those that the driver counts

	ECC             []ECCErrors       `json:"ecc,omitempty"`
	RemappedRows    map[string]uint64 `json:"remapped_rows,omitempty"` // by type: correctable, uncorrectable
	RowRemapPending *bool             `json:"row_remap_pending,omitempty"`
	RowRemapFailure *bool             `json:"row_remap_failure,omitempty"`
	RetiredPages    map[string]uint64 `json:"retired_pages,omitempty"`   // by cause: single_bit, double_bit, pending
	RecoveryAction  *int              `json:"recovery_action,omitempty"` // 0 none, 1 reset the GPU, 2 reboot, 3 drain P2P, 4 drain and reset, 5 recover the IMEX domain, 6 reset the bus, 7 reboot the system

	PCIe      *PCIe              `json:"pcie,omitempty"`
	NVLink    *NVLink            `json:"nvlink,omitempty"`    // nil where the GPU has no links
	Active    map[string]float64 `json:"active,omitempty"`    // share of time by unit: graphics, sm, tensor, dram, fp16, fp32, fp64 (GPM: Hopper and later)
	Occupancy *float64           `json:"occupancy,omitempty"` // of the SMs, likewise
	Instances []Instance         `json:"instances,omitempty"` // of MIG
	Processes []Process          `json:"processes,omitempty"` // read only where asked for
	XIDs      []XID              `json:"xids,omitempty"`      // since flyball first saw the GPU; filled in by the parent

	ProcessesDropped int      `json:"processes_dropped,omitempty"` // how many are left out of Processes: those with the least memory
	Faults           []string `json:"faults,omitempty"`            // odd answers about single values, which are left out; the rest was read
	Unsupported      []string `json:"unsupported,omitempty"`       // what is absent and why, only where asked for
}

// Memory is memory in bytes.
type Memory struct {
	Total    uint64  `json:"total"`
	Used     uint64  `json:"used"`
	Free     uint64  `json:"free"`
	Reserved *uint64 `json:"reserved,omitempty"` // by the driver
}

// ECCErrors is a count of memory errors.
type ECCErrors struct {
	Type  string `json:"type"`  // corrected or uncorrected
	Scope string `json:"scope"` // volatile (since the driver was loaded) or aggregate (of the GPU's life)
	Count uint64 `json:"count"`
}

// PCIe is the GPU's link to its host.
type PCIe struct {
	Transmitted *uint64        `json:"transmitted,omitempty"` // bytes; as the worker reads them they wrap, as published they do not
	Received    *uint64        `json:"received,omitempty"`
	Replays     *uint64        `json:"replays,omitempty"`
	Generation  map[string]int `json:"generation,omitempty"` // by state: current, max
	Width       map[string]int `json:"width,omitempty"`      // lanes, likewise
}

// NVLink is the GPU's links to other GPUs. Its bytes are those of all links, or those of each link: never both.
type NVLink struct {
	Transmitted *uint64           `json:"transmitted,omitempty"` // bytes by all links
	Received    *uint64           `json:"received,omitempty"`
	Links       []NVLinkBytes     `json:"links,omitempty"`  // by link; only where asked for, and GPU and driver count by link
	Errors      map[string]uint64 `json:"errors,omitempty"` // by type: crc_flit, crc_data, replay, recovery
	Up          []bool            `json:"up,omitempty"`     // by link
}

// NVLinkBytes are those of one link; nil where they are not told.
type NVLinkBytes struct {
	Transmitted *uint64 `json:"transmitted,omitempty"`
	Received    *uint64 `json:"received,omitempty"`
}

// Instance is one compute instance of MIG.
type Instance struct {
	UUID    string             `json:"uuid"` // with its prefix MIG-
	GI      int                `json:"gi"`
	CI      int                `json:"ci"`
	Profile string             `json:"profile,omitempty"` // such as 1g.10gb
	Memory  *Memory            `json:"memory,omitempty"`
	Active  map[string]float64 `json:"active,omitempty"` // sm, tensor, dram
}

// Process is a process on the GPU.
type Process struct {
	PID           int      `json:"pid"`
	GI            *int     `json:"gi,omitempty"`     // of MIG
	Memory        *uint64  `json:"memory,omitempty"` // bytes
	SMUtilization *float64 `json:"sm_utilization,omitempty"`
	Comm          string   `json:"comm,omitempty"` // the name alone, never the command line, which may hold secrets
}

// XID is how often the driver reported an error of one number.
type XID struct {
	Number uint64    `json:"number"`
	Count  uint64    `json:"count"`
	Last   time.Time `json:"last"` // zero where there was none yet
}

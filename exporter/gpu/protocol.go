package gpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Parent and worker exchange lines of JSON: the parent writes a request, the worker answers with frames.
//
//	begin    the library answers: driver, how many GPUs
//	next     the GPU that is read now: index, then again with UUID and PCI bus id once they are known
//	device   what was read of it
//	skipped  it was left out, as the request says
//	end      all GPUs have been gone through
//	error    instead of all that is to come: the library as a whole does not work
//	event    an error that the driver reported, at any time, also between polls
//
// A GPU is sent as soon as it is read, and announced before, so that the parent knows which one a worker hangs on or
// crashed over, and has the others.

// Bounds of what one side takes from the other.
const (
	maxLine    = 1 << 20 // bytes of one line: a GPU with its MIG instances and processes takes less than 64 KiB
	maxGPUs    = 64      // of one machine
	maxEvents  = 1000    // kept between two polls; the driver's own queue is shorter
	maxSymbols = 1000    // missing; NVML has about 400
)

// request is the line that the parent writes for one poll.
type request struct {
	Seq     uint64   `json:"seq"`
	Library string   `json:"library,omitempty"` // the library to open; only that of the first request counts
	ProcFS  string   `json:"procfs,omitempty"`  // where procfs is mounted; likewise
	Calls   bool     `json:"calls,omitempty"`   // tell how long the calls into the library take; likewise
	Want    tiers    `json:"want,omitempty"`    // what to read; a GPU that the worker has not read yet is read wholly
	Skip    []string `json:"skip,omitempty"`    // GPUs not to touch, by UUID; or by index and count as in #1/8, for one that hangs before it tells its UUID
	Only    string   `json:"only,omitempty"`    // likewise, the one GPU to read: the others are asked for their UUID at most

	patient bool // a GPU may take as long to attach as the library to start: nothing was ever read, or the driver is new
}

// kind says what a frame is.
type kind string

const (
	kindBegin   kind = "begin"
	kindNext    kind = "next"
	kindDevice  kind = "device"
	kindSkipped kind = "skipped"
	kindEnd     kind = "end"
	kindError   kind = "error"
	kindEvent   kind = "event"
)

// frame is a line that the worker writes.
type frame struct {
	Kind kind   `json:"frame"`
	Seq  uint64 `json:"seq,omitempty"` // of the request; 0 for an event

	Library string `json:"library,omitempty"` // begin, error
	Driver  string `json:"driver,omitempty"`  // begin
	CUDA    string `json:"cuda,omitempty"`    // begin
	Count   int    `json:"count,omitempty"`   // begin

	Index    int    `json:"index"`                // next, skipped
	UUID     string `json:"uuid,omitempty"`       // next, skipped
	PCIBusID string `json:"pci_bus_id,omitempty"` // next, skipped

	Device *Device `json:"device,omitempty"` // device
	Read   tiers   `json:"read,omitempty"`   // device: what was read of it; the rest holds as it was

	Missing  []string `json:"missing,omitempty"`  // end
	Watching []string `json:"watching,omitempty"` // end: the GPUs of which there will be events, by UUID

	State state    `json:"state,omitempty"` // error: absent or failed
	Error string   `json:"error,omitempty"` // error
	Tried []string `json:"tried,omitempty"` // error
	Gone  bool     `json:"gone,omitempty"`  // error

	Mismatch bool `json:"mismatch,omitempty"` // error: library and driver are of different versions

	Calls map[string]callBuckets `json:"calls,omitempty"` // end, error: those since the frame before, where they are asked for

	Event *event    `json:"event,omitempty"` // event
	At    time.Time `json:"at,omitzero"`     // event
}

// decodeFrame reads a line of the worker. What it returns is whole: fields that its kind needs are there.
func decodeFrame(line []byte) (frame, error) {
	var f frame
	if err := json.Unmarshal(line, &f); err != nil {
		return frame{}, fmt.Errorf("answer: %w", err)
	}
	switch {
	case f.Kind == kindBegin && (f.Count < 0 || f.Count > maxGPUs):
		return frame{}, fmt.Errorf("answer: %d GPUs", f.Count)
	case (f.Kind == kindNext || f.Kind == kindSkipped) && (f.Index < 0 || f.Index >= maxGPUs):
		return frame{}, fmt.Errorf("answer: GPU %d", f.Index)
	case f.Kind == kindDevice && (f.Device == nil || f.Device.Index < 0 || f.Device.Index >= maxGPUs):
		return frame{}, errors.New("answer: a device that is none")
	case f.Kind == kindDevice && f.Device.UUID == "" && f.Device.Error == "":
		return frame{}, fmt.Errorf("answer: GPU %d has no UUID", f.Device.Index)
	case f.Kind == kindError && f.State != stateAbsent && f.State != stateFailed:
		return frame{}, fmt.Errorf("answer of unknown state %q", f.State)
	case f.Kind == kindEvent && f.Event == nil:
		return frame{}, errors.New("answer: an event that is none")
	}
	switch f.Kind {
	case kindBegin, kindNext, kindDevice, kindSkipped, kindEnd, kindError, kindEvent:
		f.Calls = saneCalls(f.Calls)
		f.Missing = f.Missing[:min(len(f.Missing), maxSymbols)]
		f.Watching = f.Watching[:min(len(f.Watching), maxGPUs)]
		if f.Device != nil && f.Device.NVLink != nil {
			f.Device.NVLink.Links = f.Device.NVLink.Links[:min(len(f.Device.NVLink.Links), maxLinks)]
		}
		return f, nil
	}
	return frame{}, fmt.Errorf("answer of unknown kind %q", f.Kind)
}

// place is a GPU as far as it is known.
type place struct {
	index    int
	count    int    // of GPUs: with another count, the index may be that of another GPU
	uuid     string // empty until the GPU has told it
	pciBusID string
}

// id returns what request.Only calls the GPU.
func (p place) id() string {
	if p.uuid != "" {
		return p.uuid
	}
	return p.position()
}

// position returns what request.Skip calls a GPU without a UUID.
func (p place) position() string { return fmt.Sprintf("#%d/%d", p.index, p.count) }

// in reports whether the GPU is one of ids.
func (p place) in(ids ...string) bool {
	return p.uuid != "" && slices.Contains(ids, p.uuid) || slices.Contains(ids, p.position())
}

func (p place) String() string {
	s := "GPU " + strconv.Itoa(p.index)
	switch {
	case p.uuid != "" && p.pciBusID != "":
		s += " (" + p.uuid + ", " + p.pciBusID + ")"
	case p.uuid != "":
		s += " (" + p.uuid + ")"
	}
	return s
}

// failure is why a poll came to nothing, or not to its end.
type failure struct {
	reason string // one of restartReasons
	gpu    *place // the one that the worker hung on or crashed over; nil where it is not one GPU's fault
	err    error
}

func (f *failure) Error() string {
	if f.gpu != nil {
		return "NVML worker: " + f.gpu.String() + ": " + f.err.Error()
	}
	return "NVML worker: " + f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// undefined finds the symbol in what the loader says of one that is missing.
var undefined = regexp.MustCompile(`undefined symbol: (\w+)`)

// symbols returns the symbol that was missing, if that was the reason.
func (f *failure) symbols() []string {
	if m := undefined.FindStringSubmatch(f.err.Error()); f.reason == reasonSymbol && m != nil {
		return m[1:]
	}
	return nil
}

// failed returns err as a failure.
func failed(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if errors.Is(err, errTimeout) {
		return &failure{reason: reasonTimeout, err: err}
	}
	return &failure{reason: reasonError, err: err}
}

// The reasons for which a worker is replaced. A GPU that cannot be read has one of them, of a worker's that hung on it or
// crashed over it, or one of its own.
const (
	reasonTimeout = "timeout"        // it did not answer in time
	reasonCrash   = "crash"          // it ended
	reasonSymbol  = "missing_symbol" // it ended because the library lacks a function that was called
	reasonReload  = "driver_reload"  // the driver was unloaded or replaced under it
	reasonError   = "error"          // NVML does not work, or what it says makes no sense

	reasonLost = "lost" // of a GPU: the driver has given it up
	reasonGone = "gone" // of a GPU: the driver does not list it any more
)

var (
	restartReasons = [...]string{reasonTimeout, reasonCrash, reasonReload, reasonSymbol, reasonError}
	collectReasons = [...]string{reasonTimeout, reasonCrash, reasonSymbol, reasonLost, reasonGone, reasonError}
)

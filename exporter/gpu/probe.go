package gpu

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// ProbeOptions are the settings of Probe. The zero value of each but Command is a default.
type ProbeOptions struct {
	Command []string      // runs ProbeWorker: normally this binary with its hidden command
	Library string        // as Options.Library
	Runs    int           // how often each call is made: 10 by default
	Timeout time.Duration // how long one call may take: 2 s by default
	// StartTimeout is how long it may take to open the library, which initialises every GPU: 30 s by default.
	StartTimeout time.Duration
}

// Probed is what was found out about NVML on this machine.
type Probed struct {
	Library string      `json:"library,omitempty"` // the one that was opened
	Tried   []string    `json:"tried,omitempty"`   // where it was looked for, and what was wrong there; only where none was opened
	Driver  string      `json:"driver,omitempty"`
	CUDA    string      `json:"cuda,omitempty"`    // the newest that the driver supports
	Symbols []Symbol    `json:"symbols,omitempty"` // all of Symbols; none where there is no library
	GPUs    []ProbedGPU `json:"gpus,omitempty"`    // by index
	Error   string      `json:"error,omitempty"`   // why there is not all of it
}

// Symbol is a function of NVML.
type Symbol struct {
	Name    string `json:"name"`
	Present bool   `json:"present"`
}

// ProbedGPU is one GPU.
type ProbedGPU struct {
	Index    int    `json:"gpu"`
	UUID     string `json:"uuid,omitempty"`
	Name     string `json:"name,omitempty"`
	PCIBusID string `json:"pci_bus_id,omitempty"`
	Calls    []Call `json:"calls,omitempty"` // by name
	Error    string `json:"error,omitempty"` // the call that hung, or ended the process that made it; those after it were not made
}

// Call is one way to ask a GPU.
type Call struct {
	Name    string  `json:"call"`               // what is asked for, such as Power
	P50     float64 `json:"p50_us,omitempty"`   // microseconds
	Max     float64 `json:"max_us,omitempty"`   // likewise
	Error   string  `json:"error,omitempty"`    // why there is no answer; it is measured as well
	NotMade string  `json:"not_made,omitempty"` // why it was not made: what it asks for the GPU does not have
}

// absent is why the call tells nothing; empty where it does.
func (c Call) absent() string { return cmp.Or(c.Error, c.NotMade) }

// Probe opens NVML and makes every call to every GPU, in a process of its own. Where a call hangs or crashes, the process is
// ended and another one goes on with the next GPU, so that Probe returns in time whatever the driver does: at the end of ctx at
// the latest, with what is known by then.
func Probe(ctx context.Context, o ProbeOptions) Probed {
	o.Runs = cmp.Or(o.Runs, 10)
	o.Timeout = cmp.Or(o.Timeout, 2*time.Second)
	o.StartTimeout = cmp.Or(o.StartTimeout, 30*time.Second)
	var p Probed
	if why := unbound(); why != "" {
		p.Error = why
		return p
	}
	for skip := []int(nil); ; {
		bad, err := o.once(ctx, &p, skip)
		if err == nil {
			return p
		}
		if bad == nil || ctx.Err() != nil {
			p.Error = err.Error()
			return p
		}
		bad.Error = err.Error()
		for skip = skip[:0]; len(skip) <= bad.Index; { // those before it are done
			skip = append(skip, len(skip))
		}
	}
}

// probeRequest is what the process that makes the calls is told.
type probeRequest struct {
	Library string `json:"library,omitempty"`
	Runs    int    `json:"runs"`
	Skip    []int  `json:"skip,omitempty"` // GPUs that are not to be touched
}

// probeStep is one line that it writes.
type probeStep struct {
	Kind    probeKind  `json:"step"`
	Library *Probed    `json:"library,omitempty"` // of stepLibrary
	Count   int        `json:"count,omitempty"`   // GPUs, of stepLibrary
	Index   int        `json:"index"`             // of the others
	Name    string     `json:"name,omitempty"`    // of stepCall
	GPU     *ProbedGPU `json:"gpu,omitempty"`     // of stepGPU
	Call    *Call      `json:"call,omitempty"`    // of stepCalled
}

type probeKind string

const (
	stepLibrary probeKind = "library" // it was opened, or was not
	stepBegin   probeKind = "begin"   // a GPU comes now
	stepGPU     probeKind = "gpu"     // this is it
	stepCall    probeKind = "call"    // a call comes now
	stepCalled  probeKind = "called"  // this came of it
	stepEnd     probeKind = "end"     // all has been said
)

// once starts a process and takes down what it says. The error says why it did not come to its end, with the GPU that is to
// blame, which is in p; nil where it is none.
func (o ProbeOptions) once(ctx context.Context, p *Probed, skip []int) (*ProbedGPU, error) {
	if len(o.Command) == 0 {
		return nil, errors.New("probe: no command given")
	}
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	var stderr said
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	steps, ended, left := make(chan probeStep), make(chan error, 1), make(chan struct{})
	go func() {
		err := readSteps(stdout, steps, left)
		if err != nil {
			_ = cmd.Process.Kill() // what else it says would make no sense either
		}
		close(steps)
		ended <- cmp.Or(err, cmd.Wait())
	}()
	defer func() { // a process that is stuck in the driver ends when that lets it, and holds a goroutine until then
		close(left)
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		select {
		case <-ended: //nolint:errcheck // what there was to say of it has been said
		case <-time.After(reapTime):
		}
	}()
	if err := json.NewEncoder(stdin).Encode(probeRequest{o.Library, o.Runs, skip}); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}

	doing, timeout := "nvmlInit", o.StartTimeout
	var now *ProbedGPU // the one that is asked
	for {
		if doing == attachCall { // which initialises a GPU where the persistence daemon does not run
			timeout = max(o.Timeout, attachTime)
		}
		timer := time.NewTimer(timeout)
		select {
		case step, more := <-steps:
			timer.Stop()
			if !more {
				err := io.ErrUnexpectedEOF
				select {
				case how := <-ended:
					ended <- how // for the end of this function
					err = cmp.Or(how, err)
				case <-time.After(reapTime):
				}
				return now, fmt.Errorf("%s ended the process that made the call: %w%s", doing, err, after(stderr.String()))
			}
			switch step.Kind {
			case stepLibrary:
				if step.Library == nil {
					return nil, errors.New("probe: a library that is none")
				}
				gpus := p.GPUs
				*p = *step.Library
				if p.GPUs = gpus; p.GPUs == nil {
					p.GPUs = make([]ProbedGPU, max(0, min(step.Count, maxProbed)))
					for i := range p.GPUs {
						p.GPUs[i].Index = i
					}
				}
				if p.Error != "" {
					return nil, errors.New(p.Error)
				}
				timeout = o.Timeout
				doing = "nvmlDeviceGetCount"
			case stepEnd:
				return nil, nil
			default:
				if step.Index < 0 || step.Index >= len(p.GPUs) {
					return nil, fmt.Errorf("probe: GPU %d, which came after the others were counted", step.Index)
				}
				now = &p.GPUs[step.Index]
				now.take(step)
				doing, timeout = cmp.Or(step.Name, attachCall), o.Timeout
			}
		case <-timer.C:
			return now, fmt.Errorf("%s hangs: no answer within %s", doing, timeout)
		case <-ctx.Done():
			timer.Stop()
			return now, fmt.Errorf("%s has no answer yet: %w", doing, ctx.Err())
		}
	}
}

// attachCall is the first call of a GPU.
const attachCall = "nvmlDeviceGetHandleByIndex"

// maxProbed bounds what a driver that has lost its mind says of how many GPUs there are.
const maxProbed = 256

// take notes what a step says of the GPU.
func (g *ProbedGPU) take(step probeStep) {
	switch {
	case step.GPU != nil:
		calls := g.Calls
		*g = *step.GPU
		g.Calls = calls
	case step.Call != nil:
		at, _ := slices.BinarySearchFunc(g.Calls, step.Call.Name, func(c Call, name string) int { return cmp.Compare(c.Name, name) })
		g.Calls = slices.Insert(g.Calls, at, *step.Call)
	}
}

// after is what a process said before it ended.
func after(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// readSteps hands on lines until the process ends its output, or nobody takes them any more.
func readSteps(from io.Reader, steps chan<- probeStep, left <-chan struct{}) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var step probeStep
		if err := json.Unmarshal(lines.Bytes(), &step); err != nil {
			return fmt.Errorf("probe: answer: %w", err)
		}
		select {
		case steps <- step:
		case <-left:
			return nil
		}
	}
	return lines.Err()
}

// Missing returns the symbols that the library lacks and has no other version of.
func (p Probed) Missing() (names []string) {
	versions := map[string]bool{}
	for _, s := range p.Symbols {
		versions[unversioned(s.Name)] = versions[unversioned(s.Name)] || s.Present
	}
	for _, s := range p.Symbols {
		if name := unversioned(s.Name); !versions[name] && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// unversioned is the name of a symbol without its version, as in nvmlInit_v2.
func unversioned(symbol string) string {
	if n := len(symbol); n > 3 && symbol[n-3:n-1] == "_v" && symbol[n-1] >= '0' && symbol[n-1] <= '9' {
		return symbol[:n-3]
	}
	return symbol
}

// familyCalls are the calls that families are made of, by what comes after flyball_gpu_ in the name.
var familyCalls = map[string][]string{
	"utilization_ratio":                  {"Utilization"},
	"memory_bandwidth_utilization_ratio": {"Utilization"},
	"encoder_utilization_ratio":          {"EncoderUtilization"},
	"decoder_utilization_ratio":          {"DecoderUtilization"},
	"memory_total_bytes":                 {"Memory"},
	"memory_used_bytes":                  {"Memory"},
	"memory_free_bytes":                  {"Memory"},
	"memory_reserved_bytes":              {"Memory"},
	"power_watts":                        {"Power"},
	"power_limit_watts":                  {"PowerLimit"},
	"energy_joules_total":                {"Energy"},
	"temperature_celsius":                {"Temperature"},
	"temperature_threshold_celsius":      {"Threshold"},
	"clock_hertz":                        {"Clock"},
	"clock_max_hertz":                    {"ClockMax"},
	"pstate":                             {"PState"},
	"fan_speed_ratio":                    {"FanSpeed"},
	"clock_event_active":                 {"ClockEvents"},
	"clock_event_seconds_total":          {"Fields"},
	"ecc_errors_total":                   {"ECC"},
	"remapped_rows_total":                {"RemappedRows"},
	"row_remap_pending":                  {"RemappedRows"},
	"row_remap_failure":                  {"RemappedRows"},
	"retired_pages":                      {"RetiredPages"},
	"recovery_action":                    {"Fields"},
	"pcie_tx_bytes_total":                {"Fields"},
	"pcie_rx_bytes_total":                {"Fields"},
	"pcie_replay_total":                  {"PCIeReplays"},
	"pcie_link_generation":               {"PCIeGeneration"},
	"pcie_link_width":                    {"PCIeWidth"},
	"nvlink_tx_bytes_total":              {"NVLinkUp"},
	"nvlink_rx_bytes_total":              {"NVLinkUp"},
	"nvlink_errors_total":                {"NVLinkErrors"},
	"nvlink_up":                          {"NVLinkUp"},
	"graphics_active_ratio":              {"Activity"},
	"sm_active_ratio":                    {"Activity"},
	"tensor_active_ratio":                {"Activity"},
	"dram_active_ratio":                  {"Activity"},
	"fp16_active_ratio":                  {"Activity"},
	"fp32_active_ratio":                  {"Activity"},
	"fp64_active_ratio":                  {"Activity"},
	"sm_occupancy_ratio":                 {"Activity"},
	"mig_info":                           {"MIGMode", "Instances"},
	"mig_memory_total_bytes":             {"MIGMode", "Instances"},
	"mig_memory_used_bytes":              {"MIGMode", "Instances"},
	"mig_memory_free_bytes":              {"MIGMode", "Instances"},
	"mig_memory_reserved_bytes":          {"MIGMode", "Instances"},
	"mig_sm_active_ratio":                {"MIGMode", "Instances"},
	"mig_tensor_active_ratio":            {"MIGMode", "Instances"},
	"mig_dram_active_ratio":              {"MIGMode", "Instances"},
}

// whyOfState is why families have no series that come of the configuration or of what happens, not of what a GPU can tell.
var whyOfState = map[string]string{
	callFamily.Name:                            "of NVML alone, where exporter.gpu.call_durations is set",
	"flyball_gpu_process_memory_bytes":         whyNoProcess,
	"flyball_gpu_process_sm_utilization_ratio": whyNoProcess + ", by NVML alone",
	"flyball_gpu_process_dropped":              whyNoProcess,
	"flyball_gpu_xid_last_timestamp_seconds":   "no error (XID) was reported while this ran",
}

const whyNoProcess = "of processes that compute on a GPU, where exporter.gpu.processes is set"

// Why says why a family, such as flyball_gpu_power_watts, has no series: what the calls that it is made of came to, of the
// first GPU for which they came to nothing. It is empty where nothing is known to be wrong.
func (p Probed) Why(family string) string {
	if why := whyOfState[family]; why != "" {
		return why
	}
	if family == symbolFamily.Name && len(p.Symbols) > 0 && p.Missing() == nil {
		return "the library has every symbol"
	}
	calls := familyCalls[strings.TrimPrefix(family, "flyball_gpu_")]
	for _, g := range p.GPUs {
		for _, c := range g.Calls {
			if why := c.absent(); why != "" && slices.Contains(calls, c.Name) {
				return why
			}
		}
		if g.Error != "" {
			return fmt.Sprintf("GPU %d: %s", g.Index, g.Error)
		}
	}
	return ""
}

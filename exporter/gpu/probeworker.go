package gpu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"syscall"
	"time"
)

// ProbeWorker makes the calls of one Probe: it reads what to do from in and writes what it does and what comes of it to out. It
// returns nil when all is said and when in ends, at once even while a call into NVML hangs; the caller must end the process then.
func ProbeWorker(ctx context.Context, in io.Reader, out io.Writer) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	defer signal.Reset(os.Interrupt, syscall.SIGTERM)
	lines := bufio.NewReader(in)
	var req probeRequest
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("nvml probe: read the request: %w", err)
	}
	if err := json.Unmarshal(line, &req); err != nil {
		return fmt.Errorf("nvml probe: request: %w", err)
	}
	gone := make(chan error, 2)
	go func() {
		_, err := io.Copy(io.Discard, lines)
		gone <- err
	}()
	go func() { gone <- probe(json.NewEncoder(out), req, open) }()
	select {
	case err := <-gone:
		return err
	case <-ctx.Done():
		return nil
	}
}

// probe does what is asked for, all in one goroutine.
func probe(out *json.Encoder, req probeRequest, open func(opening) (library, string, error)) error {
	lib, path, err := open(opening{library: req.Library})
	found := Probed{Library: path}
	if absent, ok := errors.AsType[*absentError](err); ok {
		found.Tried = absent.tried
	}
	if path != "" {
		found.Symbols = lookUp(path)
	}
	count := 0
	if err == nil {
		defer func() { _ = lib.Close() }() // the process ends
		if found.Driver, err = lib.DriverVersion(); !unexpected(err) {
			count, err = lib.DeviceCount()
		}
		if l, ok := lib.(interface{ CUDAVersion() (string, error) }); ok && err == nil {
			if found.CUDA, err = l.CUDAVersion(); !unexpected(err) {
				err = nil
			}
		}
	}
	if err != nil {
		found.Error = err.Error()
	}
	if err := out.Encode(probeStep{Kind: stepLibrary, Library: &found, Count: count}); err != nil || found.Error != "" {
		return err
	}
	for i := range count {
		if slices.Contains(req.Skip, i) {
			continue
		}
		if err := probeGPU(out, lib, i, req.Runs); err != nil {
			return err
		}
	}
	return out.Encode(probeStep{Kind: stepEnd})
}

// probeGPU makes every call to one GPU. The error is one of writing.
func probeGPU(out *json.Encoder, lib library, index, runs int) error {
	if err := out.Encode(probeStep{Kind: stepBegin, Index: index}); err != nil {
		return err
	}
	g := ProbedGPU{Index: index}
	dev, err := lib.Device(index)
	if err == nil {
		g.UUID, err = dev.UUID()
	}
	if err == nil {
		if g.Name, err = dev.Name(); !unexpected(err) {
			g.PCIBusID, err = dev.PCIBusID()
		}
	}
	if unexpected(err) {
		g.Error = err.Error()
	}
	if err := out.Encode(probeStep{Kind: stepGPU, Index: index, GPU: &g}); err != nil || dev == nil {
		return err
	}
	came := map[string]made{}
	for _, c := range probeCalls(dev) {
		if err := out.Encode(probeStep{Kind: stepCall, Index: index, Name: c.name}); err != nil {
			return err
		}
		call := Call{Name: c.name}
		if needs, ok := probeNeeds[c.name]; ok {
			call.NotMade = needs.moot(came[needs.first])
		}
		if call.NotMade != "" {
			came[c.name] = made{err: errors.New(call.NotMade)} // for those that need this one
		} else {
			call, came[c.name] = c.measure(runs)
		}
		if err := out.Encode(probeStep{Kind: stepCalled, Index: index, Name: c.name, Call: &call}); err != nil {
			return err
		}
	}
	return nil
}

// probeCall is one method of a device with its arguments.
type probeCall struct {
	name string
	call func() made
}

// made is what came of a call.
type made struct {
	value any // the first that it returns
	err   error
}

// probeNeeds are the calls that are only made where another one says that there is something to ask for, as the exporter does.
var probeNeeds = map[string]struct {
	first string            // the other one
	moot  func(made) string // says of what came of that why there is nothing to ask for; empty where there is
}{
	"FanSpeed": {"Fans", func(fans made) string {
		if fans.err == nil && fans.value == 0 {
			return "fans: the GPU has none of its own"
		}
		return why(fans)
	}},
	"Instances": {"MIGMode", func(enabled made) string {
		if enabled.err == nil && enabled.value == false {
			return "MIG: it is disabled"
		}
		return why(enabled)
	}},
	"NVLinkUp": {"Fields", func(fields made) string {
		if values, ok := fields.value.([]fieldValue); ok && len(values) == 2 && values[1] == (fieldValue{}) {
			return "NVLink: the GPU has no links"
		}
		return "" // an old driver has no fields
	}},
	"NVLinkErrors":        {"NVLinkUp", why},
	"RetiredPagesPending": {"RetiredPages", why},
}

// why is the error of a call without which there is nothing more to ask for.
func why(m made) string {
	if m.err == nil {
		return ""
	}
	return m.err.Error()
}

// depth is after how many others the call is to be made at the earliest.
func (c probeCall) depth() (n int) {
	for needs, ok := probeNeeds[c.name]; ok; needs, ok = probeNeeds[needs.first] {
		n++
	}
	return n
}

// probeArguments are what the methods of a device that take something are asked for: one value of those that they have.
var probeArguments = map[string][]any{
	"Clock":          {"sm"},
	"ClockMax":       {"sm"},
	"ECC":            {"corrected", "volatile"},
	"FanSpeed":       {0},
	"Fields":         {[]field{{id: fieldMemoryTemp}, {id: fieldNVLinkCount}}},
	"NVLinkErrors":   {0, "crc_flit"},
	"NVLinkUp":       {0},
	"PCIeGeneration": {"current"},
	"PCIeWidth":      {"current"},
	"PowerLimit":     {"enforced"},
	"RetiredPages":   {"single_bit"},
	"Threshold":      {"slowdown"},
}

// probeCalls are all methods of a device, by name, those that need another one behind the rest.
func probeCalls(dev device) (calls []probeCall) {
	methods := reflect.ValueOf(&dev).Elem()
	for i := range methods.NumMethod() {
		method, name := methods.Method(i), methods.Type().Method(i).Name
		given := probeArguments[name]
		if len(given) != method.Type().NumIn() {
			continue // a test finds it
		}
		args := make([]reflect.Value, len(given))
		for j, a := range given {
			args[j] = reflect.ValueOf(a)
		}
		calls = append(calls, probeCall{name, func() made {
			results := method.Call(args)
			err, _ := reflect.TypeAssert[error](results[len(results)-1])
			return made{results[0].Interface(), err}
		}})
	}
	slices.SortStableFunc(calls, func(a, b probeCall) int { return a.depth() - b.depth() })
	return calls
}

// measure makes the call some times, and once where it has no answer.
func (c probeCall) measure(runs int) (result Call, last made) {
	result.Name = c.name
	var took []float64
	for range max(1, runs) {
		began := time.Now()
		last = c.call()
		took = append(took, float64(time.Since(began).Nanoseconds())/1000)
		if last.err != nil {
			result.Error = last.err.Error()
			break
		}
	}
	slices.Sort(took)
	result.P50, result.Max = took[len(took)/2], took[len(took)-1]
	return result, last
}

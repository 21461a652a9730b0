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
	"syscall"
)

// maxLine bounds one line between parent and worker in bytes: 16 GPUs take less than 16 KiB, so 1 MiB is a fault.
const maxLine = 1 << 20

// Worker answers polls: for every line of in it writes one to out. It opens NVML at the first and returns nil when in
// ends, at once even while a call into NVML hangs, so that a worker never outlives its parent; the caller must end the
// process then. The terminal's interrupt and SIGTERM are left to the parent, who closes in.
func Worker(ctx context.Context, in io.Reader, out io.Writer) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	defer signal.Reset(os.Interrupt, syscall.SIGTERM)
	return serve(ctx, in, out, open)
}

func serve(ctx context.Context, in io.Reader, out io.Writer, open func(path string) (library, string, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	requests := make(chan request)
	ended := make(chan error, 1) // of in
	go func() {
		ended <- readRequests(ctx, in, requests)
	}()
	answered := make(chan error, 1)
	go func() {
		answered <- answer(ctx, out, requests, open)
	}()
	select {
	case err := <-ended:
		return err
	case err := <-answered:
		return err
	case <-ctx.Done():
		return nil
	}
}

func readRequests(ctx context.Context, in io.Reader, requests chan<- request) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var req request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			return fmt.Errorf("nvml worker: request: %w", err)
		}
		select {
		case requests <- req:
		case <-ctx.Done():
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("nvml worker: read requests: %w", err)
	}
	return nil
}

// answer reads the GPUs for every request. All calls into NVML are made here, one after another.
func answer(ctx context.Context, out io.Writer, requests <-chan request, open func(path string) (library, string, error)) error {
	var lib library
	var path string
	defer func() {
		if lib != nil {
			_ = lib.Close() // the process ends
		}
	}()
	for {
		var req request
		select {
		case req = <-requests:
		case <-ctx.Done():
			return nil
		}
		var rep reply
		var err error
		if lib == nil {
			lib, path, err = open(req.Library)
		}
		if err == nil {
			rep, err = read(lib)
		}
		rep.Seq, rep.Library = req.Seq, path
		switch absent, ok := errors.AsType[*absentError](err); {
		case ok:
			rep.State, rep.Error, rep.Tried = stateAbsent, absent.Error(), absent.tried
		case err != nil:
			rep.State, rep.Error = stateFailed, err.Error()
		default:
			rep.State = stateOK
		}
		if err := json.NewEncoder(out).Encode(rep); err != nil {
			return fmt.Errorf("nvml worker: answer: %w", err)
		}
	}
}

// read takes a snapshot of every GPU. GPUs are enumerated every time, because they come and go. An error is one of the
// library as a whole; that of one GPU is in its Device.
func read(lib library) (reply, error) {
	driver, err := lib.DriverVersion()
	if err != nil && !errors.Is(err, errUnsupported) {
		return reply{}, fmt.Errorf("driver version: %w", err)
	}
	cuda, err := lib.CUDAVersion()
	if unexpected(err) {
		return reply{}, fmt.Errorf("CUDA version: %w", err)
	}
	n, err := lib.DeviceCount()
	if err != nil {
		return reply{}, fmt.Errorf("count GPUs: %w", err)
	}
	rep := reply{Driver: driver, CUDA: cuda}
	for i := range n {
		d := Device{Index: i}
		if err := readDevice(lib, &d, tierStatic|tierFast|tierSlow); errors.Is(err, errDriverGone) {
			return reply{}, fmt.Errorf("GPU %d: %w", i, err)
		} else if err != nil {
			d.Error = err.Error()
		}
		rep.Devices = append(rep.Devices, d)
	}
	rep.Missing = lib.Missing()
	return rep, nil
}

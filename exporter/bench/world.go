package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long a program may take to be ready, or to end.
const patience = 30 * time.Second

// world is what a run has started, in a folder of its own.
type world struct {
	dir string
	all []*process
}

// process is a program that serves /metrics.
type process struct {
	name   string
	cmd    *exec.Cmd
	url    string
	client *http.Client
	output bytes.Buffer // to be read once it has ended
	ended  chan struct{}
}

// compile builds the stand-in for NVML.
func compile(ctx context.Context, source, dir string) (string, error) {
	library := filepath.Join(dir, "libnvidia-ml.so.1")
	if out, err := exec.CommandContext(ctx, "gcc", "-O2", "-shared", "-fPIC", "-o", library, source, "-lpthread").CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the stand-in for NVML: %w\n%s", err, out)
	}
	return library, nil
}

// mode says how the GPUs behave from now on.
func (w *world) mode(mode string) error {
	path := filepath.Join(w.dir, "mode")
	if err := os.WriteFile(path+".new", []byte(mode+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// start starts a program and waits until it answers.
func (w *world) start(ctx context.Context, name, program string, args func(address string) []string, env ...string) (*process, error) {
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("%w: make bench-exporter gets it", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	l.Close()
	p := &process{
		name: name, url: "http://" + address + "/metrics", ended: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1}, Timeout: patience},
	}
	p.cmd = exec.CommandContext(ctx, program, args(address)...)
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = patience
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.Env = append(append(os.Environ(), "NVML_STUB_GPUS="+strconv.Itoa(gpus)), env...)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	w.all = append(w.all, p)
	go func() { // ends with the program, which stop waits for
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	if err := p.until(ctx, func(page) bool { return true }); err != nil {
		return nil, fmt.Errorf("%s does not answer: %w", name, err)
	}
	return p, nil
}

// stop ends all programs. The error has what they wrote.
func (w *world) stop() error {
	var errs []error
	for _, p := range slices.Backward(w.all) {
		p.client.CloseIdleConnections()
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(patience):
			_ = p.cmd.Process.Kill()
			<-p.ended
			errs = append(errs, fmt.Errorf("%s did not end in %s\n%s", p.name, patience, p.output.String()))
		}
	}
	w.all = nil
	return errors.Join(errs...)
}

// accept is the Accept header of Prometheus 3.
const accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"

// page are the lines of a page that have a value.
type page []string

// count is the number of series of a family; of all for "".
func (p page) count(family string) (n int) {
	for _, line := range p {
		if is(line, family) {
			n++
		}
	}
	return n
}

// sum is that of their values.
func (p page) sum(family string) (sum float64) {
	for _, line := range p {
		if is(line, family) {
			v, _ := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			sum += v
		}
	}
	return sum
}

func is(line, family string) bool {
	rest, ok := strings.CutPrefix(line, family)
	return ok && (family == "" || rest[0] == '{' || rest[0] == ' ')
}

// scrape reads the page as Prometheus does and returns how long that took.
func (p *process) scrape(ctx context.Context) (page, time.Duration, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return nil, 0, err
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", "gzip")
	r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
	begin := time.Now()
	answer, err := p.client.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	took := time.Since(begin)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", answer.Status)
	}
	if err != nil {
		return nil, took, err
	}
	text := io.Reader(bytes.NewReader(body))
	if answer.Header.Get("Content-Encoding") == "gzip" {
		if text, err = gzip.NewReader(text); err != nil {
			return nil, took, err
		}
	}
	plain, err := io.ReadAll(text)
	if err != nil {
		return nil, took, err
	}
	var lines page
	for line := range strings.Lines(string(plain)) {
		if !strings.HasPrefix(line, "#") && line != "\n" {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines, took, nil
}

// until scrapes until the page is as it should be.
func (p *process) until(ctx context.Context, holds func(page) bool) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	late := time.NewTimer(4 * patience) // a GPU that hung is tried again every minute
	defer late.Stop()
	for {
		lines, _, err := p.scrape(ctx)
		if err == nil && holds(lines) {
			return nil
		}
		if err == nil {
			err = errors.New("the page is not as it should be")
		}
		select {
		case <-again.C:
		case <-p.ended:
			return fmt.Errorf("it ended: %s", p.output.String())
		case <-late.C:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"flyball/rules/peertest"
)

// child is a program that a test started.
type child struct {
	*exec.Cmd
	t     *testing.T
	out   *output
	ended chan struct{} // closed when it has been waited for
}

func startChild(t *testing.T, name string, args ...string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(name, args...), t: t, out: &output{}, ended: make(chan struct{})}
	c.Stdout, c.Stderr = c.out, c.out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		_ = c.Wait() // ProcessState tells
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-c.ended
		if t.Failed() {
			t.Logf("it wrote:\n%s", tail(c.out.String(), 8000))
		}
	})
	return c
}

func (c *child) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// wait waits for the end, and returns how it ended.
func (c *child) wait() string {
	c.t.Helper()
	select {
	case <-c.ended:
		return c.ProcessState.String()
	case <-time.After(20 * time.Second):
		c.t.Fatal("it does not end")
		return ""
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// TestSigtermWhileStarting: flyball ends although its journal, here a pipe that nobody writes to, cannot be read to its end.
func TestSigtermWhileStarting(t *testing.T) {
	dir, web := t.TempDir(), freePort(t)
	write(t, filepath.Join(dir, "flyball.yml"), "exporter: {collectors: {gpu: false}}\n")
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(state, "decisions.jsonl"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, built.path("flyball"), "run", "--config.file="+filepath.Join(dir, "flyball.yml"), "--storage.path="+state, "--web.listen-address="+web, "--web.enable-lifecycle")
	eventually(t, "it is healthy", func() bool { return status("http://"+web+"/-/healthy") == http.StatusOK })
	response, err := http.Post("http://"+web+"/-/reload", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" || string(text) != "flyball is starting or stopping.\n" {
		t.Errorf("a reload while it starts: %d %v %s", response.StatusCode, response.Header, text)
	}
	for _, path := range []string{"/-/ready", "/"} {
		if code := status("http://" + web + path); code != http.StatusServiceUnavailable {
			t.Errorf("%s while starting: %d", path, code)
		}
	}
	c.signal(syscall.SIGTERM)
	if got := c.wait(); got != "exit status 0" || !strings.Contains(c.out.String(), "ended while starting") {
		t.Errorf("it ended with %s", got)
	}
}

// TestHangupWhileStarting: a hangup that comes when the configuration has been read and flyball is not ready yet is not lost.
func TestHangupWhileStarting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flyball.yml")
	const exporter = "exporter: {collectors: {gpu: false, host: false}}\n"
	write(t, path, exporter)
	o := &runOptions{
		configFile: path, storagePath: t.TempDir(), roles: []string{roleAll}, webListen: []string{"127.0.0.1:0"},
		log: slog.New(slog.DiscardHandler), stdout: io.Discard,
	}
	l, err := o.load(nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApp(l, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	write(t, path, "global: {evaluation_interval: 7s}\n"+exporter)
	hangups := make(chan os.Signal, 1)
	hangups <- syscall.SIGHUP
	if err := a.reload(t.Context()); !errors.Is(err, errNotReady) {
		t.Errorf("a reload before the start: %v", err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all.Go(func() { a.onHangups(ctx, hangups) })
	all.Go(func() {
		if err := a.run(ctx); err != nil {
			t.Errorf("stopped with %v", err)
		}
	})
	eventually(t, "it reloads", func() bool { return a.live.Load().Global.EvaluationInterval == model.Duration(7*time.Second) })
	cancel()
	all.Wait()
	if err := a.reload(t.Context()); !errors.Is(err, errNotReady) {
		t.Errorf("a reload after the end: %v", err)
	}
}

// TestInterruptTwice: the first Ctrl-C waits for the requests in progress, the second does not.
func TestInterruptTwice(t *testing.T) {
	asked, release := make(chan struct{}, 1), make(chan struct{})
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case asked <- struct{}{}:
		default:
		}
		<-release
	}))
	defer model.Close()
	defer close(release)
	dir, web, proxy := t.TempDir(), freePort(t), freePort(t)
	write(t, filepath.Join(dir, "flyball.yml"), "exporter: {collectors: {gpu: false}}\nbatchproxy: {models: [{name: m, upstreams: [{url: '"+model.URL+"'}]}]}\n")
	c := startChild(t, built.path("flyball"), "run", "--config.file="+filepath.Join(dir, "flyball.yml"), "--storage.path="+filepath.Join(dir, "state"),
		"--web.listen-address="+web, "--batchproxy.listen-address="+proxy)
	eventually(t, "it is ready", func() bool { return status("http://"+web+"/-/ready") == http.StatusOK })
	go func() {
		response, err := http.Post("http://"+proxy+"/v1/models/m:predict", "application/json", strings.NewReader(`{"instances": [1]}`))
		if err == nil {
			response.Body.Close()
		}
	}()
	<-asked
	c.signal(syscall.SIGINT)
	eventually(t, "it says that it stops", func() bool { return status("http://"+web+"/-/ready") == http.StatusServiceUnavailable })
	select {
	case <-c.ended:
		t.Fatal("the first Ctrl-C did not wait for the request in progress")
	case <-time.After(100 * time.Millisecond): // a while in which it could have
	}
	c.signal(syscall.SIGINT)
	if got := c.wait(); got != "signal: interrupt" {
		t.Errorf("it ended with %s", got)
	}
}

// TestSystemdSockets starts flyball as systemd does, with the sockets open already.
func TestSystemdSockets(t *testing.T) {
	activate := peertest.Binary(t, "systemd-socket-activate")
	dir, web, more, proxy := t.TempDir(), freePort(t), freePort(t), freePort(t)
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"predictions": [7]}`)
	}))
	defer model.Close()
	config := filepath.Join(dir, "flyball.yml")
	write(t, config, "exporter: {collectors: {gpu: false}}\nbatchproxy: {models: [{name: m, upstreams: [{url: '"+model.URL+"'}]}]}\n")
	flyball := []string{built.path("flyball"), "run", "--config.file=" + config, "--storage.path=" + filepath.Join(dir, "state"), "--web.systemd-socket"}
	c := startChild(t, activate, append([]string{"-l", web, "-l", proxy, "-l", more, "--fdname=web:batchproxy:web"}, flyball...)...)
	// The first connection starts it, and is answered.
	eventually(t, "it is ready", func() bool { return status("http://"+web+"/-/ready") == http.StatusOK })
	if code := status("http://" + more + "/-/ready"); code != http.StatusOK {
		t.Errorf("the second socket of the page: %d", code)
	}
	response, err := http.Post("http://"+proxy+"/v1/models/m:predict", "application/json", strings.NewReader(`{"instances": [1]}`))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if string(text) != `{"predictions": [7]}` {
		t.Errorf("the proxy says %s", text)
	}
	c.signal(syscall.SIGTERM)
	if got := c.wait(); got != "exit status 0" {
		t.Errorf("it ended with %s", got)
	}

	for want, names := range map[string]string{
		"two sockets named batchproxy: expected one": "web:batchproxy:batchproxy",
		"no stream socket for the page":              "batchproxy",
	} {
		var args []string
		first := ""
		for range strings.Split(names, ":") {
			first = freePort(t)
			args = append(args, "-l", first)
		}
		c := startChild(t, activate, append(append(args, "--fdname="+names), flyball...)...)
		eventually(t, "it was asked", func() bool {
			_ = status("http://" + first)
			return strings.Contains(c.out.String(), want)
		})
		if got := c.wait(); got != "exit status 1" {
			t.Errorf("%s: it ended with %s", names, got)
		}
	}
	out, err := exec.Command(flyball[0], flyball[1:]...).CombinedOutput() // by hand
	if err == nil || !strings.Contains(string(out), "--web.systemd-socket: systemd handed over no stream socket for the page") {
		t.Errorf("without systemd: %v %s", err, out)
	}
}

// TestSystemdUnits: systemd itself reads the units of examples/systemd, and finds nothing wrong with them.
func TestSystemdUnits(t *testing.T) {
	analyze := peertest.Binary(t, "systemd-analyze")
	const folder = "../../examples/systemd"
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(edit func(string) string) string {
		dir := t.TempDir()
		var units []string
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(folder, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			// The program is not installed where the tests run.
			write(t, filepath.Join(dir, e.Name()), edit(strings.ReplaceAll(string(text), "/usr/local/bin/flyball", built.path("flyball"))))
			units = append(units, filepath.Join(dir, e.Name()))
		}
		if len(units) != 5 {
			t.Fatalf("units: %v", units)
		}
		out, err := exec.Command(analyze, append([]string{"verify", "--man=no", "--recursive-errors=no"}, units...)...).CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := verify(func(s string) string { return s }); out != "" {
		t.Error(out)
	}
	if out := verify(func(s string) string { return strings.ReplaceAll(s, "KillMode=mixed", "KilMode=mixed") }); !strings.Contains(out, "KilMode") {
		t.Errorf("a typo is not found: %q", out)
	}
	// The flags in the units are those that there are.
	var text strings.Builder
	for _, name := range []string{"flyball.service", "flyball-exporter.service"} {
		unit, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		text.Write(unit)
	}
	for line := range strings.Lines(text.String()) {
		_, command, ok := strings.Cut(strings.TrimSpace(line), "=/usr/local/bin/flyball ")
		if !ok {
			continue
		}
		out, err := exec.Command(built.path("flyball"), append(strings.Fields(command), "--help")...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v %s", command, err, out)
		}
	}
}

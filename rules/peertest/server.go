package peertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Spec is how a program is run.
type Spec struct {
	Name  string                             // as Binary takes it
	Args  func(address, dir string) []string // its arguments: where to listen, a folder of its own
	Ready string                             // path that answers 200 as soon as it serves; "": as soon as it listens
	Grace time.Duration                      // between SIGTERM and SIGKILL when it is stopped; 0: 20 s
}

// Server is a program that runs. Its address and its data stay the same over Stop and Restart.
type Server struct {
	URL     string // http://Address
	Address string // 127.0.0.1:port
	Dir     string // where its data and configuration are

	t    testing.TB
	spec Spec
	log  buffer
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// Start runs a program until the test ends, and returns when it is ready.
func Start(t testing.TB, spec Spec) *Server {
	t.Helper()
	Binary(t, spec.Name) // skips here, before anything is made
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := &Server{URL: "http://" + address, Address: address, Dir: t.TempDir(), t: t, spec: spec}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", spec.Name, s.tail())
		}
	})
	s.Restart()
	return s
}

// Prometheus runs Debian's Prometheus with a configuration.
func Prometheus(t testing.TB, config string, flags ...string) *Server {
	t.Helper()
	return Start(t, Spec{Name: "prometheus", Ready: "/-/ready", Args: func(address, dir string) []string {
		return append([]string{
			"--config.file=" + write(t, dir, "prometheus.yml", config), "--storage.tsdb.path=" + filepath.Join(dir, "data"),
			"--web.listen-address=" + address, "--web.enable-lifecycle", "--log.level=warn",
		}, flags...)
	}})
}

// VictoriaMetrics runs Debian's single-node VictoriaMetrics.
func VictoriaMetrics(t testing.TB, flags ...string) *Server {
	t.Helper()
	return Start(t, Spec{Name: "victoria-metrics", Ready: "/health", Args: func(address, dir string) []string {
		return append([]string{
			"-storageDataPath=" + filepath.Join(dir, "data"), "-httpListenAddr=" + address, "-memory.allowedBytes=128MB",
		}, flags...)
	}})
}

// Alertmanager runs an Alertmanager that is no cluster, unless flags say otherwise.
func Alertmanager(t testing.TB, config string, flags ...string) *Server {
	t.Helper()
	return Start(t, Spec{Name: "alertmanager", Ready: "/-/ready", Args: func(address, dir string) []string {
		args := []string{
			"--config.file=" + write(t, dir, "alertmanager.yml", config), "--storage.path=" + filepath.Join(dir, "data"),
			"--web.listen-address=" + address, "--log.level=debug",
		}
		if !slices.ContainsFunc(flags, func(f string) bool { return len(f) > 10 && f[:10] == "--cluster." }) {
			args = append(args, "--cluster.listen-address=")
		}
		return append(args, flags...)
	}})
}

// Restart starts a server that does not run, at its address and with its data, and waits until it is ready.
func (s *Server) Restart() {
	s.t.Helper()
	if s.cmd != nil {
		s.t.Fatalf("%s runs already", s.spec.Name)
	}
	s.Launch()
	s.Wait()
}

// Launch starts a server that does not run and does not wait.
func (s *Server) Launch() {
	s.t.Helper()
	cmd := exec.Command(Binary(s.t, s.spec.Name), s.spec.Args(s.Address, s.Dir)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, &s.log, &s.log
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", s.spec.Name, err)
	}
	s.cmd, s.done = cmd, make(chan struct{})
	go func() {
		defer close(s.done)
		_ = cmd.Wait()
	}()
}

// Wait returns when the server is ready, at most a minute after it was started.
func (s *Server) Wait() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := s.ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-s.done:
			s.t.Fatalf("%s ended while starting:\n%s", s.spec.Name, s.tail())
		case <-ctx.Done():
			s.t.Fatalf("%s is not ready after a minute: %v\n%s", s.spec.Name, err, s.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Server) ready(ctx context.Context) error {
	if s.spec.Ready == "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+s.spec.Ready, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // a test looks for goroutines left behind
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", s.spec.Ready, resp.Status)
	}
	return nil
}

// Stop ends the server by SIGTERM and waits. It does nothing where none runs.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server by SIGKILL and waits.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(signal syscall.Signal) {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Errorf("end %s: %v", s.spec.Name, err)
	}
	grace := s.spec.Grace
	if grace == 0 {
		grace = 20 * time.Second
	}
	select {
	case <-s.done:
	case <-time.After(grace):
		s.t.Errorf("%s did not end in %s and was killed", s.spec.Name, grace)
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
}

// Log is what the server has said so far.
func (s *Server) Log() string { return s.log.String() }

// PID is the process id of the server, 0 where none runs.
func (s *Server) PID() int {
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

func (s *Server) tail() string {
	log := s.Log()
	return log[max(0, len(log)-8<<10):]
}

func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// buffer collects what a program writes while a test reads it.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

package kubernetestest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
)

func check(t *testing.T, files map[string]string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(flyball, "check", "config", filepath.Join(dir, "flyball.yml")).CombinedOutput()
	return string(out), err
}

// TestConfig: flyball takes the configuration in each ConfigMap as a pod sees it, without a finding of its lint.
func TestConfig(t *testing.T) {
	checked := 0
	for _, name := range parts {
		p := buildPart(t, name)
		for _, w := range p.workloads() {
			checked++
			t.Run(name, func(t *testing.T) {
				out, err := check(t, p.config(t, w))
				if err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				if role := argument(w.flyball(t), "--role"); role == "rules" && !strings.Contains(out, "1 scale") {
					t.Errorf("its rules are not found: %s", out)
				}
			})
		}
	}
	if checked != 8 {
		t.Errorf("%d configurations, want 8", checked)
	}
}

// TestStart: the real flyball starts with the arguments of each part that needs no cluster, and answers its probes.
func TestStart(t *testing.T) {
	for _, tt := range []struct {
		part  string
		edits []string // of the configuration: what is not here
	}{
		{"gateway", []string{"{service: ml/digits, port: http}", `{url: "http://127.0.0.1:1"}`}},
		{"sidecar", nil},
		{"exporter", []string{"require: true", "require: false"}},
		{"exporter-pods", []string{"require: true", "require: false"}},
		{"keda", nil},
	} {
		t.Run(tt.part, func(t *testing.T) {
			p := buildPart(t, tt.part)
			w := p.workloads()[0]
			i := start(t, w.flyball(t), newConfigMap(t, p.config(t, w), tt.edits...), "")
			i.probes()
		})
	}
}

// configMap is a folder as a kubelet mounts a ConfigMap: every file is a link through ..data, which is swapped by a rename.
type configMap struct {
	dir      string
	files    map[string]string
	versions int
}

func newConfigMap(t *testing.T, files map[string]string, edits ...string) *configMap {
	t.Helper()
	c := &configMap{dir: t.TempDir(), files: files}
	c.edit(t, edits...)
	return c
}

// edit puts the next version in place, in which pairs of old and new text are replaced.
func (c *configMap) edit(t *testing.T, edits ...string) {
	t.Helper()
	next := map[string]string{}
	edited := make([]bool, len(edits)/2)
	for name, text := range c.files {
		for e := range edited {
			edited[e] = edited[e] || strings.Contains(text, edits[2*e])
			text = strings.ReplaceAll(text, edits[2*e], edits[2*e+1])
		}
		next[name] = text
	}
	if slices.Contains(edited, false) {
		t.Fatalf("not all of %q are there", edits)
	}
	c.versions++
	version := fmt.Sprintf("..version_%d", c.versions)
	must := func(err error) {
		t.Helper()
		if err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(c.dir, version), 0o755))
	for name, text := range next {
		must(os.WriteFile(filepath.Join(c.dir, version, name), []byte(text), 0o644))
		must(os.Symlink(filepath.Join("..data", name), filepath.Join(c.dir, name)))
	}
	must(os.Symlink(version, filepath.Join(c.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(c.dir, "..data_tmp"), filepath.Join(c.dir, "..data")))
	c.files = next
}

// process is a flyball that runs with the arguments of a container.
type process struct {
	t         *testing.T
	container core.Container
	ports     map[string]string // the address of each by the number that the container has
	cmd       *exec.Cmd
	mu        sync.Mutex // guards out
	out       bytes.Buffer
	ended     chan struct{}
}

// start runs what a container of flyball runs, on ports and with folders of its own, until the test ends. The pod's name is
// what its environment asks for.
func start(t *testing.T, c core.Container, files *configMap, pod string) *process {
	t.Helper()
	i := &process{t: t, container: c, ports: map[string]string{}, ended: make(chan struct{})}
	args := slices.Clone(c.Args)
	for n, a := range args {
		flag, value, found := strings.Cut(a, "=")
		switch {
		case !found:
		case flag == "--config.file":
			value = filepath.Join(files.dir, filepath.Base(value))
		case flag == "--config.auto-reload-interval":
			value = "100ms"
		case flag == "--storage.path":
			value = t.TempDir()
		case strings.HasSuffix(flag, "listen-address"):
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
			i.ports[strings.TrimPrefix(value, ":")] = l.Addr().String()
			value = l.Addr().String()
		}
		if found {
			args[n] = flag + "=" + value
		}
	}
	i.cmd = exec.Command(flyball, args...)
	i.cmd.Dir = t.TempDir()
	i.cmd.Env = os.Environ()
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil && e.ValueFrom.FieldRef.FieldPath == "metadata.name" {
			value = pod
		}
		i.cmd.Env = append(i.cmd.Env, e.Name+"="+value)
	}
	i.cmd.Stdout, i.cmd.Stderr = i, i
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = i.cmd.Wait()
		close(i.ended)
	}()
	t.Cleanup(func() {
		_ = i.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-i.ended:
		case <-time.After(time.Minute):
			t.Error("it did not end within a minute of SIGTERM")
			_ = i.cmd.Process.Kill()
			<-i.ended
		}
		if t.Failed() {
			t.Logf("flyball %s\n%s", strings.Join(args, " "), i.said())
		}
	})
	return i
}

// Write keeps what it says.
func (i *process) Write(text []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.out.Write(text)
}

func (i *process) said() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.out.String()
}

// get asks one of the container's ports, by its name.
func (i *process) get(port, path string) (int, string) {
	for _, p := range i.container.Ports {
		if p.Name != port {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.ports[fmt.Sprint(p.ContainerPort)]+path, nil)
		if err != nil {
			i.t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	i.t.Fatalf("no port %s", port)
	return 0, ""
}

// probes waits until each probe of the container is answered as a kubelet wants it, and its metrics are there.
func (i *process) probes() {
	i.t.Helper()
	for _, p := range []*core.Probe{i.container.StartupProbe, i.container.ReadinessProbe, i.container.LivenessProbe} {
		i.eventually("the probe of "+p.HTTPGet.Path, func() bool {
			code, _ := i.get(p.HTTPGet.Port.StrVal, p.HTTPGet.Path)
			return code == http.StatusOK
		})
	}
	if code, text := i.get(i.container.ReadinessProbe.HTTPGet.Port.StrVal, "/metrics"); code != http.StatusOK || !strings.Contains(text, "flyball_build_info{") {
		i.t.Errorf("/metrics: %d", code)
	}
}

func (i *process) eventually(what string, cond func() bool) {
	i.t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-i.ended:
			i.t.Fatalf("it ended before: %s", what)
		default:
		}
		if time.Now().After(deadline) {
			i.t.Fatalf("not within a minute: %s", what)
		}
	}
}

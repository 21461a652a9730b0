package model

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flyball/exporter"
)

// fakeGPUs knows the GPUs of one process.
type fakeGPUs struct {
	pid  int
	uuid string
}

func (g fakeGPUs) GPUsOf(pids []int) []string {
	if slices.Contains(pids, g.pid) {
		return []string{g.uuid}
	}
	return nil
}

// child is a process below this one that lives until the test ends.
func child(t *testing.T) int {
	t.Helper()
	command := exec.Command("sleep", "600")
	if err := command.Start(); err != nil {
		t.Skipf("no process: %v", err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return command.Process.Pid
}

// TestProcess finds the process that listens, which is that of this test, and what is below it.
func TestProcess(t *testing.T) {
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip(err)
	}
	below := child(t)
	page := text2page("vllm:num_requests_running{model_name=\"m\"} 1\n")
	socket := filepath.Join(t.TempDir(), "s.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	overSocket := &http.Server{Handler: page}
	go overSocket.Serve(listener)
	t.Cleanup(func() { _ = overSocket.Close() })
	tcp := serve(t, page)
	for _, tt := range []struct{ name, url string }{
		{"TCP", tcp.URL},
		{"localhost", strings.Replace(tcp.URL, "127.0.0.1", "localhost", 1)},
		{"a socket", "unix:" + socket + ":/metrics"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCollector(t, Options{GPUs: fakeGPUs{below, "GPU-1"}}, configOf(t, tt.url))
			c.servers[0].poll(t.Context())
			metrics, err := c.Update(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if text := page2text(t, metrics); !strings.Contains(text, `flyball_model_gpu_info{model="m",server="s",uuid="GPU-1"} 1`) {
				t.Errorf("the GPU of the child is not the model's:\n%s", seriesOf(text))
			}
			used := c.servers[0].used
			if used.pid != os.Getpid() || !slices.Contains(used.pids, below) {
				t.Errorf("found %d with %v, want %d with %d", used.pid, used.pids, os.Getpid(), below)
			}
			if used.cpu <= 0 || used.memory < 1<<20 {
				t.Errorf("it uses %g s and %g bytes", used.cpu, used.memory)
			}
		})
	}
	t.Run("UUIDs that are given", func(t *testing.T) {
		c := newCollector(t, Options{GPUs: fakeGPUs{below, "GPU-1"}}, configOf(t, tcp.URL, func(c *exporter.ModelServer) { c.GPUs = exporter.GPUList{"GPU-2"} }))
		c.servers[0].poll(t.Context())
		metrics, _ := c.Update(t.Context())
		if text := page2text(t, metrics); !strings.Contains(text, `uuid="GPU-2"`) || strings.Contains(text, `uuid="GPU-1"`) {
			t.Error(seriesOf(text))
		}
	})
}

// TestProcessTime sees that the CPU time of a process does not step back with a child that has ended, and that of another begins anew.
func TestProcessTime(t *testing.T) {
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip(err)
	}
	config := configOf(t, serve(t, text2page("")).URL)
	c, err := newClient(&config)
	if err != nil {
		t.Fatal(err)
	}
	p := newProcesses("/proc", c)
	if u := p.usage(time.Now()); u.pid != os.Getpid() {
		t.Fatalf("process %d, want %d", u.pid, os.Getpid())
	}
	p.counted.cpu = 1e9 // with a child that has ended since
	if u := p.usage(time.Now()); u.cpu != 1e9 {
		t.Errorf("it stepped back to %g s", u.cpu)
	}
	p.counted.started-- // another process that had the number
	if u := p.usage(time.Now()); u.cpu >= 1e9 {
		t.Errorf("it began with %g s of another process", u.cpu)
	}
}

// TestProcessElsewhere sees that nothing of this machine is taken for a server on another.
func TestProcessElsewhere(t *testing.T) {
	for _, url := range []string{"http://192.0.2.7:80/metrics", "http://model.example/metrics", "https://[2001:db8::1]/metrics"} {
		config := configOf(t, url)
		c, err := newClient(&config)
		if err != nil {
			t.Fatal(err)
		}
		if u := newProcesses("/proc", c).usage(time.Now()); u.pid != 0 {
			t.Errorf("%s is process %d", url, u.pid)
		}
	}
}

// TestListeners reads procfs's tables of sockets.
func TestListeners(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "net"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"tcp": `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0000000000000000 100 0 0 10 0
   1: 0200007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12 1 0000000000000000 100 0 0 10 0
   2: 0100007F:1F40 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 13 1 0000000000000000 100 0 0 10 0
   3: 00000000:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 14 1 0000000000000000 100 0 0 10 0
   4: garbage
`,
		"tcp6": `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:1F41 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1 0000000000000000 100 0 0 10 0
`,
		"unix": `Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 31 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 03 32 /run/a.sock
`,
	} {
		if err := os.WriteFile(filepath.Join(root, "net", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		url  string
		want string
	}{
		{"http://127.0.0.1:8000/metrics", "[11 21]"},
		{"http://127.0.0.2:8000/metrics", "[12 21]"},
		{"http://127.0.0.1:8001/metrics", "[14]"},
		{"http://[::1]:8001/metrics", "[14 22]"}, // 0.0.0.0 is taken for any address, as :: is
		{"http://localhost:8000/metrics", "[11 12 21]"},
		{"http://127.0.0.1:8002/metrics", "[]"},
		{"unix:/run/a.sock", "[31]"},
		{"unix:/run/b.sock", "[]"},
	} {
		config := configOf(t, tt.url)
		c, err := newClient(&config)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(newProcesses(root, c).listeners()); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.url, got, tt.want)
		}
	}
}

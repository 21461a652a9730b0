package pods

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"flyball/exporter"
	"flyball/exporter/gpu"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kubelet serves the real pod-resources API on a socket.
type kubelet struct {
	podresources.UnimplementedPodResourcesListerServer
	socket string
	server *grpc.Server // nil while it is down

	mu    sync.Mutex
	reply *podresources.ListPodResourcesResponse
	err   error
	hang  bool
}

func newKubelet(t *testing.T) *kubelet {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet") // a socket's path has 107 characters at most
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{socket: filepath.Join(dir, "kubelet.sock"), reply: &podresources.ListPodResourcesResponse{}}
	t.Cleanup(func() {
		k.stop()
		os.RemoveAll(dir)
	})
	return k
}

func (k *kubelet) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", k.socket)
	if err != nil {
		t.Fatal(err)
	}
	k.server = grpc.NewServer(grpc.MaxSendMsgSize(64 << 20))
	podresources.RegisterPodResourcesListerServer(k.server, k)
	go k.server.Serve(l)
}

// stop ends it, and with it its socket.
func (k *kubelet) stop() {
	if k.server != nil {
		k.server.Stop()
		k.server = nil
	}
}

func (k *kubelet) set(reply *podresources.ListPodResourcesResponse, err error, hang bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reply, k.err, k.hang = reply, err, hang
}

func (k *kubelet) List(ctx context.Context, _ *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	k.mu.Lock()
	reply, err, hang := k.reply, k.err, k.hang
	k.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return reply, err
}

// pod has one container with devices of one resource.
func pod(name, container, resource string, devices ...string) *podresources.PodResources {
	return &podresources.PodResources{Namespace: "ml", Name: name, Containers: []*podresources.ContainerResources{
		{Name: container, Devices: []*podresources.ContainerDevices{{ResourceName: resource, DeviceIds: devices}}},
	}}
}

// claimed has one container with devices of a claim.
func claimed(name, driver string, devices ...string) *podresources.PodResources {
	d := &podresources.DynamicResource{ClaimName: name + "-claim", ClaimNamespace: "ml"}
	for _, device := range devices {
		d.ClaimResources = append(d.ClaimResources, &podresources.ClaimResource{
			DriverName: driver, PoolName: "node1", DeviceName: device,
			CdiDevices: []*podresources.CDIDevice{{Name: "k8s.gpu.nvidia.com/claim=dab5ab50-d59a-42a6-af16-cfd4628c0f7a-" + device}},
		})
	}
	return &podresources.PodResources{Namespace: "ml", Name: name, Containers: []*podresources.ContainerResources{
		{Name: "server", DynamicResources: []*podresources.DynamicResource{d}},
	}}
}

func listed(pods ...*podresources.PodResources) *podresources.ListPodResourcesResponse {
	return &podresources.ListPodResourcesResponse{PodResources: pods}
}

// logLines is a log that a test can wait on.
type logLines chan string

func newLog() (logLines, *slog.Logger) {
	lines := make(logLines, 1000)
	return lines, slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func (l logLines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// await returns the next line and fails unless it has the text in it.
func (l logLines) await(t *testing.T, text string) string {
	t.Helper()
	select {
	case line := <-l:
		if !strings.Contains(line, text) {
			t.Fatalf("log: %swant a line with %q", line, text)
		}
		return line
	case <-time.After(time.Minute):
		t.Fatalf("no line in the log, want one with %q", text)
		return ""
	}
}

// rest returns the lines that are there now.
func (l logLines) rest() (lines []string) {
	for {
		select {
		case line := <-l:
			lines = append(lines, line)
		default:
			return lines
		}
	}
}

// scrape is a page as Prometheus would get it, without the age of the mapping.
func scrape(t *testing.T, c *Collector) string {
	t.Helper()
	e, err := exporter.New(exporter.Options{}, c)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(e)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	gathered, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, family := range gathered {
		if family.GetName() == "flyball_collector_duration_seconds" || family.GetName() == "flyball_collector_last_success_timestamp_seconds" {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&b, family); err != nil {
			t.Fatal(err)
		}
	}
	return regexp.MustCompile(`(?m)^(flyball_podresources_stale_seconds) .*$`).ReplaceAllString(b.String(), "$1 AGE")
}

// series are the lines of a page that begin so.
func series(page, prefix string) (lines []string) {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func uuid(n int) string { return fmt.Sprintf("GPU-4a5b6c7d-0000-4000-8000-%012d", n) }

// scene is a node with a GPU of a pod alone, one that is shared, one with MIG and one for claims.
func scene(t *testing.T) (*podresources.ListPodResourcesResponse, func(second int) *gpu.Snapshot, node) {
	t.Helper()
	n := newNode(t)
	n.minor(t, "0000:05:00.0", uuid(0), 3) // numbers and indices are not the same
	n.minor(t, "0000:08:00.0", uuid(3), 0)
	for pid, uid := range map[int]string{10: uidA, 11: uidB, 12: ""} {
		n.process(t, pid, uid)
	}
	n.pod(t, "ml", "shared-a", uidA)
	n.pod(t, "ml", "shared-b", uidB)

	reply := listed(
		pod("alone", "server", "nvidia.com/gpu", uuid(0)),
		pod("shared-a", "server", "nvidia.com/gpu.shared", uuid(1)+"::0", uuid(1)+"::2"),
		pod("shared-b", "server", "nvidia.com/gpu.shared", uuid(1)+"::1"),
		pod("parted-a", "server", "nvidia.com/mig-1g.10gb", mig1),
		pod("parted-b", "server", "nvidia.com/gpu", "MIG-"+uuid(2)+"/2/0"),
		pod("parted-c", "server", "nvidia.com/mig-1g.10gb", "MIG-gone"),
		claimed("claims", "gpu.nvidia.com", "gpu-0"),
		claimed("other", "dra.net", "eth1"),
		pod("cpu", "server", "intel.com/sriov", "0000:05:00.0"),
	)
	// Two containers, of which one has no GPU.
	reply.PodResources[0].Containers = append(reply.PodResources[0].Containers, &podresources.ContainerResources{Name: "logs"})

	return reply, func(second int) *gpu.Snapshot {
		at := float64(second)
		return &gpu.Snapshot{Taken: time.Unix(int64(second), 0), Driver: "580.65.06", Devices: []gpu.Device{
			{Index: 0, UUID: uuid(0), PCIBusID: "00000000:05:00.0", Utilization: new(0.75), Memory: &gpu.Memory{Used: 40e9}, Power: new(600.0), Energy: new(1e6 + 600*at)},
			{
				Index: 1, UUID: uuid(1), PCIBusID: "00000000:06:00.0", Utilization: new(0.9), Memory: &gpu.Memory{Used: 50e9}, Power: new(500.0), Energy: new(2e6 + 500*at),
				Processes: []gpu.Process{process(10, 10e9, 0.6), process(11, 20e9, 0.2), process(12, 5e9, 0.2)},
			},
			{
				Index: 2, UUID: uuid(2), PCIBusID: "00000000:07:00.0", Power: new(300.0), Energy: new(3e6 + 300*at),
				Instances: []gpu.Instance{instance(mig1, 7, "1g.10gb", 8e9, 0.6), instance(mig2, 2, "3g.40gb", 30e9, 0.3)},
			},
			{Index: 3, UUID: uuid(3), PCIBusID: "00000000:08:00.0", Utilization: new(0.0), Memory: &gpu.Memory{Used: 1e9}, Power: new(70.0), Energy: new(4e6 + 100*at)},
		}}
	}, n
}

// collect makes a collector of the kubelet that is not run.
func collect(k *kubelet, n node, log *slog.Logger, snapshot func() *gpu.Snapshot) *Collector {
	return New(Options{Snapshot: snapshot, Socket: k.socket, ProcPath: n.proc, LogPath: n.logs, Logger: log, Timeout: time.Minute})
}

func TestPage(t *testing.T) {
	reply, at, n := scene(t)
	k := newKubelet(t)
	k.start(t)
	k.set(reply, nil, false)
	lines, log := newLog()
	second := 0
	c := collect(k, n, log, func() *gpu.Snapshot { return at(second) })
	c.poll(t.Context())
	lines.await(t, `msg="reading which pod has which GPU"`)
	lines.await(t, `level=WARN msg="device of a pod is not known" device=MIG-gone resource=nvidia.com/mig-1g.10gb namespace=ml pod=parted-c container=server err="no GPU that is read has this MIG device"`)
	second = 5
	c.account(t.Context())
	if rest := lines.rest(); len(rest) > 0 {
		t.Errorf("log: %q", rest)
	}

	got := scrape(t, c)
	golden := "testdata/page.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
	for _, f := range Families() {
		if !strings.Contains(got, "# TYPE "+f.Name+" "+f.Type+"\n") || !strings.Contains(got, "# HELP "+f.Name+" "+f.Help+"\n") {
			t.Errorf("the page has no %s %s with its help", f.Type, f.Name)
		}
	}

	// Pods that end keep nothing.
	k.set(listed(reply.PodResources[0]), nil, false)
	c.poll(t.Context())
	got = scrape(t, c)
	for _, gone := range []string{"shared", "parted", "claims"} {
		if strings.Contains(got, gone) {
			t.Errorf("there are series of pods that ended:\n%s", got)
		}
	}
	if len(series(got, "flyball_gpu_pod_")) != 4 {
		t.Errorf("series of the pod that is left: %q", series(got, "flyball_gpu_pod_"))
	}
}

// TestWithoutGPUs: which pod has which GPU is told where GPUs are not read, and after they were, with what was known.
func TestWithoutGPUs(t *testing.T) {
	reply, at, n := scene(t)
	k := newKubelet(t)
	k.start(t)
	k.set(reply, nil, false)
	var s *gpu.Snapshot
	c := collect(k, n, nil, func() *gpu.Snapshot { return s })
	c.poll(t.Context())
	got := scrape(t, c)
	want := []string{
		`flyball_gpu_pod_info{container="server",gi="",gpu="",namespace="ml",pod="alone",resource="nvidia.com/gpu",uuid="` + uuid(0) + `"} 1`,
		`flyball_gpu_pod_info{container="server",gi="",gpu="",namespace="ml",pod="claims",resource="gpu.nvidia.com",uuid="` + uuid(3) + `"} 1`,
		`flyball_gpu_pod_info{container="server",gi="",gpu="",namespace="ml",pod="shared-a",resource="nvidia.com/gpu.shared",uuid="` + uuid(1) + `"} 1`,
		`flyball_gpu_pod_info{container="server",gi="",gpu="",namespace="ml",pod="shared-b",resource="nvidia.com/gpu.shared",uuid="` + uuid(1) + `"} 1`,
		`flyball_gpu_pod_info{container="server",gi="2",gpu="",namespace="ml",pod="parted-b",resource="nvidia.com/gpu",uuid="` + uuid(2) + `"} 1`,
	}
	if diff := cmp.Diff(want, series(got, "flyball_gpu_pod_")); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"flyball_podresources_unresolved_devices 2"}, series(got, "flyball_podresources_unresolved")); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	s = at(0)
	c.account(t.Context())
	s = nil
	c.account(t.Context())
	got = scrape(t, c)
	if info := series(got, "flyball_gpu_pod_info"); len(info) != 6 || strings.Contains(strings.Join(info, ""), `gpu=""`) {
		t.Errorf("after: %q", info)
	}
	if figures := append(series(got, "flyball_gpu_pod_sm"), series(got, "flyball_gpu_pod_memory")...); len(figures) > 0 {
		t.Errorf("figures without GPUs: %q", figures)
	}
	if energy := series(got, "flyball_gpu_pod_energy_joules_total"); len(energy) != 6 {
		t.Errorf("counters: %q", energy)
	}
}

// TestErrors: each way in which a kubelet does not answer is told as what it is, and the mapping stays.
func TestErrors(t *testing.T) {
	huge := strings.Repeat("x", maxMessage/8)
	for _, tt := range []struct {
		name string
		make func(t *testing.T, k *kubelet)
		want string
	}{
		{"it answers with an error", func(_ *testing.T, k *kubelet) {
			k.set(nil, status.Error(codes.Internal, "checkpoint is corrupt"), false)
		}, "the kubelet answers Internal: checkpoint is corrupt"},
		{"it is asked too often", func(_ *testing.T, k *kubelet) {
			k.set(nil, status.Error(codes.ResourceExhausted, "rejected by rate limit"), false)
		}, "the kubelet's answer is not to be had: rejected by rate limit"},
		{"it is too old", func(_ *testing.T, k *kubelet) {
			k.set(nil, status.Error(codes.Unimplemented, "unknown service v1.PodResourcesLister"), false)
		}, "the kubelet has no pod-resources API v1, which is there from Kubernetes 1.20 on: unknown service v1.PodResourcesLister"},
		{"it hangs", func(_ *testing.T, k *kubelet) { k.set(nil, nil, true) }, "the kubelet did not answer in 50ms"},
		{"its answer is huge", func(_ *testing.T, k *kubelet) {
			var pods []*podresources.PodResources
			for range 9 {
				pods = append(pods, &podresources.PodResources{Name: huge})
			}
			k.set(listed(pods...), nil, false)
		}, "the kubelet's answer is not to be had: grpc: received message larger than max (18874458 vs. 16777216)"},
		{"it stopped", func(_ *testing.T, k *kubelet) { k.stop() }, "SOCKET: there is no socket"},
		{"it was killed", func(t *testing.T, k *kubelet) {
			k.stop()
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: k.socket, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
		}, "SOCKET: connection refused: nobody listens: the kubelet has stopped or restarts"},
		{"something else answers", func(t *testing.T, k *kubelet) {
			k.stop()
			l, err := net.Listen("unix", k.socket)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
					c.Close()
				}
			}()
			t.Cleanup(func() { l.Close(); <-done })
		}, "the kubelet answers Unavailable: "},
		{"a file", func(t *testing.T, k *kubelet) {
			k.stop()
			if err := os.WriteFile(k.socket, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "SOCKET is no socket but a file"},
		{"a directory, as a mount of a file that is not there makes it", func(t *testing.T, k *kubelet) {
			k.stop()
			if err := os.Mkdir(k.socket, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "SOCKET is no socket but a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reply, at, n := scene(t)
			k := newKubelet(t)
			k.start(t)
			k.set(reply, nil, false)
			lines, log := newLog()
			c := collect(k, n, log, func() *gpu.Snapshot { return at(0) })
			c.poll(t.Context())
			before := scrape(t, c)
			lines.rest()

			tt.make(t, k)
			c.opts.Timeout = time.Minute
			if strings.Contains(tt.want, "did not answer") {
				c.opts.Timeout = 50 * time.Millisecond
			}
			c.poll(t.Context())
			_, err := c.Update(t.Context())
			want := "pods: " + strings.ReplaceAll(tt.want, "SOCKET", k.socket)
			if err == nil || !strings.HasPrefix(err.Error(), want) || tt.want[len(tt.want)-1] != ' ' && err.Error() != want {
				t.Errorf("error %v\nwant  %s", err, want)
			}
			lines.await(t, "level=WARN msg=\"kubelet does not tell which pod has which GPU: what it told last stays\"")
			c.poll(t.Context()) // once is enough
			if rest := lines.rest(); len(rest) > 0 {
				t.Errorf("log: %q", rest)
			}
			after := scrape(t, c)
			for _, up := range []string{"flyball_podresources_up 0", `flyball_collector_success{collector="pods"} 0`} {
				if !strings.Contains(after, up+"\n") {
					t.Errorf("no %s in\n%s", up, after)
				}
			}
			if diff := cmp.Diff(series(before, "flyball_gpu_pod_"), series(after, "flyball_gpu_pod_")); diff != "" {
				t.Errorf("the mapping did not stay (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPermission: a user who is not root is told so.
func TestPermission(t *testing.T) {
	k := newKubelet(t)
	k.start(t)
	if err := os.Chmod(filepath.Dir(k.socket), 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Dir(k.socket), 0o700)
	result := make(chan error)
	go func() {
		if os.Geteuid() == 0 { // root may all: this thread, which ends with the goroutine, looks at files as nobody
			runtime.LockOSThread()
			if err := unix.Setfsuid(65534); err != nil {
				result <- err
				return
			}
		}
		_, err := list(context.Background(), k.socket, time.Minute)
		result <- err
	}()
	err := <-result
	want := fmt.Sprintf("%s: permission denied for user %d: the socket is root's, so run as user 0, which needs no capability for it", k.socket, os.Geteuid())
	if err == nil || err.Error() != want || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// TestRun: no kubelet, one that starts, restarts and takes its pods up again, all with the collector that runs.
func TestRun(t *testing.T) {
	reply, at, n := scene(t)
	k := newKubelet(t)
	lines, log := newLog()
	c := New(Options{
		Snapshot: func() *gpu.Snapshot { return at(0) }, Socket: k.socket, ProcPath: n.proc, LogPath: n.logs, Logger: log,
		Interval: time.Millisecond, Sample: time.Millisecond, Timeout: time.Minute,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	lines.await(t, `level=INFO msg="no kubelet to ask for pods"`)
	if metrics, err := c.Update(ctx); len(metrics) != 0 || !errors.Is(err, exporter.ErrNoData) {
		t.Errorf("without a kubelet: %d series, %v", len(metrics), err)
	}
	k.set(listed(reply.PodResources[0]), nil, false)
	k.start(t)
	lines.await(t, "reading which pod has which GPU")
	k.stop()
	lines.await(t, "kubelet does not tell")
	if got := scrape(t, c); len(series(got, "flyball_gpu_pod_info")) != 1 || !strings.Contains(got, "flyball_podresources_up 0\n") {
		t.Errorf("while it restarts:\n%s", got)
	}
	k.set(listed(reply.PodResources[:3]...), nil, false)
	k.start(t)
	lines.await(t, "reading which pod has which GPU")
	k.set(listed(), status.Error(codes.Internal, "over"), false)
	lines.await(t, "kubelet does not tell") // and with it the account of the three is done
	if got := scrape(t, c); len(series(got, "flyball_gpu_pod_info")) != 3 {
		t.Errorf("after:\n%s", got)
	}
	k.set(nil, nil, true) // it hangs, and we end
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestStart: before the GPUs were read nothing is told of pods, nor in the log of devices that nobody knows yet.
func TestStart(t *testing.T) {
	reply, at, n := scene(t)
	k := newKubelet(t)
	k.start(t)
	k.set(listed(reply.PodResources[:4]...), nil, false)
	lines, log := newLog()
	var s atomic.Pointer[gpu.Snapshot]
	looked := make(chan struct{})
	c := New(Options{
		Snapshot: func() *gpu.Snapshot {
			select {
			case looked <- struct{}{}:
			default:
			}
			return s.Load()
		},
		Socket: k.socket, ProcPath: n.proc, LogPath: n.logs, Logger: log, Interval: time.Millisecond, Sample: time.Millisecond, Timeout: time.Minute,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	lines.await(t, "reading which pod has which GPU")
	for range 3 { // at the GPUs, with polls of the kubelet in between
		<-looked
	}
	got := scrape(t, c)
	if early := append(series(got, "flyball_gpu_pod_"), series(got, "flyball_podresources_unresolved")...); len(early) > 0 || !strings.Contains(got, "flyball_podresources_up 1\n") {
		t.Errorf("before the GPUs were read:\n%s", got)
	}
	s.Store(at(0))
	for len(series(got, "flyball_gpu_pod_info")) == 0 {
		<-looked
		got = scrape(t, c)
	}
	if info := series(got, "flyball_gpu_pod_info"); strings.Contains(strings.Join(info, ""), `gpu=""`) {
		t.Errorf("after: %q", info)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if rest := lines.rest(); strings.Contains(strings.Join(rest, ""), "device of a pod is not known") {
		t.Errorf("log: %q", rest)
	}
}

// TestUnseen: what is missing to look up processes is said, once.
func TestUnseen(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(n *node)
		want string
	}{
		{"PIDs of another namespace", func(n *node) { n.proc = filepath.Join(n.proc, "none") }, "hostPID: true"},
		{"no directory of logs", func(n *node) { n.logs = filepath.Join(n.logs, "none") }, "takes the node's directory, read-only"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reply, at, n := scene(t)
			tt.make(&n)
			k := newKubelet(t)
			k.start(t)
			k.set(listed(reply.PodResources[1:3]...), nil, false)
			lines, log := newLog()
			c := collect(k, n, log, func() *gpu.Snapshot { return at(0) })
			c.poll(t.Context())
			lines.await(t, "reading which pod has which GPU")
			lines.await(t, tt.want)
			c.account(t.Context())
			if rest := lines.rest(); len(rest) > 0 {
				t.Errorf("log: %q", rest)
			}
			got := scrape(t, c)
			if len(series(got, "flyball_gpu_pod_info")) != 2 || len(series(got, "flyball_gpu_pod_")) != 2 {
				t.Errorf("series: %q", series(got, "flyball_gpu_pod_"))
			}
		})
	}
}

func BenchmarkList(b *testing.B) {
	dir, err := os.MkdirTemp("", "kubelet")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	k := &kubelet{socket: filepath.Join(dir, "kubelet.sock"), reply: &podresources.ListPodResourcesResponse{}}
	for i := range 250 {
		k.reply.PodResources = append(k.reply.PodResources, pod(fmt.Sprintf("pod-%d", i), "server", "nvidia.com/gpu.shared", fmt.Sprintf("%s::%d", uuid(i%8), i)))
	}
	l, err := net.Listen("unix", k.socket)
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(server, k)
	go server.Serve(l)
	defer server.Stop()
	c := New(Options{Socket: k.socket})
	b.ReportAllocs()
	for b.Loop() {
		c.poll(b.Context())
	}
	if len(c.view.places) != 250 {
		b.Fatalf("%d places", len(c.view.places))
	}
}

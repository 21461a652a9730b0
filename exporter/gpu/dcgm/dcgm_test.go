package dcgm

import (
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"flyball/exporter/gpu"
	"flyball/mixin/dashboard"
	"flyball/rules/peertest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fixed is a source that never changes.
type fixed struct{ snapshot *gpu.Snapshot }

func (f fixed) Snapshot() *gpu.Snapshot { return f.snapshot }

// podsOf are pods by the UUID of what they have, with /GI for an instance of MIG.
type podsOf map[string]Pod

func (p podsOf) Pod(uuid string, gi *int) (Pod, bool) {
	if gi != nil {
		uuid += "/" + strconv.Itoa(*gi)
	}
	pod, ok := p[uuid]
	return pod, ok
}

func ptr[T any](v T) *T { return &v }

// hopper is a GPU that supports all there is.
func hopper(index int, uuid string) gpu.Device {
	return gpu.Device{
		Index: index, UUID: uuid, Name: "NVIDIA H100 80GB HBM3", PCIBusID: "00000000:19:00.0", Arch: "hopper",
		Utilization: ptr(0.29), MemoryUtilization: ptr(0.41), EncoderUtilization: ptr(0.0), DecoderUtilization: ptr(0.07),
		Memory: &gpu.Memory{Total: 80 << 30, Used: 20<<30 + 1<<19, Free: 59<<30 - 1<<19, Reserved: ptr(uint64(1 << 30))},
		Power:  ptr(312.5), Energy: ptr(1234.567),
		Temperature: map[string]float64{"gpu": 56, "memory": 61},
		Clock:       map[string]float64{"graphics": 1.98e9, "sm": 1.755e9, "mem": 2.619e9, "video": 1.545e9},
		ECC: []gpu.ECCErrors{
			{Type: "corrected", Scope: "volatile", Count: 1},
			{Type: "uncorrected", Scope: "volatile", Count: 2},
			{Type: "corrected", Scope: "aggregate", Count: 3},
			{Type: "uncorrected", Scope: "aggregate", Count: 4},
		},
		RemappedRows:    map[string]uint64{"correctable": 5, "uncorrectable": 6},
		RowRemapFailure: ptr(false),
		RetiredPages:    map[string]uint64{"single_bit": 7, "double_bit": 8, "pending": 9},
		PCIe:            &gpu.PCIe{Transmitted: ptr(uint64(1e9)), Received: ptr(uint64(2e9)), Replays: ptr(uint64(10))},
		NVLink: &gpu.NVLink{
			Transmitted: ptr(uint64(3e9)), Received: ptr(uint64(4e9)),
			Errors: map[string]uint64{"crc_flit": 11, "crc_data": 12, "replay": 13, "recovery": 14},
		},
		Active:    map[string]float64{"graphics": 0.9, "sm": 0.8, "tensor": 0.5, "dram": 0.4, "fp64": 0, "fp32": 0.1, "fp16": 0.2},
		Occupancy: ptr(0.3),
		XIDs: []gpu.XID{
			{Number: 31, Count: 2, Last: time.Unix(100, 0)},
			{Number: 79},
			{Number: 48, Count: 1, Last: time.Unix(200, 0)},
			{Number: 13, Count: 9, Last: time.Unix(150, 0)},
		},
	}
}

// divided is a GPU in MIG mode: utilisation is not supported there. The first instance has two compute instances.
func divided(index int, uuid string) gpu.Device {
	return gpu.Device{
		Index: index, UUID: uuid, Name: "NVIDIA A100-SXM4-40GB", PCIBusID: "00000000:41:00.0", MIGMode: "enabled",
		Power: ptr(80.0), Temperature: map[string]float64{"gpu": 40}, Clock: map[string]float64{"sm": 1.41e9},
		Memory: &gpu.Memory{Total: 40 << 30, Used: 5 << 30, Free: 35 << 30},
		Active: map[string]float64{"tensor": 0.99}, // of the GPU, which is not that of an instance
		XIDs:   []gpu.XID{{Number: 48}, {Number: 79}},
		Instances: []gpu.Instance{
			{UUID: "MIG-a", GI: 1, CI: 0, Profile: "3g.20gb", Memory: &gpu.Memory{Total: 20 << 30, Used: 4 << 30, Free: 16 << 30}, Active: map[string]float64{"sm": 0.6, "tensor": 0.25}},
			{UUID: "MIG-b", GI: 1, CI: 1, Profile: "3g.20gb", Memory: &gpu.Memory{Total: 20 << 30, Used: 4 << 30, Free: 16 << 30}, Active: map[string]float64{"sm": 0.6, "tensor": 0.25}},
			{UUID: "MIG-c", GI: 9, CI: 0, Profile: "1g.5gb", Memory: &gpu.Memory{Total: 5 << 30, Used: 1 << 30, Free: 4 << 30, Reserved: ptr(uint64(0))}},
		},
	}
}

// old is a GPU that has little and no means to measure activity.
func old(index int, uuid string) gpu.Device {
	return gpu.Device{
		Index: index, UUID: uuid, Name: "Tesla T4", PCIBusID: "00000000:00:1E.0",
		Utilization: ptr(1.0), Power: ptr(70.0), Temperature: map[string]float64{"gpu": 43}, Clock: map[string]float64{"sm": 585e6},
		Memory: &gpu.Memory{Total: 16 << 30, Used: 1 << 30, Free: 15 << 30},
	}
}

func allKinds() *gpu.Snapshot {
	lost := hopper(3, "GPU-lost")
	lost.Error = "GPU is lost"
	amd := old(4, "GPU-amd")
	amd.Vendor = "amd"
	return &gpu.Snapshot{Driver: "570.86.15", Devices: []gpu.Device{hopper(0, "GPU-hopper"), divided(1, "GPU-divided"), old(2, "GPU-old"), lost, amd}}
}

func get(t *testing.T, h http.Handler, accept string) string {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, "/metrics/dcgm", nil)
	request.Header.Set("Accept", accept)
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, request)
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.Code != http.StatusOK {
		t.Fatalf("%d, %v: %s", answer.Code, err, text)
	}
	return string(text)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestPage holds the page to the letter: a GPU with everything, one in MIG mode, an old one, one that is lost, one of another
// vendor.
func TestPage(t *testing.T) {
	o := Options{
		GPUs: fixed{allKinds()}, Hostname: "node-1",
		Pods: podsOf{
			"GPU-hopper":    {Namespace: "ml", Name: "llama-0", Container: "vllm"},
			"GPU-divided/9": {Namespace: "ml", Name: "small-0", Container: "triton"},
		},
	}
	golden(t, "page.prom", get(t, Handler(o), "text/plain"))

	t.Run("OpenMetrics is not spoken", func(t *testing.T) {
		page := get(t, Handler(o), "application/openmetrics-text; version=1.0.0")
		if !strings.Contains(page, "\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{") || strings.Contains(page, "_CONSUMPTION_total") {
			t.Errorf("the names are not those of the text format:\n%s", page)
		}
	})
	t.Run("hostname", func(t *testing.T) {
		for label, want := range map[string]string{"": `,Hostname="node-1",`, "Hostname": `,Hostname="node-1",`, "hostname": `,hostname="node-1",`} {
			o := o
			o.HostnameLabel = label
			if page := get(t, Handler(o), "text/plain"); !strings.Contains(page, want) {
				t.Errorf("label %q: no %s in\n%s", label, want, page)
			}
		}
		o := o
		o.Hostname = ""
		if page := get(t, Handler(o), "text/plain"); strings.Contains(strings.ToLower(page), "hostname") {
			t.Errorf("a label for a name that is not known:\n%s", page)
		}
	})
	t.Run("nothing read yet", func(t *testing.T) {
		if page := get(t, Handler(Options{GPUs: fixed{}}), "text/plain"); page != "" {
			t.Errorf("page:\n%s", page)
		}
	})
}

// TestLint lists what is wrong with the names by Prometheus's own rules, and kept since it is theirs.
func TestLint(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(Options{GPUs: fixed{allKinds()}, Hostname: "node-1"}))
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.Text+": "+p.Metric+"\n")
	}
	slices.Sort(lines)
	golden(t, "lint.txt", strings.Join(slices.Compact(lines), ""))
}

// TestFamilies: what is listed is what a GPU that supports everything has, in dcgm-exporter's names.
func TestFamilies(t *testing.T) {
	var listed []string
	for _, f := range Families() {
		listed = append(listed, f.Name)
		if !regexp.MustCompile(`^DCGM_FI_(DEV|PROF)_[A-Z0-9_]+$`).MatchString(f.Name) || !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s: %q", f.Name, f.Help)
		}
	}
	page := get(t, Handler(Options{GPUs: fixed{&gpu.Snapshot{Devices: []gpu.Device{hopper(0, "GPU-hopper")}}}}), "text/plain")
	var there []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(page, -1) {
		there = append(there, m[1])
	}
	slices.Sort(listed)
	if diff := cmp.Diff(listed, there); diff != "" {
		t.Errorf("families (-listed +on the page):\n%s", diff)
	}
}

// revision is one revision of dashboard 12239: its variables and the queries of its panels, by name.
type revision struct {
	name              string
	variables, panels [][2]string
}

func revisions(t *testing.T) (all []revision) {
	t.Helper()
	text, err := os.ReadFile("testdata/dashboard_12239.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, query, _ := strings.Cut(rest, ": ")
		switch kind {
		case "", "#":
		case "revision":
			all = append(all, revision{name: rest})
		case "variable":
			r := &all[len(all)-1]
			r.variables = append(r.variables, [2]string{name, query})
		case "panel":
			r := &all[len(all)-1]
			r.panels = append(r.panels, [2]string{name, query})
		default:
			t.Fatalf("testdata/dashboard_12239.txt: %q", line)
		}
	}
	return all
}

// read makes a dashboard of a revision, with variables that stand at All, as Grafana opens it.
func (r revision) read(t *testing.T) *dashboard.Dashboard {
	t.Helper()
	type object = map[string]any
	var variables, panels []object
	for _, v := range r.variables {
		variables = append(variables, object{"name": v[0], "type": "query", "query": v[1], "multi": true, "includeAll": true, "current": object{"value": []string{"$__all"}}})
	}
	for _, p := range r.panels {
		panels = append(panels, object{"type": "timeseries", "title": p[0], "targets": []object{{"refId": "A", "expr": p[1]}}})
	}
	text, err := json.Marshal(object{"title": "12239", "templating": object{"list": variables}, "panels": panels})
	if err != nil {
		t.Fatal(err)
	}
	d, err := dashboard.Read("12239.json", text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDashboard has a real Prometheus scrape the page and asks it every query of dashboard 12239.
func TestDashboard(t *testing.T) {
	serve := func(devices ...gpu.Device) string {
		server := httptest.NewServer(Handler(Options{GPUs: fixed{&gpu.Snapshot{Driver: "570.86.15", Devices: devices}}, Hostname: "node-1"}))
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	// One Prometheus for each kind of node, as a series of another one would answer too.
	for _, tt := range []struct {
		name    string
		address string
		silent  []string // names without a series
	}{
		{"hopper", serve(hopper(0, "GPU-a"), hopper(1, "GPU-b")), nil},
		{"no means to measure activity", serve(old(0, "GPU-a")), []string{"DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"}},
		{"MIG", serve(divided(0, "GPU-a")), []string{"DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := peertest.Prometheus(t, `
global: {scrape_interval: 1s}
scrape_configs:
- job_name: gpus
  metrics_path: /metrics/dcgm
  static_configs: [{targets: ["`+tt.address+`"]}]
`)
			client, err := api.NewClient(api.Config{Address: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			remote := dashboard.Prometheus(v1.NewAPI(client))
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
				if n, err := remote.Query(t.Context(), "DCGM_FI_DEV_GPU_TEMP", time.Now()); err == nil && n > 0 {
					break
				} else if time.Now().After(end) {
					t.Fatalf("nothing was scraped: %v\n%s", err, server.Log())
				}
			}
			silent := map[string]bool{}
			for _, r := range revisions(t) {
				if len(r.variables) != 2 || len(r.panels) != 8 {
					t.Fatalf("revision %s has %d variables and %d panels", r.name, len(r.variables), len(r.panels))
				}
				d, now := r.read(t), time.Now()
				a := dashboard.Against{API: remote, Window: dashboard.Window{Start: now.Add(-time.Minute), End: now, Step: time.Second, ScrapeInterval: time.Second}}
				findings, err := a.Check(t.Context(), d, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range findings {
					name := regexp.MustCompile(`no metric "(DCGM_\w+)"`).FindStringSubmatch(f.Message)
					if name == nil || !slices.Contains(tt.silent, name[1]) {
						t.Errorf("revision %s: %s: %s", r.name, f.In, f.Message)
						continue
					}
					silent[name[1]] = true
				}
			}
			for _, name := range tt.silent {
				if !silent[name] {
					t.Errorf("%s has an answer, and nothing that it could come from", name)
				}
			}
		})
	}
}

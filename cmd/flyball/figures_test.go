//go:build linux

package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"flyball/rules/peertest"
)

// figuresEnv names the environment variable that says how long TestStoreFigures measures.
const figuresEnv = "FLYBALL_FIGURES"

// What must hold for the embedded store at 10,000 series each 15 s.
const (
	maxStoreRSS = 140.0 // MB
	maxStoreCPU = 2.0   // percent of a core
)

// TestStoreFigures measures flyball and Debian's Prometheus, which scrape the same target at the same time, and fails
// where flyball takes more than it may. It runs for minutes, and so only where FLYBALL_FIGURES=5m or the like asks for it:
// .ci/figures-store does.
func TestStoreFigures(t *testing.T) {
	text := os.Getenv(figuresEnv)
	if text == "" {
		t.Skipf("measures for minutes: %s=5m asks for it", figuresEnv)
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", figuresEnv, err)
	}
	page := httptest.NewServer(newLoadPage(10_000))
	defer page.Close()
	target := strings.TrimPrefix(page.URL, "http://")
	config := fmt.Sprintf("global: {scrape_interval: 15s, evaluation_interval: 15s}\nscrape_configs:\n- job_name: load\n  static_configs: [{targets: [%q]}]\n", target)

	reference := peertest.Prometheus(t, config)
	dir := t.TempDir()
	file := filepath.Join(dir, "flyball.yml")
	if err := os.WriteFile(file, []byte(config+"exporter: {collectors: {gpu: false}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	web := freePort(t)
	ours := exec.Command(built.path("flyball"), "run", "--config.file="+file, "--storage.path="+filepath.Join(dir, "data"), "--role=rules",
		"--web.listen-address="+web, "--log.level=error")
	ours.Stderr = os.Stderr
	if err := ours.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ours.Process.Signal(syscall.SIGTERM)
		_ = ours.Wait()
	})
	// From the first scrapes on: making the series costs once what a scrape costs later many times over.
	for _, base := range []string{reference.URL, "http://" + web} {
		scraped(t, base)
	}
	processes := []*measured{{name: "flyball", pid: ours.Process.Pid}, {name: "Prometheus 2.42 (Debian)", pid: reference.PID()}}
	for _, p := range processes {
		p.begin(t)
	}
	time.Sleep(length)
	var table strings.Builder
	fmt.Fprintf(&table, "%d series, scraped each 15 s, for %s\n%-26s %10s %10s %10s\n", 10_000, length, "", "RSS", "highest", "CPU")
	for _, p := range processes {
		p.end(t)
		fmt.Fprintf(&table, "%-26s %7.0f MB %7.0f MB %9.2f%%\n", p.name, p.rss, p.highest, p.cpu)
	}
	fmt.Println(table.String())
	if p := processes[0]; p.highest > maxStoreRSS || p.cpu > maxStoreCPU {
		t.Errorf("flyball may take %.0f MB and %.1f %% of a core", maxStoreRSS, maxStoreCPU)
	}
}

// scraped waits until a server has the page's series.
func scraped(t *testing.T, base string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		response, err := http.Get(base + "/api/v1/query?query=count(load_value)")
		if err == nil {
			var body bytes.Buffer
			_, _ = body.ReadFrom(response.Body)
			response.Body.Close()
			if strings.Contains(body.String(), `"10000"`) {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s has no samples after a minute", base)
		}
	}
}

// measured is a process between two looks at /proc.
type measured struct {
	name              string
	pid               int
	since             time.Time
	ticks             float64
	rss, highest, cpu float64 // MB, MB, percent of a core
}

func (m *measured) begin(t *testing.T) { m.since, m.ticks = time.Now(), m.cpuTicks(t) }

func (m *measured) end(t *testing.T) {
	const ticksPerSecond = 100 // on Linux, for all programs
	m.cpu = (m.cpuTicks(t) - m.ticks) / ticksPerSecond / time.Since(m.since).Seconds() * 100
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "VmRSS:":
			m.rss = kib * 1024 / 1e6
		case "VmHWM:":
			m.highest = kib * 1024 / 1e6
		}
	}
}

// cpuTicks is the time that the process has used, its own and the kernel's for it.
func (m *measured) cpuTicks(t *testing.T) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return user + system
}

// newLoadPage serves n series: half of them counters that grow, a quarter gauges that move, the rest constant.
func newLoadPage(n int) http.Handler {
	series := make([]string, n)
	for i := range series {
		series[i] = fmt.Sprintf(`load_value{model="model-%d",replica="replica-%d",zone="zone-%d",path="/v2/models/model-%d/infer"} `, i%40, i/40, i%3, i%40)
	}
	begun := time.Now()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		b := append(make([]byte, 0, 1<<20), "# HELP load_value A series of the measurement.\n# TYPE load_value untyped\n"...)
		seconds := time.Since(begun).Seconds()
		for i, name := range series {
			b = append(b, name...)
			switch i % 4 {
			case 0, 1:
				b = strconv.AppendInt(b, int64(seconds*float64(i%97)), 10)
			case 2:
				b = strconv.AppendFloat(b, rand.Float64()*100, 'f', 3, 64)
			default:
				b = append(b, '1')
			}
			b = append(b, '\n')
		}
		_, _ = w.Write(b)
	})
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"--help", exitOK, "Exits with 3 where one is missed"},
		{"--scrapes=0", exitUsage, "--scrapes and --idle are more than 0"},
		{"--scraps=1", exitUsage, "unknown long flag '--scraps'"},
		{"--flyball=missing --node-exporter=missing", exitFailed, "make bench-exporter gets it"},
	} {
		if strings.Contains(tt.says, "gets it") && !hasCompiler() {
			continue
		}
		var out, errs bytes.Buffer
		stub := filepath.Join("..", "gpu", "testdata", "nvml_stub.c")
		code := run(append(strings.Fields(tt.args), "--stub="+stub), &out, &errs)
		if said := out.String() + errs.String(); code != tt.code || !strings.Contains(said, tt.says) {
			t.Errorf("%s: exit %d, want %d with %q:\n%s", tt.args, code, tt.code, tt.says, said)
		}
	}
}

func hasCompiler() bool {
	_, err := exec.LookPath("gcc")
	return err == nil
}

func TestQuantile(t *testing.T) {
	var times []time.Duration
	for i := range 100 {
		times = append(times, time.Duration(i+1)*time.Second)
	}
	for q, want := range map[float64]float64{0.5: 50, 0.99: 99, 1: 100, 0: 1} {
		if got := quantile(times, q); got != want {
			t.Errorf("%v: %v, want %v", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// TestScrape reads a page as Prometheus does.
func TestScrape(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != accept || r.Header.Get("Accept-Encoding") != "gzip" {
			t.Errorf("headers %v", r.Header)
		}
		fmt.Fprint(w, "# HELP up Help.\nup{gpu=\"0\"} 1\nup{gpu=\"1\"} 0\nupper 3\nflyball_gpu_up 1\n# EOF\n")
	}))
	defer server.Close()
	p := process{url: server.URL, client: server.Client()}
	lines, _, err := p.scrape(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if lines.count("") != 4 || lines.count("up") != 2 || lines.sum("up") != 1 || lines.sum("upper") != 3 {
		t.Errorf("%q", lines)
	}
	if n := missingFamilies(lines, page{"up 1"}); n != 1 { // upper; the GPUs' do not count
		t.Errorf("%d families are missing, want 1", n)
	}
}

// TestJudge: what is missed is said, and a figure that is none holds nothing.
func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name   string
		report Report
		missed []string
	}{
		{"all held", Report{NodeExporter: Cost{CPUPerSeries: 2}, Flyball: Cost{CPUPerSeries: 1, AnonymousBytes: 24e6}, Hung: Hung{P99: 0.01}}, nil},
		{"all missed", Report{NodeExporter: Cost{CPUPerSeries: 1}, Flyball: Cost{CPUPerSeries: 1.1, AnonymousBytes: 26e6}, Hung: Hung{P99: 1, Lost: 1}}, []string{
			"CPU per series and scrape, flyball to node_exporter", "anonymous memory of flyball and its worker, MB",
			"all GPUs hang: ms that 99 of 100 scrapes take", "all GPUs hang: families lost that are not of GPUs",
		}},
		{"no figure", Report{Flyball: Cost{CPUPerSeries: math.NaN()}}, []string{"CPU per series and scrape, flyball to node_exporter"}},
	} {
		tt.report.judge()
		var missed []string
		for _, g := range tt.report.Gates {
			if !g.Held {
				missed = append(missed, g.What)
			}
		}
		if diff := cmp.Diff(tt.missed, missed); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if n := strings.Count(tt.report.text(), "MISSED"); n != len(tt.missed) {
			t.Errorf("%s: %d lines say MISSED:\n%s", tt.name, n, tt.report.text())
		}
	}
}

// TestProcesses measures this process and one that it starts.
func TestProcesses(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("processes are measured on Linux alone")
	}
	child := exec.Command("cat") // ends when its input does
	input, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		input.Close()
		_ = child.Wait()
	}()
	pids := withChildren(os.Getpid())
	if diff := cmp.Diff([]int{os.Getpid(), child.Process.Pid}, pids); diff != "" {
		t.Fatal(diff)
	}
	alone, err := anonymous(pids[:1])
	if err != nil {
		t.Fatal(err)
	}
	if both, err := anonymous(pids); err != nil || alone < 1<<20 || both <= alone {
		t.Errorf("%d bytes, with the child %d, %v", alone, both, err)
	}
	before, err := cpuTime(pids)
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 20*time.Millisecond; { // costs CPU time
	}
	if after, err := cpuTime(pids); err != nil || after <= before {
		t.Errorf("%s, then %s, %v", before, after, err)
	}
}

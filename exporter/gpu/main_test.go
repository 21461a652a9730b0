package gpu

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"

	"flyball/exporter"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestMain is the worker too, and nvidia-smi: the collector under test starts this binary again, as a probe does.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "nvidia-smi" {
		os.Exit(fakeSMI(os.Args[1:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "nvml-probe" {
		if err := ProbeWorker(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "nvml-worker" {
		if err := Worker(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == "script-worker" {
		if err := serve(context.Background(), os.Stdin, os.Stdout, script(os.Args[2]).open); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == "replace-self" {
		if err := replaceSelf(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "nvml-try" {
		try()
	}
	goleak.VerifyTestMain(m)
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
			t.Fatalf("log line %q, want one with %q", line, text)
		}
		return line
	case <-time.After(time.Minute):
		t.Fatalf("no log line in a minute, want one with %q", text)
		return ""
	}
}

// quiet fails if anything was logged.
func (l logLines) quiet(t *testing.T) {
	t.Helper()
	select {
	case line := <-l:
		t.Errorf("unexpected log line %q", line)
	default:
	}
}

// scrape returns the page of an exporter with this collector, without how long it took, when it was, and selfFamilies.
func scrape(t *testing.T, c *Collector) string {
	t.Helper()
	values, _ := scrapeBoth(t, c)
	return values
}

// scrapeSelf returns what of the page are selfFamilies.
func scrapeSelf(t *testing.T, c *Collector) string {
	t.Helper()
	_, self := scrapeBoth(t, c)
	return self
}

func scrapeBoth(t *testing.T, c *Collector) (values, self string) {
	t.Helper()
	e, err := exporter.New(exporter.Options{}, c)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(e)
	families, err := registry.Gather()
	if err != nil {
		t.Errorf("gather: %v", err)
	}
	var page, own bytes.Buffer
	for _, f := range families {
		to := &page
		if slices.ContainsFunc(selfFamilies(), func(s exporter.Family) bool { return s.Name == f.GetName() && s.Name != backendFamily.Name }) {
			to = &own
		}
		if f.GetName() == "flyball_collector_duration_seconds" || f.GetName() == "flyball_collector_last_success_timestamp_seconds" || f.GetName() == xidLastFamily.Name {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(to, f); err != nil {
			t.Fatal(err)
		}
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Errorf("lint: %v", err)
	}
	for _, p := range problems {
		t.Errorf("lint: %s: %s", p.Metric, p.Text)
	}
	return page.String(), own.String()
}

// series returns the lines of a page without HELP and TYPE.
func series(page string) string {
	var lines []string
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
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

// run runs the collector until the test ends.
func run(t *testing.T, c *Collector) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

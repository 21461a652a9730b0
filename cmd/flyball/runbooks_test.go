package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"

	"flyball/mixin"
	"flyball/rules"
)

// TestRunbookNames: who is woken at night can copy what a runbook says: its queries, and those of the alerts, name metrics
// that there are, its commands are taken by the command line, its keys by the configuration and by rule files.
func TestRunbookNames(t *testing.T) {
	metrics := append(rules.OutputMetrics(), "up", "scrape_duration_seconds", "ALERTS",
		"flyball_notifications_errors_total", // with an Alertmanager
		// Of GPUs that the page of gpu/testdata has not: divided by MIG, or with errors and activity.
		"flyball_gpu_mig_memory_used_bytes", "flyball_gpu_mig_memory_total_bytes",
		"flyball_gpu_mig_sm_active_ratio", "flyball_gpu_mig_tensor_active_ratio", "flyball_gpu_mig_dram_active_ratio",
		"flyball_gpu_sm_active_ratio", "flyball_gpu_tensor_active_ratio", "flyball_gpu_dram_active_ratio", "flyball_gpu_xid_errors_total")
	for _, name := range []string{"metrics.golden", "metrics_remote.golden", "metrics_services.golden", "metrics_tracing.golden"} {
		for line := range strings.Lines(contents(t, filepath.Join("testdata", name))) {
			metric, _, _ := strings.Cut(line, " ")
			metrics = append(metrics, metric)
		}
	}
	for _, name := range []string{"gpu/testdata/normal.prom", "gpu/dcgm/testdata/page.prom", "host/testdata/host.prom"} {
		p := expfmt.NewTextParser(model.UTF8Validation)
		families, err := p.TextToMetricFamilies(strings.NewReader(contents(t, filepath.Join("../../exporter", name))))
		if err != nil {
			t.Fatal(err)
		}
		for metric := range families {
			metrics = append(metrics, metric)
		}
	}
	type file struct {
		Groups []struct {
			Rules []struct{ Record, Alert, Expr string }
		}
	}
	var recorded, alerts file
	for name, to := range map[string]*file{"rules.yaml": &recorded, "alerts.yaml": &alerts} {
		out, err := mixin.Source.ReadFile("out/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(out, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range recorded.Groups {
		for _, r := range g.Rules {
			metrics = append(metrics, r.Record)
		}
	}
	query := func(where, expr string) {
		parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
		if err != nil {
			t.Errorf("%s: %s: %v", where, expr, err)
			return
		}
		parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
			if s, ok := node.(*parser.VectorSelector); ok && !hasMetric(metrics, s.Name) {
				t.Errorf("%s: no metric is called %s", where, s.Name)
			}
			return nil
		})
	}
	for _, g := range append(recorded.Groups, alerts.Groups...) {
		for _, r := range g.Rules {
			query(r.Record+r.Alert, r.Expr)
		}
	}

	keys := strings.Fields(contents(t, "testdata/keys.golden"))
	for _, name := range mixin.Runbooks() {
		runbook, err := mixin.Source.ReadFile("runbooks/" + name + ".md")
		if err != nil {
			t.Fatal(err)
		}
		fences := regexp.MustCompile("(?s)```(\\w+)\n(.*?)```")
		for _, m := range fences.FindAllSubmatch(runbook, -1) {
			for line := range bytes.Lines(m[2]) {
				switch line := strings.TrimSpace(string(line)); {
				case string(m[1]) == "promql":
					query(name, line)
				case strings.HasPrefix(line, "flyball "):
					takesCommand(t, name, line)
				}
			}
		}
		for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllSubmatch(fences.ReplaceAll(runbook, nil), -1) {
			switch code := string(m[1]); {
			case strings.HasPrefix(code, "flyball "):
				takesCommand(t, name, code)
			case regexp.MustCompile(`^[a-z_]+(\[\])?(\.[a-z_]+(\[\])?)+$`).MatchString(code) && !strings.HasSuffix(code, ".jsonl"):
				if !slices.ContainsFunc(keys, func(k string) bool { return strings.Contains(k+".", "."+code+".") }) {
					t.Errorf("%s: no key is called %s", name, code)
				}
			}
		}
	}
}

// hasMetric takes the series of a histogram for the histogram.
func hasMetric(metrics []string, name string) bool {
	for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && slices.Contains(metrics, base) {
			return true
		}
	}
	return false
}

func takesCommand(t *testing.T, where, line string) {
	t.Helper()
	app := kingpin.New("flyball", "")
	newCommands(app, io.Discard, io.Discard)
	args := strings.Fields(strings.ReplaceAll(line, "'", ""))[1:]
	if _, err := app.ParseContext(args); err != nil {
		t.Errorf("%s: %s: %v", where, line, err)
	}
}

func contents(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

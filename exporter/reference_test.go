package exporter_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/exporter"
	"flyball/exporter/gpu"
	"flyball/exporter/gpu/pods"
	"flyball/exporter/host"
	"flyball/exporter/model"
	"flyball/exporter/model/facts"
	"flyball/exporter/textfile"
)

// reference is the page of all families, in the order of its sections. A package with families of its own has a line.
func reference() []exporter.Family {
	return slices.Concat(
		host.Families(),
		gpu.Families(),
		pods.Families(),
		model.Families(),
		facts.Families(),
		textfile.Families(),
		exporter.Families(),
	)
}

// units are what names end in, before _total: Prometheus's base units and ours.
var units = []string{"seconds", "bytes", "ratio", "watts", "joules", "celsius", "hertz", "cores", "usd_per_hour", "usd"}

func unit(f exporter.Family) string {
	name := strings.TrimSuffix(f.Name, "_total")
	for _, u := range units {
		if strings.HasSuffix(name, "_"+u) {
			return u
		}
	}
	return ""
}

// render writes the page.
func render(families []exporter.Family) string {
	var b strings.Builder
	b.WriteString(`# The exporter's metrics

Made from the code by ` + "`go test ./exporter -run TestReference -update`" + `. What a source does not have, or does not support, has no
series: nothing is published as 0 for want of a value. The collector is the name in ` + "`--[no-]collector.NAME`" + `, ` + "`collect[]`" + ` and
` + "`flyball_collector_success{collector}`" + `.
`)
	section := "none yet"
	for _, f := range families {
		if f.Collector != section {
			section = f.Collector
			title := "Collector `" + section + "`"
			if section == "" {
				title = "How the collectors fare"
			}
			fmt.Fprintf(&b, "\n## %s\n\n| metric | type | unit | labels | what it tells |\n|---|---|---|---|---|\n", title)
		}
		labels := make([]string, len(f.Labels))
		for i, l := range f.Labels {
			labels[i] = "`" + l + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f.Name, f.Type, unit(f), strings.Join(labels, " "), strings.ReplaceAll(f.Help, "|", `\|`))
	}
	return b.String()
}

// TestReference: METRICS.md is what the code says.
func TestReference(t *testing.T) {
	got := render(reference())
	const path = "METRICS.md"
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update writes it:\n%s", path, diff)
	}
}

// TestFamilies: every family can be explained, and none is there twice.
func TestFamilies(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range reference() {
		if seen[f.Name] {
			t.Errorf("%s is there twice", f.Name)
		}
		seen[f.Name] = true
		if !strings.HasPrefix(f.Name, "flyball_") || len(f.Help) < 10 || !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s: its name begins with flyball_ and its help is a sentence: %q", f.Name, f.Help)
		}
		if !slices.Contains([]string{"gauge", "counter", "histogram", "summary"}, f.Type) || f.Type == "counter" != strings.HasSuffix(f.Name, "_total") {
			t.Errorf("%s is a %s: counters, and they alone, end in _total", f.Name, f.Type)
		}
		if f.Collector != "" && !slices.Contains(exporter.CollectorNames(), f.Collector) {
			t.Errorf("%s: no collector is named %q", f.Name, f.Collector)
		}
	}
}

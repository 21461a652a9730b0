package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestImports keeps the shape: imports point inwards, siblings never import each other, all wiring is in cmd, and what
// is heavy to link (the TSDB, the PromQL engine) stays where it is needed. A package that is not in the table fails, so
// that a new one gets its place here first.
func TestImports(t *testing.T) {
	// What of ours each package may import. A prefix that ends in / stands for the packages below it.
	allowed := map[string][]string{
		"flyball/actuators":                     {},
		"flyball/actuators/actuatortest":        {"flyball/actuators"},
		"flyball/actuators/election":            {},
		"flyball/actuators/keda":                {"flyball/actuators/keda/externalscaler"},
		"flyball/actuators/keda/externalscaler": {},
		"flyball/actuators/kubernetes":          {"flyball/actuators"},
		"flyball/actuators/kubernetes/kubetest": {"flyball/rules/peertest"},
		"flyball/actuators/none":                {"flyball/actuators"},
		"flyball/actuators/process":             {"flyball/actuators"},
		"flyball/batchproxy":                    {"flyball/batchproxy/protocol"},
		"flyball/batchproxy/bench":              {"flyball/batchproxy/loadgen"},
		"flyball/batchproxy/loadgen":            {},
		"flyball/batchproxy/protocol":           {},
		"flyball/cmd/flyball":                   {"flyball/"},
		"flyball/cmd/flyball/tracing":           {},
		"flyball/cmd/flyball/web":               {"flyball/rules", "flyball/rules/promapi"},
		"flyball/examples/alertmanager":         {}, // tests alone
		"flyball/examples/modelserver":          {"flyball/examples/modelserver/digits"},
		"flyball/examples/modelserver/digits":   {},
		"flyball/examples/quickstart":           {},
		"flyball/exporter":                      {},
		"flyball/exporter/bench":                {},
		"flyball/exporter/gpu":                  {"flyball/exporter", "flyball/rules/source"},
		"flyball/exporter/gpu/dcgm":             {"flyball/exporter", "flyball/exporter/gpu"},
		"flyball/exporter/gpu/pods":             {"flyball/exporter", "flyball/exporter/gpu"},
		"flyball/exporter/host":                 {"flyball/exporter"},
		"flyball/exporter/model":                {"flyball/exporter"},
		"flyball/exporter/model/facts":          {"flyball/exporter", "flyball/rules/source"},
		"flyball/exporter/textfile":             {"flyball/exporter"},
		"flyball/forecast":                      {},
		"flyball/forecast/eval":                 {"flyball/forecast"},
		"flyball/mixin":                         {"flyball/rules/source"},
		"flyball/mixin/dashboard":               {"flyball/rules/source"},
		"flyball/rules":                         {"flyball/actuators", "flyball/forecast", "flyball/rules/source"},
		"flyball/rules/convert":                 {"flyball/rules", "flyball/rules/source"},
		"flyball/rules/journal":                 {"flyball/rules"},
		"flyball/rules/peertest":                {},
		"flyball/rules/promapi":                 {},
		"flyball/rules/report":                  {"flyball/rules/source"},
		"flyball/rules/remote":                  {"flyball/rules", "flyball/rules/promapi", "flyball/rules/source"},
		"flyball/rules/rulestest":               {"flyball/actuators", "flyball/rules", "flyball/rules/source"},
		"flyball/rules/source":                  {},
		"flyball/rules/store":                   {"flyball/rules", "flyball/rules/promapi", "flyball/rules/source"},
	}
	// What may link which heavy package, directly or not.
	mayLink := map[string][]string{
		"github.com/prometheus/prometheus/tsdb":   {"flyball/rules/store", "flyball/cmd/flyball"},
		"github.com/prometheus/prometheus/promql": {"flyball/rules/store", "flyball/cmd/flyball"},
		"github.com/NVIDIA/go-nvml/pkg/nvml":      {"flyball/exporter/gpu", "flyball/exporter/gpu/dcgm", "flyball/exporter/gpu/pods", "flyball/cmd/flyball"},
		"go.opentelemetry.io/otel/sdk/trace":      {"flyball/cmd/flyball/tracing", "flyball/cmd/flyball"},
		"k8s.io/client-go/dynamic":                {"flyball/actuators/kubernetes", "flyball/actuators/kubernetes/kubetest", "flyball/cmd/flyball"},
	}
	forbidden := []string{"github.com/prometheus/prometheus/web/api/v1", "github.com/prometheus/prometheus/plugins"}

	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}|{{join .Imports " "}}|{{join .Deps " "}}`, "flyball/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		field := strings.Split(strings.TrimSpace(line), "|")
		pkg, imports, deps := field[0], strings.Fields(field[1]), strings.Fields(field[2])
		may, known := allowed[pkg]
		if !known {
			t.Errorf("%s has no line in this test's table: say what of ours it may import", pkg)
		}
		for _, imp := range imports {
			if strings.HasPrefix(imp, "flyball/") && !slices.ContainsFunc(may, func(m string) bool {
				return imp == m || strings.HasSuffix(m, "/") && strings.HasPrefix(imp, m)
			}) {
				t.Errorf("%s imports %s: it may import %v", pkg, imp, may)
			}
		}
		for heavy, who := range mayLink {
			if slices.Contains(deps, heavy) && !slices.Contains(who, pkg) {
				t.Errorf("%s links %s: only %v may", pkg, heavy, who)
			}
		}
		for _, f := range forbidden {
			if slices.Contains(deps, f) {
				t.Errorf("%s links %s, which nothing may", pkg, f)
			}
		}
	}
}

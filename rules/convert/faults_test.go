package convert

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/rules/source"
)

// TestFaults: what is wrong with an object is told at its place, and what was expected.
func TestFaults(t *testing.T) {
	hpa := func(metrics, more string) string {
		return "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: a}\nspec:\n  maxReplicas: 3\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}\n" + more + "\n  metrics:\n" + metrics
	}
	so := func(triggers, more string) string {
		return "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: a}\nspec:\n  scaleTargetRef: {name: a}\n" + more + "\n  triggers:\n" + triggers
	}
	const cpu = "  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}"
	const prom = "  - {type: prometheus, metadata: {query: up, threshold: '1'}}"
	for _, tt := range []struct{ text, want string }{
		{"a: [", "f:1:1: YAML: did not find expected node content"},
		{"text", "f:1:1: expected an object of Kubernetes: apiVersion, kind, metadata and spec"},
		{"a: 1", "f:1:1: not an object of Kubernetes: kind and apiVersion are needed"},
		{"apiVersion: v1\nkind: List\nitems: 3", "f:3:8: items is not a list"},
		{"apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nspec: {}", "f:1:1: metadata.name: missing"},
		{"apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: a}", "f:1:1: HorizontalPodAutoscaler default/a has no spec"},
		{"apiVersion: apps/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: a}", `f:1:13: apiVersion is "apps/v1": a HorizontalPodAutoscaler is of autoscaling`},
		{strings.Replace(hpa(cpu, ""), "/v2", "/v2beta1", 1), `f:1:13: apiVersion is "autoscaling/v2beta1": expected autoscaling/v2 or v1: kubectl get hpa.v2.autoscaling a -o yaml has it`},
		{strings.Replace(hpa(cpu, ""), "/v2", "/v1", 1), "f:8:3: spec.metrics: autoscaling/v1 has none: is it apiVersion: autoscaling/v2?"},
		{strings.Replace(hpa(cpu, ""), "kind: Deployment, ", "", 1), "f:6:3: spec.scaleTargetRef.kind: missing: what is scaled"},
		{strings.Replace(hpa(cpu, ""), "Deployment, name: a", "Deployment, name: A b", 1), `f:6:65: spec.scaleTargetRef.name is "A b": not a name of Kubernetes`},
		{hpa(cpu, "  minReplicas: 4"), "f:7:16: spec.minReplicas is 4: expected 0 to spec.maxReplicas, which is 3"},
		{hpa(cpu, "  targetCPUUtilizationPercentage: 4"), "f:7:35: spec.targetCPUUtilizationPercentage: it is of autoscaling/v1: autoscaling/v2 has metrics"},
		{hpa(cpu, "  behavior: {scaleUp: {stabilizationWindowSeconds: 3601}}"), "f:7:52: spec.behavior.scaleUp.stabilizationWindowSeconds is 3601: expected 0 to 3600"},
		{hpa(cpu, "  behavior: {scaleUp: {tolerance: -1}}"), "f:7:35: spec.behavior.scaleUp.tolerance is -1: expected 0 or more"},
		{hpa(cpu, "  behavior: {scaleUp: {policies: [{type: Pod, value: 0, periodSeconds: 0}]}}"), `f:7:42: spec.behavior.scaleUp.policies[0].type is "Pod": expected Pods or Percent (did you mean "Pods"?)`},
		{hpa("  - {type: Resource}", ""), "f:9:5: spec.metrics[0].resource: missing: it goes with type Resource"},
		{hpa("  - {type: Ressource}", ""), `f:9:12: spec.metrics[0].type is "Ressource": expected Resource, ContainerResource, Pods, Object, External (did you mean "Resource"?)`},
		{hpa("  - {type: Resource, resource: {name: gpu}}", ""), `f:9:39: spec.metrics[0].resource.name is "gpu": expected cpu or memory`},
		{hpa("  - {type: Pods, pods: {metric: {name: a}, target: {type: AverageValue, averageValue: 5 m}}}", ""), `f:9:87: spec.metrics[0].pods.target.averageValue: "5 m" is not a quantity: expected a number such as 10, 500m or 2Gi`},
		{hpa("  - {type: Pods, pods: {metric: {name: a}, target: {type: AverageValue, value: 5}}}", ""), "f:9:44: spec.metrics[0].pods.target.averageValue: missing: it goes with type AverageValue"},
		{hpa("  - {type: External, external: {metric: {name: a, selector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}, target: {type: Value, value: 5}}}", ""), `f:9:100: spec.metrics[0].external.metric.selector.matchExpressions[0].operator: "in" is none of In, NotIn, Exists, DoesNotExist`},

		{so("  - {type: prometheus, metadata: {query: 'sum(up', threshold: '1'}}", ""), "f:8:43: spec.triggers[0].metadata.query: PromQL: no arguments for aggregate expression provided"},
		{so("  - {type: prometheus, metadata: {query: 'up[5m]', threshold: '1'}}", ""), "f:8:43: spec.triggers[0].metadata.query: PromQL: a query must give an instant vector or a scalar, this gives a matrix"},
		{so("  - {type: prometheus, metadata: {query: up}}", ""), "f:8:24: spec.triggers[0].metadata.threshold: missing"},
		{so("  - {type: prometheus, metadata: {query: up, threshold: many}}", ""), `f:8:57: spec.triggers[0].metadata.threshold: "many" is not a number`},
		{so("  - {type: prometheus, metricType: Utilization, metadata: {query: up, threshold: '1'}}", ""), `f:8:36: spec.triggers[0].metricType is "Utilization": expected AverageValue or Value`},
		{so("  - {type: cpu, metadata: {value: '50'}}", ""), `f:8:5: spec.triggers[0].metricType is "": expected Utilization or AverageValue`},
		{so("  - {type: cron, metadata: {timezone: Mars/Base, start: 0 8 * *, end: 0 9 * * *, desiredReplicas: '1'}}", ""), `f:8:39: spec.triggers[0].metadata.timezone: "Mars/Base" is not the name of a time zone, such as Europe/Berlin`},
		{so("  - null", ""), "f:8:5: spec.triggers[0].type: missing"},
		{so("  - {type: aws-sqs-queue, metadata: {queueURLFromEnv: QUEUE}}", ""), "f:2:7: ScaledObject default/a cannot be converted: spec.triggers[0].metadata.queueURLFromEnv: the value is in the environment of the target: give it as queueURL"},
		{so(prom, "  idleReplicaCount: 2"), "f:6:21: spec.idleReplicaCount is 2: expected less than minReplicaCount, which is 0"},
		{so(prom, "  cooldownPeriod: -1"), "f:6:19: spec.cooldownPeriod is -1: expected 0 to 86400"},
		{so(prom, "  fallback: {failureThreshold: 1, replicas: 1, behavior: statik}"), `f:6:58: spec.fallback.behavior is "statik": expected static, currentReplicas, currentReplicasIfHigher, currentReplicasIfLower (did you mean "static"?)`},
		{so(prom, "  advanced: {scalingModifiers: {target: '1'}}"), "f:6:14: spec.advanced.scalingModifiers.formula: missing"},
		{so(prom, "  maxReplicaCont: 3"), `f:6:3: unknown key "maxReplicaCont" (did you mean "maxReplicaCount"?)`},
		{so("  - {type: external, metadata: {scalerAddress: a}}", ""), "f:2:7: ScaledObject default/a cannot be converted: spec.triggers[0]: of a trigger of type external it is not known what one replica is for: its metadata has none of threshold, targetValue, value"},
	} {
		convert := HPA
		if strings.Contains(tt.text, "keda.sh") {
			convert = ScaledObject
		}
		_, err := convert([]Input{{Name: "f", Text: []byte(tt.text)}}, Options{})
		faults, ok := errors.AsType[source.Errors](err)
		if !ok {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		got := faults[0].Error()
		if diff := cmp.Diff(tt.want, got[:min(len(got), len(tt.want))]); diff != "" {
			t.Errorf("%s\n%s", tt.text, diff)
		}
	}
}

// TestQuantity reads quantities as the API does.
func TestQuantity(t *testing.T) {
	for text, want := range map[string]float64{
		"5": 5, "500m": 0.5, "1.5": 1.5, ".5": 0.5, "2k": 2000, "1Ki": 1024, "1536Mi": 1536 << 20, "2e3": 2000, "2E3": 2000, "3E": 3e18,
		"1M": 1e6, "7u": 7e-6, "8n": 8e-9, "-1": -1, "+2": 2, "1Ei": 1 << 60,
	} {
		if got, ok := parseQuantity(text); !ok || got != want {
			t.Errorf("%s: %g %t, want %g", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "m", "5 m", "5mm", "1K", "0x5", "NaN", "1e400", "1e999", "."} {
		if got, ok := parseQuantity(text); ok {
			t.Errorf("%q: %g", text, got)
		}
	}
}

// FuzzConvert: whatever comes in, what comes out is a rule file, or an error; nothing of the input gets out of its quotes or
// comments.
func FuzzConvert(f *testing.F) {
	for _, pattern := range []string{"testdata/hpa/*.yaml", "testdata/scaledobject/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal(pattern, err)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			for _, document := range strings.Split(string(text), "\n---\n") {
				f.Add(document)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		for kind, convert := range kinds {
			r, err := convert([]Input{{Name: "f\nb", Text: []byte(text)}}, Options{})
			if err != nil {
				if strings.Contains(err.Error(), "this should not happen") {
					t.Fatal(err)
				}
				continue
			}
			if n := len(read(t, r.Text)); n != r.Rules {
				t.Errorf("%s: %d rules, and the result says %d", kind, n, r.Rules)
			}
		}
	})
}

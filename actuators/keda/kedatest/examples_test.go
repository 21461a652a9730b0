package kedatest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	yamlv2 "gopkg.in/yaml.v2"
	yamlv3 "gopkg.in/yaml.v3"
	autoscaling "k8s.io/api/autoscaling/v2"
	adapter "sigs.k8s.io/prometheus-adapter/pkg/config"
	"sigs.k8s.io/yaml"
)

const examples = "../../../examples"

func readExample(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestHPA: the HPA of the example has no key that Kubernetes does not know, and asks for the metric as the rule means it.
func TestHPA(t *testing.T) {
	var hpa autoscaling.HorizontalPodAutoscaler
	if err := yaml.UnmarshalStrict(readExample(t, "prometheus-adapter/hpa.yaml"), &hpa); err != nil {
		t.Fatal(err)
	}
	external := hpa.Spec.Metrics[0].External
	if external == nil || external.Metric.Name != metric || external.Target.Type != autoscaling.AverageValueMetricType || external.Target.AverageValue.Value() != 1 {
		t.Errorf("the metric is %+v", external)
	}
	for name, r := range map[string]*autoscaling.HPAScalingRules{"up": hpa.Spec.Behavior.ScaleUp, "down": hpa.Spec.Behavior.ScaleDown} {
		if !r.Tolerance.IsZero() || *r.StabilizationWindowSeconds != 0 {
			t.Errorf("scaling %s is not exact: %+v", name, r)
		}
	}
	// Labels of a selector are Kubernetes's, and those of the metric Prometheus's.
	for _, value := range external.Metric.Selector.MatchLabels {
		if bytes.ContainsAny([]byte(value), "/ ") {
			t.Errorf("%q is no label value of Kubernetes", value)
		}
	}
}

// TestAdapter: the adapter's own types take its configuration.
func TestAdapter(t *testing.T) {
	var c adapter.MetricsDiscoveryConfig
	if err := yamlv2.UnmarshalStrict(readExample(t, "prometheus-adapter/adapter.yaml"), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.ExternalRules) != 1 || c.ExternalRules[0].Resources.Namespaced == nil || *c.ExternalRules[0].Resources.Namespaced {
		t.Errorf("the rules are %+v", c.ExternalRules)
	}
}

// TestScaledObject: each object of the example is valid by the schema in KEDA's definition of its kind, to which nothing may be
// added.
func TestScaledObject(t *testing.T) {
	crds := filepath.Join(moduleFolder(t, "github.com/kedacore/keda/v2"), "config/crd/bases")
	files := map[string]string{
		"ScaledObject": "keda.sh_scaledobjects.yaml", "TriggerAuthentication": "keda.sh_triggerauthentications.yaml",
	}
	decoder := yamlv3.NewDecoder(bytes.NewReader(readExample(t, "keda/scaledobject.yaml")))
	kinds := map[string]int{}
	for {
		var document yamlv3.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := yamlv3.Marshal(&document)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := yaml.YAMLToJSONStrict(text)
		if err != nil {
			t.Fatal(err)
		}
		object, err := jsonschema.UnmarshalJSON(bytes.NewReader(plain))
		if err != nil {
			t.Fatal(err)
		}
		kind, _ := object.(map[string]any)["kind"].(string)
		kinds[kind]++
		if err := schemaOf(t, filepath.Join(crds, files[kind])).Validate(object); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if want := map[string]int{"ScaledObject": 2, "TriggerAuthentication": 1}; !maps.Equal(kinds, want) {
		t.Errorf("objects %v, want %v", kinds, want)
	}
}

func schemaOf(t *testing.T, path string) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema json.RawMessage `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &definition); err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(definition.Spec.Versions[0].Schema.OpenAPIV3Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(path, closed(document)); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(path)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// closed takes from a schema the leave to have other keys than those that it names, as the apiserver does in strict validation.
func closed(schema any) any {
	m, isMap := schema.(map[string]any)
	if !isMap {
		return schema
	}
	if _, has := m["properties"]; has && m["additionalProperties"] == nil && m["x-kubernetes-preserve-unknown-fields"] == nil {
		m["additionalProperties"] = false
	}
	if properties, has := m["properties"].(map[string]any); has {
		for _, name := range slices.Collect(maps.Keys(properties)) {
			properties[name] = closed(properties[name])
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if m[key] != nil {
			m[key] = closed(m[key])
		}
	}
	return m
}

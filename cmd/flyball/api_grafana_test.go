package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"flyball/rules/store"
)

// grafanaCall is one request of Grafana's, in testdata/grafana.yml.
type grafanaCall struct {
	What, Source, Method, Path string
	Params                     map[string][]string
	Code                       int            // 0: 200
	Reads                      map[string]any // what Grafana reads of the answer, by where it is
	Lacks                      []string       // what must not be there
}

// TestAPIGrafana sends what Grafana's data source sends, and reads what it reads.
func TestAPIGrafana(t *testing.T) {
	file, err := os.ReadFile("testdata/grafana.yml")
	if err != nil {
		t.Fatal(err)
	}
	var calls []grafanaCall
	decoder := yaml.NewDecoder(bytes.NewReader(file))
	decoder.KnownFields(true)
	if err := decoder.Decode(&calls); err != nil {
		t.Fatal(err)
	}
	s := newAPIServer(t)
	times := map[string]string{"S": fmt.Sprint(s.start.Unix()), "E": fmt.Sprint(s.end().Unix())}
	for _, call := range calls {
		t.Run(call.What, func(t *testing.T) {
			params := url.Values{}
			for name, values := range call.Params {
				for _, value := range values {
					if at, ok := times[value]; ok {
						value = at
					}
					params.Add(name, value)
				}
			}
			code, answer := ask(t, call.Method, s.url, call.Path, params)
			if want := max(call.Code, http.StatusOK); code != want {
				t.Errorf("status %d, want %d: %v", code, want, answer)
			}
			for place, want := range call.Reads {
				got, ok := at(answer, place)
				if text, isText := want.(string); isText && times[text] != "" {
					want = times[text]
				}
				if !ok || want != "*" && shown(got) != shown(want) {
					t.Errorf("%s is %v (%t), want %v", place, got, ok, want)
				}
			}
			for _, place := range call.Lacks {
				if got, ok := at(answer, place); ok {
					t.Errorf("%s is there: %v", place, got)
				}
			}
		})
	}
}

// shown is a value of JSON or YAML as text; numbers in full.
func shown(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// at is what stands at a place such as data.result.0.metric.
func at(v any, place string) (any, bool) {
	for step := range strings.SplitSeq(place, ".") {
		switch in := v.(type) {
		case map[string]any:
			next, ok := in[step]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(in) {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// TestGrafanaExample: what Grafana is given to read says what is so.
func TestGrafanaExample(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("..", "..", "examples", "grafana", "provisioning", "datasources", "flyball.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var example struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, Access, URL string
			JSONData                     struct {
				HTTPMethod        string `yaml:"httpMethod"`
				TimeInterval      string `yaml:"timeInterval"`
				QueryTimeout      string `yaml:"queryTimeout"`
				PrometheusType    string `yaml:"prometheusType"`
				PrometheusVersion string `yaml:"prometheusVersion"`
				ManageAlerts      bool   `yaml:"manageAlerts"`
				CacheLevel        string `yaml:"cacheLevel"`
			} `yaml:"jsonData"`
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(file))
	decoder.KnownFields(true)
	if err := decoder.Decode(&example); err != nil {
		t.Fatal(err)
	}
	if example.APIVersion != 1 || len(example.Datasources) != 1 {
		t.Fatalf("%+v", example)
	}
	d := example.Datasources[0]
	options := &runOptions{roles: []string{roleAll}}
	if d.Type != "prometheus" || d.URL != "http://"+options.webAddresses()[0] || d.JSONData.HTTPMethod != http.MethodPost ||
		d.JSONData.PrometheusType != "Prometheus" || d.JSONData.PrometheusVersion != store.PrometheusVersion() {
		t.Errorf("%+v", d)
	}
	for text, want := range map[string]time.Duration{
		d.JSONData.TimeInterval: time.Duration(DefaultConfig().Global.ScrapeInterval), d.JSONData.QueryTimeout: store.DefaultOptions().QueryTimeout,
	} {
		if got, err := time.ParseDuration(text); err != nil || got != want {
			t.Errorf("%s, want %s (%v)", text, want, err)
		}
	}
	readme, err := os.ReadFile(filepath.Join("..", "..", "examples", "grafana", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"examples/grafana/provisioning", "provisioning/datasources/flyball.yaml"} {
		if !strings.Contains(string(readme), path) {
			t.Errorf("the README does not name %s", path)
		}
		base := filepath.Join("..", "..")
		if !strings.HasPrefix(path, "examples/") {
			base = filepath.Join(base, "examples", "grafana")
		}
		if _, err := os.Stat(filepath.Join(base, filepath.FromSlash(path))); err != nil {
			t.Error(err)
		}
	}
}

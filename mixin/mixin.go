package mixin

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/go-jsonnet"

	"flyball/rules/source"
)

// Source is the mixin as it is written: the Jsonnet files, the runbooks and what is rendered from them with the default
// settings (out).
//
//go:embed *.libsonnet alerts rules dashboards lib runbooks all:out .lint
var Source embed.FS

// Options say what to render. The zero value renders what is in out.
type Options struct {
	// Config overrides keys of _config in config.libsonnet, such as "clusterLabel". A nested object is merged into the one
	// that is there; a list replaces it. Values are what encoding/json decodes to.
	Config map[string]any
}

// heading says in each rendered YAML file where it comes from.
const heading = "# Rendered from mixin/*.libsonnet; a change belongs there. `flyball mixin render` gives it with other settings.\n"

// outputs are the YAML files and the Jsonnet files that give them.
var outputs = []struct{ file, from string }{
	{"alerts.yaml", "lib/alerts.jsonnet"},
	{"rules.yaml", "lib/rules.jsonnet"},
	{"kubernetes/prometheusrule.yaml", "lib/prometheusrule.jsonnet"},
}

// Render returns the rendered files by their slash-separated names: alerts.yaml, rules.yaml, dashboards/*.json (with the
// .lint file that says which rules of style they do not follow, and why) and kubernetes/prometheusrule.yaml. The error
// names settings that do not exist, or says what Jsonnet makes of the ones that do.
func Render(o Options) (map[string][]byte, error) {
	vm, err := newVM(o)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	vm.StringOutput = true
	for _, out := range outputs {
		text, err := vm.EvaluateFile(out.from)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", out.file, err)
		}
		files[out.file] = []byte(heading + strings.TrimRight(text, "\n") + "\n")
	}
	vm.StringOutput = false
	dashboards, err := vm.EvaluateFileMulti("lib/dashboards.jsonnet")
	if err != nil {
		return nil, fmt.Errorf("render the dashboards: %w", err)
	}
	for name, text := range dashboards {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, []byte(text), "", "  "); err != nil {
			return nil, fmt.Errorf("render %s: %w", name, err)
		}
		files["dashboards/"+name] = append(bytes.TrimRight(pretty.Bytes(), "\n"), '\n')
	}
	if files["dashboards/.lint"], err = Source.ReadFile(".lint"); err != nil {
		return nil, err
	}
	return files, nil
}

// newVM is Jsonnet over the embedded files, with the overrides as a part of config.libsonnet.
func newVM(o Options) (*jsonnet.VM, error) {
	files := importer{}
	err := fs.WalkDir(Source, ".", func(name string, _ fs.DirEntry, err error) error {
		if ext := path.Ext(name); err != nil || ext != ".libsonnet" && ext != ".jsonnet" {
			return err
		}
		text, err := Source.ReadFile(name)
		files[name] = jsonnet.MakeContents(string(text))
		return err
	})
	if err != nil {
		return nil, err
	}
	vm := jsonnet.MakeVM()
	vm.Importer(files)
	if len(o.Config) == 0 {
		return vm, nil
	}
	if err := checkConfig(vm, o.Config); err != nil {
		return nil, err
	}
	given, err := override(o.Config)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	files["config.libsonnet"] = jsonnet.MakeContents(files["config.libsonnet"].String() + "+ { _config+:: " + given + " }")
	vm = jsonnet.MakeVM() // the first one has config.libsonnet as it was
	vm.Importer(files)
	return vm, nil
}

// importer finds the embedded files; paths are relative to the file that names them.
type importer map[string]jsonnet.Contents

// Import implements jsonnet.Importer.
func (i importer) Import(from, name string) (jsonnet.Contents, string, error) {
	found := path.Join(path.Dir(from), name)
	contents, ok := i[found]
	if !ok {
		return jsonnet.Contents{}, "", fmt.Errorf("the mixin has no %s, which %s imports", found, from)
	}
	return contents, found, nil
}

// override is a Jsonnet object with the given values, which is merged into the one that is there: what config.libsonnet
// derives from a value follows it. A JSON text is a Jsonnet expression without anything to evaluate.
func override(config map[string]any) (string, error) {
	var b strings.Builder
	b.WriteByte('{')
	for _, key := range slices.Sorted(maps.Keys(config)) {
		name, err := json.Marshal(key)
		if err != nil {
			return "", err
		}
		if inner, ok := config[key].(map[string]any); ok {
			text, err := override(inner)
			if err != nil {
				return "", fmt.Errorf("%s: %w", key, err)
			}
			fmt.Fprintf(&b, "%s+: %s,", name, text)
			continue
		}
		text, err := json.Marshal(config[key])
		if err != nil {
			return "", fmt.Errorf("%s: %w", key, err)
		}
		fmt.Fprintf(&b, "%s: %s,", name, text)
	}
	b.WriteByte('}')
	return b.String(), nil
}

// checkConfig sees that every setting is one that there is, of its type: Jsonnet itself would take any.
func checkConfig(vm *jsonnet.VM, config map[string]any) error {
	text, err := vm.EvaluateAnonymousSnippet("settings.jsonnet", "(import 'config.libsonnet')._config")
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	var known map[string]any
	if err := json.Unmarshal([]byte(text), &known); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	return errors.Join(compare("", known, config)...)
}

func compare(prefix string, known, given map[string]any) (faults []error) {
	names := slices.Sorted(maps.Keys(known))
	for _, key := range slices.Sorted(maps.Keys(given)) {
		value, at := given[key], prefix+key
		def, ok := known[key]
		if prefix == "prometheusRuleLabels." {
			ok, def = true, ""
		}
		if !ok {
			hint := source.DidYouMean(key, names)
			if hint == "" {
				hint = ": expected one of " + strings.Join(names, ", ")
			}
			faults = append(faults, fmt.Errorf("%s: no such setting%s", at, hint))
			continue
		}
		if inner, isObject := value.(map[string]any); isObject {
			if below, ok := def.(map[string]any); ok {
				faults = append(faults, compare(at+".", below, inner)...)
				continue
			}
		}
		if want, got := kind(def), kind(value); want != got {
			faults = append(faults, fmt.Errorf("%s: is %s: expected %s, such as %s", at, got, want, example(def)))
		}
	}
	return faults
}

// kind is what JSON calls the type of a value.
func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case string:
		return "a text"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "a number"
}

func example(v any) string {
	text, err := json.Marshal(v)
	if err != nil || len(text) > 80 {
		return "the one in config.libsonnet"
	}
	return string(text)
}

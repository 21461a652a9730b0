package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"gopkg.in/yaml.v3"

	"flyball/mixin"
	"flyball/rules/source"
)

// renderOptions are the flags of mixin render.
type renderOptions struct {
	config, output string
	set            []string
}

func mixinRenderCommand(app *kingpin.Application, stdout io.Writer) command {
	c := app.Command("mixin", "Rules, alerts and dashboards for Prometheus and Grafana.").
		Command("render", "Write recording rules, alerts, dashboards and a PrometheusRule, with settings of your own.")
	var o renderOptions
	c.Flag("output-dir", "Where to write.").Short('o').Required().StringVar(&o.output)
	c.Flag("set", "A setting of config.libsonnet, as key=value; a dot leads into an object, a value that is JSON is taken as such; repeatable.").StringsVar(&o.set)
	c.Flag("config", "A YAML or JSON file with settings.").StringVar(&o.config)
	return command{c.FullCommand(), func(context.Context) error { return o.run(stdout) }}
}

func (o *renderOptions) run(stdout io.Writer) error {
	settings, err := o.settings()
	if err != nil {
		return err
	}
	files, err := mixin.Render(mixin.Options{Config: settings})
	if err != nil {
		return fmt.Errorf("mixin: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(o.output, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write the mixin: %w", err)
		}
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			return fmt.Errorf("write the mixin: %w", err)
		}
		if _, err := fmt.Fprintln(stdout, path); err != nil {
			return err
		}
	}
	return nil
}

// settings are those of the file, with those of the command line over them.
func (o *renderOptions) settings() (map[string]any, error) {
	settings := map[string]any{}
	if o.config != "" {
		text, err := source.Read(o.config)
		if err != nil {
			return nil, fmt.Errorf("read settings (--config): %w", err)
		}
		if err := yaml.Unmarshal(text, &settings); err != nil {
			return nil, fmt.Errorf("%s: %w", o.config, err)
		}
		// As JSON has them: 100 is a number, whether YAML calls it an integer or not.
		plain, err := json.Marshal(settings)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.config, err)
		}
		clear(settings)
		if err := json.Unmarshal(plain, &settings); err != nil {
			return nil, fmt.Errorf("%s: %w", o.config, err)
		}
	}
	for _, s := range o.set {
		key, text, found := strings.Cut(s, "=")
		if !found || key == "" {
			return nil, exitError{exitUsage, fmt.Errorf("--set=%s: expected key=value, such as clusterLabel=k8s_cluster", s)}
		}
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		if err := put(settings, strings.Split(key, "."), value); err != nil {
			return nil, exitError{exitUsage, fmt.Errorf("--set=%s: %w", s, err)}
		}
	}
	return settings, nil
}

// put sets a value at a path of keys.
func put(settings map[string]any, path []string, value any) error {
	for _, key := range path[:len(path)-1] {
		if settings[key] == nil {
			settings[key] = map[string]any{}
		}
		inner, ok := settings[key].(map[string]any)
		if !ok {
			return errors.New(key + " is set to a value already, and has no keys")
		}
		settings = inner
	}
	settings[path[len(path)-1]] = value
	return nil
}

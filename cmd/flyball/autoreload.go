package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"flyball/rules/source"
)

// maxSettle is how long files that have changed must stay as they are, where the interval is no shorter: a file that is
// being written over is not read half.
const maxSettle = time.Second

// errChanging is why files were not read: what was read of one may belong to another state than what was read of the next.
var errChanging = errors.New("the configuration or its rule files change while they are read")

// fingerprint stands for the content of a configuration file and of every rule file, kubeconfig and description of simulated
// GPUs that it names, with their names. What cannot be read has a fingerprint as well: that it is so. Web configurations and what scrapers authenticate with
// are read anew by those who use them.
func fingerprint(configFile string) string {
	sum := sha256.New()
	add := func(name string) []byte {
		text, err := source.Read(name)
		fmt.Fprintf(sum, "%q %d %v\n", name, len(text), err)
		sum.Write(text)
		return text
	}
	var c struct {
		RuleFiles []string `yaml:"rule_files"`
		Exporter  struct {
			GPU struct {
				Sim string `yaml:"sim"`
			} `yaml:"gpu"`
		} `yaml:"exporter"`
		Actuators struct {
			Kubernetes struct {
				Kubeconfig string `yaml:"kubeconfig"`
			} `yaml:"kubernetes"`
		} `yaml:"actuators"`
	}
	_ = yaml.NewDecoder(bytes.NewReader(add(configFile))).Decode(&c) // load says what is wrong
	dir := filepath.Dir(configFile)
	for _, path := range []string{c.Actuators.Kubernetes.Kubeconfig, c.Exporter.GPU.Sim} {
		if path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		add(path)
	}
	for _, pattern := range c.RuleFiles {
		names, _ := matchRules(pattern, dir)
		for _, name := range names {
			add(name)
		}
	}
	return string(sum.Sum(nil))
}

// matchRules are the files of an entry of rule_files, in order: those that match, or the one that it names.
func matchRules(pattern, dir string) ([]string, error) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(dir, pattern)
	}
	if !strings.ContainsAny(pattern, "*?[") {
		return []string{pattern}, nil
	}
	return filepath.Glob(pattern)
}

// steady reads files whose fingerprint is the same before and after, and returns it: a kubelet that puts the next state of a
// ConfigMap in place meanwhile makes it read again, a few times.
func steady(summed func() string, read func() error) (string, error) {
	for range 5 {
		before := summed()
		err := read()
		if summed() == before {
			return before, err
		}
	}
	return "", errChanging
}

// followFiles reloads, until ctx ends, when the files are others than those that were tried last, whether that succeeded or
// not. It looks at them at each interval, and again soon after it has found a change, which must have stayed as it was.
func followFiles(ctx context.Context, interval time.Duration, summed, tried func() string, reload func()) {
	settle := min(interval, maxSettle)
	changed, wait := "", interval
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		switch now := summed(); now {
		case tried():
			changed, wait = "", interval
		case changed:
			reload()
			changed, wait = "", interval
		default:
			changed, wait = now, settle
		}
	}
}

// autoReload is the part that reloads when the files of the configuration have changed.
func (a *app) autoReload(ctx context.Context) error {
	followFiles(ctx, time.Duration(a.opts.autoReload),
		func() string { return fingerprint(a.opts.configFile) },
		func() string { return *a.tried.Load() },
		func() { _ = a.reload(ctx) }, // it logs how it went
	)
	return nil
}

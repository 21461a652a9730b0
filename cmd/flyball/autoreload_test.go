//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
)

// TestFollowFiles: a change is taken when it has stayed for a while, once, and what was refused not again before it changes.
func TestFollowFiles(t *testing.T) {
	for _, tt := range []struct {
		name     string
		interval time.Duration
		change   map[time.Duration]string // what the files become, and when
		want     string                   // when they are reloaded, and what they are then
	}{
		{"nothing changes", 30 * time.Second, nil, ""},
		{"a change", 30 * time.Second, map[time.Duration]string{time.Second: "b"}, "31s b, "},
		{"a change back", 30 * time.Second, map[time.Duration]string{time.Second: "b", 2 * time.Second: "a"}, ""},
		{"two", 30 * time.Second, map[time.Duration]string{time.Second: "b", 70 * time.Second: "c"}, "31s b, 1m32s c, "},
		{
			"written while it is looked at", 30 * time.Second,
			map[time.Duration]string{30*time.Second - 1: "b", 30500 * time.Millisecond: "bc", 31500 * time.Millisecond: "bcd"},
			"33s bcd, ",
		},
		{"a short interval", 100 * time.Millisecond, map[time.Duration]string{time.Second - 1: "b"}, "1.1s b, "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var files atomic.Value
				files.Store("a")
				tried, got := "a", ""
				for at, to := range tt.change {
					time.AfterFunc(at, func() { files.Store(to) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				followFiles(ctx, tt.interval, func() string { return files.Load().(string) }, func() string { return tried }, func() {
					tried = files.Load().(string)
					got += fmt.Sprintf("%s %s, ", time.Since(began), tried)
				})
				if got != tt.want {
					t.Errorf("reloaded at %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// TestSteady: what was read while the files changed is read again, errors included.
func TestSteady(t *testing.T) {
	state, reads := 0, 0
	half := errors.New("half of it")
	summed := func() string { return fmt.Sprint(state) }
	got, err := steady(summed, func() error {
		if reads++; reads < 3 {
			state++
			return half
		}
		return nil
	})
	if got != "2" || err != nil || reads != 3 {
		t.Errorf("got %q, %v after %d reads, want 2 after 3", got, err, reads)
	}
	if got, err := steady(summed, func() error { return half }); got != "2" || !errors.Is(err, half) {
		t.Errorf("got %q, %v, want the error", got, err)
	}
	if _, err := steady(summed, func() error {
		state++
		return nil
	}); !errors.Is(err, errChanging) {
		t.Errorf("got %v of files that never rest, want %v", err, errChanging)
	}
}

// configMap is a folder as a kubelet mounts a ConfigMap: every file is a link through ..data, which is swapped by a rename.
type configMap struct {
	dir      string
	versions int
}

func (c *configMap) set(t *testing.T, files map[string]string) {
	t.Helper()
	c.versions++
	version := fmt.Sprintf("..2026_11_26_%d", c.versions)
	if err := os.MkdirAll(filepath.Join(c.dir, version), 0o755); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Readlink(filepath.Join(c.dir, "..data"))
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(c.dir, version, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(version, filepath.Join(c.dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(c.dir, "..data_tmp"), filepath.Join(c.dir, "..data")); err != nil {
		t.Fatal(err)
	}
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(c.dir, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	links, err := filepath.Glob(filepath.Join(c.dir, "*.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if _, kept := files[filepath.Base(link)]; !kept {
			if err := os.Remove(link); err != nil {
				t.Fatal(err)
			}
		}
	}
	if before != "" {
		if err := os.RemoveAll(filepath.Join(c.dir, before)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAutoReload: a flyball whose files are a ConfigMap follows it: rule files that change, come and go. A broken one changes
// nothing, and is said once.
func TestAutoReload(t *testing.T) {
	const config = "rule_files: ['*.rules.yml']\nexporter: {collectors: {gpu: false, host: false}}\n"
	rule := func(name, expr string) string {
		return "groups:\n- {name: " + name + ", rules: [{record: " + name + ", expr: '" + expr + "'}]}\n"
	}
	mounted := &configMap{dir: t.TempDir()}
	mounted.set(t, map[string]string{"flyball.yml": config, "a.rules.yml": rule("a", "vector(1)")})
	w := startWithin(t, map[string]string{"flyball.yml": config}, func(o *runOptions) {
		o.configFile, o.autoReload = filepath.Join(mounted.dir, "flyball.yml"), model.Duration(20*time.Millisecond)
	})
	rules := func() string {
		var all []string
		for _, g := range w.store.Groups() {
			for _, r := range g.Rules {
				all = append(all, r.Name+" = "+r.Expr)
			}
		}
		return strings.Join(all, ", ")
	}
	becomes := func(want string) {
		t.Helper()
		w.eventually("the rules are "+want, func() bool { return rules() == want })
	}
	becomes("a = vector(1)")
	mounted.set(t, map[string]string{"flyball.yml": config, "a.rules.yml": rule("a", "vector(2)")})
	becomes("a = vector(2)")
	mounted.set(t, map[string]string{"flyball.yml": config, "a.rules.yml": rule("a", "vector(2)"), "b.rules.yml": rule("b", "vector(3)")})
	becomes("a = vector(2), b = vector(3)")

	refused := func() int { return strings.Count(w.log.String(), "not reloaded") }
	mounted.set(t, map[string]string{"flyball.yml": config, "a.rules.yml": rule("a", "vector(4")})
	w.eventually("the broken file is refused", func() bool { return refused() == 1 })
	if *w.tried.Load() != fingerprint(w.opts.configFile) {
		t.Error("what was refused is to be tried again")
	}
	mounted.set(t, map[string]string{"flyball.yml": config, "a.rules.yml": rule("a", "vector(5")})
	w.eventually("the next broken file is refused", func() bool { return refused() == 2 })
	if got := rules(); got != "a = vector(2), b = vector(3)" || testutil.ToFloat64(w.reloads.successful) != 0 {
		t.Errorf("the rules are %s after a broken file, and flyball_config_last_reload_successful is %v",
			got, testutil.ToFloat64(w.reloads.successful))
	}
	mounted.set(t, map[string]string{"flyball.yml": config, "b.rules.yml": rule("b", "vector(6)")})
	becomes("b = vector(6)")
	if got := refused(); got != 2 || testutil.ToFloat64(w.reloads.successful) != 1 {
		t.Errorf("%d lines of reloads that were refused, want 2", got)
	}

	// A plain file that is written over.
	if err := os.WriteFile(filepath.Join(mounted.dir, "c.rules.yml"), []byte(rule("c", "vector(7)")), 0o644); err != nil {
		t.Fatal(err)
	}
	becomes("b = vector(6), c = vector(7)")
	if err := os.WriteFile(filepath.Join(mounted.dir, "c.rules.yml"), []byte(rule("c", "vector(8)")), 0o644); err != nil {
		t.Fatal(err)
	}
	becomes("b = vector(6), c = vector(8)")

	// What was reloaded by hand is not reloaded again.
	before := strings.Count(w.log.String(), "msg=reloaded")
	if err := w.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if summed := fingerprint(w.opts.configFile); *w.tried.Load() != summed || w.live.Load().print != summed {
		t.Error("what was reloaded is taken for another state")
	}
	if got := strings.Count(w.log.String(), "msg=reloaded"); got != before+1 {
		t.Errorf("%d reloads, want one", got-before)
	}
}

// TestTriedAtStart: what a process was started with is no change.
func TestTriedAtStart(t *testing.T) {
	w := startWithin(t, map[string]string{"flyball.yml": "exporter: {collectors: {gpu: false, host: false}}\n"})
	if *w.tried.Load() != fingerprint(w.opts.configFile) {
		t.Error("it would be read again")
	}
	w.write(map[string]string{"flyball.yml": "exporter: {collectors: {gpu: false, host: perhaps}}\n"})
	if err := w.reload(t.Context()); err == nil {
		t.Fatal("a broken file is taken")
	}
	if *w.tried.Load() != fingerprint(w.opts.configFile) {
		t.Error("what was refused would be read again")
	}
}

// TestFingerprint: it is another one for each change that a reload would take.
func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "flyball.yml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("flyball.yml", "rule_files: ['*.rules.yml', extra.yml]\nactuators: {kubernetes: {kubeconfig: kube.conf}}\n")
	seen := map[string]string{fingerprint(config): "the start"}
	for _, tt := range []struct {
		name   string
		change func()
	}{
		{"a file that matches", func() { write("a.rules.yml", "groups: []\n") }},
		{"its content", func() { write("a.rules.yml", "groups: [] \n") }},
		{"its name", func() { _ = os.Rename(filepath.Join(dir, "a.rules.yml"), filepath.Join(dir, "b.rules.yml")) }},
		{"a file that is named", func() { write("extra.yml", "groups: []\n") }},
		{"a kubeconfig", func() { write("kube.conf", "one") }},
		{"its content", func() { write("kube.conf", "two") }},
		{"the configuration", func() { write("flyball.yml", "rule_files: ['*.rules.yml', extra.yml]\n") }},
		{"a configuration that is no YAML", func() { write("flyball.yml", "rule_files: [") }},
		{"none", func() { _ = os.Remove(config) }},
	} {
		tt.change()
		summed := fingerprint(config)
		if same, there := seen[summed]; there {
			t.Errorf("%s has the fingerprint of %s", tt.name, same)
		}
		if summed != fingerprint(config) {
			t.Errorf("%s has two fingerprints", tt.name)
		}
		seen[summed] = tt.name
	}
	write("other.yml", "groups: []\n")
	if _, there := seen[fingerprint(config)]; !there {
		t.Error("a file that is not named changes the fingerprint")
	}
}

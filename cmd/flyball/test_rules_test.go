package main

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules/peertest"
	"flyball/rules/rulestest"
)

// verdicts are, of each file, whether it passed and the names of the tests that failed.
func verdicts(t *testing.T, files []string) map[string]string {
	t.Helper()
	report, err := rulestest.Run(t.Context(), files, rulestest.Options{NewEngine: newScratchEngine, CheckGroup: checkGroup})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, f := range report.Files {
		var failed []string
		for _, test := range f.Tests {
			if !test.Passed {
				failed = append(failed, test.Name)
			}
		}
		all[f.File] = verdict(f.Passed, failed)
	}
	return all
}

func verdict(passed bool, failed []string) string {
	if passed {
		return "ok"
	}
	return "failed: " + strings.Join(failed, ", ")
}

// promtoolVerdicts are those of the real promtool.
func promtoolVerdicts(t *testing.T, files []string) map[string]string {
	t.Helper()
	junit := filepath.Join(t.TempDir(), "junit.xml")
	out, err := exec.CommandContext(t.Context(), peertest.Binary(t, "promtool"), append([]string{"test", "rules", "--junit=" + junit}, files...)...).CombinedOutput()
	text, readErr := os.ReadFile(junit)
	if readErr != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	var report struct {
		Suites []struct {
			Name   string `xml:"name,attr"`
			Errors int    `xml:"errors,attr"`
			Cases  []struct {
				Name     string   `xml:"name,attr"`
				Failures []string `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	all, passed := map[string]string{}, true
	for _, s := range report.Suites {
		var failed []string
		for _, c := range s.Cases {
			if len(c.Failures) > 0 {
				failed = append(failed, c.Name)
			}
		}
		ok := s.Errors == 0 && len(failed) == 0
		all[s.Name] = verdict(ok, failed)
		passed = passed && ok
	}
	if passed != (err == nil) {
		t.Fatalf("promtool exits with %v, and its report says passed: %v", err, passed)
	}
	return all
}

// TestPromtoolFiles: on Prometheus's own rule-test files, ours for what those leave out, and the mixin's, the verdicts are
// those of the real promtool: the exit code, and which tests fail.
func TestPromtoolFiles(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../../rules/rulestest/testdata/promtool/*.yml", "../../rules/rulestest/testdata/more/*-test.yml", "../../mixin/tests/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	got := verdicts(t, files)
	// What must hold without promtool as well.
	for name, want := range map[string]string{
		"promtool/unittest.yml": "ok", "promtool/long-period.yml": "ok", "promtool/start-time-test.yml": "ok", "promtool/docs-test.yml": "ok",
		"promtool/failing.yml": "failed: Failing test, Failing alert test", "promtool/rules_run_fuzzy.yml": "failed: wrong fuzzy match",
		"promtool/bad-rules-error-test.yml": "failed: unnamed#0", "promtool/rules.yml": "failed: ",
		"more/far-test.yml": "ok", "more/values-test.yml": "failed: NaN is nothing's equal, a range is no vector, a histogram that is none, values that are none, an expression that is none",
	} {
		if path := "../../rules/rulestest/testdata/" + name; got[path] != want {
			t.Errorf("%s: %q, want %q", name, got[path], want)
		}
	}
	if diff := cmp.Diff(promtoolVerdicts(t, files), got); diff != "" {
		t.Errorf("promtool's verdicts (-) and ours (+):\n%s", diff)
	}
	t.Logf("%d files", len(files))
}

// TestPromtoolMutants: with one number of a test file changed, one at a time, promtool and ours find the same tests to fail.
func TestPromtoolMutants(t *testing.T) {
	dir := t.TempDir()
	number := regexp.MustCompile(`\d+`)
	var files []string
	for _, of := range []string{"promtool/unittest.yml", "promtool/docs-test.yml", "more/alerts-test.yml", "more/order-test.yml", "more/values-test.yml"} {
		path := filepath.Join("../../rules/rulestest/testdata", of)
		rules, err := filepath.Abs(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		for i, line := range lines {
			places := number.FindAllStringIndex(line, -1)
			if len(places) == 0 || strings.HasPrefix(strings.TrimSpace(line), "#") || strings.Contains(line, "1440") || strings.Contains(line, "1d") {
				continue // a day of evaluations
			}
			last := places[len(places)-1]
			n, err := strconv.Atoi(line[last[0]:last[1]])
			if err != nil {
				continue
			}
			mutant := slices.Clone(lines)
			mutant[i] = line[:last[0]] + strconv.Itoa(n+1) + line[last[1]:]
			changed := strings.Join(mutant, "\n")
			changed = strings.ReplaceAll(changed, "rules/", rules+"/rules/")
			for _, name := range []string{"rules.yml", "docs-alerts.yml"} {
				changed = strings.Replace(changed, "- "+name, "- "+filepath.Join(rules, name), 1)
			}
			changed = strings.ReplaceAll(strings.ReplaceAll(changed, "eval_time: 1d", "eval_time: 2h"), "0+0x1440", "0+0x120")
			file := filepath.Join(dir, fmt.Sprintf("%s-%d.yml", strings.TrimSuffix(filepath.Base(of), ".yml"), i+1))
			if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	got := verdicts(t, files)
	if diff := cmp.Diff(promtoolVerdicts(t, files), got); diff != "" {
		t.Errorf("promtool's verdicts (-) and ours (+):\n%s", diff)
	}
	different := map[string]bool{}
	for _, v := range got {
		different[v] = true
	}
	if len(files) < 100 || len(different) < 15 {
		t.Errorf("%d mutants with %d verdicts: too few to tell anything", len(files), len(different))
	}
	t.Logf("%d mutants, %d different verdicts", len(files), len(different))
}

// TestExampleTests: the tests that the examples ship pass.
func TestExampleTests(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/*_test.yml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for file, verdict := range verdicts(t, files) {
		if verdict != "ok" {
			t.Errorf("%s: %s", file, verdict)
		}
	}
}

// TestReadmeTest: the test in the README is of the rules there, and passes.
func TestReadmeTest(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, begins := range map[string]string{"rules.yml": "groups:", "rules_test.yml": "rule_files: [rules.yml]"} {
		_, block, found := strings.Cut(string(text), "```yaml\n"+begins)
		block, _, closed := strings.Cut(begins+block, "```")
		if !found || !closed {
			t.Fatalf("README.md has no block that begins with %q", begins)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	report, err := rulestest.Run(t.Context(), []string{filepath.Join(dir, "rules_test.yml")}, rulestest.Options{NewEngine: newScratchEngine, CheckGroup: checkGroup})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Passed || report.Tests != 1 {
		var why strings.Builder
		_ = report.Text(&why, false)
		t.Error(why.String())
	}
}

// TestInterruptedTests: Ctrl-C ends a test that is running, says so, and leaves nothing behind.
func TestInterruptedTests(t *testing.T) {
	dir := t.TempDir()
	file, temporary := filepath.Join(dir, "test.yml"), filepath.Join(dir, "tmp")
	text := "evaluation_interval: 1s\ntests:\n- {name: long, promql_expr_test: [{expr: up, eval_time: 3650d}]}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(temporary, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, built.path("flyball"), "test", "rules", file)
	c.Env = append(os.Environ(), "TMPDIR="+temporary)
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for { // until its store is there: it runs
		if left, _ := os.ReadDir(temporary); len(left) > 0 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("it does not begin: %s", out.String())
		}
		time.Sleep(time.Millisecond)
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if got := c.ProcessState.ExitCode(); got != exitFailed || out.String() != "flyball: test rules: interrupted after 1 test\n" {
		t.Errorf("exit %d, output %q", got, out.String())
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

package peertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Binary returns the path of a program: prometheus, promtool, victoria-metrics, alertmanager or amtool as .ci/components
// got them, any other, such as chromium or node, as the system has it. With -short no test runs beside another program.
func Binary(t testing.TB, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skipf("short: without %s", name)
	}
	path := filepath.Join(cache(t), "components", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	Missing(t, name)
	return ""
}

// NodeModules returns the folder node_modules with what .ci/package.json names.
func NodeModules(t testing.TB) string {
	t.Helper()
	path := filepath.Join(cache(t), "node", "node_modules")
	if _, err := os.Stat(filepath.Join(path, "playwright-core")); err != nil {
		Missing(t, "the node modules of .ci/package.json")
	}
	return path
}

// Missing ends a test that cannot run here.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing, and CI=true: run .ci/components", what)
	}
	t.Skipf("%s is missing: make components gets it, where it can", what)
}

// cache is the folder .cache of the repository.
func cache(t testing.TB) string {
	t.Helper()
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, ".cache")
}

// repository finds the folder with .ci/components, above where the test runs: modules within it have a go.mod as well.
var repository = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, ".ci", "components")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", os.ErrNotExist
		}
		dir = up
	}
})

// Reads says that other programs read files during a test. The go command keeps the result of a test until what it reads
// changes, and sees only what is read by the test itself.
func Reads(t testing.TB, files ...string) {
	t.Helper()
	for _, name := range files {
		if _, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
}

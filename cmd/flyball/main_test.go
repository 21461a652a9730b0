package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// binaries is where the real programs are built for the tests that start them.
type binaries struct{ dir string }

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

// builtBefore is the variable of the environment with the folder of binaries that another process has built.
const builtBefore = "FLYBALL_TEST_BUILT"

var built binaries // set once, before any test runs

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == superviseCommand { // of an app within the test's own process
		os.Exit(run(os.Args[1:]))
	}
	flag.Parse()
	os.Exit(withBinaries(m.Run))
}

// withBinaries builds the programs as `make build` does and removes them when f is done.
func withBinaries(f func() int) int {
	if dir := os.Getenv(builtBefore); dir != "" { // a test that runs once more, in a namespace of its own
		built = binaries{dir}
		return f()
	}
	dir, err := os.MkdirTemp("", "flyball-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "./cmd/flyball", "./examples/modelserver", "./examples/quickstart")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %s\n%s", err, out)
		return 1
	}
	built = binaries{dir}
	return f()
}

// TestScript runs the command line as a user does; testdata/script has what it prints, to the letter.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", built.dir+string(os.PathListSeparator)+os.Getenv("PATH"))
			stub, err := filepath.Abs("../../exporter/gpu/testdata/nvml_stub.c")
			env.Setenv("NVML_STUB", stub)
			return err
		},
	})
}

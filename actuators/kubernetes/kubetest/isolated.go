package kubetest

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// isolated names the test that a process was started for.
const isolated = "FLYBALL_TEST_ISOLATED"

// Isolated runs a test once more, by itself, in a network namespace whose loopback device has the addresses of pods, and says
// whether it is in there: elsewhere the test is over, and has ended as it did in there. env is added to the environment.
//
//	if !kubetest.Isolated(t) {
//		return
//	}
//
// Where the system lets nobody make such a namespace the test is skipped with the reason, and fails where CI=true.
func Isolated(t testing.TB, env ...string) bool {
	t.Helper()
	if os.Getenv(isolated) == t.Name() {
		return true
	}
	if testing.Short() {
		t.Skip("short: without a cluster")
	}
	const enter = `ip link set lo up && ip addr add 10.244.0.1/24 dev lo && exec "$0" "$@"`
	if out, err := exec.Command("unshare", "--user", "--map-root-user", "--net", "sh", "-c", enter, "true").CombinedOutput(); err != nil {
		const what = "a network namespace of its own (unshare, ip, user namespaces)"
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing, and CI=true: %v: %s", what, err, out)
		}
		t.Skipf("%s is missing: %v: %s", what, err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--net", "sh", "-c", enter,
		self, "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.timeout=8m")
	cmd.Env = append(append(os.Environ(), env...), isolated+"="+t.Name())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	text := strings.TrimSpace(out.String())
	switch {
	case err != nil:
		t.Fatalf("in a network namespace of its own: %v\n%s", err, text)
	case strings.Contains(text, "--- SKIP"):
		t.Skip(text)
	case !strings.Contains(text, "--- PASS: "+t.Name()):
		t.Fatalf("in a network namespace of its own it did not run:\n%s", text)
	}
	return false
}

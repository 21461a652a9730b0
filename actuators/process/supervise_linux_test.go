package process

import (
	"syscall"
	"testing"
)

// TestAllButTheReplicaKilled kills the supervisors together with their parent. Only Linux kills the replicas then.
func TestAllButTheReplicaKilled(t *testing.T) {
	cmd, all := startParent(t, "--ignore-term")
	for _, f := range all {
		syscall.Kill(f.Supervisor, syscall.SIGSTOP) // so that neither sees the other's end first
	}
	cmd.Process.Kill()
	for _, f := range all {
		syscall.Kill(f.Supervisor, syscall.SIGKILL)
	}
	cmd.Wait()
	goneWithoutUs(t, all)
}

//go:build unix && !linux

package process

import (
	"os/exec"
	"syscall"
)

// replicaAttr puts the replica in a process group of its own. Only Linux can also have it killed with its supervisor.
func replicaAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// awaitExit returns when the command has ended, with the result of waiting for it. Not every system can wait and leave
// the process id in place as Linux can, so the id of a group that has become empty may be used again at once.
func awaitExit(cmd *exec.Cmd) (wait func() error) {
	err := cmd.Wait()
	return func() error { return err }
}

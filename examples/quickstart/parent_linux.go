package main

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel end the child when its parent is killed. The signal goes out when the thread that started
// the child ends, which in a Go program is when the program does, unless a goroutine locked to it returns; none here does.
// In a process group of its own a Ctrl-C in the terminal reaches only the parent, which asks its children in its order.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

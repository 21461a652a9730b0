//go:build unix

package textfile

import "syscall"

const nonblocking = syscall.O_NONBLOCK

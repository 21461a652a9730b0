//go:build unix && !solaris && !illumos && !aix

package election

import (
	"errors"
	"os"
	"syscall"
)

// flock locks an open file for this process, and does not wait for it.
func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		default:
			return os.NewSyscallError("flock", err)
		}
	}
}

// Supported returns ErrUnsupported on a system without flock.
func Supported() error { return nil }

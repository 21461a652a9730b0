//go:build unix

package batchproxy

import (
	"errors"
	"syscall"
)

// canTellQuiet says that quiet can tell.
const canTellQuiet = true

// quiet reports whether the replica has neither closed the connection nor sent anything while it had no request.
func (c *wireConn) quiet() bool {
	if c.raw == nil {
		return false
	}
	quiet := false
	err := c.raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, err := syscall.Read(int(fd), one[:])
		quiet = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return quiet && err == nil
}

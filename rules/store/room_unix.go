//go:build linux || darwin

package store

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// readOnlyFlag is ST_RDONLY of Linux and MNT_RDONLY of macOS, which are the same bit.
const readOnlyFlag = 1

// freeBytes is what of a directory's disk an ordinary user may still fill.
func freeBytes(dir string) (bytes int64, readOnly bool, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, false, fmt.Errorf("ask for the free room of %s: %w", dir, err)
	}
	return int64(min(s.Bavail, 1<<40)) * int64(s.Bsize), int64(s.Flags)&readOnlyFlag != 0, nil //nolint:unconvert // other types on macOS
}

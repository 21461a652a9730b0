//go:build !linux && !darwin

package store

import "errors"

// freeBytes is not known on this platform.
func freeBytes(string) (bytes int64, readOnly bool, err error) {
	return 0, false, errors.New("the free room of a disk is not known here")
}

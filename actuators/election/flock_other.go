//go:build !unix || solaris || illumos || aix

package election

import "os"

func flock(*os.File) error { return ErrUnsupported }

// Supported returns ErrUnsupported on a system without flock.
func Supported() error { return ErrUnsupported }

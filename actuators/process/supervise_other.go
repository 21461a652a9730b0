//go:build !unix

package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

// errUnsupported is what New returns where there are no process groups to hold replicas in.
var errUnsupported = fmt.Errorf("process: replicas cannot be run on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// Supervise is not possible on this system: it says so on stderr and returns 2.
func Supervise([]string, io.Reader) int {
	fmt.Fprintln(os.Stderr, errUnsupported)
	return 2
}

func supported() error { return errUnsupported }

func startChild([]string, rendered, time.Duration, output) (*child, error) {
	return nil, errUnsupported
}

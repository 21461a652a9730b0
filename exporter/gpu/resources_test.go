package gpu

import (
	"os"
	"runtime"
	"testing"
)

// resources returns what this process holds: files and threads where the system tells, goroutines.
func resources(t *testing.T) (files, threads, goroutines int) {
	t.Helper()
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		files = len(fds)
	}
	if tasks, err := os.ReadDir("/proc/self/task"); err == nil {
		threads = len(tasks)
	}
	return files, threads, runtime.NumGoroutine()
}

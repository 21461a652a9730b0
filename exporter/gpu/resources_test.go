package gpu

import (
	"os"
	"runtime"
	"testing"
	"time"
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

// atRest is resources once there are no more goroutines than many: one that has said that it is done ends only when the
// scheduler comes to it. After 10 s it returns what there is.
func atRest(t *testing.T, many int) (files, threads, goroutines int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > many && time.Now().Before(end); {
		runtime.Gosched()
	}
	return resources(t)
}

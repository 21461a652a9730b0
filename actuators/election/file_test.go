//go:build linux

package election

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

const lockEnv = "FLYBALL_TEST_LOCK"

func TestMain(m *testing.M) {
	if path := os.Getenv(lockEnv); path != "" { // the other process of TestFileKilled
		_ = New(path, Options{}).Run(context.Background())
		return
	}
	goleak.VerifyTestMain(m)
}

// TestFile: one of two has the lock, keeps it, and the other has it within the retry period once it is given up.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leader")
	synctest.Test(t, func(t *testing.T) {
		first, second := New(path, Options{}), New(path, Options{})
		run := func(f *File) (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.Run(ctx) }()
			synctest.Wait()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		leads := func(when string, a, b bool) {
			t.Helper()
			if first.Leads() != a || second.Leads() != b {
				t.Errorf("%s: the first leads %v, the second %v; want %v, %v", when, first.Leads(), second.Leads(), a, b)
			}
		}
		leads("before", false, false)
		stopFirst := run(first)
		stopSecond := run(second)
		leads("both run", true, false)
		if want := fmt.Sprintf("pid %d on ", os.Getpid()); !strings.HasPrefix(second.Leader(), want) || first.Leader() != "" {
			t.Errorf("the second says that %q leads, the first %q", second.Leader(), first.Leader())
		}
		time.Sleep(time.Minute)
		leads("a minute later", true, false)
		stopFirst()
		leads("the first has ended", false, false)
		time.Sleep(RetryPeriod)
		synctest.Wait()
		leads("a period later", false, true)
		if second.Leader() != "" {
			t.Errorf("who leads says that %q does", second.Leader())
		}

		// Another file of the same name has another lock.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		stopFirst = run(first)
		time.Sleep(RetryPeriod)
		synctest.Wait()
		leads("the file was removed", true, false)
		stopFirst()
		stopSecond()
	})
}

// TestFileUnusable: who cannot open the file does not lead, and gets it once that is mended.
func TestFileUnusable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	synctest.Test(t, func(t *testing.T) {
		f := New(filepath.Join(dir, "leader"), Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		synctest.Wait()
		if f.Leads() {
			t.Error("it leads without a file")
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		time.Sleep(RetryPeriod)
		synctest.Wait()
		if !f.Leads() {
			t.Error("it does not lead")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestFileKilled: the kernel takes the lock from a process that is killed.
func TestFileKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leader")
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), lockEnv+"="+path)
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	poll := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not within 20 s: %s", what)
			}
		}
	}
	poll("the other says that it has the lock", func() bool {
		text, _ := os.ReadFile(path)
		return strings.HasPrefix(string(text), fmt.Sprintf("pid %d on ", other.Process.Pid))
	})
	f := New(path, Options{})
	if err := f.try(); err != nil || f.Leads() {
		t.Errorf("beside the other: %v, leads %v", err, f.Leads())
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait()
	if err := f.try(); err != nil || !f.Leads() {
		t.Errorf("after the other: %v, leads %v", err, f.Leads())
	}
	f.release()
}

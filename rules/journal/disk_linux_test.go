package journal

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"flyball/rules"
)

// disk is a small file system of its own.
func disk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("a file system of its own takes root: mount: %s", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %s", err)
		}
	})
	return dir
}

// TestDiskFull: while the disk is full, what cannot be written is said to be so; when there is room again it goes on, and
// nothing that was written is lost.
func TestDiskFull(t *testing.T) {
	path := filepath.Join(disk(t, "size=64k"), "j")
	j := open(t, path, Options{})
	var written []*rules.Decision
	add := func(n int) error {
		d := decision(n, rules.Applied)
		err := j.Append(d)
		if err == nil {
			written = append([]*rules.Decision{d}, written...)
		}
		return err
	}
	n := 0
	for ; n < 1000 && add(n) == nil; n++ {
	}
	if err := add(n); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d decisions: %v", n, err)
	}
	if err := syscall.Mount("tmpfs", filepath.Dir(path), "tmpfs", syscall.MS_REMOUNT, "size=256k"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		n++
		if err := add(n); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	j = open(t, path, Options{})
	if got, want := ids(j.Recent(Filter{}, 5000)), ids(written); got != want || j.Skipped() != 0 {
		t.Errorf("%d skipped; on the disk %s, want %s", j.Skipped(), got, want)
	}
}

// TestFullWhileRotating: a rotation for which there is no room leaves the journal as it was.
func TestFullWhileRotating(t *testing.T) {
	dir := disk(t, "size=64k")
	path := filepath.Join(dir, "j")
	j := open(t, path, Options{MaxBytes: 40_000})
	n := 0
	for ; j.size < 39_000; n++ {
		write(t, j, decision(n, rules.Applied))
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 20<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	for last := n + 20; n < last && err == nil; n++ {
		err = j.Append(decision(n, rules.Applied))
	}
	if err == nil {
		t.Fatal("there was room to rotate")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	write(t, j, decision(n, rules.Applied))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v %v", entries, err)
	}
	if st := replayed(open(t, path, Options{})); st.Replicas != n+1 {
		t.Errorf("state %+v after %d", st, n)
	}
}

// TestReadOnlyDisk: the same for a disk that becomes read-only.
func TestReadOnlyDisk(t *testing.T) {
	path := filepath.Join(disk(t, "size=256k"), "j")
	j := open(t, path, Options{})
	write(t, j, decision(1, rules.Applied))
	j.Close() // a file that is open for writing keeps its disk writable
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("tmpfs", filepath.Dir(path), "tmpfs", syscall.MS_REMOUNT|flags, "size=256k"); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	if _, err := Open(path, Options{}); !errors.Is(err, syscall.EROFS) {
		t.Errorf("got %v", err)
	}
	if got := ids(open(t, path, Options{ReadOnly: true}).Recent(Filter{}, 9)); got != "id1 applied" {
		t.Errorf("read: %s", got)
	}
	remount(0)
	j = open(t, path, Options{})
	write(t, j, decision(2, rules.Applied))
	if got := ids(j.Recent(Filter{}, 9)); got != "id2 applied, id1 applied" {
		t.Errorf("got %s", got)
	}
}

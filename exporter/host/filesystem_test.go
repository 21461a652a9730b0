package host

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestHangingFileSystem: an NFS server that is gone costs one scrape half a second and the others nothing, and nothing at
// all but its own series; it is asked once, and again when it has answered.
func TestHangingFileSystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMounts("testdata/proc", "")
		asked := map[string]int{}
		mu := make(chan struct{}, 1)
		m.statfs = func(path string) (space, error) {
			mu <- struct{}{}
			asked[path]++
			first := asked[path] == 1
			<-mu
			if path == "/mnt/models" && first {
				time.Sleep(time.Minute)
			}
			return space{size: 10, free: 2, available: 1}, nil
		}
		for _, tt := range []struct {
			name  string
			took  time.Duration
			hangs bool
		}{
			{"the first scrape", mountPatience, true},
			{"while it hangs", 0, true},
			{"after it came back", 0, false},
		} {
			begin := time.Now()
			var r reading
			if err := m.read(t.Context(), &r); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took != tt.took {
				t.Errorf("%s took %s, want %s", tt.name, took, tt.took)
			}
			got := values(t, r, "filesystem_")
			const nfs = " server:/models nfs4 /mnt/models"
			_, sized := got["size_bytes"+nfs]
			if sized == tt.hangs || got["error"+nfs] != number(tt.hangs) {
				t.Errorf("%s: %v", tt.name, got)
			}
			if got["available_bytes /dev/nvme1n1 xfs /srv/a b"] != 1 {
				t.Errorf("%s: the others: %v", tt.name, got)
			}
			if tt.name == "while it hangs" {
				time.Sleep(time.Minute)
			}
		}
		if asked["/mnt/models"] != 2 {
			t.Errorf("it was asked %d times, want twice", asked["/mnt/models"])
		}
	})
}

// TestMounts: what is left out, what lies over another, and where the machine's root is mounted in a container.
func TestMounts(t *testing.T) {
	for _, tt := range []struct{ root, prefix string }{{"", ""}, {"/host", "/host"}} {
		m := newMounts("testdata/proc", tt.root)
		asked := make(chan string, 100)
		m.statfs = func(path string) (space, error) {
			asked <- path
			return space{}, nil
		}
		var r reading
		if err := m.read(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		close(asked)
		paths := map[string]bool{}
		for path := range asked {
			paths[path] = true
		}
		want := map[string]bool{}
		for _, path := range []string{"/", "/run", "/boot/efi", "/mnt/models", "/srv/a b"} {
			want[filepath.Join("/", tt.prefix, path)] = true
		}
		if diff := cmp.Diff(want, paths); diff != "" {
			t.Errorf("root %q: asked (-want +got):\n%s", tt.root, diff)
		}
		if got := values(t, r, "filesystem_")["read_only /dev/nvme0n1p1 vfat /boot/efi"]; got != 1 {
			t.Errorf("root %q: a file system that is mounted read-only: %v", tt.root, got)
		}
	}
}

package host

import "golang.org/x/sys/unix"

// statfs asks the file system at path for its size. It hangs as long as the file system does.
func statfs(path string) (space, error) {
	var s unix.Statfs_t
	for {
		err := unix.Statfs(path, &s)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return space{}, err
		}
		block := float64(s.Bsize)
		return space{size: float64(s.Blocks) * block, free: float64(s.Bfree) * block, available: float64(s.Bavail) * block}, nil
	}
}

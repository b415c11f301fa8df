package audit

import "syscall"

// freeBytes is how much of dir's file system is left for a process that is not
// root's.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil //nolint:gosec // no file system has 8 EiB
}

package config

import "golang.org/x/sys/unix"

// readOnly tells whether path is on a file system that is mounted read-only
// here.
func readOnly(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

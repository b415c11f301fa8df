//go:build unix

package config

import (
	"io/fs"
	"syscall"
)

// owner returns the user id that owns a file.
func owner(info fs.FileInfo) (uint32, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Uid, true
}

// sameDevice tells whether two files are on the same file system.
func sameDevice(a, b fs.FileInfo) bool {
	one, ok := a.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	other, ok := b.Sys().(*syscall.Stat_t)
	return ok && one.Dev == other.Dev
}

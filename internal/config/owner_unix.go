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

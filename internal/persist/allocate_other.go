//go:build !linux

package persist

import "os"

// allocate gives an empty file its size. The room on the disk is had when it is
// written.
func allocate(f *os.File, size int64) error { return f.Truncate(size) }

package persist

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives an empty file its size, and the room on the disk, so that a full
// disk is found at the start and not by what is to be kept later.
func allocate(f *os.File, size int64) error {
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return f.Truncate(size)
	}
	return err
}

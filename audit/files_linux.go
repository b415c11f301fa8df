package audit

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// noFollow: a symbolic link at the path could have records written anywhere.
const noFollow = syscall.O_NOFOLLOW | syscall.O_CLOEXEC

// tryLock locks f for this process unless another one has it. The lock ends with
// the process, however that ends.
func tryLock(f *os.File) (free bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// ofAnother tells whether the file belongs to a user that is neither this process's nor
// root.
func ofAnother(info fs.FileInfo) bool {
	uid := info.Sys().(*syscall.Stat_t).Uid
	return uid != 0 && int(uid) != os.Geteuid()
}

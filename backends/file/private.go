package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// checkDir holds that dir is a directory that is private.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return mayNot(dir, err)
	}
	if !info.IsDir() {
		return &PermissionError{dir, "it is no directory"}
	}
	return checkPrivate(dir, info, 0o700)
}

// checkFile holds that a key's file is a regular one that is private.
func checkFile(path string, info fs.FileInfo) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return &PermissionError{path, "it is a symbolic link; put the file itself there, or make the directory the link"}
	case !info.Mode().IsRegular():
		return &PermissionError{path, "it is no regular file"}
	}
	return checkPrivate(path, info, 0o600)
}

// checkPrivate holds that nobody but root and this process's user has any
// access. On Linux the mode tells of ACLs too: what they grant shows as the
// group's.
func checkPrivate(path string, info fs.FileInfo, want fs.FileMode) error {
	uid, ok := ownerOf(info)
	if !ok {
		return &PermissionError{path, "this system does not tell who may use it, so no keyring can be kept here"}
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return &PermissionError{path, fmt.Sprintf("others may use it (mode %04o); run: chmod %04o %s", mode, want, path)}
	}
	if uid != 0 && uid != os.Geteuid() {
		return &PermissionError{path, fmt.Sprintf("it belongs to uid %d, and this process is uid %d; use it as its owner, or run: chown %d %s", uid, os.Geteuid(), os.Geteuid(), path)}
	}
	return nil
}

// mayNot returns err, and if it is the system's refusal, what to do about it.
func mayNot(path string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return &PermissionError{path, fmt.Sprintf("uid %d may not use it; the keyring's directory and files must be its own (chown)", os.Geteuid())}
}

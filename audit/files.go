package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// system is the calls that a log makes to the operating system, so that tests
// can make each of them fail. All else in this file is built on them.
type system struct {
	open     func(path string, flag int, mode fs.FileMode) (*os.File, error)
	write    func(f *os.File, b []byte) (int, error)
	read     func(f *os.File, b []byte, off int64) (int, error)
	sync     func(f *os.File) error
	rename   func(from, to string) error
	remove   func(path string) error
	syncPath func(dir string) error
}

func operatingSystem() system {
	return system{
		open:   os.OpenFile,
		write:  (*os.File).Write,
		read:   (*os.File).ReadAt,
		sync:   (*os.File).Sync,
		rename: os.Rename,
		remove: os.Remove,
		syncPath: func(dir string) error {
			d, err := os.Open(dir)
			if err != nil {
				return err
			}
			return errors.Join(d.Sync(), d.Close())
		},
	}
}

// fileMode lets a log shipper read by group and nobody but the broker write.
const fileMode fs.FileMode = 0o640

// lock holds the log at path for this process, until the file returned is
// closed. It is a file of its own because the log's file changes.
func (s system) lock(path string) (*os.File, error) {
	name := hidden(path, ".lock")
	f, err := s.open(name, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the lock of the audit log: %w", err)
	}
	free, err := tryLock(f)
	if err == nil && !free {
		err = errors.New("another process writes this log: stop it, or give this broker a path of its own")
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("the audit log %s: %w", path, err)
	}
	return f, nil
}

// openLive opens the file at path to be appended to. Its error is
// fs.ErrNotExist if there is none.
func (s system) openLive(path string) (*os.File, error) {
	f, err := s.openRegular(path, os.O_RDWR|os.O_APPEND)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.Mode().Perm()&0o022 != 0:
		err = fmt.Errorf("%s is writable by others (mode %04o): chmod go-w %s", path, info.Mode().Perm(), path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// openRegular opens the file at path. What is none, and might have to be waited for, as a
// FIFO, is refused.
func (s system) openRegular(path string, flag int) (*os.File, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (%s); the path must name the file itself", path, info.Mode().Type())
	}
	return s.open(path, flag|noFollow, 0)
}

// create makes a file that holds content and is on disk, under a name that no
// reader of the log looks at, and returns it open to be appended to.
func (s system) create(path string, content []byte) (*os.File, error) {
	// One that a crash left behind was never part of the log.
	if err := s.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := s.open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND|noFollow, fileMode)
	if err != nil {
		return nil, err
	}
	err = f.Chmod(fileMode) // whatever the umask
	if err == nil {
		_, err = s.write(f, content)
	}
	if err == nil {
		err = s.sync(f)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// store replaces the file at path by one with content, as a whole and on disk.
func (s system) store(path string, content []byte, mode fs.FileMode) error {
	fresh := path + ".tmp"
	if err := s.remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.open(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL|noFollow, mode)
	if err != nil {
		return err
	}
	_, err = s.write(f, content)
	if err == nil {
		err = s.sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.rename(fresh, path)
	}
	if err != nil {
		return errors.Join(err, s.remove(fresh))
	}
	return s.syncPath(filepath.Dir(path))
}

// move renames a file to a name that is free. The lock keeps other brokers from
// taking the name between the two calls; nobody else may write the directory.
func (s system) move(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s is in the way", to)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.rename(from, to)
}

// place tells whether a file is what stands at a path.
type place uint8

const (
	inPlace  place = iota
	gone           // nothing stands at path
	replaced       // something else does
)

// placeOf returns that, and f's size.
func placeOf(f *os.File, path string) (place, int64, error) {
	own, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	there, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return gone, own.Size(), nil
	case err != nil:
		return 0, 0, err
	case !os.SameFile(own, there):
		return replaced, own.Size(), nil
	}
	return inPlace, own.Size(), nil
}

package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// suffix is what key files end in. Others in the directory are left alone.
	suffix = ".keyring"
	// lockName is the file behind which changes wait for each other. It is in
	// every keyring, also in one that has lost all its keys.
	lockName = ".lock"
	// tempPrefix is what files begin with that are not yet in place.
	tempPrefix = ".new-"
)

// errNoKey: the keyring is there, but has no such key.
var errNoKey = fmt.Errorf("there is no such key: %w", fs.ErrNotExist)

// PermissionError means that somebody else may read or change keys, or that this
// process may not.
type PermissionError struct {
	// Path is the file or directory, Why what is wrong and how to mend it.
	Path, Why string
}

// Error returns "PATH: WHY".
func (e *PermissionError) Error() string { return e.Path + ": " + e.Why }

func keyPath(dir, key string) string { return filepath.Join(dir, key+suffix) }

// stat looks at the file of one key without opening it. It refuses what read
// would refuse before it reads.
func stat(dir, key string) (fs.FileInfo, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	path := keyPath(dir, key)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && isKeyring(dir):
		return nil, fmt.Errorf("%s: %w; `keybroker keyring create` makes one", path, errNoKey)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s holds no keyring: is its volume mounted?", dir)
	case err != nil:
		return nil, mayNot(path, err)
	}
	return info, checkFile(path, info)
}

// read returns the keyring in the file of one key. What others may read, and
// what is no regular file, is refused before a byte is read.
func read(dir, key string) (*keyring, fs.FileInfo, error) {
	if _, err := stat(dir, key); err != nil {
		return nil, nil, err
	}
	path := keyPath(dir, key)
	f, err := openNoFollow(path)
	if err != nil {
		return nil, nil, mayNot(path, err)
	}
	defer func() { _ = f.Close() }()
	// Another file may have come into its place.
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if err := checkFile(path, info); err != nil {
		return nil, nil, err
	}
	// One byte more than it has, so that a file that grows meanwhile is noticed.
	b := make([]byte, min(info.Size(), maxFile)+1)
	defer clear(b)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	k, err := decode(b[:n])
	if err == nil && k.key != key {
		k.wipe()
		err = fmt.Errorf("%w: it is the file of key %q", ErrDamaged, k.key)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, info, nil
}

// keyFile is a key's file that is to be made.
type keyFile struct {
	key     string
	content []byte
}

// replace puts f in place of its key's file. After a crash there is the old one
// or the new one, never a part.
func replace(dir string, f keyFile) error {
	temp, err := stage(dir, f.content)
	if err != nil {
		return err
	}
	path := keyPath(dir, f.key)
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("%s is written, but a power failure may take it back: %w", path, err)
	}
	return nil
}

// add makes files of keys that have none: all of them, or none if it returns an
// error. After a crash there may be some, each of them whole.
func add(dir string, files []keyFile) (err error) {
	var temps, made []string
	defer func() {
		if err != nil {
			for _, path := range made {
				err = errors.Join(err, os.Remove(path))
			}
		}
		for _, temp := range temps {
			// What stays is removed before the next change.
			_ = os.Remove(temp)
		}
	}()
	for _, f := range files {
		temp, err := stage(dir, f.content)
		if err != nil {
			return err
		}
		temps = append(temps, temp)
	}
	for i, f := range files {
		// A link, unlike a rename, never replaces a file.
		path := keyPath(dir, f.key)
		if err := os.Link(temps[i], path); err != nil {
			return err
		}
		made = append(made, path)
	}
	return syncDir(dir)
}

// stage brings content to disk in a file that is not yet in place.
func stage(dir string, content []byte) (path string, err error) {
	f, err := os.CreateTemp(dir, tempPrefix+"*") // 0600, O_EXCL
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// removeLeftovers removes what changes have left that did not come to their end.
// The lock is held, so none of it is still being written.
func removeLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeDir makes dir, mode 0700, and what is missing above it, on disk, too. It
// leaves what is there as it is.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir brings a directory's entries to disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// keysIn lists the keys that have a file in dir, sorted.
func keysIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, mayNot(dir, err)
	}
	var keys []string
	for _, e := range entries {
		if key, ok := strings.CutSuffix(e.Name(), suffix); ok && ValidKey(key) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// isKeyring tells a keyring, if one without keys, from an empty directory. A
// volume that is not mounted leaves one of those behind, and that must not look
// as if somebody had removed the key.
func isKeyring(dir string) bool {
	if _, err := os.Lstat(filepath.Join(dir, lockName)); err == nil {
		return true
	}
	keys, err := keysIn(dir)
	return err == nil && len(keys) > 0
}

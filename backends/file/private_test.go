//go:build unix

package file_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/file"
)

// stranger is a user id that is neither root's nor the test's.
const stranger = 54321

func TestWhatOthersMayUseIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(dir, path string) error
		named func(dir, path string) string
		says  string
		root  bool // only root can bring it about
	}{
		"file read by the group":         {spoil: chmodFile(0o640), named: thePath, says: "mode 0640"},
		"file read by all":               {spoil: chmodFile(0o604), named: thePath, says: "mode 0604"},
		"file written by the group":      {spoil: chmodFile(0o620), named: thePath, says: "mode 0620"},
		"file executed by all":           {spoil: chmodFile(0o601), named: thePath, says: "chmod 0600 "},
		"directory read by the group":    {spoil: chmodDir(0o740), named: theDir, says: "mode 0740"},
		"directory searched by all":      {spoil: chmodDir(0o701), named: theDir, says: "chmod 0700 "},
		"directory written by the group": {spoil: chmodDir(0o720), named: theDir, says: "mode 0720"},
		"symbolic link": {spoil: func(dir, path string) error {
			return errors.Join(os.Rename(path, dir+"/real"), os.Symlink("real", path))
		}, named: thePath, says: "symbolic link"},
		"dangling symbolic link": {spoil: func(_, path string) error {
			return errors.Join(os.Remove(path), os.Symlink("nothing", path))
		}, named: thePath, says: "symbolic link"},
		// Nobody ever writes to it: who opened it to read would wait for ever.
		"named pipe": {spoil: func(_, path string) error {
			return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))
		}, named: thePath, says: "no regular file"},
		"directory in place of the file": {spoil: func(_, path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		}, named: thePath, says: "no regular file"},
		"file in place of the directory": {spoil: func(dir, _ string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600))
		}, named: theDir, says: "no directory"},
		"file of another user": {spoil: func(_, path string) error {
			return os.Chown(path, stranger, -1)
		}, named: thePath, says: fmt.Sprint("uid ", stranger), root: true},
		"directory of another user": {spoil: func(dir, _ string) error {
			return os.Chown(dir, stranger, -1)
		}, named: theDir, says: fmt.Sprint("uid ", stranger), root: true},
	} {
		t.Run(name, func(t *testing.T) {
			if test.root && os.Geteuid() != 0 {
				t.Skip("giving a file to another user needs root")
			}
			dir := newKeyring(t, "main")
			path := filepath.Join(dir, "main.keyring")
			k := newKMS(t, dir)
			settle(t, path)
			w := wrap(t, k, []byte("plaintext")) // it is known to the KMS by now
			if err := test.spoil(dir, path); err != nil {
				t.Fatal(err)
			}

			_, listErr := file.List(dir)
			_, rotateErr := file.Rotate(dir, "main", rand.Reader, time.Now())
			_, unwrapErr := unwrap(t, k, w)
			for call, err := range map[string]error{
				"List": listErr, "Rotate": rotateErr, "Unwrap": unwrapErr, "Check": k.Check(t.Context(), "main"),
				"Export": file.Export(dir, func(string, []byte) error { return nil }),
			} {
				var private *file.PermissionError
				if !errors.As(err, &private) || private.Path != test.named(dir, path) || !strings.Contains(private.Error(), test.says) {
					t.Errorf("%s: %v", call, err)
				}
			}
			// An accident must not look like a withdrawal, which purges caches.
			if got := backends.ClassOf(unwrapErr); got != backends.Internal {
				t.Errorf("Unwrap: class %v", got)
			}
		})
	}
}

func chmodFile(mode os.FileMode) func(dir, path string) error {
	return func(_, path string) error { return os.Chmod(path, mode) }
}

func chmodDir(mode os.FileMode) func(dir, path string) error {
	return func(dir, _ string) error { return os.Chmod(dir, mode) }
}

func theDir(dir, _ string) string { return dir }

func thePath(_, path string) string { return path }

func TestModesOfWhatIsMade(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "a", "b", "keyring")
	if _, err := file.Create(dir, "main", rand.Reader, time.Now()); err != nil {
		t.Fatal(err)
	}
	rotate(t, dir, "main")
	for path, want := range map[string]os.FileMode{
		filepath.Dir(filepath.Dir(dir)): 0o700 | os.ModeDir,
		filepath.Dir(dir):               0o700 | os.ModeDir,
		dir:                             0o700 | os.ModeDir,
		dir + "/main.keyring":           0o600,
		dir + "/.lock":                  0o600,
	} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
}

// The directory itself may stand elsewhere.
func TestDirectoryMayBeALink(t *testing.T) {
	dir := newKeyring(t, "main")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	k := newKMS(t, link)
	w := wrap(t, k, []byte("plaintext"))
	rotate(t, link, "main")
	if got, err := unwrap(t, newKMS(t, dir), w); err != nil || string(got) != "plaintext" {
		t.Errorf("%q, %v", got, err)
	}
}

// A key of this user's that he may not read is no withdrawal either.
func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	dir := newKeyring(t, "main")
	k := newKMS(t, dir)
	if err := os.Chmod(filepath.Join(dir, "main.keyring"), 0); err != nil {
		t.Fatal(err)
	}
	var private *file.PermissionError
	if err := k.Check(t.Context(), "main"); !errors.As(err, &private) || backends.ClassOf(err) != backends.Internal {
		t.Errorf("Check: %v", err)
	}
}

package vault

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/keybroker/keybroker/backends"
)

// maxSecret is the greatest size of a credential's file, in bytes.
const maxSecret = 64 << 10

// readSecret returns what is in a credential's file, without the white space
// around it. Its errors name the file and never what is in it.
func readSecret(path string) ([]byte, error) {
	unusable := func(why string) error {
		return backends.Fail(backends.Unauthenticated, "the credential file %s %s", path, why)
	}
	// A pipe would be waited for without end, so it is not opened.
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, unusable("is no regular file")
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, unusable("cannot be read: " + cause(err))
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return nil, unusable("cannot be read: " + cause(err))
	case len(b) > maxSecret:
		return nil, unusable("is too large")
	}
	b = bytes.TrimSpace(b)
	switch {
	case len(b) == 0:
		return nil, unusable("is empty")
	case !isPlain(b):
		return nil, unusable("holds more than one line of visible ASCII characters")
	}
	return b, nil
}

// cause is err without the path, which the message has already.
func cause(err error) string {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}

// isPlain tells whether b is not empty and of visible ASCII, so that it can stand
// in a header.
func isPlain(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(b) > 0
}

// stat looks at files; one that cannot be looked at is nil.
func stat(paths []string) []fs.FileInfo {
	infos := make([]fs.FileInfo, len(paths))
	for i, path := range paths {
		if info, err := os.Stat(path); err == nil {
			infos[i] = info
		}
	}
	return infos
}

// sameFile tells whether a file looks as if its content was not changed.
func sameFile(before, now fs.FileInfo) bool {
	return before != nil && os.SameFile(before, now) && before.Size() == now.Size() && before.ModTime().Equal(now.ModTime())
}

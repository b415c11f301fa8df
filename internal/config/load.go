package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Load reads the configuration in the file at path, and looks at the permissions
// of that file and of those that it names. It reads the content of no other file
// but of the secrets of access keys, which it holds to their form (ReadSecretKey)
// and does not keep.
//
// The error is Problems: all that is wrong with the configuration and with the
// files.
func Load(path string) (*Config, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, Problems{{File: path, Found: fmt.Sprintf("no working directory (%v)", err), Want: "an absolute path"}}
	}
	w := newWalker(path, System(filepath.Dir(absolute)))
	var c *Config
	if data, ok := w.read(absolute); ok {
		c = w.parse(data)
		w.checkFiles()
		if c != nil {
			c.Warnings = w.warnings.sorted()
		}
	}
	if len(w.problems) > 0 {
		return nil, w.problems.sorted()
	}
	return c, nil
}

// read returns the file's content. It checks the file that it reads, not one that
// may have taken its name since.
func (w *walker) read(path string) ([]byte, bool) {
	// A named pipe would else block until someone writes to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		w.whole(reason(err), "a configuration file that the broker's user may read")
		return nil, false
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		w.whole(reason(err), "a configuration file")
		return nil, false
	}
	if !info.Mode().IsRegular() {
		w.whole("a "+kind(info.Mode()), "a configuration file")
		return nil, false
	}
	w.checkWriters(path, info)
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		w.whole(reason(err), "a configuration file")
		return nil, false
	}
	return data, true
}

// whole reports a problem of the file as a whole.
func (w *walker) whole(found, want string) {
	w.problems = append(w.problems, Problem{File: w.file, Found: found, Want: want})
}

// reason is err without the path, which the problem has already.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file"
	case errors.Is(err, fs.ErrPermission):
		return "no permission to read it"
	}
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return fmt.Sprintf("an error (%v)", err)
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m.IsRegular():
		return "file"
	default:
		return "pipe, socket or device"
	}
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// outFile is a file to write that must not take the place of another: it may be
// the only copy of a wrapped key.
type outFile struct {
	name string
	// force has it replace a file all the same.
	force bool
}

// check tells what would keep write from working, as far as that can be known
// before there is something to write.
func (o outFile) check() error {
	dir := filepath.Dir(o.name)
	switch at, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return usageError(fmt.Errorf("%s cannot be written: there is no directory %s", o.name, dir))
	case err != nil:
		return cannotWrite(o.name, err)
	case !at.IsDir():
		return usageError(fmt.Errorf("%s cannot be written: %s is no directory", o.name, dir))
	}
	switch there, err := os.Lstat(o.name); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return cannotWrite(o.name, err)
	case there.IsDir():
		return usageError(fmt.Errorf("%s is a directory; name a file in it", o.name))
	case !o.force:
		return o.exists()
	case !there.Mode().IsRegular():
		return usageError(fmt.Errorf("%s is no regular file, and is not replaced; choose another name", o.name))
	}
	return nil
}

func (o outFile) exists() error {
	return fmt.Errorf("%s exists; choose another name, or --force", o.name)
}

// checkInput tells whether the file that is read is the one to write.
func (o outFile) checkInput(e *Env, input string) error {
	out, err := os.Stat(o.name)
	if err != nil {
		return nil //nolint:nilerr // what is not there is not the input
	}
	var in fs.FileInfo
	if input != "" && input != "-" {
		in, err = os.Stat(input)
	} else if f, ok := e.Stdin.(*os.File); ok {
		in, err = f.Stat()
	}
	if err == nil && in != nil && os.SameFile(in, out) {
		return fmt.Errorf("%s is the wrapped key itself, without which the data key is lost; choose another name", o.name)
	}
	return nil
}

// write puts content into the file: all of it or nothing, also if another process
// writes a file of that name at the same time.
func (o outFile) write(content []byte) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.force {
		return writeFile(o.name, content)
	}
	return throughTemporary(o.name, content, func(temporary string) error {
		err := os.Link(temporary, o.name)
		switch {
		case errors.Is(err, fs.ErrExist):
			return o.exists()
		case errors.Is(err, syscall.EPERM), errors.Is(err, errors.ErrUnsupported):
			// A file system without links, such as vfat on a stick.
			return o.create(content)
		default:
			return cannotWrite(o.name, err)
		}
	})
}

// create is write where a part of the content may be seen while it is written.
func (o outFile) create(content []byte) error {
	f, err := os.OpenFile(o.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return o.exists()
	}
	if err != nil {
		return cannotWrite(o.name, err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(cannotWrite(o.name, err), os.Remove(o.name))
	}
	return nil
}

// writeFile puts content into the file called name, which it replaces as a whole:
// there is the old file or the new one, never a part, whatever happens.
func writeFile(name string, content []byte) error {
	return throughTemporary(name, content, func(temporary string) error {
		return cannotWrite(name, os.Rename(temporary, name))
	})
}

// throughTemporary writes content to a file beside name, has place put that at
// name, and has the name on disk before it returns.
func throughTemporary(name string, content []byte, place func(temporary string) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // 0600
	if err != nil {
		return cannotWrite(name, err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		err = cannotWrite(name, err)
	} else {
		err = place(f.Name())
	}
	if gone := os.Remove(f.Name()); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	if err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(name))
}

// cannotWrite is err, if there is one, of the file called name. The names in err
// may be temporary ones, and are left out.
func cannotWrite(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s cannot be written: %w", name, cause(err))
}

// cause is err without the names of files.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return err
}

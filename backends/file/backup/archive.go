package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends/file"
)

const (
	// maxPlain is the greatest size of an archive, in bytes.
	maxPlain = 64 << 20
	// blockSize is what tar rounds up to, in bytes.
	blockSize = 512

	// versionName is the first entry; its content is the version.
	versionName = "keybroker-keyring-backup"
	version     = "1\n"
	// suffix is what the names of the keys' files end in.
	suffix = ".keyring"
)

// entry is one file of an archive.
type entry struct {
	name    string
	content []byte
}

// archive returns the keyring in dir as an archive. It holds keys: the caller
// wipes it.
func archive(dir string) ([]byte, error) {
	entries := []entry{{versionName, []byte(version)}}
	defer func() {
		for _, e := range entries {
			clear(e.content)
		}
	}()
	err := file.Export(dir, func(key string, content []byte) error {
		entries = append(entries, entry{key + suffix, bytes.Clone(content)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(entries) == 1 {
		return nil, fmt.Errorf("%s has no key to back up", dir)
	}
	b, err := pack(entries)
	if err == nil && len(b) > maxPlain {
		err = fmt.Errorf("%s takes %d bytes, and a backup holds %d at most", dir, len(b), maxPlain)
	}
	if err != nil {
		clear(b)
		return nil, err
	}
	return b, nil
}

// unarchive returns the contents of the keys' files in an archive, which they
// share. There is one form of each archive, that of pack: everything else wraps
// ErrDamaged.
func unarchive(b []byte) ([][]byte, error) {
	entries, err := unpack(b)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	case len(entries) == 0 || entries[0].name != versionName:
		return nil, fmt.Errorf("%w: it does not begin with %s", ErrDamaged, versionName)
	case string(entries[0].content) != version:
		return nil, fmt.Errorf("%w: this version of keybroker reads version %q of it only", ErrDamaged, strings.TrimSpace(version))
	case len(entries) == 1:
		return nil, fmt.Errorf("%w: it has no key", ErrDamaged)
	}
	again, err := pack(entries)
	defer clear(again)
	if err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%w: its form is wrong", ErrDamaged)
	}
	var contents [][]byte
	for i, e := range entries[1:] {
		info, err := file.Inspect(e.content)
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d is no key", ErrDamaged, i+1)
		}
		if e.name != info.Name+suffix || i > 0 && e.name <= entries[i].name {
			return nil, fmt.Errorf("%w: entry %d, key %s, has another's name or place", ErrDamaged, i+1, info.Name)
		}
		contents = append(contents, e.content)
	}
	return contents, nil
}

// pack returns the one archive of entries. The caller wipes it, also with an
// error.
func pack(entries []entry) ([]byte, error) {
	size := 2 * blockSize // the end
	for _, e := range entries {
		size += blockSize + (len(e.content)+blockSize-1)/blockSize*blockSize
	}
	// Of its full size from the start, so that it leaves no copies behind.
	b := bytes.NewBuffer(make([]byte, 0, size))
	w := tar.NewWriter(b)
	for _, e := range entries {
		h := &tar.Header{
			Typeflag: tar.TypeReg, Format: tar.FormatUSTAR,
			Name: e.name, Size: int64(len(e.content)), Mode: 0o600, ModTime: time.Unix(0, 0),
		}
		if err := w.WriteHeader(h); err != nil {
			return b.Bytes(), err
		}
		if _, err := w.Write(e.content); err != nil {
			return b.Bytes(), err
		}
	}
	err := w.Close() // writes the end
	return b.Bytes(), err
}

// unpack returns the entries of an archive. Their contents are in b itself.
func unpack(b []byte) ([]entry, error) {
	source := bytes.NewReader(b)
	r := tar.NewReader(source)
	var entries []entry
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		// The content follows the header. Some kinds of it claim sizes that nobody
		// has; what else is wrong with them, unarchive finds.
		from := len(b) - source.Len()
		if h.Size > int64(source.Len()) {
			return nil, fmt.Errorf("entry %d is cut off", len(entries))
		}
		entries = append(entries, entry{h.Name, b[from : from+int(h.Size) : from+int(h.Size)]})
	}
}

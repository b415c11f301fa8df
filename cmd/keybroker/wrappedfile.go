package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keybroker/keybroker/broker/envelope"
)

// wrappedItem is one wrapped key as somebody keeps it: raw, in base64, or as a
// JSON object with a member wrapped_key in base64 and perhaps the context.
type wrappedItem struct {
	wrapped []byte
	context map[string]string // nil where it is not written beside the key
	form    wrappedForm
	members map[string]json.RawMessage // of a JSON object
	env     *envelope.Envelope
}

type wrappedForm uint8

const (
	formRaw wrappedForm = iota
	formBase64
	formJSON
)

// errNoWrappedKey is what parseWrapped says of anything else. It does not repeat
// it: it may be a data key.
var errNoWrappedKey = errors.New("no wrapped key")

// parseWrapped reads one wrapped key.
func parseWrapped(text []byte) (wrappedItem, error) {
	item := wrappedItem{wrapped: text}
	switch trimmed := bytes.TrimSpace(text); {
	case bytes.HasPrefix(text, []byte(envelope.Magic)):
	case bytes.HasPrefix(trimmed, []byte("{")):
		item.form = formJSON
		var known struct {
			WrappedKey []byte            `json:"wrapped_key"`
			Context    map[string]string `json:"context"`
		}
		if json.Unmarshal(trimmed, &item.members) != nil || json.Unmarshal(trimmed, &known) != nil {
			return item, errNoWrappedKey
		}
		item.wrapped, item.context = known.WrappedKey, known.Context
	default:
		item.form = formBase64
		decoded, err := base64.StdEncoding.Strict().DecodeString(string(trimmed))
		if err != nil {
			return item, errNoWrappedKey
		}
		item.wrapped = decoded
	}
	env, err := envelope.Parse(item.wrapped)
	if err != nil {
		return item, errNoWrappedKey
	}
	item.env = env
	return item, nil
}

// with returns the item's text with another wrapped key in it, without a newline
// at its end.
func (i wrappedItem) with(wrapped []byte) ([]byte, error) {
	switch i.form {
	case formRaw:
		return wrapped, nil
	case formBase64:
		return []byte(base64.StdEncoding.EncodeToString(wrapped)), nil
	default:
		value, err := json.Marshal(wrapped)
		if err != nil {
			return nil, err
		}
		i.members["wrapped_key"] = value
		return json.Marshal(i.members)
	}
}

// maxWrappedFile is the largest file that is read: one with a million wrapped
// keys, a line each, is larger than most, and fits.
const maxWrappedFile = 8 << 30

// wrappedFile is a file that holds one wrapped key, or one a line.
type wrappedFile struct {
	path  string
	items []wrappedItem
	// last is the text after the last item: a newline or nothing.
	last string
}

// readWrappedFile reads a file. It returns errNoWrappedKey if that is not what it
// holds, in every line.
func readWrappedFile(path string) (*wrappedFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !couldBeWrapped(head[:n]) {
		return nil, errNoWrappedKey
	}
	rest, err := io.ReadAll(io.LimitReader(f, maxWrappedFile))
	if err != nil {
		return nil, err
	}
	return parseWrappedFile(path, append(head[:n], rest...))
}

// couldBeWrapped looks at the beginning of a file only, so that a tree with data
// files in it is walked quickly.
func couldBeWrapped(head []byte) bool {
	if bytes.HasPrefix(head, []byte(envelope.Magic)) {
		return true
	}
	first := bytes.TrimSpace(head)
	start := base64.StdEncoding.EncodeToString([]byte(envelope.Magic))
	// The last character of it depends on what comes after the magic.
	return bytes.HasPrefix(first, []byte("{")) || bytes.HasPrefix(first, []byte(strings.TrimRight(start, "=")[:len(envelope.Magic)*8/6]))
}

func parseWrappedFile(path string, text []byte) (*wrappedFile, error) {
	file := &wrappedFile{path: path}
	if bytes.HasPrefix(text, []byte(envelope.Magic)) {
		item, err := parseWrapped(text)
		if err != nil {
			return nil, err
		}
		file.items = []wrappedItem{item}
		return file, nil
	}
	if bytes.HasSuffix(text, []byte("\n")) {
		file.last = "\n"
		text = text[:len(text)-1]
	}
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		item, err := parseWrapped(line)
		if err != nil || item.form == formRaw {
			return nil, errNoWrappedKey
		}
		file.items = append(file.items, item)
	}
	return file, nil
}

// text returns the file's content, with other wrapped keys in it: one an item.
func (f *wrappedFile) text(wrapped [][]byte) ([]byte, error) {
	var out bytes.Buffer
	for i, item := range f.items {
		if i > 0 {
			out.WriteByte('\n')
		}
		line, err := item.with(wrapped[i])
		if err != nil {
			return nil, err
		}
		out.Write(line)
	}
	out.WriteString(f.last)
	return out.Bytes(), nil
}

// walkFiles calls f for each regular file that paths name or that is under them,
// in order. Symbolic links within directories are not followed, and hidden files
// there are left out: they may be half-written.
func walkFiles(ctx context.Context, paths []string, f func(path string) error) error {
	for _, root := range paths {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				return usageError(err)
			case path != root && strings.HasPrefix(entry.Name(), "."):
				if entry.IsDir() {
					return filepath.SkipDir
				}
				return nil
			case entry.IsDir():
				return nil
			case entry.Type().IsRegular():
				return f(path)
			case path == root && entry.Type()&fs.ModeSymlink != 0:
				target, err := filepath.EvalSymlinks(path)
				if err != nil {
					return usageError(err)
				}
				return walkFiles(ctx, []string{target}, f)
			default:
				return nil
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replaceFile puts content in the place of the file called path, with its owner
// and mode: whatever happens there is the old file or the new one, whole and on
// disk. It changes nothing if the file is not what was read any more.
func replaceFile(path string, content []byte, was fs.FileInfo) (err error) {
	now, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(was, now) || now.Size() != was.Size() || !now.ModTime().Equal(was.ModTime()) {
		return fmt.Errorf("%s changed meanwhile; it is left as it is", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, keepOwner(f, was), f.Chmod(was.Mode().Perm()), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory brings renames in a directory to disk.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

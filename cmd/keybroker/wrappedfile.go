package main

import (
	"bufio"
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
	"strconv"
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

// damagedError is about what begins like a wrapped key and is none, or not only:
// to pass over it could be to lose it. It is never errNoWrappedKey.
type damagedError struct {
	line int // 0: the whole
	err  error
}

// Error implements error.
func (e *damagedError) Error() string {
	if e.line == 0 {
		return "it begins like a wrapped key and is none: " + e.err.Error()
	}
	cause := e.err
	if of := (*damagedError)(nil); errors.As(cause, &of) {
		cause = of.err
	}
	return fmt.Sprintf("its line %d is no wrapped key, although the file begins like one: %v", e.line, cause)
}

// parseWrapped reads one wrapped key. Its error is errNoWrappedKey or a
// *damagedError.
func parseWrapped(text []byte) (wrappedItem, error) {
	item := wrappedItem{wrapped: text}
	switch trimmed := bytes.TrimSpace(text); {
	case bytes.HasPrefix(text, []byte(envelope.Magic)):
	case bytes.HasPrefix(trimmed, []byte("{")):
		item.form = formJSON
		if json.Unmarshal(trimmed, &item.members) != nil {
			return item, errNoWrappedKey
		}
		// By their exact names: with writes only those.
		wrapped, context := item.members["wrapped_key"], item.members["context"]
		if wrapped == nil || json.Unmarshal(wrapped, &item.wrapped) != nil || context != nil && json.Unmarshal(context, &item.context) != nil {
			return item, errNoWrappedKey
		}
	default:
		item.form = formBase64
		decoded, err := base64.StdEncoding.Strict().DecodeString(string(trimmed))
		if err != nil {
			return item, errNoWrappedKey
		}
		item.wrapped = decoded
	}
	if !bytes.HasPrefix(item.wrapped, []byte(envelope.Magic)) {
		return item, errNoWrappedKey
	}
	env, err := envelope.Parse(item.wrapped)
	if err != nil {
		return item, &damagedError{err: err}
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
		if env, err := envelope.Parse(wrapped); err == nil && i.members["key_name"] != nil {
			i.members["key_name"] = json.RawMessage(strconv.Quote(env.IK().KeyName())) // it may be another now
		}
		return json.Marshal(i.members)
	}
}

const (
	// maxWrappedText is more than one wrapped key takes, with all that may stand
	// beside it in a JSON object.
	maxWrappedText = 1 << 20
	// maxWrappedFile is the largest file that is read: one with a million wrapped
	// keys, a line each, is larger than most, and fits.
	maxWrappedFile = 8 << 30
)

// wrappedFile is a file that holds one wrapped key, or one a line.
type wrappedFile struct {
	items []wrappedItem
	// last is the text after the last item: a newline or nothing.
	last string
	// was is the file that was read.
	was fs.FileInfo
}

// readWrappedFile reads a file. It returns errNoWrappedKey if that is not what it
// holds, and a *damagedError if it holds wrapped keys and something else.
func readWrappedFile(path string) (*wrappedFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	was, err := f.Stat()
	if err != nil {
		return nil, err
	}
	file, err := parseWrappedFile(f)
	if err != nil {
		return nil, err
	}
	file.was = was
	return file, nil
}

// couldBeWrapped looks at the beginning of a file only, so that a tree with data
// files in it is walked quickly. For sure tells that nothing else begins so.
func couldBeWrapped(head []byte) (could, forSure bool) {
	first := bytes.TrimSpace(head)
	start := base64.StdEncoding.EncodeToString([]byte(envelope.Magic))
	// The last character of it depends on what comes after the magic.
	start = strings.TrimRight(start, "=")[:len(envelope.Magic)*8/6]
	if bytes.HasPrefix(head, []byte(envelope.Magic)) || bytes.HasPrefix(first, []byte(start)) {
		return true, true
	}
	return bytes.HasPrefix(first, []byte("{")), false
}

// parseWrappedFile reads what a file holds. It keeps nothing but wrapped keys: a
// data file is left at the first line that is none.
func parseWrappedFile(r io.Reader) (*wrappedFile, error) {
	in := bufio.NewReader(r)
	head, err := in.Peek(in.Size())
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	could, forSure := couldBeWrapped(head)
	if !could {
		return nil, errNoWrappedKey
	}
	text, err := io.ReadAll(io.LimitReader(in, maxWrappedText))
	if err != nil {
		return nil, err
	}
	file := &wrappedFile{}
	// One, perhaps on several lines.
	item, one := parseWrapped(text)
	if one == nil && len(text) < maxWrappedText {
		file.items = []wrappedItem{item}
		if item.form != formRaw && bytes.HasSuffix(text, []byte("\n")) {
			file.last = "\n"
		}
		return file, nil
	}
	var damaged *damagedError
	if bytes.HasPrefix(text, []byte(envelope.Magic)) {
		return nil, one
	}

	lines := bufio.NewScanner(io.MultiReader(bytes.NewReader(text), in))
	lines.Buffer(nil, maxWrappedText)
	lines.Split(wholeLines)
	var size int64
	for lines.Scan() {
		line, ended := bytes.CutSuffix(lines.Bytes(), []byte("\n"))
		if file.last = ""; ended {
			file.last = "\n"
		}
		item, err := parseWrapped(bytes.Clone(line))
		if err == nil && item.form == formRaw {
			err = errNoWrappedKey
		}
		if size += int64(len(lines.Bytes())); err == nil && size > maxWrappedFile {
			err = errors.New("the file is too large; give its lines to --lines")
		}
		switch {
		case err == nil:
			file.items = append(file.items, item)
		case forSure || len(file.items) > 0:
			return nil, &damagedError{len(file.items) + 1, err}
		case errors.As(one, &damaged):
			return nil, one
		default:
			return nil, err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong) && !forSure && len(file.items) == 0:
		return nil, errNoWrappedKey
	case errors.Is(err, bufio.ErrTooLong):
		return nil, &damagedError{len(file.items) + 1, err}
	case err != nil:
		return nil, err
	}
	return file, nil
}

// wholeLines splits after each newline, which it leaves in place.
func wholeLines(data []byte, atEOF bool) (advance int, line []byte, err error) {
	end := bytes.IndexByte(data, '\n') + 1
	if end == 0 && atEOF {
		end = len(data)
	}
	if end == 0 {
		return 0, nil, nil
	}
	return end, data[:end], nil
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
// in order, and once. Symbolic links within directories are not followed, and
// hidden files there are left out: they may be half-written.
func walkFiles(ctx context.Context, paths []string, f func(path string) error) error {
	met := map[string]bool{} // paths may overlap
	return walk(ctx, paths, func(path string) error {
		whole, err := filepath.Abs(path)
		if err != nil {
			return usageError(err)
		}
		if met[whole] {
			return nil
		}
		met[whole] = true
		return f(path)
	})
}

func walk(ctx context.Context, paths []string, f func(path string) error) error {
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
				return walk(ctx, []string{target}, f)
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

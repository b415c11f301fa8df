package verify

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// maxWindow is how far back zstd may refer, which is what it needs memory for. Up
// to level 19 the zstd command stays below.
const maxWindow = 32 << 20

// compression is how a file is compressed; empty if it is not. It is the end of
// such a file's name.
type compression string

const (
	gzipped compression = ".gz"
	zstded  compression = ".zst"
)

// compressionOf tells by the name of a file, or else by what it begins with.
func compressionOf(path string, begin []byte) compression {
	switch {
	case strings.HasSuffix(path, string(zstded)):
		return zstded
	case strings.HasSuffix(path, string(gzipped)):
		return gzipped
	case bytes.HasPrefix(begin, []byte("\x28\xb5\x2f\xfd")):
		return zstded
	case bytes.HasPrefix(begin, []byte("\x1f\x8b")):
		return gzipped
	}
	return ""
}

// content reads what a file holds, decompressed.
type content struct {
	ctx    context.Context //nolint:containedctx // a Reader has no other place for it
	in     io.Reader
	stored *stored
	done   func()
}

// stored reads a file as it is on disk. Decompression reads in a goroutine of its
// own.
type stored struct {
	in   *io.SectionReader
	read atomic.Int64 // bytes
}

func (s *stored) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	s.read.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		err = &readError{err}
	}
	return n, err
}

// readError is one of the file system; it says nothing of the log.
type readError struct{ error }

func (e *readError) Unwrap() error { return e.error }

// damageError says that a file cannot be decompressed.
type damageError struct{ cause error }

func (e *damageError) Error() string {
	if errors.Is(e.cause, zstd.ErrWindowSizeExceeded) {
		return fmt.Sprintf("its compressed content needs more than %d MiB of memory to read; if it was meant to be so, decompress it with zstd and check what comes out", maxWindow>>20)
	}
	return fmt.Sprintf("its compressed content is damaged (%s)", e.cause)
}

// content opens what f holds. The caller closes it.
func (f *file) content(ctx context.Context) *content {
	c := &content{ctx: ctx, stored: &stored{in: io.NewSectionReader(f, 0, f.stored)}, done: func() {}}
	if c.in = c.stored; f.compression != "" {
		c.in, c.done = decompress(f.compression, bufio.NewReaderSize(c.stored, bufferSize))
	}
	return c
}

// decompress reads what was compressed so. The caller calls done at the end.
func decompress(c compression, in io.Reader) (out io.Reader, done func()) {
	switch c {
	case gzipped:
		r, err := gzip.NewReader(in)
		if err != nil {
			return failed{err}, func() {}
		}
		return r, func() {}
	case zstded:
		r, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return failed{err}, func() {}
		}
		return r, r.Close
	default:
		return in, func() {}
	}
}

type failed struct{ error }

func (f failed) Read([]byte) (int, error) { return 0, f.error }

func (c *content) close() { c.done() }

// Read's error is io.EOF, a *damageError, or says that the file could not be read.
func (c *content) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.in.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if cause, ok := errors.AsType[*readError](err); ok {
		return n, cause.error
	}
	return n, &damageError{err}
}

// skip reads over n bytes.
func (c *content) skip(n int64) error {
	if c.in == io.Reader(c.stored) {
		_, err := c.stored.in.Seek(n, io.SeekCurrent)
		return err
	}
	_, err := io.CopyN(io.Discard, c, n)
	return err
}

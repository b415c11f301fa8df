package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// Tail calls fn with each record from fromSeq on, in order, and with the line as
// it stands in the file, without the newline. If fromSeq is 0, it begins with
// the next record to be written; if that record is no longer in the directory,
// with the oldest that is; records that are removed later, before they are read, are
// missing. Without follow it ends after the record that was the last when it was called;
// with follow it goes on until ctx ends, and then returns ctx's error, or until the log
// is closed.
//
// It reads the files and never holds up the writer. fn must not keep line. An
// error of fn ends Tail and is returned as it is. A *MissingError says that
// records are not where they were written, and where to go on.
func (l *Log) Tail(ctx context.Context, fromSeq uint64, follow bool, fn func(seq uint64, line []byte) error) error {
	last := l.stands().head
	if fromSeq == 0 {
		fromSeq = last + 1
	}
	r := reader{l: l, next: fromSeq}
	defer r.close()
	for {
		for r.next <= last {
			if err := ctx.Err(); err != nil {
				return err
			}
			line, err := r.read()
			if err != nil {
				return fmt.Errorf("tail the audit log: %w", err)
			}
			if err := fn(r.next-1, line); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		at, err := l.await(ctx, r.next)
		if err != nil {
			return err
		}
		last = at.head
	}
}

// standing is what readers know of the log.
type standing struct {
	head  uint64 // the last record
	first uint64 // the first record of the live file
}

// stands returns where the log stands now.
func (l *Log) stands() standing {
	l.mu.Lock()
	defer l.mu.Unlock()
	return standing{l.head.Seq, l.first}
}

// await returns where the log stands, once there is the record seq.
func (l *Log) await(ctx context.Context, seq uint64) (standing, error) {
	for {
		l.mu.Lock()
		at := standing{l.head.Seq, l.first}
		if at.head >= seq {
			l.mu.Unlock()
			return at, nil
		}
		if l.moved == nil {
			l.moved = make(chan struct{})
		}
		moved := l.moved
		l.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return at, ctx.Err()
		case <-l.ended:
			return at, errClosed
		}
	}
}

// reader reads records across files.
type reader struct {
	l    *Log
	next uint64 // the record to be read next
	file *os.File
	in   *bufio.Reader
	// opened is the record that file was opened for, since it should hold it.
	opened uint64
	begun  bool // a record was read
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}

// read returns the record r.next, which was written before, and moves on. The
// line is valid until the next call.
func (r *reader) read() ([]byte, error) {
	for {
		if r.file == nil {
			want := r.next
			if err := r.open(); err != nil {
				return nil, err
			}
			if r.begun && r.next > want {
				return nil, &MissingError{Seq: want, Next: r.next}
			}
		}
		line, err := r.in.ReadSlice('\n')
		if seq, ok := seqOf(line); err == nil && ok && seq >= r.next {
			if seq != r.next {
				return nil, &MissingError{Seq: r.next, Next: seq}
			}
			r.next++
			r.begun = true
			return line[:len(line)-1], nil
		} else if err == nil && ok {
			continue // before the first record asked for
		}
		if err != nil && err != io.EOF && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		// What is left of this file is no record: it was followed by another.
		if r.opened == r.next {
			return nil, r.missing() // and another look would find the same
		}
		r.close()
	}
}

// MissingError is about records that were written, and that nobody but the
// broker may remove.
type MissingError struct {
	// Seq is the first that is missing.
	Seq uint64
	// Next is a later one from which reading may go on. Some before it may be
	// there still.
	Next uint64
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("record %d is not where it was written; run `keybroker audit verify`", e.Seq)
}

// missing is the error if r.next is not in the file that should hold it.
func (r *reader) missing() error {
	next := r.l.stands().first // of the live file
	if r.next >= next {
		next = r.next + 1
	}
	files, err := formerFiles(r.l.path)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(files, func(f formerFile) bool { return f.first > r.next }); i >= 0 {
		next = min(next, files[i].first)
	}
	return &MissingError{Seq: r.next, Next: next}
}

// open opens the file that holds r.next, a little before it. If there is none,
// it sets r.next to the oldest record there is.
func (r *reader) open() error {
	const tries = 10 // a file may be renamed between listing and opening it
	var err error
	for range tries {
		var path string
		if path, err = r.find(); err != nil {
			return err
		}
		var f *os.File
		if f, err = r.l.sys.openFormer(path); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		var offset int64
		if offset, err = seek(f, r.next); err == nil {
			if _, err = f.Seek(offset, io.SeekStart); err == nil {
				r.file, r.in, r.opened = f, bufio.NewReaderSize(f, 4*MaxLine), r.next
				return nil
			}
		}
		_ = f.Close()
		if !errors.Is(err, errNotHere) {
			return err
		}
	}
	return fmt.Errorf("record %d was not found: %w", r.next, err)
}

// find returns the path of the file that should hold r.next.
func (r *reader) find() (string, error) {
	live := r.l.stands()
	files, err := formerFiles(r.l.path)
	if err != nil {
		return "", err
	}
	if r.next >= live.first {
		// In mid-rotation the live file has its rotated name already.
		if n := len(files); n > 0 && files[n-1].first == live.first {
			return files[n-1].path, nil
		}
		return r.l.path, nil
	}
	if len(files) == 0 {
		r.next = live.first
		return r.l.path, nil
	}
	if r.next < files[0].first {
		r.next = files[0].first
	}
	i := slices.IndexFunc(files, func(f formerFile) bool { return f.first > r.next })
	if i < 0 {
		i = len(files)
	}
	return files[i-1].path, nil
}

var errNotHere = errors.New("the file does not hold it")

// seek returns the offset of a line of f that is at or before the record seq,
// and near it, by halving: numbers only grow within a file.
func seek(f *os.File, seq uint64) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	first, _, ok, err := lineFrom(f, 0)
	if err != nil {
		return 0, err
	}
	if !ok || first > seq {
		return 0, errNotHere
	}
	low, high := int64(0), info.Size() // low is a line at or before seq
	for high-low > window {
		middle := low + (high-low)/2
		found, at, ok, err := lineFrom(f, middle)
		switch {
		case err != nil:
			return 0, err
		case ok && found <= seq:
			low = at
		default:
			high = middle
		}
	}
	return low, nil
}

// lineFrom returns the number and the offset of the first record that begins
// after offset, or at it if it is 0; ok is false if there is none near.
func lineFrom(f *os.File, offset int64) (seq uint64, at int64, ok bool, err error) {
	b := make([]byte, 2*MaxLine)
	n, err := f.ReadAt(b, offset)
	if err != nil && err != io.EOF {
		return 0, 0, false, err
	}
	b = b[:n]
	if offset > 0 {
		begin := bytes.IndexByte(b, '\n') + 1
		if begin == 0 {
			return 0, 0, false, nil
		}
		b, at = b[begin:], offset+int64(begin)
	}
	seq, ok = seqOf(b)
	return seq, at, ok, nil
}

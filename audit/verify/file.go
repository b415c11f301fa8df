package verify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// file is one file of the log.
type file struct {
	*os.File
	path string
	info os.FileInfo
	// stored is its size as it was when Files began.
	stored      int64
	compression compression
	// size is how many bytes it holds, decompressed; -1 as long as that is not
	// known. damaged: it cannot be decompressed as a whole.
	size    int64
	damaged bool
	// first is the first whole record; nil if there is none.
	first *opening
	// flaw is what is wrong with the first line, if that is no record; hint is
	// the number that it gives itself all the same, or 0.
	flaw error
	hint uint64
	// accountsForOther: the tail in first is another file as a whole, not the
	// end of the one before.
	accountsForOther bool
}

// opening is the first whole record of a file.
type opening struct {
	link
	line   int // 1, unless lines before it are damaged
	prev   digest
	logID  string
	repair bool
	reason string
	former account
}

// follows tells whether o is the record after the one at at.
func (o *opening) follows(at link) bool { return o.seq == at.seq+1 && o.prev == at.hash }

// openAll opens the files and reads their first records. The caller closes those
// that it returns, also with an error.
func (c *checker) openAll(ctx context.Context, paths []string) (files []*file, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			path = compressedMeanwhile(path)
			info, err = os.Stat(path)
		}
		if of := compressionOfAnother(path, paths); of != "" {
			c.note(Finding{File: path, What: "it is not read: " + of + ", of which it should be the compression, was given too"})
			continue
		}
		if err != nil {
			return files, err
		}
		if !info.Mode().IsRegular() {
			return files, fmt.Errorf("%s is not a regular file", path)
		}
		if i := slices.IndexFunc(files, func(f *file) bool { return os.SameFile(f.info, info) }); i >= 0 {
			c.note(Finding{File: path, What: "it is the same file as " + files[i].path + ", which was given too; it is read once"})
			continue
		}
		opened, err := os.Open(path)
		if err != nil {
			return files, err
		}
		f := &file{File: opened, path: path}
		files = append(files, f)
		if f.info, err = f.Stat(); err != nil { // of what was opened
			return files, err
		}
		f.stored = f.info.Size()
		begin := make([]byte, 4)
		n, err := f.ReadAt(begin, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return files, err
		}
		f.size = f.stored
		if f.compression = compressionOf(path, begin[:n]); f.compression != "" {
			f.size = -1
		}
		if err := c.readFirst(ctx, f); err != nil {
			return files, fmt.Errorf("read %s: %w", path, err)
		}
	}
	c.result.Files = len(files)
	return files, nil
}

// compressedMeanwhile returns the path of the compressed file that took the place
// of the one at path; if there is none, path.
func compressedMeanwhile(path string) string {
	for _, c := range []compression{zstded, gzipped} {
		if _, err := os.Stat(path + string(c)); err == nil {
			return path + string(c)
		}
	}
	return path
}

// compressionOfAnother returns that one of paths of which the file at path is a
// compression that is not finished, or whose original is still there.
func compressionOfAnother(path string, paths []string) string {
	for _, c := range []compression{zstded, gzipped} {
		original, ok := strings.CutSuffix(path, string(c))
		if !ok || !slices.Contains(paths, original) {
			continue
		}
		if _, err := os.Stat(original); err == nil {
			return original
		}
	}
	return ""
}

// readFirst finds f's first whole record.
func (c *checker) readFirst(ctx context.Context, f *file) error {
	whole := f.content(ctx)
	defer whole.close()
	in := newLines(whole)
	for {
		l, err := in.next()
		if errors.Is(err, io.EOF) {
			if in.n == 0 {
				f.size = 0
			}
			return nil
		}
		if damage, ok := errors.AsType[*damageError](err); ok {
			f.damaged = true
			f.flaw = cmp.Or(f.flaw, error(damage))
			return nil
		}
		if err != nil {
			return err
		}
		r := &c.record
		if err := c.parser.record(l, r); err != nil {
			if in.n == 1 {
				f.flaw, f.hint = err, hint(l.text)
			}
			continue
		}
		f.first = &opening{
			link: link{r.seq, r.hash}, line: in.n, prev: r.prev, logID: string(r.logID),
			repair: in.n == 1 && string(r.event) == eventRepair, reason: string(r.reason),
			former: account{r.former.tail, bytes.Clone(r.former.sum), r.former.syncedSeq},
		}
		return nil
	}
}

// order returns the files in the order of the chain, without those that are no
// part of it.
func (c *checker) order(ctx context.Context, files []*file) ([]*file, error) {
	c.logID = majority(files)
	c.result.LogID = c.logID
	ordered := make([]*file, 0, len(files))
	for _, f := range files {
		switch {
		case f.size == 0:
			c.problem(Finding{File: f.path, What: "it is empty, and every file of a log has at least one record"})
		case f.first != nil && f.first.line == 1 && f.first.logID != "" && f.first.logID != c.logID:
			c.problem(Finding{File: f.path, Line: 1, Seq: f.first.seq, What: fmt.Sprintf(
				"the file is of another log: its id is %.64q, that of the others %.64q; check it by itself", f.first.logID, c.logID)})
		case f.first == nil:
			found, err := c.accountedFor(ctx, f, files)
			switch {
			case err != nil:
				return nil, err
			case found:
			case f.hint > 0:
				ordered = append(ordered, f)
			case f.damaged && errors.As(f.flaw, new(*damageError)):
				c.problem(Finding{File: f.path, What: "no record can be read from it: " + f.flaw.Error()})
			default:
				c.problem(Finding{File: f.path, Line: 1, What: "no line of the file is a record; of the first one: " + f.flaw.Error()})
			}
		default:
			ordered = append(ordered, f)
		}
	}
	for _, f := range ordered {
		c.total += f.stored
	}
	slices.SortStableFunc(ordered, func(a, b *file) int { return cmp.Compare(a.begins(), b.begins()) })
	return ordered, nil
}

// begins is the number of the file's first record, as far as can be told.
func (f *file) begins() uint64 {
	if f.first != nil {
		return f.first.seq
	}
	return f.hint
}

// majority is the id of the log that most files are of, of two equals the one
// that was given first.
func majority(files []*file) string {
	counts := map[string]int{}
	best := ""
	for _, f := range files {
		if f.first == nil || f.first.logID == "" {
			continue
		}
		counts[f.first.logID]++
	}
	for _, f := range files {
		if f.first != nil && counts[f.first.logID] > counts[best] {
			best = f.first.logID
		}
	}
	return best
}

// accountedFor looks for the repair record that accounts for f, which holds no
// whole record, as a whole.
func (c *checker) accountedFor(ctx context.Context, f *file, files []*file) (bool, error) {
	for _, by := range files {
		if by.first == nil || !by.first.repair || by.accountsForOther {
			continue
		}
		size, err := f.length(ctx)
		if err != nil {
			return false, err
		}
		ok, err := f.endsIn(ctx, size, by.first.former)
		if err != nil {
			return false, err
		}
		if ok {
			by.accountsForOther = true
			c.note(Finding{File: f.path, What: fmt.Sprintf(
				"its %d bytes are no record, as record %d (%s:1) says", size, by.first.seq, by.path)})
			return true, nil
		}
	}
	return false, nil
}

// length returns how many bytes f holds; of a damaged one, 0.
func (f *file) length(ctx context.Context) (int64, error) {
	if f.size >= 0 || f.damaged {
		return max(f.size, 0), nil
	}
	whole := f.content(ctx)
	defer whole.close()
	n, err := io.Copy(io.Discard, whole)
	if _, ok := errors.AsType[*damageError](err); ok {
		f.damaged = true
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", f.path, err)
	}
	f.size = n
	return n, nil
}

// endsIn tells whether the tail that a accounts for is of n bytes and what f
// ends in.
func (f *file) endsIn(ctx context.Context, n int64, a account) (bool, error) {
	if n <= 0 || a.tail != n {
		return false, nil
	}
	size, err := f.length(ctx)
	if err != nil || n > size {
		return false, err
	}
	whole := f.content(ctx)
	defer whole.close()
	if err := whole.skip(size - n); err != nil {
		return false, fmt.Errorf("read %s: %w", f.path, err)
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, whole, make([]byte, bufferSize)); err != nil {
		return false, fmt.Errorf("read %s: %w", f.path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)) == string(a.sum), nil
}

// await waits for the line at the end of a file that a broker may be writing
// just then. A write takes microseconds; some tenths of a second are for a disk
// that is slow.
func (f *file) await(ctx context.Context, l line) line {
	const (
		attempts = 10
		pause    = 20 * time.Millisecond
	)
	if f.compression != "" || l.size >= maxLine || l.holdsNUL {
		return l
	}
	text := make([]byte, maxLine)
	begun := copy(text, l.text)
	for range attempts {
		n, err := f.ReadAt(text[begun:], f.stored)
		if err != nil && !errors.Is(err, io.EOF) {
			return l
		}
		if i := bytes.IndexByte(text[begun:begun+n], '\n'); i >= 0 {
			text = text[:begun+i+1]
			return line{text: text, size: int64(len(text))}
		}
		select {
		case <-ctx.Done():
			return l
		case <-time.After(pause):
		}
	}
	return l
}

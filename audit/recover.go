package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// ending is what a file ends in.
type ending struct {
	// last is the last whole record. seq is 0 if there is none.
	last link
	// tail is what follows the last whole record: the beginning of a line that
	// a power loss or a short write cut off.
	tail       int64
	tailSHA256 string
}

// window is how much of a file's end is read first: some records. It is doubled
// until it holds a whole one.
const window = 64 << 10

// unfilled is how far from its end a file is searched for NUL bytes: more than
// is written between two syncs. A file system may bring later parts of that to
// disk than those that a power loss then leaves unfilled.
const unfilled = 16 << 20

// readEnding reads back the end of f and checks the records there, each by
// itself and as a chain. Damage is an error: the log must not be continued as if
// it were whole.
func (s system) readEnding(f *os.File, name string) (ending, error) {
	whole, offset, end, err := s.cutEnding(f, window)
	if err != nil {
		return ending{}, err
	}
	if err := end.check(whole); err != nil {
		return ending{}, s.located(f, name, offset, err)
	}
	return end, nil
}

// cutEnding reads the last bytes of f, least of them or more, and splits them
// into whole lines, which begin at offset, and the torn tail after them, which is
// all that it sets of end. There are no whole lines only if f holds none.
//
// The torn tail is what follows the last newline, or begins with the first line
// that holds a NUL byte: the log writes none, so it can only be space that the
// file system gave the file before a power loss and did not fill.
func (s system) cutEnding(f *os.File, least int64) (whole []byte, offset int64, end ending, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, ending{}, err
	}
	size := info.Size()
	nul, err := s.firstNUL(f, max(0, size-unfilled), size)
	if err != nil {
		return nil, 0, ending{}, err
	}
	for n := min(max(least, size-nul+window), size); ; n = min(2*n, size) {
		b := make([]byte, n)
		if _, err := s.read(f, b, size-n); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, ending{}, err
		}
		skipped := 0
		if n < size { // begin with a whole line
			skipped = bytes.IndexByte(b, '\n') + 1
			if skipped == 0 || bytes.IndexByte(b[:skipped], 0) >= 0 {
				continue
			}
		}
		whole, tail := cutTail(b[skipped:])
		if len(whole) == 0 && n < size {
			continue
		}
		end.tail = int64(len(tail))
		if len(tail) > 0 {
			sum := sha256.Sum256(tail)
			end.tailSHA256 = hex.EncodeToString(sum[:])
		}
		return whole, size - n + int64(skipped), end, nil
	}
}

// firstNUL returns the offset of the first NUL byte of f from offset on, or size.
func (s system) firstNUL(f *os.File, offset, size int64) (int64, error) {
	b := make([]byte, window)
	for offset < size {
		n, err := s.read(f, b[:min(window, size-offset)], offset)
		if i := bytes.IndexByte(b[:n], 0); i >= 0 {
			return offset + int64(i), nil
		}
		offset += int64(n)
		if errors.Is(err, io.EOF) {
			break // it was cut meanwhile
		}
		if err != nil {
			return 0, err
		}
	}
	return size, nil
}

// readAfter reads what f holds past offset, where the record at was the last.
// Records that follow it are whole; the tail is what stands after them.
func (s system) readAfter(f *os.File, offset int64, at link) (ending, error) {
	end := ending{last: at}
	b := make([]byte, 2*maxBatchBytes) // more than a batch
	n, err := s.read(f, b, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return ending{}, err
	}
	for rest := b[:n]; len(rest) > 0; {
		line := rest[:bytes.IndexByte(rest, '\n')+1]
		p, err := parseLine(line)
		if err != nil || !p.follows(end.last) {
			break
		}
		end.last = p.link
		offset += int64(len(line))
		rest = rest[len(line):]
	}
	tail := sha256.New()
	for {
		n, err := s.read(f, b, offset+end.tail)
		tail.Write(b[:n])
		end.tail += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return ending{}, err
		}
	}
	if end.tail > 0 {
		end.tailSHA256 = hex.EncodeToString(tail.Sum(nil))
	}
	return end, nil
}

// readChanged reads the end of a file that somebody else wrote to or cut, where
// the record at was the last. Records that follow it are part of the chain,
// wherever they stand; the tail is what is no whole line. What else there is now
// is for a verifier to judge.
func (s system) readChanged(f *os.File, at link) (ending, error) {
	whole, _, end, err := s.cutEnding(f, 2*maxBatchBytes) // more than a batch
	if err != nil {
		return ending{}, err
	}
	end.last = at
	for line := range bytes.Lines(whole) {
		if p, err := parseLine(line); err == nil && p.follows(end.last) {
			end.last = p.link
		}
	}
	return end, nil
}

// cutTail splits the torn tail off.
func cutTail(b []byte) (whole, tail []byte) {
	end := len(b)
	if i := bytes.IndexByte(b, 0); i >= 0 {
		end = i
	}
	end = bytes.LastIndexByte(b[:end], '\n') + 1
	return b[:end], b[end:]
}

// damage is a line that is not as it was written.
type damage struct {
	lines int // before it in what was read
	err   error
}

func (d *damage) Error() string { return d.err.Error() }

// check reads whole lines and sets e.last.
func (e *ending) check(lines []byte) error {
	for n := 0; len(lines) > 0; n++ {
		length := bytes.IndexByte(lines, '\n') + 1
		p, err := parseLine(lines[:length])
		if err == nil && n > 0 && !p.follows(e.last) {
			err = errNotChained
		}
		if err != nil {
			return &damage{n, err}
		}
		e.last = p.link
		lines = lines[length:]
	}
	return nil
}

// located adds file and line to damage found in what begins at offset.
func (s system) located(f *os.File, name string, offset int64, err error) error {
	var d *damage
	if !errors.As(err, &d) {
		return err
	}
	line := d.lines + 1
	buf := make([]byte, window)
	for at := int64(0); at < offset; {
		n, err := s.read(f, buf[:min(int64(len(buf)), offset-at)], at)
		line += bytes.Count(buf[:n], []byte{'\n'})
		at += int64(n)
		if err != nil {
			break
		}
	}
	return fmt.Errorf("%s:%d: the record was changed after it was written: %w; "+
		"nothing is appended to a damaged log: run `keybroker audit verify`, keep the files as evidence, "+
		"and move all of them to another directory, so that a new log can begin", name, line, d.err)
}

// opening is what the first record of a file says.
type opening struct {
	seq   uint64
	logID string
	time  time.Time
	// signer is the vkey of the key that signs what follows, if it names one.
	signer string
}

// readOpening reads the first record of f.
func (s system) readOpening(f *os.File, name string) (opening, error) {
	b := make([]byte, MaxLine)
	n, err := s.read(f, b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return opening{}, err
	}
	p, err := parseLine(b[:bytes.IndexByte(b[:n], '\n')+1])
	if err == nil && p.logID == "" {
		err = errors.New("it does not name the log, as the first record of a file does")
	}
	if err != nil {
		return opening{}, s.located(f, name, 0, &damage{err: err})
	}
	begin := opening{seq: p.seq, logID: p.logID, time: p.time}
	switch p.event {
	case EventCreate, EventRepair:
		begin.signer = p.vkey
	case EventRotate:
		begin.signer = nextSigner(p.checkpoint)
	}
	return begin, nil
}

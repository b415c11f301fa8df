package verify

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// bufferSize is how much of a file is held at a time. A longer line can be told
// of, but not be looked at.
const bufferSize = 256 << 10

// lines reads a file line by line.
type lines struct {
	in *bufio.Reader
	n  int // the number of the line that was read last, from 1
}

func newLines(in io.Reader) *lines {
	return &lines{in: bufio.NewReaderSize(in, bufferSize)}
}

// line is one line.
type line struct {
	// text is the line with its newline, until the next one is read; of a line
	// that is longer than bufferSize, its beginning.
	text []byte
	size int64
	// unfinished: the file ended before a newline.
	unfinished bool
	// holdsNUL tells of the whole line, also where text is its beginning.
	holdsNUL bool
}

// next returns the next line. Its error is io.EOF after the last one.
func (l *lines) next() (line, error) {
	text, err := l.in.ReadSlice('\n')
	if err == nil {
		l.n++
		return line{text: text, size: int64(len(text))}, nil
	}
	if errors.Is(err, io.EOF) && len(text) == 0 {
		return line{}, io.EOF
	}
	l.n++
	at := line{text: text, size: int64(len(text)), holdsNUL: bytes.IndexByte(text, 0) >= 0}
	if errors.Is(err, bufio.ErrBufferFull) {
		at.text = bytes.Clone(text[:hintSize])
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		var more []byte
		more, err = l.in.ReadSlice('\n')
		at.size += int64(len(more))
		at.holdsNUL = at.holdsNUL || bytes.IndexByte(more, 0) >= 0
	}
	if errors.Is(err, io.EOF) {
		at.unfinished, err = true, nil
	}
	return at, err
}

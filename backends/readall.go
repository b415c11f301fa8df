package backends

import (
	"errors"
	"io"
)

// ReadAll reads r to its end, for what may hold key bytes: it leaves no copy of what
// it has read but the result, which is the caller's to wipe, unlike io.ReadAll, whose
// buffers grow without being wiped. With an error, which is r's, there is no result.
// It does not bound what it reads.
func ReadAll(r io.Reader) ([]byte, error) {
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			larger := make([]byte, len(buf), 2*cap(buf))
			copy(larger, buf)
			clear(buf)
			buf = larger
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			clear(buf)
			return nil, err
		}
	}
}

package awsapi

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
)

// slowBody gives at most as many bytes at a time as have come, and keeps the buffers
// that it was read into.
type slowBody struct {
	rest    []byte
	atOnce  int
	end     error
	buffers [][]byte
}

func (b *slowBody) Read(p []byte) (int, error) {
	b.buffers = append(b.buffers, p)
	n := copy(p, b.rest[:min(len(b.rest), b.atOnce)])
	if b.rest = b.rest[n:]; len(b.rest) == 0 {
		return n, b.end
	}
	return n, nil
}

func (b *slowBody) Close() error { return nil }

// TestBodyTakesWhatHasCome: a body has memory as it comes, not as it is announced, and
// what it has grown out of is wiped.
func TestBodyTakesWhatHasCome(t *testing.T) {
	sent := bytes.Repeat([]byte("key bytes."), MaxBody/10)
	for _, size := range []int{0, 1, firstRead - 1, firstRead, firstRead + 1, 5*firstRead + 3, len(sent)} {
		for _, atOnce := range []int{1000, MaxBody} {
			b := &slowBody{rest: sent[:size], atOnce: atOnce, end: io.EOF}
			got, err := readBody(&http.Request{ContentLength: int64(size), Body: b}, nil)
			if err != nil || !bytes.Equal(got, sent[:size]) {
				t.Fatalf("%d bytes: %d, %v", size, len(got), err)
			}
			read := 0
			for _, buffer := range b.buffers {
				if most := max(firstRead, read); len(buffer) > most {
					t.Errorf("%d bytes have come of %d, and there is room for %d more", read, size, len(buffer))
				}
				read += min(len(buffer), atOnce)
			}
			clear(got)
			for _, buffer := range b.buffers {
				if bytes.Contains(buffer, []byte("key")) {
					t.Fatalf("%d bytes: a buffer that became too small is not wiped", size)
				}
			}
		}
	}
}

// TestBodyIsWipedOnError: nothing of a body that ends too early is left.
func TestBodyIsWipedOnError(t *testing.T) {
	cut := errors.New("cut")
	b := &slowBody{rest: []byte("key bytes"), atOnce: MaxBody, end: cut}
	if got, err := readBody(&http.Request{ContentLength: 100, Body: b}, nil); got != nil || !errors.Is(err, cut) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if bytes.Contains(b.buffers[0], []byte("key")) {
		t.Error("it is still there")
	}
}

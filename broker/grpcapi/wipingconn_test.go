package grpcapi

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// TestWipingConnWrite is in this package, since no connection of a client shows what
// the server's buffers still hold.
func TestWipingConnWrite(t *testing.T) {
	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	sent := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(theirs)
		sent <- b
	}()
	buffer := []byte("an answer with a data key")
	want := bytes.Clone(buffer)
	if n, err := (&wipingConn{Conn: ours}).Write(buffer); n != len(buffer) || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if !bytes.Equal(buffer, make([]byte, len(buffer))) {
		t.Errorf("the buffer still holds %q", buffer)
	}
	_ = ours.Close()
	if got := <-sent; !bytes.Equal(got, want) {
		t.Errorf("the other end got %q", got)
	}

	// What could not be sent is wiped too.
	copy(buffer, want)
	if _, err := (&wipingConn{Conn: ours}).Write(buffer); err == nil {
		t.Error("wrote to a closed connection")
	}
	if !bytes.Equal(buffer, make([]byte, len(buffer))) {
		t.Errorf("the buffer of a failed write still holds %q", buffer)
	}
}

// TestWipingConnRead: what a request left in the buffer is gone when the next one
// is waited for, however short that is.
func TestWipingConnRead(t *testing.T) {
	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	c := &wipingConn{Conn: ours}
	frames, large := make([]byte, 64), make([]byte, 64) // gRPC reads large ones past its buffer
	for _, read := range []struct {
		text   string
		buffer []byte
	}{{"a short one", frames}, {"a request with a data key", frames}, {"large", large}, {"ping", frames}, {"p", frames}} {
		text, buffer := read.text, read.buffer
		go func() { _, _ = io.WriteString(theirs, text) }()
		n, err := c.Read(buffer)
		if err != nil || string(buffer[:n]) != text {
			t.Fatalf("Read = %q, %v", buffer[:n], err)
		}
		if rest := buffer[n:]; !bytes.Equal(rest, make([]byte, len(rest))) {
			t.Errorf("behind %q there still is %q", text, rest)
		}
	}
	_ = theirs.Close()
	if _, err := c.Read(frames[:2]); !errors.Is(err, io.EOF) { // a smaller buffer than before
		t.Errorf("Read at the end: %v", err)
	}
}

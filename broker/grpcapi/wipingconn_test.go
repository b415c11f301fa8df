package grpcapi

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// TestWipingConn is in this package, since no connection of a client shows what
// the server's buffers still hold.
func TestWipingConn(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	sent := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(theirs)
		sent <- b
	}()
	buffer := []byte("an answer with a data key")
	want := bytes.Clone(buffer)
	if n, err := (wipingConn{ours}).Write(buffer); n != len(buffer) || err != nil {
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
	if _, err := (wipingConn{ours}).Write(buffer); err == nil {
		t.Error("wrote to a closed connection")
	}
	if !bytes.Equal(buffer, make([]byte, len(buffer))) {
		t.Errorf("the buffer of a failed write still holds %q", buffer)
	}
}

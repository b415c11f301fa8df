package awsapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
)

// httpConn is a connection that HTTP/1 is spoken on. It does two things that net/http
// leaves no other way for: nothing that net/http writes on its own reaches the
// client, who takes a text in place of JSON for a broken service; and no key bytes
// stay in net/http's buffers, which many connections share.
type httpConn struct {
	net.Conn          // raw, or TLS on it
	raw      net.Conn // as it was accepted
	server   *Server
	// buffer is net/http's for what it reads: the same as long as the connection is
	// open, and the first that is read into.
	buffer []byte
	// holds tells that the headers of an answer are kept in held until its body, of
	// room bytes, follows.
	holds bool
	held  []byte
	room  int
}

// hold keeps what is written next until ReadFrom brings the body, of n bytes, so that
// both leave in one piece: aws-sdk-go-v2 closes a connection whose answer begins
// while it still looks for the end of its request, and would lose a body that comes
// after that.
func (c *httpConn) hold(n int) { c.holds, c.room = true, n }

// rawErrorHeaders are in every error that net/http writes without a handler
// (src/net/http/server.go, conn.serve). JSON has no line breaks inside, so no answer of
// the handler has this in it.
const rawErrorHeaders = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"

// Write implements net.Conn. It writes an error of this package in place of one of
// net/http.
func (c *httpConn) Write(b []byte) (int, error) {
	line, found := errorOfNetHTTP(b)
	switch {
	case !found && c.holds:
		c.held = append(c.held, b...)
		return len(b), nil
	case !found:
		return c.Conn.Write(b)
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if _, err := c.Conn.Write(c.server.garbled(ctx, c.raw, "the request cannot be served: "+line)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// errorOfNetHTTP returns the status line of b without the version, if it is an error
// that no handler made: written as text, or 417, which no handler here answers.
func errorOfNetHTTP(b []byte) (line string, found bool) {
	const version = len("HTTP/1.1 ")
	first, _, ok := bytes.Cut(b, []byte("\r\n"))
	if !ok || len(first) < version || !bytes.HasPrefix(first, []byte("HTTP/1.")) {
		return "", false
	}
	line = string(first[version:])
	return line, bytes.Contains(b, []byte(rawErrorHeaders)) || bytes.HasPrefix(first[version:], []byte("417 "))
}

// ReadFrom implements io.ReaderFrom: net/http has the connection read an answer that
// comes from a reader, and so copies none of it.
func (c *httpConn) ReadFrom(r io.Reader) (int64, error) {
	if !c.holds {
		return io.Copy(c.Conn, r)
	}
	headers := len(c.held)
	answer := append(make([]byte, 0, headers+c.room), c.held...)
	c.holds, c.held = false, nil
	defer clear(answer[:cap(answer)])
	n, err := io.ReadFull(r, answer[headers:cap(answer)])
	if err == nil {
		_, err = c.Conn.Write(answer[:headers+n])
	}
	return int64(n), err
}

// Read implements net.Conn.
func (c *httpConn) Read(b []byte) (int, error) {
	if c.buffer == nil {
		c.buffer = b
	}
	return c.Conn.Read(b)
}

// forget wipes b, which a handler has just read, in net/http's buffer. What is still
// to be read there is behind it, and so is left alone.
func (c *httpConn) forget(b []byte) {
	if at := bytes.Index(c.buffer, b); at >= 0 {
		clear(c.buffer[at : at+len(b)])
	}
}

// CloseWrite lets net/http end its side first, so that the client gets to read an
// answer to what it has not sent completely.
func (c *httpConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// connOf returns the connection that a request came on, as it was accepted, and, for
// HTTP/1, the one that can forget.
func connOf(ctx context.Context) (raw net.Conn, http1 *httpConn) {
	switch conn := ctx.Value(connKey{}).(type) {
	case *httpConn:
		return conn.raw, conn
	case *tls.Conn:
		return conn.NetConn(), nil
	}
	return nil, nil
}

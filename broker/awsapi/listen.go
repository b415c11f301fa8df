package awsapi

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
)

// listener returns l with connections that net/http serves as this package wants it.
func (s *Server) listener(l net.Listener) net.Listener {
	if s.tls == nil {
		return plainListener{l, s}
	}
	ctx, stop := context.WithCancel(context.Background())
	t := &tlsListener{Listener: l, server: s, ctx: ctx, stop: stop, ready: make(chan accepted)}
	t.tasks.Go(t.run)
	return t
}

// plainListener is for plain HTTP.
type plainListener struct {
	net.Listener
	server *Server
}

// Accept implements net.Listener.
func (l plainListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &httpConn{Conn: conn, raw: conn, server: l.server}, nil
}

// tlsListener does the handshakes itself, in the background: net/http serves HTTP/2
// only on a *tls.Conn, and only the handshake tells whether it has to be one.
type tlsListener struct {
	net.Listener
	server *Server
	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	ready  chan accepted
	tasks  sync.WaitGroup
}

// accepted is what Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

// Accept implements net.Listener.
func (l *tlsListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It ends the handshakes that are under way.
func (l *tlsListener) Close() error {
	l.stop()
	err := l.Listener.Close()
	l.tasks.Wait()
	return err
}

func (l *tlsListener) run() {
	for {
		conn, err := l.Listener.Accept()
		if err == nil {
			l.tasks.Go(func() { l.handshake(conn) })
			continue
		}
		if !l.deliver(accepted{err: err}) {
			return
		}
		var passing interface{ Temporary() bool }
		if !errors.As(err, &passing) || !passing.Temporary() {
			return // net/http gives up on the listener, too
		}
	}
}

// deliver hands a to Accept, unless the listener is closed before.
func (l *tlsListener) deliver(a accepted) bool {
	select {
	case l.ready <- a:
		return true
	case <-l.ctx.Done():
		return false
	}
}

func (l *tlsListener) handshake(raw net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, headerTimeout)
	defer cancel()
	secured := tls.Server(raw, l.server.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		l.failed(ctx, raw, err)
		_ = raw.Close()
		return
	}
	var conn net.Conn = secured
	if secured.ConnectionState().NegotiatedProtocol != "h2" {
		conn = &httpConn{Conn: secured, raw: raw, server: l.server}
	}
	if !l.deliver(accepted{conn: conn}) {
		_ = secured.Close()
	}
}

func (l *tlsListener) failed(ctx context.Context, raw net.Conn, err error) {
	var header tls.RecordHeaderError
	switch {
	case errors.Is(err, io.EOF), l.ctx.Err() != nil: // a probe of the port; the end
	case errors.As(err, &header) && header.Conn != nil && isHTTP(header.RecordHeader):
		answer := l.server.garbled(ctx, raw, "this port speaks TLS: write https:// in the client's endpoint")
		_, _ = header.Conn.Write(answer)
	default:
		l.server.turnedAway(ctx, raw, "connect", "", "TLS: "+err.Error())
	}
}

// isHTTP tells whether what came in place of a TLS record begins as a request of
// HTTP/1 does.
func isHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "POST ", "GET /", "HEAD ", "PUT /", "OPTIO", "DELET", "PATCH":
		return true
	}
	return false
}

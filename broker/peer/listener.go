package peer

import (
	"errors"
	"log/slog"
	"net"
)

// Conn is a connection on a unix socket whose peer is known.
type Conn struct {
	*net.UnixConn
	peer *Peer
}

// Peer returns who is at the other end.
func (c *Conn) Peer() *Peer { return c.peer }

// Close closes the connection. Its Peer counts as exited from then on.
func (c *Conn) Close() error { return errors.Join(c.UnixConn.Close(), c.peer.Close()) }

// Listener accepts connections on a unix socket and finds out who they are from
// at that moment, before a byte is read. It is safe for concurrent use.
type Listener struct {
	unix  *net.UnixListener
	log   *slog.Logger
	after func() error // what Close does once the socket is closed
}

// Accept returns the next connection, a *Conn. One whose peer cannot be told, or
// has exited, is closed and logged, and the next one is waited for.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.unix.AcceptUnix()
		if err != nil {
			return nil, err
		}
		p, err := FromUnixConn(conn)
		if err == nil {
			return &Conn{UnixConn: conn, peer: p}, nil
		}
		l.log.Warn("a connection was closed, since its caller cannot be told", "error", errors.Join(err, conn.Close()))
	}
}

// Addr returns the socket's address.
func (l *Listener) Addr() net.Addr { return l.unix.Addr() }

// Close ends Accept. A socket file that ListenUnix made is removed if it is
// still the same; one that systemd holds stays.
func (l *Listener) Close() error { return errors.Join(l.unix.Close(), l.after()) }

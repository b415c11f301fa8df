package peer

import (
	"errors"
	"net"
)

// Conn is a connection on a unix socket whose peer is known.
type Conn struct {
	*net.UnixConn
	peer    *Peer
	release func() // counts it down, once
}

// Peer returns who is at the other end.
func (c *Conn) Peer() *Peer { return c.peer }

// Close closes the connection. Its Peer counts as exited from then on, and it no
// longer counts for Options.MaxPerUID.
func (c *Conn) Close() error {
	err := errors.Join(c.UnixConn.Close(), c.peer.Close())
	c.release()
	return err
}

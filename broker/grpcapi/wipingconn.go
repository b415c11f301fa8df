package grpcapi

import "net"

// wipingConn wipes what was written to it. gRPC gathers answers in one buffer a
// connection, which it writes from and then fills again from its beginning: the
// data keys of the last answers would stand there for as long as the connection
// is open.
//
// That breaks io.Writer's rule against changing what is passed to Write. gRPC's
// server passes nothing but that buffer: were it otherwise, a later answer would be
// damaged, and the search of the daemon's memory in integration/ would find the
// data keys of 10,000 calls.
type wipingConn struct{ net.Conn }

// Write implements net.Conn.
func (c wipingConn) Write(b []byte) (int, error) {
	defer clear(b)
	return c.Conn.Write(b)
}

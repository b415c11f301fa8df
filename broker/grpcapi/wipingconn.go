package grpcapi

import "net"

// wipingConn wipes what went through gRPC's own buffers. gRPC gathers answers in
// one buffer a connection, which it writes from and then fills again from its
// beginning, and reads requests into another: the data keys of the last calls would
// stand there for as long as the connection is open.
type wipingConn struct {
	net.Conn
	// most is how much one Read has brought at most. Only Read uses it.
	most int
}

// Write implements net.Conn, and wipes b.
//
// That breaks io.Writer's rule against changing what is passed to Write. gRPC's
// server passes nothing but that buffer: were it otherwise, a later answer would be
// damaged, and the search of the daemon's memory in integration/ would find the
// data keys of 10,000 calls.
func (c *wipingConn) Write(b []byte) (int, error) {
	defer clear(b)
	return c.Conn.Write(b)
}

// Read implements net.Conn. It wipes what earlier calls left in b, which gRPC has
// done with when it asks for more, and does so before it waits. It is not for
// concurrent use; gRPC reads with one goroutine.
func (c *wipingConn) Read(b []byte) (int, error) {
	clear(b[:min(len(b), c.most)])
	n, err := c.Conn.Read(b)
	c.most = max(c.most, n)
	return n, err
}

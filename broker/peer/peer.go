package peer

import (
	"errors"
	"sync"
)

// ErrExited means that the process that opened the connection has exited. Whoever
// uses the connection now is somebody else.
var ErrExited = errors.New("the process that opened this connection has exited")

// ErrUnsupported means that this system does not tell who is at the other end of a
// unix socket in a way that can be trusted.
var ErrUnsupported = errors.New("callers on unix sockets are only known on Linux")

// Peer is the other end of a connection. It is safe for concurrent use.
type Peer struct {
	// Identity is what was proven when the connection was made.
	Identity Identity

	process *pidfd // nil where the kernel has none (before Linux 6.5), and for TLS
}

// Alive returns ErrExited once the process that opened the connection has
// exited, and also after Close. It is nil where that cannot be told: on TLS, and
// before Linux 6.5. It costs one system call.
func (p *Peer) Alive() error {
	if p.process == nil {
		return nil
	}
	return p.process.alive()
}

// Close frees what Alive needs. It is idempotent.
func (p *Peer) Close() error { return p.process.close() }

// pidfd is a file that stands for a process, whatever becomes of its id.
type pidfd struct {
	mu sync.RWMutex // held to read while fd is in use
	fd int          // -1 after close
}

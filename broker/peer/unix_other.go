//go:build !linux

package peer

import "net"

// FromUnixConn returns ErrUnsupported: nobody is let in.
func FromUnixConn(*net.UnixConn) (*Peer, error) { return nil, ErrUnsupported }

// kernel cannot tell who is at the other end of a socket.
type kernel struct{}

func newKernel() kernel { return kernel{} }

func (kernel) identify(*net.UnixConn) (Identity, *pidfd, error) {
	return Identity{}, nil, ErrUnsupported
}

func (*pidfd) alive() error { return ErrExited }
func (*pidfd) close() error { return nil }

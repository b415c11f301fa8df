package peer

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
)

// errNotTCP means that LocalTCP was given a listener of another kind.
var errNotTCP = errors.New("this is no TCP connection")

// TCPListener accepts TCP connections and finds out which local user each is from,
// before a byte is read. It is safe for concurrent use.
//
// On Linux that is the owner of the socket at the other end, as sock_diag(7) tells it
// at that moment, or /proc/self/net/tcp and tcp6 where there is no sock_diag: the user
// that made the socket, by its effective uid (socket(2)). So
//
//   - a process that changes its user, or hands its connection to another, stays
//     the user that made the socket, and one that is handed a socket before it
//     connects is the user that made it;
//   - behind a local proxy or a forwarded port the user is that of the proxy;
//   - a caller that is gone, or has closed its end, before it was looked up is
//     unknown. Nothing tells when one that was accepted exits: its connection ends
//     with it, unless another process has it too;
//   - a caller that is not on a loopback address is unknown, also if it is on this
//     host; so is every caller on other systems.
//
// So a uid is not enough to know who calls, only who does not: the caller's
// signature must be verified as well.
type TCPListener struct {
	tcp     net.Listener
	kernel  kernel
	refused func(id Identity, err error)
	open    perUID // of known users
	unknown perUID // of all others, as of one

	refusals, waits, failures sparseLog
}

// LocalTCP returns a listener on what l accepts, which is TCP. Closing it closes l.
// Options.MaxPerUID counts all callers whose user is not known as one user, so it
// also bounds all callers that are not on a loopback address together.
//
// A caller is looked up while the next ones wait. With sock_diag that takes less than 0.1 ms.
// Without, it takes about 5 ms for each thousand TCP sockets on the host, since the
// tables are read twice, and four times at most: then a local user who opens very many
// connections keeps the others waiting, for as long as he likes.
func LocalTCP(l net.Listener, opts Options) *TCPListener {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &TCPListener{
		tcp: l, kernel: newKernel(), refused: opts.Refused,
		open: perUID{max: opts.MaxPerUID}, unknown: perUID{max: opts.MaxPerUID},
		refusals: newSparseLog(log), waits: newSparseLog(log), failures: newSparseLog(log),
	}
}

// TCPConn is a connection that a TCPListener accepted.
type TCPConn struct {
	*net.TCPConn
	id      Identity
	release func() // counts it down, once
}

// Close closes the connection, which then no longer counts for Options.MaxPerUID.
func (c *TCPConn) Close() error {
	err := c.TCPConn.Close()
	c.release()
	return err
}

// TCPIdentity returns what was told of a caller when conn was accepted: the local
// user, with UIDKnown, and the address. Network is AWS, and AccessKeyID is empty:
// it is set by who verifies the signature. conn is a *TCPConn or what has it as
// NetConn, as a *tls.Conn has; of any other connection only the address is known.
func TCPIdentity(conn net.Conn) Identity {
	id := Identity{Network: AWS}
	if addr := conn.RemoteAddr(); addr != nil {
		id.Addr = addr.String()
	}
	for {
		switch c := conn.(type) {
		case *TCPConn:
			return c.id
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return id
		}
	}
}

// Accept returns the next connection, a *TCPConn. One whose user has too many is
// closed and reported (Options), and so is one of which the user cannot be told
// for lack of files or memory: it may try again. Of others that cannot be told the
// user is unknown.
//
// An error that may pass says so by a method Temporary() bool, as
// Listener.Accept's.
func (l *TCPListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.tcp.Accept()
		if err != nil {
			return nil, l.acceptError(err)
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			l.refuse(conn, Identity{Network: AWS}, errNotTCP)
			continue
		}
		id, err := l.kernel.identifyTCP(tcp)
		if err != nil && passing(err) {
			l.refuse(conn, id, err)
			continue
		}
		if err != nil {
			l.failures.warn("it cannot be told which local user has connected, so he is unknown", "caller", id.String(), "error", err)
		}
		count, uid := &l.open, id.UID
		if !id.UIDKnown {
			count, uid = &l.unknown, 0
		}
		if !count.take(uid) {
			l.refuse(conn, id, ErrTooMany)
			continue
		}
		return &TCPConn{TCPConn: tcp, id: id, release: sync.OnceFunc(func() { count.release(uid) })}, nil
	}
}

func (l *TCPListener) refuse(conn net.Conn, id Identity, err error) {
	l.refusals.warn("a connection was refused", "caller", id.String(), "error", errors.Join(err, conn.Close()))
	if l.refused != nil {
		l.refused(id, err)
	}
}

func (l *TCPListener) acceptError(err error) error {
	if !passing(err) {
		return err
	}
	l.waits.warn("connections cannot be accepted now and wait; if it lasts, give the process more open files or memory", "error", err)
	return temporaryError{err}
}

// Addr returns the address that is listened on.
func (l *TCPListener) Addr() net.Addr { return l.tcp.Addr() }

// Close ends Accept. Connections stay open.
func (l *TCPListener) Close() error { return l.tcp.Close() }

// addrPort is the address of a TCP connection.
func addrPort(addr net.Addr) netip.AddrPort {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

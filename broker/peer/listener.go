package peer

import (
	"errors"
	"log/slog"
	"net"
	"sync"
)

// ErrTooMany means that the user who connected has Options.MaxPerUID connections
// open.
var ErrTooMany = errors.New("this user has too many connections open; let him close some, or use one for all calls")

// Options say how a Listener treats connections.
type Options struct {
	// Logger is told of connections that are refused or cannot be accepted, in
	// one line a second of each at most. Nil is none.
	Logger *slog.Logger
	// MaxPerUID is how many connections of one uid may be open at a time, so that
	// no user can use up the process's files: each takes two. One more is closed
	// with ErrTooMany. 0 is no limit. A user with subordinate uids (subuid(5)) has
	// the limit once for each, if the socket's mode lets them connect.
	MaxPerUID int
	// Refused is told of every connection that is closed instead of being
	// accepted, when it is closed: who it is, as far as the kernel told it (the
	// zero Identity if nothing), and ErrExited, ErrTooMany, or why it cannot be
	// told. Accept calls it and waits for it, so it must not block for long; it
	// may be called by several goroutines at a time. Nil is none.
	Refused func(id Identity, err error)
}

// Listener accepts connections on a unix socket and finds out who they are from
// at that moment, before a byte is read. It is safe for concurrent use.
type Listener struct {
	unix    *net.UnixListener
	addr    net.Addr
	kernel  kernel
	refused func(id Identity, err error)
	open    perUID
	close   func() error

	refusals, waits sparseLog
}

// newListener returns the Listener of a socket whose path is addr. closing
// closes it, once.
func newListener(l *net.UnixListener, addr net.Addr, opts Options, closing func() error) *Listener {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Listener{
		unix: l, addr: addr, kernel: newKernel(), refused: opts.Refused,
		open: perUID{max: opts.MaxPerUID}, close: sync.OnceValue(closing),
		refusals: newSparseLog(log), waits: newSparseLog(log),
	}
}

// Accept returns the next connection, a *Conn. One whose peer cannot be told,
// has exited, or has too many, is closed and reported (Options), and the next
// one is waited for.
//
// An error that may pass, such as too many open files, says so by a method
// Temporary() bool. The connections wait meanwhile; servers try again after a
// pause.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.unix.AcceptUnix()
		if err != nil {
			return nil, l.acceptError(err)
		}
		id, process, err := l.kernel.identify(conn)
		if err == nil && !l.open.take(id.UID) {
			err = errors.Join(ErrTooMany, process.close())
		}
		if err != nil {
			l.refuse(conn, id, err)
			continue
		}
		return &Conn{
			UnixConn: conn,
			peer:     &Peer{Identity: id, process: process},
			release:  sync.OnceFunc(func() { l.open.release(id.UID) }),
		}, nil
	}
}

func (l *Listener) refuse(conn *net.UnixConn, id Identity, err error) {
	l.refusals.warn("a connection was refused", "caller", id.String(), "error", errors.Join(err, conn.Close()))
	if l.refused != nil {
		l.refused(id, err)
	}
}

func (l *Listener) acceptError(err error) error {
	if !passing(err) {
		return err
	}
	l.waits.warn("connections cannot be accepted now and wait; if it lasts, give the process more open files or memory", "error", err)
	return temporaryError{err}
}

// Addr returns the socket's address: its path.
func (l *Listener) Addr() net.Addr { return l.addr }

// Close ends Accept. A socket file that ListenUnix made is removed if it is
// still the same; one that systemd holds stays. Connections stay open. It is
// idempotent.
func (l *Listener) Close() error { return l.close() }

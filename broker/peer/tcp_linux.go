package peer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// maxLooks is how often is looked for one caller: twice the same must be seen, and
// while connections come and go a socket may be missed in the tables.
const maxLooks = 4

var errNotListed = errors.New("the kernel does not list the connection: it is of another network namespace, or so many come and go that it was missed")

// openTable opens a table of this process's network namespace.
func openTable(name string) (io.ReadCloser, error) { return os.Open("/proc/self/net/" + name) }

// identifyTCP returns what can be told of who is at the other end of conn. On an
// error it could not be found out, and the Identity has no uid.
//
// What the kernel says of the caller's socket counts only if it is twice the same
// socket, established, with a process that has it open, and if our end is, too,
// and is the one that we hold. A socket is taken from its owner a moment after it
// leaves the state, and from then on reads as root's; and our end shows that it
// speaks of this connection, not of one between the same addresses in another
// network namespace, or of a later one of somebody else.
func (k kernel) identifyTCP(conn *net.TCPConn) (Identity, error) {
	id := Identity{Network: AWS, Addr: conn.RemoteAddr().String()}
	theirs, ours := addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	if !theirs.Addr().Unmap().IsLoopback() {
		return id, nil
	}
	inode, err := socketInode(conn)
	if err != nil {
		return id, err
	}
	var before *socketRow
	for range maxLooks {
		ends, err := k.look(theirs, ours)
		switch {
		case err != nil:
			return id, err
		case !ends.complete():
			before = nil
		case ends.ours.inode != inode || ends.ours.state != established ||
			ends.theirs.inode == 0 || ends.theirs.state != established:
			return id, nil // it is closed already
		case before != nil && *before == *ends.theirs:
			id.UID, id.UIDKnown = before.uid, true
			id.UIDOverflow = k.isOverflowUID(before.uid)
			return id, nil
		default:
			before = ends.theirs
		}
	}
	return id, errNotListed
}

// look looks once, in the tables if there is no better way.
func (k kernel) look(theirs, ours netip.AddrPort) (bothEnds, error) {
	ends, err := k.askSockets(theirs, ours)
	if err == nil || !errors.Is(err, errNoDiag) {
		return ends, err
	}
	return k.readTables(theirs, ours)
}

// readTables reads the tables once.
func (k kernel) readTables(theirs, ours netip.AddrPort) (bothEnds, error) {
	var ends bothEnds
	for _, table := range tables(theirs) {
		if ends.complete() {
			break
		}
		f, err := k.openTable(table.name)
		if table.name == "tcp6" && errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return bothEnds{}, err
		}
		err = ends.find(f, tableAddress(theirs, table.mapped), tableAddress(ours, table.mapped))
		if err := errors.Join(err, f.Close()); err != nil {
			return bothEnds{}, fmt.Errorf("/proc/self/net/%s: %w", table.name, err)
		}
	}
	return ends, nil
}

// socketInode returns the inode of a socket, by which the tables name it.
func socketInode(conn *net.TCPConn) (uint64, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	var staterr error
	if err := raw.Control(func(fd uintptr) { staterr = unix.Fstat(int(fd), &st) }); err != nil {
		return 0, err
	}
	return st.Ino, staterr
}

package peer

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FromUnixConn returns the Peer of a unix socket: what the kernel recorded when
// the peer connected, whoever holds the socket now. The caller closes it.
//
// Call it when the connection is accepted. It returns ErrExited if the peer has
// exited already.
func FromUnixConn(conn *net.UnixConn) (*Peer, error) {
	id, process, err := newKernel().identify(conn)
	if err != nil {
		return nil, err
	}
	return &Peer{Identity: id, process: process}, nil
}

// kernel asks the kernel who is at the other end of a socket.
type kernel struct {
	// overflowUID and overflowGID are the ids that it shows for those that a user
	// namespace does not map.
	overflowUID, overflowGID uint32
	// peerPidfd is getsockopt(2) with SO_PEERPIDFD. Tests put other kernels here.
	peerPidfd func(fd int) (int, error)
	// askSockets finds both ends of a TCP connection (sock_diag). Tests put others
	// here.
	askSockets func(theirs, ours netip.AddrPort) (bothEnds, error)
	// openTable opens a table of TCP sockets (/proc/net), for where there is no
	// sock_diag. Tests put others here.
	openTable func(name string) (io.ReadCloser, error)
}

func (k kernel) isOverflowUID(uid uint32) bool { return uid == overflowID || uid == k.overflowUID }

func newKernel() kernel {
	return kernel{
		overflowUID: sysctlID("/proc/sys/kernel/overflowuid"),
		overflowGID: sysctlID("/proc/sys/kernel/overflowgid"),
		peerPidfd:   peerPidfd,
		askSockets:  askSockets,
		openTable:   openTable,
	}
}

// overflowID is what a kernel shows, by default, for an id that a user namespace
// does not map (user_namespaces(7)).
const overflowID = 65534

// sysctlID is what the kernel is set to show instead. Where that cannot be read
// (systemd's ProcSubset=pid hides it) it is taken for the default.
func sysctlID(path string) uint32 {
	text, err := os.ReadFile(path)
	if err != nil {
		return overflowID
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return overflowID
	}
	return uint32(n)
}

// identify returns who connected and, where the kernel has one, a pidfd of that
// process, which is the caller's to close. On an error the Identity is what is
// known of it: with ErrExited all but its program.
func (k kernel) identify(conn *net.UnixConn) (id Identity, process *pidfd, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Identity{}, nil, err
	}
	if cerr := raw.Control(func(fd uintptr) { id, process, err = k.identifySocket(int(fd)) }); cerr != nil {
		return Identity{}, nil, cerr
	}
	return id, process, err
}

func (k kernel) identifySocket(fd int) (Identity, *pidfd, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Identity{}, nil, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	if cred.Uid == math.MaxUint32 {
		return Identity{}, nil, errors.New("SO_PEERCRED: nobody is at the other end")
	}
	id := Identity{
		Network: Unix, UID: cred.Uid, GID: cred.Gid, PID: cred.Pid,
		UIDOverflow: k.isOverflowUID(cred.Uid),
		GIDOverflow: cred.Gid == overflowID || cred.Gid == k.overflowGID,
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return id, nil, fmt.Errorf("SO_PEERGROUPS: %w", err)
	}
	id.Groups = slices.DeleteFunc(groups, func(g uint32) bool { return g == overflowID || g == k.overflowGID })
	process, err := k.peerProcess(fd)
	if err != nil {
		return id, nil, err
	}
	id.Exe = program(id.PID, process)
	return id, process, nil
}

// peerGroups returns SO_PEERGROUPS: the peer's supplementary groups when it
// connected. The kernel answers ERANGE, with the size it needs, until the buffer
// is large enough.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups)) * 4 //nolint:gosec // as the kernel said, at most 65536 groups
		var first unsafe.Pointer
		if len(groups) > 0 {
			first = unsafe.Pointer(&groups[0]) //nolint:gosec // size bytes long
		}
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(first), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // as unsafe.Pointer, rule 4, wants it
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(groups):
			groups = make([]uint32, size/4)
		case errno == unix.ENODATA:
			return nil, nil
		default:
			return nil, errno
		}
	}
}

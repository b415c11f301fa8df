package peer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FromUnixConn returns the Peer of a unix socket: what the kernel recorded when
// the peer connected, whoever holds the socket now. The caller closes it.
//
// Call it when the connection is accepted. It returns ErrExited if the peer has
// exited already.
func FromUnixConn(conn *net.UnixConn) (*Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var p *Peer
	var perr error
	if err := raw.Control(func(fd uintptr) { p, perr = fromSocket(int(fd)) }); err != nil {
		return nil, err
	}
	return p, perr
}

func fromSocket(fd int) (*Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return nil, fmt.Errorf("SO_PEERGROUPS: %w", err)
	}
	process, err := peerProcess(fd)
	if err != nil {
		return nil, err
	}
	uid, gid := overflowIDs()
	p := &Peer{
		Identity: Identity{
			Network: Unix, UID: cred.Uid, GID: cred.Gid, PID: cred.Pid,
			UIDOverflow: cred.Uid == overflowID || cred.Uid == uid,
			GIDOverflow: cred.Gid == overflowID || cred.Gid == gid,
		},
		process: process,
	}
	for _, g := range groups {
		if g != overflowID && g != gid {
			p.Identity.Groups = append(p.Identity.Groups, g)
		}
	}
	p.Identity.Exe = p.program()
	return p, nil
}

// overflowID is what a kernel shows, by default, for an id that a user namespace
// does not map (user_namespaces(7)).
const overflowID = 65534

// overflowIDs are the ids that this kernel is set to show instead.
var overflowIDs = sync.OnceValues(func() (uid, gid uint32) {
	return sysctlID("/proc/sys/kernel/overflowuid"), sysctlID("/proc/sys/kernel/overflowgid")
})

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

// peerGroups returns SO_PEERGROUPS: the peer's supplementary groups when it
// connected. The kernel answers ERANGE, with the size it needs, until the buffer
// is large enough.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups)) * 4
		var first unsafe.Pointer
		if len(groups) > 0 {
			first = unsafe.Pointer(&groups[0])
		}
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(first), uintptr(unsafe.Pointer(&size)), 0)
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

// peerProcess returns a pidfd of the process that connected (SO_PEERPIDFD, Linux
// 6.5), nil where the kernel has none, or ErrExited.
func peerProcess(fd int) (*pidfd, error) {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.EINVAL):
		return nil, nil
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENODATA):
		return nil, ErrExited
	case err != nil:
		return nil, fmt.Errorf("SO_PEERPIDFD: %w", err)
	}
	unix.CloseOnExec(n)
	p := &pidfd{fd: n}
	if err := p.alive(); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// alive asks the pidfd: it is readable once its process has exited
// (pidfd_open(2)).
func (p *pidfd) alive() error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return ErrExited
	}
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("pidfd: %w", err)
		case n == 0:
			return nil
		default:
			return ErrExited
		}
	}
}

func (p *pidfd) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	fd := p.fd
	p.fd = -1
	return unix.Close(fd)
}

// program is the path of the peer's program, or empty. The id was reused by
// nobody if the process still lives after the look.
func (p *Peer) program() string {
	if p.Identity.PID <= 0 || p.process == nil {
		return ""
	}
	exe, err := os.Readlink("/proc/" + strconv.Itoa(int(p.Identity.PID)) + "/exe")
	if err != nil || p.Alive() != nil {
		return ""
	}
	return exe
}

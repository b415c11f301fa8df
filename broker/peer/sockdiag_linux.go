package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The layout of sock_diag(7): struct nlmsghdr, and behind it struct
// inet_diag_req_v2 in a request and struct inet_diag_msg in an answer
// (include/uapi/linux/inet_diag.h). Ports and addresses are in network byte order,
// the rest is in this host's.
const (
	diagRequestSize = unix.NLMSG_HDRLEN + 56
	diagAnswerSize  = unix.NLMSG_HDRLEN + 72

	// loopbackInterface is the index of lo in each network namespace
	// (LOOPBACK_IFINDEX). With it, sockets are found that are bound to lo, and those
	// that are bound to no interface.
	loopbackInterface = 1

	// diagTimeout bounds the wait for the kernel, which answers before send
	// returns.
	diagTimeout = time.Second
)

// errNoDiag means that this kernel, or what confines this process, has no
// sock_diag(7).
var errNoDiag = errors.New("sock_diag")

// askSockets asks the kernel for both ends of a connection between two loopback
// addresses, by sock_diag(7). Unlike the tables under /proc, it costs the same
// however many sockets there are. An end that is not there, or in TIME_WAIT, is
// nil; in place of one that is gone, there may be who listens at its address.
//
// The error is errNoDiag, unless files or memory are short.
func askSockets(theirs, ours netip.AddrPort) (ends bothEnds, err error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return bothEnds{}, diagError(err)
	}
	defer func() { _ = unix.Close(s) }()
	timeout := unix.NsecToTimeval(diagTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return bothEnds{}, diagError(err)
	}
	if ends.theirs, err = askSocket(s, theirs, ours); err != nil {
		return bothEnds{}, diagError(err)
	}
	if ends.ours, err = askSocket(s, ours, theirs); err != nil {
		return bothEnds{}, diagError(err)
	}
	if ends.ours == nil {
		// Who holds one end is told of it, or of his listener: there is nothing in
		// this kernel that tells of TCP, or the socket is of another namespace.
		return bothEnds{}, diagError(unix.ENOENT)
	}
	return ends, nil
}

// diagError is err if others fail for the same, and else that it is this way that is
// closed: EPERM is from a filter of system calls.
func diagError(err error) error {
	for _, short := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, short) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", errNoDiag, err)
}

// askSocket asks for the socket that has these addresses.
func askSocket(s int, local, remote netip.AddrPort) (*socketRow, error) {
	if err := unix.Sendto(s, diagRequest(local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	// Room for the attributes behind the answer, which are not asked for.
	answer := make([]byte, 1<<10)
	for {
		n, from, err := unix.Recvfrom(s, answer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue // a process may send too, if it has CAP_NET_ADMIN
		}
		return parseDiagAnswer(answer[:n])
	}
}

func diagRequest(local, remote netip.AddrPort) []byte {
	src, dst := local.Addr().Unmap(), remote.Addr().Unmap()
	family := byte(unix.AF_INET6)
	if src.Is4() {
		family = unix.AF_INET
	}
	native, network := binary.NativeEndian, binary.BigEndian
	b := make([]byte, 0, diagRequestSize)
	b = native.AppendUint32(b, diagRequestSize)
	b = native.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...) // sequence number and port of the answer: one at a time
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = native.AppendUint32(b, 1<<32-1) // states
	b = network.AppendUint16(b, local.Port())
	b = network.AppendUint16(b, remote.Port())
	for _, addr := range []netip.Addr{src, dst} {
		b = append(b, addr.AsSlice()...)
		b = append(b, make([]byte, 16-addr.BitLen()/8)...)
	}
	b = native.AppendUint32(b, loopbackInterface)
	return append(b, slices.Repeat([]byte{0xff}, 8)...) // no cookie
}

// parseDiagAnswer reads an answer: a socket, or an error, of which ENOENT is none.
func parseDiagAnswer(b []byte) (*socketRow, error) {
	native := binary.NativeEndian
	if len(b) < unix.NLMSG_HDRLEN+4 {
		return nil, unix.EBADMSG
	}
	switch kind, body := native.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:]; {
	case kind == unix.NLMSG_ERROR:
		errno := unix.Errno(-int32(native.Uint32(body))) //nolint:gosec // a negative int, as the kernel puts it
		if errno == unix.ENOENT {
			return nil, nil
		}
		return nil, errno
	case kind != unix.SOCK_DIAG_BY_FAMILY || len(b) < diagAnswerSize:
		return nil, unix.EBADMSG
	case body[1] == timeWait:
		return nil, nil
	default:
		return &socketRow{state: body[1], uid: native.Uint32(body[64:]), inode: uint64(native.Uint32(body[68:]))}, nil
	}
}

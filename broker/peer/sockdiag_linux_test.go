package peer

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// dialed returns a socket connected to a new listener on address, by way of host, what
// closes it, and the accepted end.
func dialed(t *testing.T, address, host string, control func(fd int) error) (fd int, hangUp func(), accepted *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	to := netip.AddrPortFrom(netip.MustParseAddr(host), addrPort(l.Addr()).Port())
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	family := unix.AF_INET6
	if to.Addr().Is4() {
		sa, family = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}, unix.AF_INET
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	hangUp = sync.OnceFunc(func() { _ = unix.Close(fd) })
	t.Cleanup(hangUp)
	if control != nil {
		if err := control(fd); err != nil {
			t.Skip(err)
		}
	}
	if err := unix.Connect(fd, sa); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return fd, hangUp, conn.(*net.TCPConn)
}

// Both ways to find the caller find the same, each by itself: the tables are not
// even opened where the kernel can be asked, however many sockets it has.
func TestTCPBothWays(t *testing.T) {
	bound := func(fd int) error { return unix.BindToDevice(fd, "lo") }
	for name, tc := range map[string]struct {
		listen, host string
		control      func(int) error
	}{
		"IPv4":                           {"127.0.0.1", "127.0.0.1", nil},
		"IPv4, another loopback address": {"127.1.2.3", "127.1.2.3", nil},
		"IPv4, bound to the interface":   {"127.0.0.1", "127.0.0.1", bound},
		"IPv4 by a socket of IPv6":       {"127.0.0.1", "::ffff:127.0.0.1", nil},
		"IPv4 to a listener of both":     {"::", "127.0.0.1", nil},
		"IPv4 by IPv6 to one of both":    {"::", "::ffff:127.0.0.1", nil},
		"IPv6":                           {"::1", "::1", nil},
		"IPv6, bound to the interface":   {"::1", "::1", bound},
	} {
		t.Run(name, func(t *testing.T) {
			fd, hangUp, conn := dialed(t, tc.listen, tc.host, tc.control)
			asking, reading := newKernel(), newKernel()
			asking.openTable = func(string) (io.ReadCloser, error) { return nil, errors.New("a table was opened") }
			reading.askSockets = noDiag
			want := Identity{Network: AWS, UID: uint32(os.Geteuid()), UIDKnown: true, Addr: conn.RemoteAddr().String()}
			for way, k := range map[string]kernel{"asked": asking, "read": reading} {
				if id, err := k.identifyTCP(conn); err != nil || id.UID != want.UID || !id.UIDKnown || id.Addr != want.Addr {
					t.Errorf("%s: %+v, %v", way, id, err)
				}
			}
			check := func(what string) {
				t.Helper()
				for way, k := range map[string]kernel{"asked": asking, "read": reading} {
					if id, err := k.identifyTCP(conn); id.UIDKnown || id.UID != 0 || err != nil && !errors.Is(err, errNotListed) {
						t.Errorf("%s, %s: %+v, %v", what, way, id, err)
					}
				}
			}
			// Closed, it is root's for the tables; reset, there is only who listens.
			if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
				t.Fatal(err)
			}
			check("half closed")
			if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				t.Fatal(err)
			}
			hangUp()
			check("reset")
		})
	}
}

// Without sock_diag the tables are read; what lacks files or memory does not.
func TestTCPWithoutDiag(t *testing.T) {
	_, _, conn := dialed(t, "127.0.0.1", "127.0.0.1", nil)
	for name, tc := range map[string]struct {
		err   error
		reads bool
	}{
		"a filter of address families": {unix.EAFNOSUPPORT, true},
		"a filter of system calls":     {unix.EPERM, true},
		"not in the kernel":            {unix.EPROTONOSUPPORT, true},
		"nothing that tells of TCP":    {unix.ENOENT, true},
		"no answer":                    {unix.EAGAIN, true},
		"no more files":                {unix.EMFILE, false},
		"no memory":                    {unix.ENOBUFS, false},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel()
			read := 0
			k.askSockets = func(netip.AddrPort, netip.AddrPort) (bothEnds, error) { return bothEnds{}, diagError(tc.err) }
			k.openTable = func(name string) (io.ReadCloser, error) { read++; return openTable(name) }
			id, err := k.identifyTCP(conn)
			if tc.reads != (read > 0) || tc.reads != id.UIDKnown || tc.reads == errors.Is(err, tc.err) {
				t.Errorf("%d tables read: %+v, %v", read, id, err)
			}
			if !tc.reads && !passing(err) {
				t.Errorf("%v is not taken for one that passes", err)
			}
		})
	}
}

// An end that nobody has is none, and without an end of ours nothing is believed.
func TestAskSocketsOfNobody(t *testing.T) {
	_, _, conn := dialed(t, "127.0.0.1", "127.0.0.1", nil)
	theirs, ours := addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	nobody := netip.AddrPortFrom(netip.MustParseAddr("127.99.99.99"), 1)
	if ends, err := askSockets(nobody, ours); err != nil || ends.theirs != nil || ends.ours == nil || ends.ours.state == established {
		t.Errorf("%+v, %v", ends, err)
	}
	if ends, err := askSockets(theirs, nobody); !errors.Is(err, errNoDiag) || ends.complete() {
		t.Errorf("%+v, %v", ends, err)
	}
}

func TestParseDiagAnswer(t *testing.T) {
	native := binary.NativeEndian
	message := func(kind uint16, body ...byte) []byte {
		b := native.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
		b = native.AppendUint16(b, kind)
		return append(append(b, make([]byte, 10)...), body...)
	}
	socket := make([]byte, diagAnswerSize-unix.NLMSG_HDRLEN)
	socket[1] = established
	native.PutUint32(socket[64:], 1<<32-2)
	native.PutUint32(socket[68:], 1<<32-1)
	waiting := append([]byte{}, socket...)
	waiting[1] = timeWait
	errno := func(e int32) []byte { return native.AppendUint32(nil, uint32(-e)) }
	for name, tc := range map[string]struct {
		b    []byte
		want *socketRow
		err  error
	}{
		"a socket":         {message(unix.SOCK_DIAG_BY_FAMILY, socket...), &socketRow{established, 1<<32 - 2, 1<<32 - 1}, nil},
		"with attributes":  {message(unix.SOCK_DIAG_BY_FAMILY, append(socket[:len(socket):len(socket)], 5, 0, 8, 0, 0)...), &socketRow{established, 1<<32 - 2, 1<<32 - 1}, nil},
		"in TIME_WAIT":     {message(unix.SOCK_DIAG_BY_FAMILY, waiting...), nil, nil},
		"no such socket":   {message(unix.NLMSG_ERROR, errno(int32(unix.ENOENT))...), nil, nil},
		"an error":         {message(unix.NLMSG_ERROR, errno(int32(unix.EINVAL))...), nil, unix.EINVAL},
		"an error of zero": {message(unix.NLMSG_ERROR, errno(0)...), nil, unix.Errno(0)},
		"cut short":        {message(unix.SOCK_DIAG_BY_FAMILY, socket[:71]...), nil, unix.EBADMSG},
		"another kind":     {message(unix.NLMSG_DONE, socket...), nil, unix.EBADMSG},
		"a header":         {message(unix.NLMSG_DONE), nil, unix.EBADMSG},
		"nothing":          {nil, nil, unix.EBADMSG},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseDiagAnswer(tc.b)
			if !errors.Is(err, tc.err) || (got == nil) != (tc.want == nil) || got != nil && *got != *tc.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

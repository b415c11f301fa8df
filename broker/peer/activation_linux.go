package peer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Activated returns the sockets that systemd holds for this process, by their
// FileDescriptorName (systemd.socket(5)): unix sockets of the names in unixNames,
// TCP sockets of those in tcpNames; none if it was not started so. It takes the
// environment that tells of them, so it works once, and children are not misled.
//
// It refuses sockets with other names than those given, two of one name, and what
// is not a listening stream socket: of unix with a path, or of TCP. A unit and a
// configuration that do not fit are better found at the start. The address of a
// TCP socket is the unit's: whether it may be that is for the caller to check. On
// an error none is left to use, and the process should end.
func Activated(opts Options, unixNames, tcpNames []string) (Sockets, error) {
	sockets, err := activated(opts, unixNames, tcpNames)
	if err != nil {
		return Sockets{}, fmt.Errorf("socket activation: %w", err)
	}
	return sockets, nil
}

func activated(opts Options, unixNames, tcpNames []string) (_ Sockets, err error) {
	files := activation.Files(true)
	for _, f := range files {
		// If the count is wrong, it may be a file of the Go runtime, which does not
		// survive that it is closed.
		if _, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			return Sockets{}, fmt.Errorf("descriptor %d (%q), which LISTEN_FDS counts, is no open socket: %w", f.Fd(), f.Name(), err)
		}
	}
	sockets := Sockets{Unix: map[string]*Listener{}, TCP: map[string]*TCPListener{}}
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		if err == nil {
			return
		}
		for _, l := range sockets.Unix {
			err = errors.Join(err, l.Close())
		}
		for _, l := range sockets.TCP {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, f := range files {
		name := f.Name()
		isUnix, isTCP := slices.Contains(unixNames, name), slices.Contains(tcpNames, name)
		switch {
		case !isUnix && !isTCP:
			return Sockets{}, fmt.Errorf("systemd passed a socket called %q; set FileDescriptorName to one of %q", name, slices.Concat(unixNames, tcpNames))
		case sockets.Unix[name] != nil || sockets.TCP[name] != nil:
			return Sockets{}, fmt.Errorf("systemd passed more than one socket called %q; leave one ListenStream with this FileDescriptorName", name)
		}
		if isUnix {
			l, err := unixFromSystemd(f)
			if err != nil {
				return Sockets{}, fmt.Errorf("the socket %q: %w", name, err)
			}
			sockets.Unix[name] = newListener(l, l.Addr(), opts, l.Close)
			continue
		}
		l, err := tcpFromSystemd(f)
		if err != nil {
			return Sockets{}, fmt.Errorf("the socket %q: %w", name, err)
		}
		sockets.TCP[name] = LocalTCP(l, opts)
	}
	return sockets, nil
}

// unixFromSystemd returns a listener on a copy of f, a socket.
func unixFromSystemd(f *os.File) (*net.UnixListener, error) {
	l, err := listenerOn(f, "it is no unix stream socket; set ListenStream to a path", func(domain, _ int) bool { return domain == unix.AF_UNIX })
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener)
	if name := u.Addr().String(); !filepath.IsAbs(name) {
		return nil, errors.Join(fmt.Errorf("its address %q is no path, and whoever comes first may serve an abstract socket; set ListenStream to a path", name), u.Close())
	}
	u.SetUnlinkOnClose(false)
	return u, nil
}

// tcpFromSystemd returns a listener on a copy of f, a socket.
func tcpFromSystemd(f *os.File) (net.Listener, error) {
	return listenerOn(f, "it is no TCP socket; set ListenStream to an address and a port", func(domain, protocol int) bool {
		return (domain == unix.AF_INET || domain == unix.AF_INET6) && protocol == unix.IPPROTO_TCP
	})
}

// listenerOn returns a listener on a copy of f, a socket, which is refused with
// other unless it is a stream socket that fits.
func listenerOn(f *os.File, other string, fits func(domain, protocol int) bool) (net.Listener, error) {
	var is [4]int
	for i, option := range []int{unix.SO_DOMAIN, unix.SO_TYPE, unix.SO_PROTOCOL, unix.SO_ACCEPTCONN} {
		var err error
		if is[i], err = unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, option); err != nil {
			return nil, err
		}
	}
	domain, kind, protocol, listening := is[0], is[1], is[2], is[3]
	switch {
	case kind != unix.SOCK_STREAM || !fits(domain, protocol):
		return nil, errors.New(other)
	case listening == 0:
		// net would take it, and panic when it is closed.
		return nil, errors.New("it does not listen; set Accept=no")
	}
	return net.FileListener(f)
}

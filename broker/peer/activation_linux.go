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

// Activated returns the unix sockets that systemd holds for this process, by
// their FileDescriptorName (systemd.socket(5)); none if it was not started so.
// It takes the environment that tells of them, so it works once, and children
// are not misled.
//
// It refuses sockets with other names than those given, two of one name, and
// what is not a listening unix stream socket with a path: a unit and a
// configuration that do not fit are better found at the start. On an error none
// is left to use, and the process should end.
func Activated(opts Options, names ...string) (map[string]*Listener, error) {
	sockets, err := activated(opts, names)
	if err != nil {
		return nil, fmt.Errorf("socket activation: %w", err)
	}
	return sockets, nil
}

func activated(opts Options, names []string) (_ map[string]*Listener, err error) {
	files := activation.Files(true)
	for _, f := range files {
		// If the count is wrong, it may be a file of the Go runtime, which does not
		// survive that it is closed.
		if _, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			return nil, fmt.Errorf("descriptor %d (%q), which LISTEN_FDS counts, is no open socket: %w", f.Fd(), f.Name(), err)
		}
	}
	sockets := make(map[string]*Listener, len(files))
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		if err == nil {
			return
		}
		for _, l := range sockets {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, f := range files {
		name := f.Name()
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("systemd passed a socket called %q; set FileDescriptorName to one of %q", name, names)
		}
		if sockets[name] != nil {
			return nil, fmt.Errorf("systemd passed more than one socket called %q; leave one ListenStream with this FileDescriptorName", name)
		}
		l, err := fromSystemd(f)
		if err != nil {
			return nil, fmt.Errorf("the socket %q: %w", name, err)
		}
		sockets[name] = newListener(l, l.Addr(), opts, l.Close)
	}
	return sockets, nil
}

// fromSystemd returns a Listener on a copy of f, a socket.
func fromSystemd(f *os.File) (*net.UnixListener, error) {
	fd := int(f.Fd())
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return nil, err
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, err
	}
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, err
	}
	switch {
	case domain != unix.AF_UNIX || kind != unix.SOCK_STREAM:
		return nil, errors.New("it is no unix stream socket; set ListenStream to a path")
	case listening == 0:
		// net would take it, and panic when it is closed.
		return nil, errors.New("it does not listen; set Accept=no")
	}
	l, err := net.FileListener(f)
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

package peer

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"

	"github.com/coreos/go-systemd/v22/activation"
)

// Activated returns the unix sockets that systemd holds for this process, by
// their FileDescriptorName (systemd.socket(5)); none if it was not started so.
// It takes the environment that tells of them, so it works once, and children
// are not misled.
//
// It refuses sockets with other names than those given, two of one name, and
// what is no unix stream socket: a unit and a configuration that do not fit are
// better found at the start. On an error all of them are closed.
func Activated(log *slog.Logger, names ...string) (_ map[string]*Listener, err error) {
	found, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("socket activation: %w", err)
	}
	sockets := make(map[string]*Listener, len(found))
	defer func() {
		if err == nil {
			return
		}
		for _, ls := range found {
			for _, l := range ls {
				err = errors.Join(err, l.Close())
			}
		}
	}()
	for name, ls := range found {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("socket activation: systemd passed a socket called %q; set FileDescriptorName to one of %q", name, names)
		}
		if len(ls) != 1 {
			return nil, fmt.Errorf("socket activation: systemd passed %d sockets called %q", len(ls), name)
		}
		unix, ok := ls[0].(*net.UnixListener)
		if !ok || unix.Addr().Network() != "unix" {
			return nil, fmt.Errorf("socket activation: %q is a %T and no unix stream socket", name, ls[0])
		}
		unix.SetUnlinkOnClose(false)
		sockets[name] = &Listener{unix: unix, log: log, after: func() error { return nil }}
	}
	return sockets, nil
}

//go:build !linux

package peer

// Activated returns no socket: there is no systemd here.
func Activated(_ Options, _, _ []string) (Sockets, error) { return Sockets{}, nil }

//go:build !linux

package peer

// Activated returns no socket: there is no systemd here.
func Activated(Options, ...string) (map[string]*Listener, error) { return nil, nil }

package peer

// Sockets are what systemd holds for this process, by FileDescriptorName.
type Sockets struct {
	Unix map[string]*Listener
	TCP  map[string]*TCPListener
}

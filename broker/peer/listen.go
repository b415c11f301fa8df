package peer

import (
	"errors"
	"io/fs"
)

// ErrInUse means that another process serves the socket.
var ErrInUse = errors.New("another process serves this socket; stop it, or configure another path")

// Config says which socket ListenUnix makes.
type Config struct {
	// Path is absolute, clean (path.Clean) and at most MaxPath bytes.
	Path string
	// Mode is the socket's permission bits. To connect takes the one to write.
	Mode fs.FileMode
	// UID and GID are its owner; -1 is the process's own.
	UID, GID int
	// Options say how its connections are treated.
	Options Options
}

//go:build !linux

package peer

import (
	"errors"
	"io/fs"
	"log/slog"
)

// ErrInUse: another process serves the socket.
var ErrInUse = errors.New("another process serves this socket")

// MaxPath is the longest path a unix socket can be reached by, in bytes.
const MaxPath = 103

// Config says which socket ListenUnix makes.
type Config struct {
	Path     string
	Mode     fs.FileMode
	UID, GID int
	Logger   *slog.Logger
}

// ListenUnix returns ErrUnsupported: callers could not be told apart.
func ListenUnix(Config) (*Listener, error) { return nil, ErrUnsupported }

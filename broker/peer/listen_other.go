//go:build !linux

package peer

// MaxPath is the longest path a unix socket can be reached by, in bytes.
const MaxPath = 103

// ListenUnix returns ErrUnsupported: callers could not be told apart.
func ListenUnix(Config) (*Listener, error) { return nil, ErrUnsupported }

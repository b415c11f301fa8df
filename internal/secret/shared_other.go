//go:build !linux

package secret

import (
	"errors"
	"os"
)

// NewShared fails: this system has no such memory.
func NewShared(int) (*Shared, error) {
	return nil, errors.New("this system has no memory that can be handed to another process and is not swapped")
}

// OpenShared fails with ErrForeign, and closes file.
func OpenShared(file *os.File, _ int) (*Shared, error) {
	return nil, errors.Join(ErrForeign, file.Close())
}

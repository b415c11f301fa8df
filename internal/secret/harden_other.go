//go:build !linux

package secret

import "errors"

// ErrUnsupported: this system lacks what Harden needs.
var ErrUnsupported = errors.New("core dumps and other processes' access can only be prevented on Linux")

// Harden fails with ErrUnsupported.
func Harden() error { return ErrUnsupported }

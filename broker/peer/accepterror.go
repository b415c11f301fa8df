package peer

import (
	"errors"
	"syscall"
)

// passing tells whether an error of accept(2) may pass: what it lacks comes
// back, or another connection is not meant.
func passing(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EPERM, syscall.EACCES,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// temporaryError is an error of Accept after which servers try again: grpc-go
// ends on any other, and package net says so of fewer.
type temporaryError struct{ error }

// Temporary implements net.Error.
func (temporaryError) Temporary() bool { return true }

// Timeout implements net.Error.
func (temporaryError) Timeout() bool { return false }

func (e temporaryError) Unwrap() error { return e.error }

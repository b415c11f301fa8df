package envelope

import (
	"errors"
	"fmt"
)

var (
	// ErrInvalid is what every error of Parse wraps: the bytes are not a wrapped
	// key, or not one that this version of keybroker can read.
	ErrInvalid = errors.New("invalid wrapped key")

	// ErrPairs is wrapped by the errors of NewPairs and AssociatedPairs.
	ErrPairs = errors.New("invalid pairs")

	// ErrCommitment is returned for an intermediate key that is not the one that
	// the IK part was made with. Whoever gave it, and whoever changed a byte of
	// the IK part, looks the same.
	ErrCommitment = errors.New("the intermediate key does not fit the wrapped key's commitment")

	// ErrOpen is returned when an intermediate key that fits does not open the
	// envelope: the context is not the one it was sealed with, or the envelope
	// was changed. The two cannot be told apart. It is final: no other recipient
	// can do better.
	ErrOpen = errors.New("the context is not the one this key was wrapped with, or the wrapped key was changed")

	// ErrPlaintextSize is wrapped by the error of Seal for a plaintext that is
	// empty, over MaxPlaintext, or too long for the room that the IK part leaves.
	ErrPlaintextSize = errors.New("plaintext size")
)

// VersionError is the error of Parse for an envelope of a format that this
// version of keybroker does not know. It wraps ErrInvalid.
type VersionError struct {
	// Version is the format version that the envelope names.
	Version uint8
}

// Error names the version found, the version known and what to do.
func (e *VersionError) Error() string {
	return fmt.Sprintf("%v: it has format version %d and this keybroker reads version %d: use a keybroker that reads version %d",
		ErrInvalid, e.Version, formatVersion, e.Version)
}

// Unwrap returns ErrInvalid.
func (e *VersionError) Unwrap() error { return ErrInvalid }

package backends

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
)

// bindDomain separates this hash from every other use of SHA-256 in keybroker.
const bindDomain = "keybroker/v1/bind"

// ErrBinding is returned by UnbindHash for a plaintext that was bound to other
// associated data, or to none.
var ErrBinding = errors.New("the wrapped key is bound to other pairs")

// BindHash returns plaintext || SHA-256("keybroker/v1/bind" || associatedData),
// which is what a KMS without associated data wraps under BindingHash. The
// result holds key bytes: the caller wipes it.
func BindHash(plaintext, associatedData []byte) []byte {
	sum := bindSum(associatedData)
	out := make([]byte, 0, len(plaintext)+len(sum))
	return append(append(out, plaintext...), sum[:]...)
}

// UnbindHash undoes BindHash, comparing in constant time. The result aliases
// bound. It returns ErrBinding if the hash does not fit.
func UnbindHash(bound, associatedData []byte) ([]byte, error) {
	n := len(bound) - sha256.Size
	if n < 1 {
		return nil, ErrBinding
	}
	sum := bindSum(associatedData)
	if subtle.ConstantTimeCompare(bound[n:], sum[:]) != 1 {
		return nil, ErrBinding
	}
	return bound[:n:n], nil
}

func bindSum(associatedData []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(bindDomain), associatedData...))
}

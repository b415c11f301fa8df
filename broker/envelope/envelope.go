// Package envelope is the wrapped-key format: what keybroker hands to a client
// for a data key, and opens again. docs/envelope.md specifies its bytes.
//
// An envelope has three parts: the IK part, equal for all envelopes of one
// intermediate key (IK); the envelope part, its creation time and salt; and the
// sealed plaintext. The IK comes from outside, wrapped and unwrapped by KMSs;
// this package binds an envelope to it and never keeps it.
//
// Everything here is a pure function of its arguments, with one exception: the
// nonce of a sealing comes from the Go Cryptographic Module's own random
// generator, because FIPS 140-3 lets an application choose no GCM nonce
// (cipher.NewGCMWithRandomNonce). All types are immutable and safe for
// concurrent use.
package envelope

import (
	"bytes"
	"crypto/sha256"
	"time"
)

// Envelope is a wrapped key that has been parsed. What it says of itself is a
// claim until IKPart.Verify and Open have succeeded. It holds no secret.
//
// It is immutable and safe for concurrent use. It, its IKPart, and all text got
// from them share one copy of the envelope's bytes, at most MaxSize.
type Envelope struct {
	ik        IKPart
	header    string // IK part and envelope part: alias one copy of the envelope
	sealed    string // nonce, ciphertext, tag
	createdAt int64  // Unix seconds
}

// Parse reads an envelope. It copies b once, after its length has been checked,
// and neither keeps nor changes it.
//
// Parse accepts exactly one encoding of every envelope: no unknown field, no
// trailing byte, sorted pairs. It checks every limit before it hashes anything,
// and allocates the same two pieces for whatever lengths b claims. It verifies
// nothing: it has no key.
//
// The error wraps ErrInvalid and says what is wrong; it is a *VersionError if b
// is of a format version that is not known here. It quotes from b at most the
// beginning of a reserved name, escaped.
func Parse(b []byte) (*Envelope, error) {
	if len(b) > MaxSize {
		c := cursor{}
		c.fail("it is %d bytes, at most %d are allowed", len(b), MaxSize)
		return nil, c.err
	}
	e := new(Envelope)
	whole := string(b)
	c := cursor{rest: whole}
	e.ik.decode(&c)

	createdAt := c.uint64()
	if createdAt > maxCreatedAt {
		c.fail("the creation time is after the year 9999")
	}
	e.createdAt = int64(createdAt)
	c.take(saltSize)
	e.header = whole[:len(whole)-len(c.rest)]

	size := c.uint16()
	if c.err == nil && (size == 0 || size > MaxPlaintext) {
		c.fail("the plaintext is %d bytes, not 1 to %d", size, MaxPlaintext)
	}
	e.sealed = c.take(nonceSize + uint32(size) + tagSize)
	if len(c.rest) > 0 {
		c.fail("%d bytes follow its end", len(c.rest))
	}
	if c.err != nil {
		return nil, c.err
	}
	e.ik.id = sha256.Sum256(b[:len(e.ik.raw)])
	return e, nil
}

// Claims tells whether b begins as an envelope does. Parse says whether it is one.
func Claims(b []byte) bool { return bytes.HasPrefix(b, []byte(Magic)) }

// IK returns the part that is equal for all envelopes of one intermediate key.
func (e *Envelope) IK() *IKPart { return &e.ik }

// CreatedAt returns when the envelope was sealed, by the clock of the broker
// that did it: UTC, in whole seconds, from 1970 to 9999.
func (e *Envelope) CreatedAt() time.Time { return time.Unix(e.createdAt, 0).UTC() }

// PlaintextSize returns the size of the sealed plaintext in bytes, 1 to
// MaxPlaintext.
func (e *Envelope) PlaintextSize() int { return len(e.sealed) - nonceSize - tagSize }

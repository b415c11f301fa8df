package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// sealDomain separates the keys of sealings from every other use of an IK.
const sealDomain = "keybroker/v1/seal"

// Seal returns a new envelope of plaintext under ik, bound to context. The salt
// is read from random, which must be a cryptographic random source; the nonce
// comes from the Go Cryptographic Module. now is written as the creation time in
// whole seconds, the rest is dropped. The caller owns the result; nothing passed
// in is kept or changed.
//
// Errors: ErrCommitment if ik is not the IK of p (what it sealed could never be
// opened again, so Seal looks every time); one that wraps ErrPlaintextSize; the
// error of random, wrapped; now before 1970 or after 9999.
func (p *IKPart) Seal(ik []byte, random io.Reader, now time.Time, context Pairs, plaintext []byte) ([]byte, error) {
	room := min(MaxPlaintext, MaxSize-len(p.raw)-envelopePartSize-sealedOverhead)
	if len(plaintext) == 0 || len(plaintext) > room {
		return nil, fmt.Errorf("%w: %d bytes, not 1 to the %d that key %q and its recipients leave room for",
			ErrPlaintextSize, len(plaintext), room, p.keyName)
	}
	seconds := now.Unix()
	if seconds < 0 || seconds > maxCreatedAt {
		return nil, fmt.Errorf("envelope: the clock says %s, which is before 1970 or after 9999: set the host's clock", now.UTC().Format(time.RFC3339))
	}
	if err := p.Verify(ik); err != nil {
		return nil, err
	}

	b := make([]byte, 0, len(p.raw)+envelopePartSize+sealedOverhead+len(plaintext))
	b = append(b, p.raw...)
	b = binary.BigEndian.AppendUint64(b, uint64(seconds))
	salt := b[len(b) : len(b)+saltSize]
	if _, err := io.ReadFull(random, salt); err != nil {
		return nil, fmt.Errorf("envelope: reading a salt: %w", err)
	}
	b = b[:len(b)+saltSize]
	header := b
	b = binary.BigEndian.AppendUint16(b, uint16(len(plaintext)))

	additional := additionalData(header, context)
	var err error
	shield(func() {
		var aead cipher.AEAD
		if aead, err = newAEAD(ik, salt, header); err == nil {
			b = aead.Seal(b, nil, plaintext, additional)
		}
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Open returns the plaintext. ik must have passed Verify of this envelope's
// IKPart, else ErrOpen means nothing. The caller owns the result, which is a
// secret, and wipes it; ik is neither kept nor changed.
//
// The error is ErrOpen if context is not the one that the envelope was sealed
// with, if the envelope was changed, or if ik is not its IK; nothing of the
// plaintext is returned then. Any other error is a fault of the cryptographic
// module and says nothing of the envelope; none is known.
func (e *Envelope) Open(ik []byte, context Pairs) ([]byte, error) {
	if len(ik) != IKSize {
		return nil, ErrOpen
	}
	// What holds no key bytes, and what the caller wipes, is allocated outside of
	// shield, so that a build with runtime/secret does not pay for erasing it.
	var (
		additional = additionalData(e.header, context)
		header     = additional[4 : 4+len(e.header)]
		salt       = header[len(header)-saltSize:]
		sealed     = []byte(e.sealed)
		plaintext  = make([]byte, 0, e.PlaintextSize())
		err        error
	)
	shield(func() {
		var aead cipher.AEAD
		if aead, err = newAEAD(ik, salt, header); err != nil {
			return
		}
		if plaintext, err = aead.Open(plaintext, nil, sealed, additional); err != nil {
			err = ErrOpen
		}
	})
	if err != nil {
		return nil, err
	}
	return plaintext, nil
}

// additionalData returns what a sealing authenticates beside its plaintext: the
// header after its length, then the canonical context. The length keeps bytes
// from moving between the two.
func additionalData[T string | []byte](header T, context Pairs) []byte {
	b := make([]byte, 0, 4+len(header)+context.size())
	b = binary.BigEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	return context.appendCanonical(b)
}

// extract is HKDF-Extract (RFC 5869 section 2.2), which is HMAC(salt, ik). It is
// not hkdf.Extract since that leaves ik in the block buffer of its hash: here the
// next block, of zeros, overwrites it.
func extract(ik, salt []byte) []byte {
	mac := hmac.New(sha256.New, salt)
	mac.Write(ik)
	prk := mac.Sum(nil)
	mac.Write(make([]byte, sha256.BlockSize))
	return prk
}

// newAEAD derives the key of one sealing and returns AES-256-GCM under it. Each
// key seals once only, so random nonces cannot repeat under a key. The key bytes
// are wiped before it returns; what HMAC and AES keep inside goes with the
// garbage collector, or at once after it in a build with runtime/secret.
func newAEAD(ik, salt, header []byte) (cipher.AEAD, error) {
	sum := sha256.Sum256(header)
	prk := extract(ik, salt)
	key, err := hkdf.Expand(sha256.New, prk, sealDomain+string(sum[:]), 32)
	clear(prk)
	if err != nil {
		return nil, fmt.Errorf("envelope: deriving a key: %w", err)
	}
	block, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

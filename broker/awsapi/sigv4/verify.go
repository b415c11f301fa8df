package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// MinSecret is the shortest secret in bytes that Verify works with. It keeps an empty
// or forgotten secret from proving anything; what is long enough to be a good secret is
// for the configuration to say.
const MinSecret = 16

// Verify returns nil if the request that c was parsed from was signed with secret and
// its time is at most window before or after now. The signatures are compared in
// constant time. Otherwise the error is ErrSecret or an *Error, with one of these
// reasons:
//
//   - Mismatch: another secret, or the request was changed after it was signed
//   - Skewed: the signature is right, and the time is too far from now
//   - Malformed: c is the zero Claim
//
// The time is looked at last, so a caller without the secret learns nothing of the clock
// and Skewed means just that. A request can be used again until its window ends: to stop
// that is the caller's business.
//
// The secret stays the caller's and is only read. Every copy of it and every key derived
// from it is overwritten before Verify returns, except for what crypto/hmac keeps inside
// and leaves to the garbage collector.
func (c Claim) Verify(secret []byte, now time.Time, window time.Duration) error {
	s := c.signed
	if s == nil {
		return refuse(Malformed, "there is no claim to verify")
	}
	if len(secret) < MinSecret {
		return ErrSecret
	}
	if refused := s.verify(secret, now, window); refused != nil {
		refused.AccessKeyID = s.accessKeyID
		return refused
	}
	return nil
}

func (s *signed) verify(secret []byte, now time.Time, window time.Duration) *Error {
	body := sha256.Sum256(s.body)
	bodyHex := hex.AppendEncode(make([]byte, 0, 2*sha256.Size), body[:])
	if s.contentSHA256 != "" && s.contentSHA256 != string(bodyHex) {
		return refuse(Mismatch, "X-Amz-Content-Sha256 is not the hash of the body")
	}
	canonical := sha256.New()
	canonical.Write(s.canonicalHead)
	canonical.Write(bodyHex)

	toSign := make([]byte, 0, 256)
	toSign = append(toSign, algorithm+"\n"...)
	toSign = append(toSign, s.amzDate...)
	toSign = append(toSign, '\n')
	toSign = append(toSign, s.date...)
	toSign = append(toSign, '/')
	toSign = append(toSign, s.region...)
	toSign = append(toSign, "/"+service+"/"+terminator+"\n"...)
	toSign = hex.AppendEncode(toSign, canonical.Sum(nil))

	want := s.sign(secret, toSign)
	defer clear(want[:])
	if !hmac.Equal(want[:], s.signature[:]) {
		return refuse(Mismatch, "the signature does not match: the client's secret is not the one of its access key here, or the request was changed on its way")
	}
	// Abs, unlike negation, has no negative result.
	if now.Sub(s.time).Abs() > window {
		return refuse(Skewed, "the request was signed at %s, here it is %s, and %s apart is the most that is taken: set the clocks",
			s.time.Format(time.RFC3339), now.UTC().Format(time.RFC3339), window)
	}
	return nil
}

// sign derives the signing key and returns the signature of toSign.
func (s *signed) sign(secret, toSign []byte) (signature [sha256.Size]byte) {
	const prefix = "AWS4"
	first := make([]byte, 0, len(prefix)+len(secret))
	first = append(append(first, prefix...), secret...)
	defer clear(first)
	var key [sha256.Size]byte
	defer clear(key[:])

	mac(&key, first, []byte(s.date))
	mac(&key, key[:], []byte(s.region))
	mac(&key, key[:], []byte(service))
	mac(&key, key[:], []byte(terminator))
	mac(&signature, key[:], toSign)
	return signature
}

// mac writes the HMAC-SHA256 of message into sum, which may be the key.
func mac(sum *[sha256.Size]byte, key, message []byte) {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	h.Sum(sum[:0])
}

package gcpkms

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"sync"

	"github.com/keybroker/keybroker/backends"
)

// probeContext is what the backend's own probes are bound to. No envelope's pairs
// encode to it, so no probe can stand in an envelope.
const probeContext = "keybroker/v1/probe"

// probe is a ciphertext that has been decrypted once.
type probe struct {
	ciphertext     []byte
	associatedData []byte
	plaintext      []byte // random; nil for what Unwrap has opened, which is not kept
}

// knowledge is what checks know of a key.
type knowledge struct {
	own *probe // what the backend had encrypted
	// last is what Unwrap opened last. It stands in where the broker may only
	// decrypt.
	last *probe
	// mayNotEncrypt spares a denied call for each check, and its line in
	// Google's audit log, until a wrap has succeeded.
	mayNotEncrypt bool
}

// probes holds what is known of each key.
type probes struct {
	mu sync.Mutex
	of map[string]knowledge
}

func newProbes() *probes { return &probes{of: map[string]knowledge{}} }

func (ps *probes) get(key string) knowledge {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.of[key]
}

func (ps *probes) change(key string, f func(*knowledge)) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	known := ps.of[key]
	f(&known)
	ps.of[key] = known
}

// wrapped takes note that the broker may encrypt.
func (ps *probes) wrapped(key string) {
	ps.change(key, func(known *knowledge) { known.mayNotEncrypt = false })
}

// opened takes note of what Unwrap has opened, while there is nothing better. It
// copies it: ciphertexts and contexts are no secrets.
func (ps *probes) opened(key string, ciphertext, associatedData []byte) {
	ps.change(key, func(known *knowledge) {
		if known.own == nil {
			known.last = &probe{ciphertext: bytes.Clone(ciphertext), associatedData: bytes.Clone(associatedData)}
		}
	})
}

// Check implements backends.KMS. It decrypts a random value that an earlier Check
// encrypted: one Decrypt, of the quota that unwraps have. The first Check of a
// key, and one that finds that its value is not of the primary version, encrypt
// another: two calls more at most. So it proves that the credential, the
// permission to decrypt, and the primary version serve now. It proves nothing of
// versions before that one.
//
// Without the permission to encrypt, it decrypts what Unwrap opened last. If that
// is nothing yet, it has Cloud KMS decrypt what cannot be opened, and takes the
// answer that says so for the permission that it shows; that tells nothing of the
// state of the key's versions.
func (k *KMS) Check(ctx context.Context, key string) error {
	return k.do(ctx, "check", key, func(ctx context.Context) error { return k.check(ctx, key) })
}

func (k *KMS) check(ctx context.Context, key string) error {
	known := k.probes.get(key)
	if known.own == nil {
		return k.firstCheck(ctx, key, known)
	}
	primary, err := k.try(ctx, key, known.own)
	switch class := backends.ClassOf(err); {
	case err == nil && primary:
		return nil
	case err == nil, class == backends.Disabled:
		// The primary version is what matters, and this is another one.
		p, newErr := k.newProbe(ctx, key)
		switch {
		case newErr == nil:
			return k.keep(ctx, key, p)
		case backends.ClassOf(newErr) == backends.Denied: // it may only decrypt any more
			return err
		}
		return newErr
	case class == backends.InvalidCiphertext:
		k.probes.change(key, func(known *knowledge) { *known = knowledge{} })
		return backends.Fail(backends.InvalidCiphertext, "Cloud KMS does not open what this key made: another key has its name now")
	}
	return err
}

// firstCheck checks a key for which the backend has no value of its own yet.
func (k *KMS) firstCheck(ctx context.Context, key string, known knowledge) error {
	if !known.mayNotEncrypt {
		p, err := k.newProbe(ctx, key)
		switch {
		case err == nil:
			return k.keep(ctx, key, p)
		case backends.ClassOf(err) != backends.Denied:
			return err
		}
	}
	var err error
	if known.last != nil {
		_, err = k.try(ctx, key, known.last)
	} else {
		err = k.tryForeign(ctx, key)
	}
	if err == nil {
		k.probes.change(key, func(known *knowledge) { known.mayNotEncrypt = true })
	}
	return err
}

// newProbe has a random value encrypted.
func (k *KMS) newProbe(ctx context.Context, key string) (*probe, error) {
	p := &probe{plaintext: make([]byte, 32), associatedData: []byte(probeContext)}
	_, _ = rand.Read(p.plaintext) // never fails
	var err error
	p.ciphertext, _, err = k.encrypt(ctx, key, p.plaintext, p.associatedData)
	return p, err
}

// keep has p decrypted, and keeps it for the next check.
func (k *KMS) keep(ctx context.Context, key string, p *probe) error {
	if _, err := k.try(ctx, key, p); err != nil {
		return err
	}
	k.probes.change(key, func(known *knowledge) { *known = knowledge{own: p} })
	return nil
}

// try has p decrypted, and tells whether the primary version did.
func (k *KMS) try(ctx context.Context, key string, p *probe) (primary bool, err error) {
	plaintext, primary, err := k.decrypt(ctx, key, p.ciphertext, p.associatedData)
	defer clear(plaintext)
	if err == nil && p.plaintext != nil && subtle.ConstantTimeCompare(plaintext, p.plaintext) != 1 {
		err = backends.Fail(backends.Internal, "Cloud KMS decrypts to something else than was encrypted")
	}
	return primary, err
}

// tryForeign has something decrypted that nobody has encrypted.
func (k *KMS) tryForeign(ctx context.Context, key string) error {
	random := make([]byte, 113) // as long as a ciphertext of 32 bytes
	_, _ = rand.Read(random)    // never fails
	plaintext, _, err := k.decrypt(ctx, key, random, []byte(probeContext))
	switch {
	case err == nil:
		clear(plaintext)
		return backends.Fail(backends.Internal, "Cloud KMS has decrypted what nobody encrypted")
	case backends.ClassOf(err) == backends.InvalidCiphertext:
		return nil
	}
	return err
}

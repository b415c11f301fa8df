package vault

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"sync"

	"github.com/keybroker/keybroker/backends"
)

// probeContext is what probes are bound to. No envelope's pairs encode to it, so
// no probe can stand in an envelope.
const probeContext = "keybroker/v1/probe"

// probe is a ciphertext that Check has decrypted.
type probe struct {
	sealed
	// plaintext is random; nil if nothing was encrypted, because the broker may
	// only decrypt. Vault then shall say that it does not open.
	plaintext []byte
}

// probes holds one probe of each key that was checked.
type probes struct {
	mu sync.Mutex
	of map[string]*probe
}

func newProbes() *probes { return &probes{of: map[string]*probe{}} }

func (ps *probes) get(key string) *probe {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.of[key]
}

// put replaces a key's probe; nil forgets it.
func (ps *probes) put(key string, p *probe) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p == nil {
		delete(ps.of, key)
		return
	}
	ps.of[key] = p
}

// Check implements backends.KMS. It decrypts a random value that an earlier Check
// encrypted: one request. The first Check of a key, and one after the key was
// changed, makes that value: two requests more. Without the right to encrypt, it
// has Vault decrypt what cannot be opened, and takes the answer that says so for
// the permission that it shows.
//
// It proves that the token, the policy, the mount and the newest version of the
// key serve now, and that the key is still the one that it was. It proves nothing
// of versions before that one.
func (k *KMS) Check(ctx context.Context, key string) error {
	ctx, done, err := k.begin(ctx)
	if err == nil {
		defer done()
		if err = k.check(ctx, key); err == nil {
			return nil
		}
	}
	return backends.Report("check", key, err)
}

func (k *KMS) check(ctx context.Context, key string) error {
	p := k.probes.get(key)
	known := p != nil
	if !known {
		var err error
		if p, err = k.newProbe(ctx, key); err != nil {
			return err
		}
	}
	err := k.try(ctx, key, p)
	if known && backends.ClassOf(err) == backends.Disabled {
		// The probe's version is too old now. The newest is what matters.
		if p, err = k.newProbe(ctx, key); err == nil {
			err = k.try(ctx, key, p)
		}
	}
	switch class := backends.ClassOf(err); {
	case err == nil:
		k.probes.put(key, p)
	case class == backends.InvalidCiphertext, class == backends.InvalidArgument, class.Refused():
		k.probes.put(key, nil)
		k.keys.forget(key)
	}
	return err
}

// try has Vault decrypt p.
func (k *KMS) try(ctx context.Context, key string, p *probe) error {
	plaintext, err := k.open(ctx, key, p.sealed, []byte(probeContext))
	defer clear(plaintext)
	switch refused := backends.ClassOf(err) == backends.InvalidCiphertext; {
	case p.plaintext == nil && refused:
		return nil
	case refused:
		return backends.Fail(backends.InvalidCiphertext, "Vault does not open what it made: another key has this name now")
	case err != nil:
		return err
	case subtle.ConstantTimeCompare(plaintext, p.plaintext) != 1:
		return backends.Fail(backends.Internal, "Vault decrypts to something else than was encrypted")
	}
	return nil
}

// newProbe has Vault encrypt a random value, if it may.
func (k *KMS) newProbe(ctx context.Context, key string) (*probe, error) {
	value := make([]byte, 32)
	_, _ = rand.Read(value) // never fails
	s, err := k.seal(ctx, key, value, []byte(probeContext))
	if err == nil {
		return &probe{s, value}, nil
	}
	if backends.ClassOf(err) != backends.Denied {
		return nil, err
	}
	m, keyErr := k.key(ctx, key, freshToUnwrap)
	if keyErr != nil {
		return nil, keyErr
	}
	random := make([]byte, overhead+len(value))
	_, _ = rand.Read(random)
	text := "vault:v" + versionText(m.LatestVersion) + ":" + base64.StdEncoding.EncodeToString(random)
	c, _ := parseCiphertext([]byte(text))
	binding := m.binding(k.server.Load())
	return &probe{sealed: sealed{c, binding}}, nil
}

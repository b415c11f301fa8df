package awskms

import (
	"bytes"
	"context"
	"crypto/rand"
	"maps"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keybroker/keybroker/backends"
)

// sampleKey is what the pair keybroker:key has where no key of the broker's is
// concerned. It has a colon, which the name of a key cannot have, so no sample
// that was made for a check can stand in an envelope.
const sampleKey = "keybroker:check"

// sample is a ciphertext that a check has decrypted.
type sample struct {
	ciphertext []byte
	pairs      map[string]string
	wrapped    bool // made by Wrap: what clients have now
}

// samples holds one sample of each key. Its zero value is ready to use.
type samples struct {
	mu sync.Mutex
	of map[keyARN]sample
}

func (ss *samples) get(key keyARN) (sample, bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	s, ok := ss.of[key]
	return s, ok
}

// wrapped makes a sample of what was wrapped last.
func (ss *samples) wrapped(key keyARN, ciphertext []byte, pairs map[string]string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.put(key, sample{bytes.Clone(ciphertext), maps.Clone(pairs), true})
}

// unwrapped makes a sample of what has opened, where there is none of what was
// wrapped here.
func (ss *samples) unwrapped(key keyARN, ciphertext []byte, pairs map[string]string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if !ss.of[key].wrapped {
		ss.put(key, sample{bytes.Clone(ciphertext), maps.Clone(pairs), false})
	}
}

// put is for those that hold ss.mu.
func (ss *samples) put(key keyARN, s sample) {
	if ss.of == nil {
		ss.of = map[keyARN]sample{}
	}
	ss.of[key] = s
}

func (ss *samples) forget(key keyARN) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.of, key)
}

// Check implements backends.KMS. It has KMS decrypt, with its pairs, what was last
// wrapped under the key, or else was last unwrapped: one request. If nothing was
// yet, it encrypts a random value first. It needs what an Unwrap needs, so it is
// refused when that would be.
//
// Without the right to encrypt, and before the first Unwrap, it asks for the
// key's state and has KMS say, by a dry run, whether it would decrypt. An
// endpoint that knows no dry run shows the state alone.
func (k *KMS) Check(ctx context.Context, key string) error {
	if err := k.check(ctx, key); err != nil {
		return backends.Report("check", key, err)
	}
	return nil
}

func (k *KMS) check(ctx context.Context, name string) error {
	ctx, key, done, err := k.begin(ctx, name)
	if err != nil {
		return err
	}
	defer done()
	s, ok := k.samples.get(key)
	if !ok {
		s.pairs = map[string]string{"keybroker:key": sampleKey}
		value := make([]byte, 32)
		_, _ = rand.Read(value) // never fails
		s.ciphertext, _, err = k.encrypt(ctx, key, value, s.pairs)
		switch {
		case backends.ClassOf(err) == backends.Denied && err != nil:
			return k.dryRun(ctx, key, s.pairs)
		case err != nil:
			return err
		}
	}
	plaintext, err := k.decrypt(ctx, key, "", s.ciphertext, s.pairs)
	clear(plaintext)
	switch {
	case err == nil:
		k.samples.unwrapped(key, s.ciphertext, s.pairs)
	case backends.ClassOf(err) == backends.InvalidCiphertext:
		k.samples.forget(key)
		return backends.Fail(backends.InvalidCiphertext, "KMS does not open what this key has made: %w", err)
	}
	return err
}

// dryRun tells whether the key would decrypt, without a ciphertext of it.
func (k *KMS) dryRun(ctx context.Context, key keyARN, pairs map[string]string) error {
	m, err := k.describe(ctx, key)
	if err != nil {
		if backends.ClassOf(err) == backends.Denied {
			return backends.Fail(backends.Denied, "the role may not encrypt, and nothing has been unwrapped yet, so a check needs the key's state: %w", err)
		}
		return err
	}
	// A dry run that ignores the ciphertext may look at permissions alone.
	if err := usable(key, m); err != nil {
		return err
	}
	if m.KeyUsage != types.KeyUsageTypeEncryptDecrypt || m.KeySpec != types.KeySpecSymmetricDefault {
		return backends.Fail(backends.InvalidArgument, "the key is %s for %s; it must be SYMMETRIC_DEFAULT for ENCRYPT_DECRYPT", shown(string(m.KeySpec)), shown(string(m.KeyUsage)))
	}
	in := &kms.DecryptInput{
		KeyId:             aws.String(key.String()),
		EncryptionContext: pairs,
		DryRun:            aws.Bool(true),
		DryRunModifiers:   []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext},
	}
	err = k.call(ctx, opDecrypt, key, nil, func(c *kms.Client) error {
		out, err := c.Decrypt(ctx, in, (&wire{}).use)
		if err == nil {
			clear(out.Plaintext)
		}
		return err
	})
	err = k.stateOf(ctx, key, err)
	switch class := backends.ClassOf(err); {
	case err == nil, says(err, "DryRunOperationException"):
		return nil
	case class == backends.InvalidArgument, class == backends.InvalidCiphertext:
		return nil // the endpoint does not know dry runs without a ciphertext
	}
	return err
}

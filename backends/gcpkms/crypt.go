package gcpkms

import (
	"context"
	"errors"
	"hash/crc32"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keybroker/keybroker/backends"
)

// The limits of backends.WrapRequest and backends.Wrapped, in bytes.
const (
	maxPlaintext  = 64
	maxCiphertext = 1024
)

// Wrap implements backends.KMS: one Encrypt.
func (k *KMS) Wrap(ctx context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	var w backends.Wrapped
	err := k.do(ctx, "wrap", req.Key, func(ctx context.Context) error {
		ciphertext, version, err := k.encrypt(ctx, req.Key, req.Plaintext, req.AssociatedData)
		if err != nil {
			return err
		}
		k.probes.wrapped(req.Key)
		w = backends.Wrapped{
			Provider: Provider, Reference: req.Key, Version: version,
			Binding: backends.BindingAAD, Ciphertext: ciphertext,
		}
		return nil
	})
	return w, err
}

// Unwrap implements backends.KMS: one Decrypt. It takes no notice of req.Version.
func (k *KMS) Unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	var plaintext []byte
	err := k.do(ctx, "unwrap", req.Key, func(ctx context.Context) error {
		switch {
		case req.Reference != req.Key:
			return backends.Fail(backends.WrongKey, "it was wrapped by %q", shown(req.Reference))
		case req.Binding != backends.BindingAAD:
			return backends.Fail(backends.InvalidCiphertext, "Cloud KMS binds by associated data, not by %v", req.Binding)
		}
		opened, _, err := k.decrypt(ctx, req.Key, req.Ciphertext, req.AssociatedData)
		if err != nil {
			return err
		}
		k.probes.opened(req.Key, req.Ciphertext, req.AssociatedData)
		plaintext = opened
		return nil
	})
	return plaintext, err
}

// encrypt has plaintext encrypted by the primary version of key, and returns the
// number of that version.
func (k *KMS) encrypt(ctx context.Context, key string, plaintext, associatedData []byte) (ciphertext []byte, version string, err error) {
	if len(plaintext) < 1 || len(plaintext) > maxPlaintext {
		return nil, "", backends.Fail(backends.InvalidArgument, "a plaintext is 1 to %d bytes, not %d", maxPlaintext, len(plaintext))
	}
	err = undamaged(ctx, func() (err error) {
		ciphertext, version, err = k.encryptOnce(ctx, key, plaintext, associatedData)
		return err
	})
	return ciphertext, version, err
}

func (k *KMS) encryptOnce(ctx context.Context, key string, plaintext, associatedData []byte) (ciphertext []byte, number string, err error) {
	client, id, err := k.dialer.get(ctx)
	if err != nil {
		return nil, "", err
	}
	req := &kmspb.EncryptRequest{Name: key, Plaintext: plaintext, PlaintextCrc32C: checksum(plaintext)}
	if len(associatedData) > 0 {
		req.AdditionalAuthenticatedData = associatedData
		req.AdditionalAuthenticatedDataCrc32C = checksum(associatedData)
	}
	reply, err := client.Encrypt(ctx, req)
	if err != nil {
		return nil, "", k.refused(err, key, id)
	}
	number, named := version(reply.Name, key)
	switch {
	case len(reply.Ciphertext) == 0:
		return nil, "", backends.Fail(backends.Internal, "Cloud KMS has answered without a ciphertext")
	case !intact(reply.Ciphertext, reply.CiphertextCrc32C):
		return nil, "", backends.Fail(backends.Internal, "the ciphertext's CRC32C does not fit: %w", errDamaged)
	case !reply.VerifiedPlaintextCrc32C, len(associatedData) > 0 && !reply.VerifiedAdditionalAuthenticatedDataCrc32C:
		return nil, "", backends.Fail(backends.Internal, "Cloud KMS does not say that it verified the request's CRC32C: %w", errDamaged)
	case !named:
		return nil, "", backends.Fail(backends.Internal, "Cloud KMS has answered for %q; if that is the same key, write its name so", shown(reply.Name))
	case len(reply.Ciphertext) > maxCiphertext:
		return nil, "", backends.Fail(backends.Internal, "the ciphertext is %d bytes, more than %d", len(reply.Ciphertext), maxCiphertext)
	}
	return reply.Ciphertext, number, nil
}

// decrypt has ciphertext decrypted by key. primary tells that the primary version
// did. The caller wipes the plaintext.
func (k *KMS) decrypt(ctx context.Context, key string, ciphertext, associatedData []byte) (plaintext []byte, primary bool, err error) {
	if len(ciphertext) < 1 || len(ciphertext) > maxCiphertext {
		return nil, false, backends.Fail(backends.InvalidCiphertext, "a ciphertext is 1 to %d bytes, not %d", maxCiphertext, len(ciphertext))
	}
	err = undamaged(ctx, func() (err error) {
		plaintext, primary, err = k.decryptOnce(ctx, key, ciphertext, associatedData)
		return err
	})
	return plaintext, primary, err
}

func (k *KMS) decryptOnce(ctx context.Context, key string, ciphertext, associatedData []byte) (plaintext []byte, primary bool, err error) {
	client, id, err := k.dialer.get(ctx)
	if err != nil {
		return nil, false, err
	}
	req := &kmspb.DecryptRequest{Name: key, Ciphertext: ciphertext, CiphertextCrc32C: checksum(ciphertext)}
	if len(associatedData) > 0 {
		req.AdditionalAuthenticatedData = associatedData
		req.AdditionalAuthenticatedDataCrc32C = checksum(associatedData)
	}
	reply, err := client.Decrypt(ctx, req)
	if err != nil {
		return nil, false, k.refused(err, key, id)
	}
	switch n := len(reply.Plaintext); {
	case n == 0:
		return nil, false, backends.Fail(backends.Internal, "Cloud KMS has answered without a plaintext")
	case !intact(reply.Plaintext, reply.PlaintextCrc32C):
		clear(reply.Plaintext)
		return nil, false, backends.Fail(backends.Internal, "the plaintext's CRC32C does not fit: %w", errDamaged)
	case n > maxPlaintext:
		clear(reply.Plaintext)
		return nil, false, backends.Fail(backends.Internal, "the plaintext is %d bytes, more than %d", n, maxPlaintext)
	}
	return reply.Plaintext, reply.UsedPrimary, nil
}

// refused is answered, and forgets a token that Cloud KMS does not accept.
func (k *KMS) refused(err error, key string, id *identity) error {
	err = answered(err, key)
	if backends.ClassOf(err) == backends.Unauthenticated {
		k.tokens.forget(id)
	}
	return err
}

// undamaged runs f, and once more if what went to or fro was damaged.
func undamaged(ctx context.Context, f func() error) error {
	err := f()
	if errors.Is(err, errDamaged) && ctx.Err() == nil {
		err = f()
	}
	return err
}

// checksum is the CRC32C of b as Cloud KMS takes it.
func checksum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
}

// intact tells whether sum is there and is that of b.
func intact(b []byte, sum *wrapperspb.Int64Value) bool {
	return sum != nil && sum.Value == checksum(b).Value
}

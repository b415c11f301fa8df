package broker

import (
	"context"
	"errors"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/secret"
)

// Unwrapped is an opened wrapped key.
type Unwrapped struct {
	// Plaintext belongs to the caller, who wipes it.
	Plaintext secret.Value
	KeyName   string
	// Source tells where the intermediate key came from.
	Source cache.Source
}

// UnwrapRequest asks for a wrapped key to be opened.
type UnwrapRequest struct {
	// WrappedKey is neither kept nor changed.
	WrappedKey []byte
	// Context is what it was bound to.
	Context map[string]string
	// KeyName is the key that it must be of, or an alias: WRONG_KEY if it is of
	// another. It is also what lets a ciphertext that is no wrapped key be opened
	// by that key's Passthrough. Empty: the key that the wrapped key names.
	KeyName string
	// AnySize lets it hold 1 to 4096 bytes instead of a data key.
	AnySize bool
}

// Unwrap opens a wrapped key.
//
// Its errors are *Error.
func (b *Broker) Unwrap(ctx context.Context, call Call, req UnwrapRequest) (Unwrapped, error) {
	var u Unwrapped
	err := b.perform(ctx, call, audit.EventUnwrap, func(ctx context.Context, op *operation) error {
		if req.KeyName != "" && !envelope.Claims(req.WrappedKey) {
			return b.passThrough(ctx, op, req, &u)
		}
		k, env, err := op.parseFor(req.WrappedKey, req.KeyName, policy.Unwrap)
		if err != nil {
			return err
		}
		pairs, err := op.context(req.Context)
		if err != nil {
			return err
		}
		dek, source, err := b.unseal(ctx, op, k, env, pairs)
		if err != nil {
			return err
		}
		u = Unwrapped{Plaintext: secret.NewValue(dek), KeyName: k.Name, Source: source}
		if sized(len(dek), req.AnySize) != nil {
			return refuse(InvalidEnvelope, "the wrapped key holds no data key but something of another size")
		}
		return nil
	})
	if err != nil {
		u.Plaintext.Wipe()
		return Unwrapped{}, err
	}
	return u, nil
}

// unseal opens env. What it returns is a secret that the caller wipes.
func (b *Broker) unseal(ctx context.Context, op *operation, k *key, env *envelope.Envelope, pairs envelope.Pairs) (dek []byte, source cache.Source, err error) {
	source, err = b.use(ctx, op, k, env.IK(), func(ik []byte) error {
		dek, err = env.Open(ik, pairs)
		return err
	})
	if errors.Is(err, envelope.ErrOpen) {
		return nil, source, fail(InvalidEnvelope, "the wrapped key does not open: the context differs from the one it was wrapped with, or it was changed", err)
	}
	return dek, source, err
}

package broker

import (
	"cmp"
	"context"
	"crypto/subtle"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/policy"
)

// RewrapRequest asks for a wrapped key to be wrapped again.
type RewrapRequest struct {
	WrappedKey []byte
	// Context is what it was bound to; the new one is bound to the same, or to
	// NewContext if ChangeContext is set.
	Context       map[string]string
	NewContext    map[string]string
	ChangeContext bool
	// SourceKeyName is the key that it must be of (WRONG_KEY); empty: any.
	SourceKeyName string
	// KeyName is the key to wrap under; empty means the wrapped key's own.
	KeyName string
}

// Rewrapped is a wrapped key that was wrapped again.
type Rewrapped struct {
	Wrapped
	// SourceKeyName is the key that it was wrapped under before.
	SourceKeyName string
}

// Rewrap opens a wrapped key and wraps the same data key again, under the
// present recipients of its own key or of another. The data key does not leave
// the broker. What it returns has been opened again, and holds the same data key:
// the caller may throw the old one away. Within a key it needs the right to
// rewrap; to another key or context, those to unwrap with the one key and to wrap
// with the other.
//
// Its errors are *Error.
func (b *Broker) Rewrap(ctx context.Context, call Call, req RewrapRequest) (Rewrapped, error) {
	var r Rewrapped
	err := b.perform(ctx, call, audit.EventRewrap, func(ctx context.Context, op *operation) error {
		source, env, err := op.parseFor(req.WrappedKey, req.SourceKeyName)
		if err != nil {
			return err
		}
		pairs, err := op.context(req.Context)
		if err != nil {
			return err
		}
		bound := pairs
		if req.ChangeContext {
			if bound, err = envelope.NewPairs(req.NewContext); err != nil {
				return fail(InvalidArgument, err.Error(), err)
			}
		}
		target := source
		if to := op.snap.keys[req.KeyName]; (req.KeyName == "" || to == source) && bound.Equal(pairs) {
			_, err = op.authorize(source.Name, policy.Rewrap)
		} else if _, err = op.authorize(source.Name, policy.Unwrap); err == nil {
			target, err = op.authorize(cmp.Or(req.KeyName, source.Name), policy.Wrap)
		}
		if err != nil {
			return err
		}
		dek, _, err := b.unseal(ctx, op, source, env, pairs)
		if err != nil {
			return err
		}
		defer clear(dek)
		op.note("from " + source.Name + " envelope " + op.rec.Envelope)
		r.SourceKeyName = source.Name
		if r.Wrapped, err = b.seal(ctx, op, target, bound, dek); err != nil {
			return err
		}
		return b.holds(ctx, op, target, r.WrappedKey, bound, dek)
	})
	if err != nil {
		return Rewrapped{}, err
	}
	return r, nil
}

// holds returns an error unless wrapped opens to dek.
func (b *Broker) holds(ctx context.Context, op *operation, k *key, wrapped []byte, pairs envelope.Pairs, dek []byte) error {
	env, err := envelope.Parse(wrapped)
	if err != nil {
		return fail(Internal, "the new wrapped key cannot be read; keep the old one", err)
	}
	again, _, err := b.unseal(ctx, op, k, env, pairs)
	if err != nil {
		return err
	}
	defer clear(again)
	if subtle.ConstantTimeCompare(again, dek) != 1 {
		return refuse(Internal, "the new wrapped key holds another data key; keep the old one")
	}
	return nil
}

package broker

import (
	"context"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/secret"
)

// passThrough has the passthrough of the key that the caller names open a
// ciphertext that is no wrapped key, as its KMS made it before there was a broker.
// Without one, it is a wrapped key of some other system: WRONG_KEY, which is what
// has TiKV turn to its previous master key.
//
// It opens nothing of another application under the same master key, as far as
// that can be told: only what is bound to nothing, or to a context that is
// configured, and holds a data key.
func (b *Broker) passThrough(ctx context.Context, op *operation, req UnwrapRequest, u *Unwrapped) error {
	op.wrappedKey(req.WrappedKey)
	k, err := op.authorize(req.KeyName, policy.Unwrap)
	if err != nil {
		return err
	}
	pairs, err := op.context(req.Context)
	switch {
	case err != nil:
		return err
	case k.Passthrough == nil:
		return refuse(WrongKey, "it is no wrapped key of this broker, and key "+k.Name+" has no passthrough")
	case len(req.WrappedKey) < 1 || len(req.WrappedKey) > envelope.MaxSize:
		return refuse(InvalidArgument, "a ciphertext is 1 to 6144 bytes")
	case !pairs.Equal(envelope.Pairs{}) && !slices.ContainsFunc(k.Passthrough.Contexts, pairs.Equal):
		return refuse(InvalidEnvelope, "the passthrough of key "+k.Name+" does not list this context under contexts")
	}
	if err := b.budgets.spend(op.snap, op.client, b.uptime()); err != nil {
		return err
	}
	op.note("passthrough")
	r := k.passes
	op.rec.Source, op.rec.Backend, op.rec.KEK = sourceName(cache.Loaded), r.Backend, r.Key
	dek, err := r.open(ctx, req.WrappedKey, pairs)
	if err != nil {
		b.logFailed("a passthrough did not open a ciphertext", k, r, err)
		if ended := givenUp(ctx); ended != nil {
			return ended
		}
		if backends.ClassOf(err) == backends.WrongKey {
			return fail(WrongKey, "another master key than "+r.Key+" made the ciphertext", err)
		}
		failed := []failure{{r.Recipient, err}}
		reason := reasonOf(failed)
		return fail(reason, "key "+k.Name+", passthrough: "+classes(failed)+hint(reason), err)
	}
	*u = Unwrapped{Plaintext: secret.NewValue(dek), KeyName: k.Name, Source: cache.Loaded}
	if sized(len(dek), false) != nil {
		return refuse(InvalidEnvelope, "the ciphertext holds no data key but something of another size")
	}
	return nil
}

// open has the KMS decrypt what it made for somebody else.
func (r recipient) open(ctx context.Context, ciphertext []byte, pairs envelope.Pairs) ([]byte, error) {
	var plaintext []byte
	err := r.kms.send(ctx, "unwrap", r.Key, true, nil, func() (err error) {
		plaintext, err = r.kms.unwrap(ctx, backends.UnwrapRequest{
			Key: r.Key, Reference: r.Key, Binding: backends.BindingAAD, Ciphertext: ciphertext,
			Pairs: pairs.Map(), AssociatedData: pairs.Canonical(),
		})
		return err
	})
	return plaintext, err
}

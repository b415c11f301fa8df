package broker

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

// load asks the recipients of k, in the config's order, to open the
// intermediate key of part. An envelope only selects among them: what the config
// does not list is asked nothing.
//
// Its error is a *loadError.
func (b *Broker) load(ctx context.Context, k *key, part *envelope.IKPart) (held *intermediate, err error) {
	failed := &loadError{known: b.cache.Has(part.ID())}
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("panic while an intermediate key was opened", "key", k.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			failed.add(Recipient{}, backends.Errorf(backends.Internal, "unwrap", "", "panic"))
			held, err = nil, failed
		}
	}()
	for _, r := range k.recipients {
		for _, wrap := range part.Recipients() {
			if wrap.Provider != r.kms.of.Provider {
				continue
			}
			listed, err := r.kms.match(ctx, r.Key, wrap.Reference)
			if err == nil && !listed {
				continue
			}
			if err == nil {
				held, err = b.openWith(ctx, k, r, wrap, part, failed.known)
			}
			if err == nil {
				return held, nil
			}
			failed.add(r.Recipient, err)
			b.log.Warn("a recipient did not open an intermediate key",
				"key", k.Name, "backend", r.Backend, "kek", r.Key, "class", backends.ClassOf(err), "error", err)
			if ctx.Err() != nil {
				return nil, failed
			}
		}
	}
	return nil, failed
}

// openWith has one recipient open one wrap, and believes it only if the
// commitment fits: no KMS can put a key of its own in place. known tells that the
// intermediate key has been opened before and is cached.
func (b *Broker) openWith(ctx context.Context, k *key, r recipient, wrap envelope.Recipient, part *envelope.IKPart, known bool) (*intermediate, error) {
	pairs := part.Associated()
	req := backends.UnwrapRequest{
		Key:            r.Key,
		Reference:      wrap.Reference,
		Version:        wrap.Version,
		Binding:        wrap.Binding,
		Ciphertext:     wrap.Wrapped,
		Pairs:          pairs.Map(),
		AssociatedData: pairs.Canonical(),
	}
	ik, err := r.kms.unwrap(ctx, req)
	if err != nil && refusal(backends.ClassOf(err), known) && ctx.Err() == nil {
		// A refusal purges what is cached, so it is confirmed first: policies
		// and replicas of a KMS are only eventually consistent.
		ik, err = r.kms.unwrap(ctx, req)
	}
	b.tried(r.Recipient, err)
	if err != nil {
		return nil, err
	}
	defer clear(ik)
	if err := part.Verify(ik); err != nil {
		return nil, backends.Errorf(backends.InvalidCiphertext, "unwrap", r.Key, "what the KMS returned is not the key that the envelope commits to: %v", err)
	}
	held, err := b.arena.New(ik)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "unwrap", r.Key, "no locked memory for it: %v", err)
	}
	return &intermediate{bytes: held, key: k.Name, opener: r.Recipient, by: r.kms, kek: kekName(wrap.Reference, wrap.Version)}, nil
}

// kekName is a master key as the audit shows it.
func kekName(reference, version string) string {
	if version == "" {
		return reference
	}
	return reference + "#" + version
}

package broker

import (
	"context"
	"slices"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/policy"
)

// Inspected is what a wrapped key claims about itself. Nothing of it is proven
// until the wrapped key has been opened.
type Inspected struct {
	KeyName    string
	CreatedAt  time.Time
	Recipients []RecipientInfo
	// Missing are the key's present recipients that it is not wrapped for.
	Missing []RecipientInfo
}

// RecipientInfo is a recipient of an envelope or of a key, and what the broker
// knows of it without asking now.
type RecipientInfo struct {
	KEK
	// Backend is the one through which it is asked; empty if it is asked nothing.
	Backend string
	State   RecipientState
}

// RecipientState tells whether a recipient can be used.
type RecipientState uint8

// The states.
const (
	// RecipientNotConfigured: the key does not list it, so it is asked nothing.
	RecipientNotConfigured RecipientState = iota
	// RecipientUnknown: it has not been tried yet.
	RecipientUnknown
	// RecipientUsable: it worked when it was last tried.
	RecipientUsable
	// RecipientUnreachable: its KMS did not answer when it was last tried.
	RecipientUnreachable
	// RecipientRefused: its KMS refused when it was last tried.
	RecipientRefused
)

// KEK is one master key as envelopes name it.
type KEK struct {
	Provider, Reference, Version string
}

// Inspect tells what a wrapped key claims about itself, and what is known of its
// recipients. It has nothing opened or checked.
//
// Its errors are *Error.
func (b *Broker) Inspect(ctx context.Context, call Call, wrappedKey []byte) (Inspected, error) {
	var i Inspected
	err := b.perform(ctx, call, audit.EventInspect, func(ctx context.Context, op *operation) error {
		k, env, err := op.parse(wrappedKey, policy.Inspect)
		if err != nil {
			return err
		}
		i = Inspected{KeyName: k.Name, CreatedAt: env.CreatedAt()}
		for _, r := range env.IK().Recipients() {
			i.Recipients = append(i.Recipients, b.recipientOf(ctx, k, r))
		}
		i.Missing = b.missing(ctx, k, i.Recipients)
		return nil
	})
	if err != nil {
		return Inspected{}, err
	}
	return i, nil
}

// recipientOf finds out which recipient of k a wrap is for. No backend is asked
// for anything but who it is, if it does not know yet.
func (b *Broker) recipientOf(ctx context.Context, k *key, wrap envelope.Recipient) RecipientInfo {
	info := RecipientInfo{KEK: KEK{wrap.Provider, wrap.Reference, wrap.Version}}
	ctx, cancel := context.WithTimeout(ctx, matchWait)
	defer cancel()
	for _, r := range k.recipients {
		if wrap.Provider != r.kms.of.Provider {
			continue
		}
		switch listed, err := r.kms.match(ctx, r.Key, wrap.Reference); {
		case err != nil:
			info.State = RecipientUnknown // it may be this one, or another
		case listed:
			info.Backend, info.State = r.Backend, b.stateOf(k, r)
			return info
		}
	}
	return info
}

// matchWait bounds how long backends may take to tell whether a reference is
// theirs, where that is only to be told to people: hardly any has to ask.
const matchWait = 250 * time.Millisecond

func (b *Broker) stateOf(k *key, r recipient) RecipientState {
	switch known := b.conditions.get(keyRecipient{k.Name, r}); {
	case !known.tried:
		return RecipientUnknown
	case known.refused, known.unwritable:
		return RecipientRefused
	case known.good:
		return RecipientUsable
	default:
		return RecipientUnreachable
	}
}

// missing are the present recipients of k that are none of have.
func (b *Broker) missing(ctx context.Context, k *key, have []RecipientInfo) []RecipientInfo {
	ctx, cancel := context.WithTimeout(ctx, matchWait)
	defer cancel()
	var missing []RecipientInfo
	for _, r := range k.writers() {
		found := slices.ContainsFunc(have, func(h RecipientInfo) bool {
			if h.Provider != r.kms.of.Provider {
				return false
			}
			is, err := r.kms.match(ctx, r.Key, h.Reference)
			return is || err != nil // not to be told as missing if it may be there
		})
		if !found {
			missing = append(missing, RecipientInfo{KEK{Provider: r.kms.of.Provider, Reference: r.Key}, r.Backend, b.stateOf(k, r)})
		}
	}
	return missing
}

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/keybroker/keybroker/broker/envelope"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// presentKeys knows which master keys new wrapped keys are made for, and in which
// versions. It has the broker make one new intermediate key for each key, since only
// that shows with which versions the KMSs wrap now. It is safe for concurrent use.
type presentKeys struct {
	renew func(ctx context.Context, key string) (*keybrokerv1.KeyInfo, error)

	mu   sync.Mutex
	keys map[string]*presentKey // by key name
}

// presentKey is locked while the broker is asked, and has its answer from then on: a
// failure is not tried again with each wrapped key.
type presentKey struct {
	sync.Mutex
	asked      bool
	recipients []*keybrokerv1.Recipient
	err        error
}

func (p *presentKeys) key(name string) *presentKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keys[name] == nil {
		p.keys[name] = &presentKey{}
	}
	return p.keys[name]
}

// of returns the present recipients of the key called name. It is an error if one of
// them does not wrap: which version it would wrap with is not known then.
func (p *presentKeys) of(ctx context.Context, name string) ([]*keybrokerv1.Recipient, error) {
	k := p.key(name)
	k.Lock()
	defer k.Unlock()
	if k.asked {
		return k.recipients, k.err
	}
	info, err := p.renew(ctx, name)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	k.asked = true
	k.recipients, k.err = info.GetRecipients(), err
	if i := slices.IndexFunc(k.recipients, unusable); i >= 0 {
		r := k.recipients[i]
		k.err = fmt.Errorf("master key %s of backend %s is %s: %w", r.KeyRef, r.Backend, recipientCell(r.State).text, errNotWhole)
	}
	return k.recipients, k.err
}

func unusable(r *keybrokerv1.Recipient) bool {
	return r.State != keybrokerv1.RecipientState_RECIPIENT_STATE_USABLE
}

// isWhole tells whether have are the master keys want, in the same versions, and no
// others.
func isWhole(have []envelope.Recipient, want []*keybrokerv1.Recipient) bool {
	return len(have) == len(want) && !slices.ContainsFunc(want, func(w *keybrokerv1.Recipient) bool {
		return !slices.ContainsFunc(have, func(h envelope.Recipient) bool {
			return h.Provider == w.Provider && h.Reference == w.KeyRef && h.Version == w.KeyVersion
		})
	})
}

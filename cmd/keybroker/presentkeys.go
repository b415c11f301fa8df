package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/keybroker/keybroker/broker/envelope"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// presentKeys knows which master keys new wrapped keys are made for, and so whether
// an old one differs. It asks the broker once for each intermediate key, of which
// there are few. It is safe for concurrent use.
type presentKeys struct {
	c *client

	mu   sync.Mutex
	keys map[string][]*keybrokerv1.Recipient // by key name
	// seen are the recipients of wrapped keys, by intermediate key.
	seen map[[sha256.Size]byte][]*keybrokerv1.Recipient
}

// newPresentKeys reads the keys that the caller may list.
func newPresentKeys(ctx context.Context, c *client) (*presentKeys, error) {
	p := &presentKeys{c: c, seen: map[[sha256.Size]byte][]*keybrokerv1.Recipient{}}
	return p, p.refresh(ctx)
}

// refresh reads the keys again: a version is known only after the broker has made
// an intermediate key with it.
func (p *presentKeys) refresh(ctx context.Context) error {
	r, err := p.c.ListKeys(ctx, &keybrokerv1.ListKeysRequest{})
	if err != nil {
		return err
	}
	keys := map[string][]*keybrokerv1.Recipient{}
	for _, k := range r.Keys {
		keys[k.Name] = k.Recipients
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
	return nil
}

// of returns the present recipients of a key.
func (p *presentKeys) of(key string) ([]*keybrokerv1.Recipient, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	recipients, ok := p.keys[key]
	if !ok {
		return nil, fmt.Errorf("you may not list key %s, so it cannot be told which master keys it has now; grant this client `list` on it", key)
	}
	return recipients, nil
}

// versioned tells whether the present version of each of the key's master keys is
// known.
func (p *presentKeys) versioned(key string) bool {
	recipients, err := p.of(key)
	return err == nil && !slices.ContainsFunc(recipients, func(r *keybrokerv1.Recipient) bool { return r.KeyVersion == "" })
}

// recipients are those of a wrapped key, with what the broker knows of them.
func (p *presentKeys) recipients(ctx context.Context, wrapped []byte, env *envelope.Envelope) ([]*keybrokerv1.Recipient, error) {
	id := env.IK().ID()
	p.mu.Lock()
	known, ok := p.seen[id]
	p.mu.Unlock()
	if ok {
		return known, nil
	}
	r, err := p.c.InspectKey(ctx, &keybrokerv1.InspectKeyRequest{WrappedKey: wrapped})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[id] = r.Recipients
	return r.Recipients, nil
}

// difference says in what the recipients have differ from those of key, or
// nothing if they are the same master keys in the same versions.
func (p *presentKeys) difference(key string, have []*keybrokerv1.Recipient) (string, error) {
	want, err := p.of(key)
	if err != nil {
		return "", err
	}
	var said []string
	var found []*keybrokerv1.Recipient
	for _, w := range want {
		i := slices.IndexFunc(have, func(h *keybrokerv1.Recipient) bool { return isSame(h, w) })
		switch {
		case i < 0:
			said = append(said, "+"+name(w))
			continue
		case w.KeyVersion != "" && have[i].KeyVersion != w.KeyVersion:
			said = append(said, fmt.Sprintf("%s %s to %s", name(w), have[i].KeyVersion, w.KeyVersion))
		}
		found = append(found, have[i])
	}
	for _, h := range have {
		if !slices.Contains(found, h) {
			said = append(said, "-"+name(h))
		}
	}
	return strings.Join(said, ", "), nil
}

// isSame tells whether have, of a wrapped key, is the recipient want, of a key.
// Until the broker has made an intermediate key, want's reference is what the
// configuration writes, which is the last part of what the KMS resolves.
func isSame(have, want *keybrokerv1.Recipient) bool {
	return have.Provider == want.Provider && (have.KeyRef == want.KeyRef ||
		want.KeyVersion == "" && have.Backend == want.Backend && strings.HasSuffix(have.KeyRef, "/"+want.KeyRef))
}

// name is a recipient as briefly as it can be told from others.
func name(r *keybrokerv1.Recipient) string {
	if r.Backend != "" {
		return r.Backend
	}
	return r.Provider + " " + r.KeyRef
}

package broker

import (
	"context"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/policy"
)

// Renew makes a new intermediate key of the key called name, and returns the key
// as it is then: after a rotation at a KMS, what is wrapped from now on has the
// present versions of the master keys. What is cached stays. It needs the right to
// rewrap or to wrap with the key.
//
// A recipient whose state is not RecipientUsable then did not wrap, which is no
// error if the key may do without it (MinRecipients): its version is the one known
// from before. The intermediate key of before stays in use if the new one lacks
// more.
//
// Its errors are *Error.
func (b *Broker) Renew(ctx context.Context, call Call, name string) (KeyInfo, error) {
	var info KeyInfo
	err := b.perform(ctx, call, audit.EventRenew, func(ctx context.Context, op *operation) error {
		k, err := op.authorize(name, policy.Wrap)
		if err != nil {
			if k, err = op.authorize(name, policy.Rewrap); err != nil {
				return err
			}
		}
		if err := b.budgets.spend(op.snap, op.client, b.uptime()); err != nil {
			return err
		}
		if k, err = b.renew(ctx, k.Name); err == nil {
			info = b.keyInfo(k)
		}
		return err
	})
	return info, err
}

// renew waits for an intermediate key that was begun after the call came, and
// returns the key that it is for as it is configured then.
func (b *Broker) renew(ctx context.Context, name string) (*key, error) {
	b.writers.mu.Lock()
	before := b.writers.making[name]
	b.writers.mu.Unlock()
	if before != nil {
		if err := before.wait(ctx); err != nil {
			return nil, err
		}
	}
	for {
		k := b.snap.Load().present[name]
		if k == nil {
			return nil, removed(name)
		}
		b.writers.mu.Lock()
		m := b.startMaking(k)
		b.writers.mu.Unlock()
		if err := m.wait(ctx); err != nil {
			return nil, err
		}
		b.writers.mu.Lock()
		overtaken := m.overtaken
		b.writers.mu.Unlock()
		switch {
		case m.err != nil:
			return nil, explainMaking(k, m.err)
		case !overtaken:
			return k, nil
		}
	}
}

package broker

import (
	"context"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/policy"
)

// Inspected is what a wrapped key claims about itself. Nothing of it is proven
// until the wrapped key has been opened.
type Inspected struct {
	KeyName    string
	CreatedAt  time.Time
	Recipients []KEK
}

// KEK is one master key as envelopes name it.
type KEK struct {
	Provider, Reference, Version string
}

// Inspect tells what a wrapped key claims about itself. It calls no backend.
//
// Its errors are *Error.
func (b *Broker) Inspect(ctx context.Context, call Call, wrappedKey []byte) (Inspected, error) {
	var i Inspected
	err := b.perform(ctx, call, audit.EventInspect, func(_ context.Context, op *operation) error {
		k, env, err := op.parse(wrappedKey, policy.Inspect)
		if err != nil {
			return err
		}
		i = Inspected{KeyName: k.Name, CreatedAt: env.CreatedAt()}
		for _, r := range env.IK().Recipients() {
			i.Recipients = append(i.Recipients, KEK{r.Provider, r.Reference, r.Version})
		}
		return nil
	})
	if err != nil {
		return Inspected{}, err
	}
	return i, nil
}

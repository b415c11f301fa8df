package broker

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/internal/secret"
)

// MaxRandom is how many random bytes there are in one answer at most, as AWS has
// it.
const MaxRandom = 1024

// Random returns n random bytes, 1 to MaxRandom, that the caller wipes. It needs
// the right to generate with any key at all.
//
// Its errors are *Error.
func (b *Broker) Random(ctx context.Context, call Call, n int) (secret.Value, error) {
	var v secret.Value
	err := b.perform(ctx, call, audit.EventRandom, func(_ context.Context, op *operation) error {
		mayGenerate := func(name string) bool { return op.client.Allows(name, policy.Generate) }
		switch {
		case !slices.ContainsFunc(op.snap.names, mayGenerate):
			return op.denied("client " + op.client.Name + " may generate with no key, and so gets no random bytes either")
		case n < 1 || n > MaxRandom:
			return refuse(InvalidArgument, fmt.Sprintf("%d random bytes; want 1 to %d", n, MaxRandom))
		}
		random := make([]byte, n)
		v = secret.NewValue(random)
		if _, err := io.ReadFull(b.random, random); err != nil {
			return fail(Internal, "no random bytes", err)
		}
		return nil
	})
	if err != nil {
		v.Wipe()
		return secret.Value{}, err
	}
	return v, nil
}

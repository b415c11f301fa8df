package broker

import (
	"context"
	"errors"

	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/secret"
)

// intermediate is an opened intermediate key: its bytes in locked memory, and
// where they came from.
type intermediate struct {
	bytes *secret.Key
	// key is the broker key's name, and part what its envelopes have in common.
	key  string
	part *envelope.IKPart
	// opener is the recipient that gave it; for one made here, the first.
	opener Recipient
	by     *kms
	// kek is that recipient's reference and version, for the audit.
	kek string
}

// use calls f with the opened intermediate key that id stands for. It asks the
// cache, and the recipients if need be, and asks again if the key was evicted
// between finding and using it.
func (b *Broker) use(ctx context.Context, op *operation, k *key, part *envelope.IKPart, f func(ik []byte) error) (cache.Source, error) {
	// An eviction in that moment is rare; twice in a row it is a cache that is
	// far too small, and the caller may come back.
	const tries = 3
	for range tries {
		held, source, err := b.open(ctx, op, k, part)
		if err != nil {
			return source, err
		}
		op.from(held, source)
		err = held.bytes.Use(f)
		if !errors.Is(err, secret.ErrWiped) {
			return source, err
		}
	}
	return cache.Loaded, refuse(BackendUnavailable, "key "+k.Name+": its intermediate key is evicted faster than it can be used; raise cache.capacity")
}

// open returns the opened intermediate key of part, from the cache or from a
// recipient of k.
func (b *Broker) open(ctx context.Context, op *operation, k *key, part *envelope.IKPart) (*intermediate, cache.Source, error) {
	admit := func() error { return b.budgets.spend(op.snap, op.client, b.uptime()) }
	load := b.loader(k.Name, part)
	for {
		held, source, err := b.cache.Get(ctx, part.ID(), k.Limits, admit, load)
		if errors.Is(err, cache.ErrPurged) {
			// A purge came while it was loaded; this call may not have what was
			// asked for before, but it may ask again.
			continue
		}
		if err != nil {
			if source == cache.Negative {
				b.observe.Lookup(k.Name, "negative")
			}
			return nil, source, b.explain(ctx, k, part, err)
		}
		if !k.covers(held) {
			// Opened, around a reload, by a recipient that is listed no more.
			_, _ = b.purgeCached(ctx, func(_ [32]byte, i *intermediate) bool { return i == held })
			continue
		}
		b.observe.Lookup(k.Name, lookupResult(source))
		return held, source, nil
	}
}

// loader returns what has the intermediate key of part opened, now or at any time
// later, by the recipients that its key then has.
func (b *Broker) loader(name string, part *envelope.IKPart) func(context.Context) (*intermediate, error) {
	return func(ctx context.Context) (*intermediate, error) {
		k := b.snap.Load().present[name]
		if k == nil || !k.accepts(part.Pairs()) {
			return nil, &loadError{}
		}
		return b.load(ctx, k, part)
	}
}

func lookupResult(s cache.Source) string {
	switch s {
	case cache.Fresh:
		return "hit"
	case cache.Stale:
		return "stale"
	default:
		return "miss"
	}
}

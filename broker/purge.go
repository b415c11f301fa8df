package broker

import (
	"context"
	"fmt"
	"sync"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/policy"
)

// Purge wipes the cached intermediate keys of one key, or of all keys if name is
// empty, and returns how many. Calls that are under way may end with what they
// hold; calls that begin after it ask a KMS. It needs the admin right purge.
//
// Unless force is set, it refuses to purge a key none of whose KMSs answers:
// that key would be gone until one does.
//
// If what was wiped may still be on disk (Options.Persist), the error is INTERNAL and
// says what to do.
//
// Its errors are *Error.
func (b *Broker) Purge(ctx context.Context, call Call, name string, force bool) (int, error) {
	var purged int
	err := b.perform(ctx, call, audit.EventPurge, func(ctx context.Context, op *operation) error {
		if err := op.authorizeAdmin(policy.Purge); err != nil {
			return err
		}
		var keys []*key
		switch k := op.snap.keys[name]; {
		case name == "":
			for _, name := range op.snap.names {
				keys = append(keys, op.snap.present[name])
			}
		case k == nil:
			return refuse(KeyNotFound, fmt.Sprintf("there is no key %q", name))
		default:
			op.rec.Key, op.key = k.Name, k.Name
			keys = []*key{k}
		}
		if force {
			op.note("forced")
		} else {
			for _, k := range keys {
				if err := b.answering(ctx, k); err != nil {
					return err
				}
			}
		}
		var left error
		purged, left = b.purge(ctx, func(of string) bool { return name == "" || of == keys[0].Name })
		for _, k := range keys {
			for _, r := range k.recipients {
				// With nothing cached, what is known of them decides readiness.
				b.conditions.suspect(r.Backend, b.uptime().Add(probeBad))
			}
		}
		if left != nil {
			return fail(Internal, "it is wiped from the cache, but may still be in its sealed file, and come back with a restart: remove that file (cache.persist.path) by hand", left)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return purged, nil
}

// purge wipes what is cached of the keys whose names match, and drops what new
// envelopes of theirs are made with.
func (b *Broker) purge(ctx context.Context, match func(name string) bool) (int, error) {
	b.writers.overtake(match)
	n, err := b.purgeCached(ctx, func(_ [32]byte, held *intermediate) bool { return match(held.key) })
	b.observe.CacheEntries(b.cache.Len())
	return n, err
}

// answering holds that a KMS of k says that it would unwrap now. It asks all of
// them at once, so that one that hangs does not use up the call's time.
func (b *Broker) answering(ctx context.Context, k *key) error {
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan failure, len(k.recipients))
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	for _, r := range k.recipients {
		asked.Go(func() { answers <- failure{r.Recipient, r.kms.check(ctx, r.Key)} })
	}
	failed := &loadError{}
	for range k.recipients {
		answer := <-answers
		if answer.err == nil {
			return nil
		}
		failed.add(answer.recipient, answer.err)
	}
	return fail(BackendUnavailable, "key "+k.Name+": no KMS would open its intermediate keys now, so a purge would end its service; use --force if that is meant: "+classes(failed.failures), failed)
}

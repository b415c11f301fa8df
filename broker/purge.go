package broker

import (
	"context"
	"fmt"

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
		purged = b.purge(func(of string) bool { return name == "" || of == keys[0].Name })
		return nil
	})
	if err != nil {
		return 0, err
	}
	return purged, nil
}

// purge wipes what is cached of the keys whose names match, and drops what new
// envelopes of theirs are made with.
func (b *Broker) purge(match func(name string) bool) int {
	b.writers.overtake(match)
	n := b.cache.Purge(func(_ [32]byte, held *intermediate) bool { return match(held.key) })
	b.observe.CacheEntries(b.cache.Len())
	return n
}

// answering holds that a KMS of k says that it would unwrap now.
func (b *Broker) answering(ctx context.Context, k *key) error {
	failed := &loadError{}
	for _, r := range k.recipients {
		err := r.kms.check(ctx, r.Key)
		if err == nil {
			return nil
		}
		failed.add(r.Recipient, err)
	}
	return fail(BackendUnavailable, "key "+k.Name+": no KMS would open its intermediate keys now, so a purge would end its service; use --force if that is meant: "+classes(failed.failures), failed)
}

package broker

import (
	"context"
	"slices"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/policy"
)

// Reloaded is what came of reading the configuration again.
type Reloaded struct {
	// SHA256 of the configuration in force, in hex.
	SHA256 string
	// Warnings are the new Settings' own.
	Warnings []string
}

// Reload reads the configuration again on a client's word, which needs the admin
// right reload. A bad one changes nothing: the error is INVALID_ARGUMENT and says
// all that is wrong.
//
// Its errors are *Error.
func (b *Broker) Reload(ctx context.Context, call Call) (Reloaded, error) {
	var r Reloaded
	err := b.perform(ctx, call, audit.EventReload, func(ctx context.Context, op *operation) (err error) {
		if err := op.authorizeAdmin(policy.Reload); err != nil {
			return err
		}
		r, err = b.apply(ctx)
		op.note("config " + r.SHA256)
		return err
	})
	return r, err
}

// ReloadBySignal does the same on the word of whoever may send the daemon a
// signal.
func (b *Broker) ReloadBySignal(ctx context.Context) error {
	r, err := b.apply(ctx)
	rec := audit.Record{Event: audit.EventConfig, Outcome: audit.OutcomeOK, Detail: "SIGHUP, config " + r.SHA256}
	if err != nil {
		told := AsError(err)
		rec.Detail += "; " + told.Message
		rec.Outcome, rec.Reason, rec.Code = audit.OutcomeError, string(told.Reason), told.Reason.Code().String()
	}
	if _, unwritten := b.audit.Append(ctx, rec); unwritten != nil {
		b.log.Error("the audit record of a reload could not be written", "error", unwritten)
	}
	return err
}

// apply loads new settings and puts them in force. What they no longer cover
// leaves the cache before it returns.
func (b *Broker) apply(ctx context.Context) (Reloaded, error) {
	b.applying.Lock()
	defer b.applying.Unlock()
	old := b.snap.Load()
	settings, err := b.reload(ctx)
	if err != nil {
		return Reloaded{SHA256: old.SHA256}, fail(InvalidArgument, "the configuration was not changed: "+err.Error(), err)
	}
	snap, err := settings.resolve(b.kmsOf)
	if err != nil {
		return Reloaded{SHA256: old.SHA256}, fail(InvalidArgument, "the configuration was not changed: "+err.Error(), err)
	}
	snap.loadedAt = b.now()
	b.snap.Store(snap)
	b.configured(snap)

	b.writers.overtake(func(name string) bool { return !sameWriters(old.present[name], snap.present[name]) })
	_, _ = b.purgeCached(ctx, func(_ [32]byte, held *intermediate) bool {
		return !snap.present[held.key].covers(held)
	})
	b.conditions.keep(snap)
	b.gauge()

	kept := map[*kms]bool{}
	for _, m := range snap.kmss {
		kept[m] = true
	}
	for name, m := range old.kmss {
		if kept[m] || snap.kmss[name] != nil && snap.kmss[name].of.KMS == m.of.KMS {
			continue
		}
		if err := m.of.KMS.Close(); err != nil {
			b.log.Warn("a backend that the new configuration drops did not close", "backend", name, "error", err)
		}
	}
	b.log.Info("configuration in force", "sha256", snap.SHA256)
	for _, w := range snap.Warnings {
		b.log.Warn("configuration", "warning", w)
	}
	return Reloaded{SHA256: snap.SHA256, Warnings: snap.Warnings}, nil
}

// sameWriters tells whether an intermediate key made for old is as good as one
// made for k.
func sameWriters(old, k *key) bool {
	if old == nil || k == nil || !old.Context.Equal(k.Context) || len(old.writers()) != len(k.writers()) {
		return false
	}
	for i, r := range k.writers() {
		if o := old.writers()[i]; o.Recipient != r.Recipient || o.kms != r.kms {
			return false
		}
	}
	return old.MaxAge == k.MaxAge && old.MaxUses == k.MaxUses
}

// covers tells whether what was opened by one of the key's recipients may stay:
// the key is still configured and still lists it.
func (k *key) covers(held *intermediate) bool {
	return k.lists(recipient{held.opener, held.by})
}

// lists tells whether r is one of the key's recipients. No key lists none.
func (k *key) lists(r recipient) bool {
	return k != nil && slices.Contains(k.recipients, r)
}

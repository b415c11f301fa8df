package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/internal/handover"
)

// kept has the next process find what the cache keeps. The cache is locked.
func (b *Broker) kept(id [32]byte, held *intermediate, loadedAt time.Time) {
	if b.handover == nil && b.persist.File == nil {
		return
	}
	err := held.bytes.Use(func(ik []byte) error {
		e := handover.Entry{
			IK: ik, LoadedAt: loadedAt, BootID: b.bootID,
			Part: held.part.Encoded(), Backend: held.opener.Backend, Key: held.opener.Key, KEK: held.kek,
		}
		return errors.Join(b.handOver(id, e), b.keepSealed(id, e))
	})
	if err != nil {
		b.left(id)
		b.log.Warn("an intermediate key is cached but would not outlive a restart", "key", held.key, "error", err)
	}
}

func (b *Broker) handOver(id [32]byte, e handover.Entry) error {
	if b.handover == nil {
		return nil
	}
	err := b.handover.Put(id, e)
	if errors.Is(err, handover.ErrFull) {
		return nil // the cache is larger than what is handed over of it
	}
	return err
}

// left has the next process not find what the cache no longer keeps. The cache is
// locked, so nobody has been told yet why it left.
func (b *Broker) left(id [32]byte) {
	if b.handover != nil {
		b.handover.Wipe(id)
	}
	if b.persist.File != nil {
		b.persist.File.Wipe(id)
	}
}

// Why an entry of the former process is dropped.
const (
	dropDamaged  = "damaged"
	dropClock    = "from another boot, or a clock that went backwards"
	dropExpired  = "expired"
	dropUnlisted = "of a key, a context or a recipient that is not configured"
	dropFull     = "no room"
)

// drops is every reason, in the order in which they are told.
func drops() []string { return []string{dropDamaged, dropClock, dropExpired, dropUnlisted, dropFull} }

// restored is what became of what the former process left.
type restored struct {
	// what was left, and who it is of.
	what, of string
	// ignored is why nothing of it was read.
	ignored error
	kept    int
	dropped map[string]int
	// youngest is when the last entry of each recipient was loaded.
	youngest map[keyRecipient]time.Time
}

// String is what the audit and the log say of it.
func (r restored) String() string {
	if r.ignored != nil {
		return r.what + " is ignored: " + r.ignored.Error()
	}
	var why []string
	all := 0
	for _, reason := range drops() {
		if n := r.dropped[reason]; n > 0 {
			why = append(why, fmt.Sprintf("%d %s", n, reason))
			all += n
		}
	}
	text := fmt.Sprintf("intermediate keys of %s: %d restored, %d dropped", r.of, r.kept, all)
	if all > 0 {
		text += " (" + strings.Join(why, ", ") + ")"
	}
	return text
}

// logRestored tells the operator what became of what the former process left.
func (b *Broker) logRestored(r restored) {
	if r.ignored != nil {
		b.log.Warn(r.what+" is ignored", "error", r.ignored)
		return
	}
	b.log.Info(r.String())
}

// restore caches what the former process handed over, as far as it verifies, is still
// configured and is not too old. It is as old as it was, and no envelope is made
// with it: how often it was used for that is not known.
func (b *Broker) restore(snap *snapshot, from *handover.Received) restored {
	r := restored{
		what: "what the former process left", of: "the former process",
		ignored: from.Err(), dropped: map[string]int{}, youngest: map[keyRecipient]time.Time{},
	}
	r.dropped[dropDamaged] += from.Each(func(e handover.Entry) {
		if !b.ofThisBoot(e) || e.LoadedAt.After(b.uptime()) {
			r.dropped[dropClock]++
			return
		}
		b.restoreEntry(snap, e, &r)
	})
	return r
}

// ofThisBoot tells whether the ages of e count by this boot's clock. An unknown boot
// is not this one.
func (b *Broker) ofThisBoot(e handover.Entry) bool { return b.bootID != "" && e.BootID == b.bootID }

// restoreEntry caches one entry, whose LoadedAt is by this boot's clock, or counts in r
// why it was dropped.
func (b *Broker) restoreEntry(snap *snapshot, e handover.Entry, r *restored) {
	by, p, dropped := b.cacheEntry(snap, e)
	if dropped != "" {
		r.dropped[dropped]++
		return
	}
	r.kept++
	// A master key that was refused meanwhile is found by the first check: it opens
	// again what it has opened last.
	if last, ok := r.youngest[by]; !ok || e.LoadedAt.After(last) {
		r.youngest[by] = e.LoadedAt
		b.conditions.prove(by, p)
	}
}

// cacheEntry caches one entry, and returns the recipient that had opened it and what
// that can be checked with; or says why it was dropped.
func (b *Broker) cacheEntry(snap *snapshot, e handover.Entry) (opened keyRecipient, p proof, dropped string) {
	part, err := envelope.ParseIKPart([]byte(e.Part))
	if err != nil || part.Verify(e.IK) != nil {
		return opened, p, dropDamaged
	}
	k := snap.present[part.KeyName()]
	if k == nil || !k.accepts(part.Pairs()) {
		return opened, p, dropUnlisted
	}
	by, wrap, ok := k.opened(part, e)
	if !ok {
		return opened, p, dropUnlisted
	}
	if b.uptime().Sub(e.LoadedAt) >= k.Limits.Until() {
		return opened, p, dropExpired
	}
	locked, err := b.arena.New(e.IK)
	if err != nil {
		return opened, p, dropFull
	}
	held := &intermediate{bytes: locked, key: k.Name, part: part, opener: by.Recipient, by: by.kms, kek: e.KEK}
	if !b.cache.Restore(part.ID(), held, e.LoadedAt, k.Limits) {
		return opened, p, dropFull
	}
	return keyRecipient{k.Name, by}, proof{part, wrap}, ""
}

// opened returns the recipient of k that is said to have opened part, and the wrap
// that it opened: it is still listed, of the same kind of KMS, and the part has a
// wrap by the master key that it is said to have used.
func (k *key) opened(part *envelope.IKPart, e handover.Entry) (recipient, envelope.Recipient, bool) {
	i := slices.IndexFunc(k.recipients, func(r recipient) bool { return r.Recipient == Recipient{e.Backend, e.Key} })
	if i < 0 {
		return recipient{}, envelope.Recipient{}, false
	}
	r := k.recipients[i]
	for _, wrap := range part.Recipients() {
		if wrap.Provider == r.kms.of.Provider && kekName(wrap.Reference, wrap.Version) == e.KEK {
			return r, wrap, true
		}
	}
	return recipient{}, envelope.Recipient{}, false
}

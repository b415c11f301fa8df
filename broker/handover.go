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

// kept has the next process handed what the cache keeps. The cache is locked.
func (b *Broker) kept(id [32]byte, held *intermediate, loadedAt time.Time) {
	if b.handover == nil {
		return
	}
	err := held.bytes.Use(func(ik []byte) error {
		return b.handover.Put(id, handover.Entry{
			IK: ik, LoadedAt: loadedAt, BootID: b.bootID,
			Part: held.part.Encoded(), Backend: held.opener.Backend, Key: held.opener.Key, KEK: held.kek,
		})
	})
	if err != nil {
		b.handover.Wipe(id)
		if errors.Is(err, handover.ErrFull) {
			return // the cache is larger than what is handed over of it
		}
		b.log.Warn("an intermediate key is cached but would not outlive a restart", "key", held.key, "error", err)
	}
}

// left has the next process not handed what the cache no longer keeps. The cache is
// locked, so nobody has been told yet why it left.
func (b *Broker) left(id [32]byte) {
	if b.handover != nil {
		b.handover.Wipe(id)
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
	// ignored is why nothing of it was read.
	ignored error
	kept    int
	dropped map[string]int
}

// String is what the audit and the log say of it.
func (r restored) String() string {
	if r.ignored != nil {
		return "what the former process left is ignored: " + r.ignored.Error()
	}
	var why []string
	all := 0
	for _, reason := range drops() {
		if n := r.dropped[reason]; n > 0 {
			why = append(why, fmt.Sprintf("%d %s", n, reason))
			all += n
		}
	}
	text := fmt.Sprintf("intermediate keys of the former process: %d restored, %d dropped", r.kept, all)
	if all > 0 {
		text += " (" + strings.Join(why, ", ") + ")"
	}
	return text
}

// logRestored tells the operator what became of what the former process left.
func (b *Broker) logRestored(r restored) {
	if r.ignored != nil {
		b.log.Warn("what the former process left in its hand-over memory is ignored", "error", r.ignored)
		return
	}
	b.log.Info(r.String())
}

// restore caches what the former process left, as far as it verifies, is still
// configured and is not too old. It is as old as it was, and no envelope is made
// with it: how often it was used for that is
// not known.
func (b *Broker) restore(snap *snapshot, from *handover.Received) restored {
	r := restored{ignored: from.Err(), dropped: map[string]int{}}
	youngest := map[keyRecipient]time.Time{}
	damaged := from.Each(func(e handover.Entry) {
		opened, p, why := b.restoreEntry(snap, e)
		if why != "" {
			r.dropped[why]++
			return
		}
		r.kept++
		// A master key that was refused meanwhile is found by the first check: it opens
		// again what it has opened last.
		if e.LoadedAt.After(youngest[opened]) {
			youngest[opened] = e.LoadedAt
			b.conditions.prove(opened, p)
		}
	})
	r.dropped[dropDamaged] += damaged
	return r
}

// restoreEntry caches one entry, and returns the recipient that had opened it and
// what that can be checked with; or says why it was dropped.
func (b *Broker) restoreEntry(snap *snapshot, e handover.Entry) (opened keyRecipient, p proof, dropped string) {
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
	// An unknown boot is not this one.
	if b.bootID == "" || e.BootID != b.bootID || e.LoadedAt.After(b.uptime()) {
		return opened, p, dropClock
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

package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/internal/handover"
	"github.com/keybroker/keybroker/internal/persist"
)

// Persist is the sealed file, in which the cache outlives the process and the host's
// boot. The zero value is none.
type Persist struct {
	// File is what the next process will find: a copy of the cache, from which is wiped
	// what leaves the cache. What a KMS refuses, a purge and a reload wipe is off the disk
	// before anybody is told. The Broker commits it, and does not close it. Nil: none.
	File *persist.File
	// Left is the file of the former process. New restores from it what may still be
	// served, unless the former process has handed its cache over. The Broker does not
	// close it. Nil: nobody has looked for one.
	Left *persist.Left
	// MaxAge is how old an entry of Left may be, since a KMS opened it.
	MaxAge time.Duration
	// Off is why there is no File although one was asked for. It is put on the record.
	Off error
}

// commitTimeout bounds the wait for the file at the start: 32 MiB on a slow disk.
const commitTimeout = 30 * time.Second

// keepSealed has the sealed file keep an entry of the cache.
func (b *Broker) keepSealed(id [32]byte, e handover.Entry) error {
	if b.persist.File == nil {
		return nil
	}
	err := b.persist.File.Put(id, persist.Entry{Entry: e, OpenedAt: b.now().Add(e.LoadedAt.Sub(b.uptime()))})
	if errors.Is(err, persist.ErrFull) || errors.Is(err, persist.ErrGone) {
		return nil // the cache is larger than the file, or the log has it already
	}
	return err
}

// purgeCached wipes what match says from the cache, and returns how many, once no restart
// brings it back. The error is settle's.
func (b *Broker) purgeCached(ctx context.Context, match func([32]byte, *intermediate) bool) (int, error) {
	n := b.cache.Purge(match)
	return n, b.settle(ctx)
}

// settle returns once what left the cache is off the disk, too. That it may still be
// there is an error that the operator has been told: it is no longer served here.
// Who has given up meanwhile does not end the wait.
func (b *Broker) settle(ctx context.Context) error {
	if b.persist.File == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.auditTimeout)
	defer cancel()
	err := b.persist.File.Settle(ctx)
	if err != nil {
		b.log.Error("what was wiped from the cache may still be in its sealed file, and come back with a restart (docs/restart.md)", "error", err)
	}
	return err
}

// restoreSealed caches what is in the sealed file of the former process, by the rules
// of restore. Its ages count by the boot's clock within a boot, and by the wall clock
// across boots.
func (b *Broker) restoreSealed(snap *snapshot, from *persist.Left, maxAge time.Duration) restored {
	r := restored{
		what: "the sealed file", of: "the sealed file",
		ignored: from.Err(), dropped: map[string]int{}, youngest: map[keyRecipient]time.Time{},
	}
	now := b.now()
	var latest time.Time
	from.Each(func(e persist.Entry) {
		if e.OpenedAt.After(latest) {
			latest = e.OpenedAt
		}
	})
	r.dropped[dropDamaged] += from.Each(func(e persist.Entry) {
		switch {
		case b.ofThisBoot(e.Entry):
		case now.Before(latest):
			// The clock has been later than it is, by nobody knows how much.
			r.dropped[dropClock]++
			return
		default:
			e.LoadedAt = b.uptime().Add(e.OpenedAt.Sub(now))
		}
		switch age := b.uptime().Sub(e.LoadedAt); {
		case age < 0:
			r.dropped[dropClock]++
		case age >= maxAge:
			r.dropped[dropExpired]++
		default:
			b.restoreEntry(snap, e.Entry, &r)
		}
	})
	return r
}

// restoreAll restores what the former process left, and returns what the start record
// says of it.
func (b *Broker) restoreAll(snap *snapshot, o Options) (told string) {
	tell := func(what string) { told += "; " + what }
	if o.Received != nil {
		was := b.restore(snap, o.Received)
		b.logRestored(was)
		tell(was.String())
	}
	switch {
	case o.Persist.Off != nil:
		tell("the cache is kept in no sealed file: " + o.Persist.Off.Error())
	case o.Persist.Left != nil && o.Received != nil && o.Received.Err() == nil:
		tell("the sealed file is not read: the former process handed its cache over")
	case o.Persist.Left != nil:
		was := b.restoreSealed(snap, o.Persist.Left, o.Persist.MaxAge)
		b.logRestored(was)
		tell(was.String())
	}
	return told
}

// commitSealed puts the sealed file in place of that of the former process. From here on
// something may be refused, which only it then forgets.
func (b *Broker) commitSealed(ctx context.Context) {
	if b.persist.File == nil {
		return
	}
	// A stop that comes in this moment is no reason to lose the file.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if err := b.persist.File.Commit(ctx); err != nil {
		b.log.Error("the cache is kept in no sealed file until a restart (docs/restart.md)", "error", err)
	}
}

// sealed is what the stop record says of the sealed file.
func (b *Broker) sealed(ctx context.Context) string {
	f := b.persist.File
	if f == nil {
		return ""
	}
	n, err := f.Len(), f.Settle(ctx)
	switch {
	case err != nil:
		return "the sealed file may not be what it should: " + err.Error()
	case f.Gone():
		return "the sealed file was given up"
	default:
		return fmt.Sprintf("intermediate keys in the sealed file: %d", n)
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

// keyRecipient is a recipient in its use for one key: a KMS may allow it for one
// key's pairs and not for another's. It is another one once a reload has changed
// its backend: what a call from before that finds out says nothing of the new.
type keyRecipient struct {
	key string
	recipient
}

// conditions remember, for each recipient of each key, whether it could be used
// when it was last tried. They are for status and readiness only; no call is
// refused for what they say.
type conditions struct {
	mu sync.Mutex
	of map[keyRecipient]condition
	// proofs are what the recipients are checked with.
	proofs map[keyRecipient]proof
}

// condition is the zero value for a recipient that has not been tried.
type condition struct {
	// tried: it was; good: it opened something, or its KMS said that it would.
	tried, good bool
	// throttled: it is not good, and that is why.
	throttled bool
	// refused: the last answer to a check was a definite no.
	refused bool
	// unwritable: it refused to wrap when it was last asked to.
	unwritable bool
	due        time.Time // when to check again
}

// usable tells whether a new intermediate key may have it as a recipient.
func (c condition) usable() bool { return c.good && !c.unwritable }

// proof is a wrap of an intermediate key of the broker's own making, or, before
// there is one, of one that was opened: to open it again proves that its master key
// can be used.
type proof struct {
	part *envelope.IKPart
	wrap envelope.Recipient
}

// change lets f change what is known of r, after a try that says something about
// the recipient itself and not only about one envelope. It returns what was known
// before.
func (c *conditions) change(r keyRecipient, f func(*condition)) (before condition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before = c.of[r]
	now := before
	f(&now)
	now.tried = true
	c.of[r] = now
	return before
}

func (c *conditions) get(r keyRecipient) condition {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[r]
}

// hasten has a recipient checked at due, if not before.
func (c *conditions) hasten(r keyRecipient, due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.of[r]; known.tried && due.Before(known.due) {
		known.due = due
		c.of[r] = known
	}
}

// suspect has every recipient of a backend checked at due, if not before: what
// one of them showed of their KMS is news for all.
func (c *conditions) suspect(backend string, due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r, known := range c.of {
		if r.Backend == backend && due.Before(known.due) {
			known.due = due
			c.of[r] = known
		}
	}
}

// prove remembers what r can be checked with.
func (c *conditions) prove(r keyRecipient, p proof) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proofs[r] = p
}

func (c *conditions) proven(r keyRecipient) bool {
	_, ok := c.proof(r)
	return ok
}

func (c *conditions) proof(r keyRecipient) (p proof, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok = c.proofs[r]
	return p, ok
}

// keep forgets the recipients that snap does not list, and the proofs of those
// whose key has another static context.
func (c *conditions) keep(snap *snapshot) {
	listed := map[keyRecipient]bool{}
	for _, name := range snap.names {
		k := snap.present[name]
		for _, r := range k.recipients {
			listed[keyRecipient{name, r}] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.of {
		if !listed[r] {
			delete(c.of, r)
		}
	}
	for r, p := range c.proofs {
		if !listed[r] || !snap.present[r.key].accepts(p.part.Pairs()) {
			delete(c.proofs, r)
		}
	}
}

const (
	// probeEvery is how often recipients that are due are looked for.
	probeEvery = time.Second
	// probeBad is how soon a recipient that failed is checked again: status,
	// readiness and what lacks it follow an outage's end within this time.
	probeBad = 10 * time.Second
	// probeWidth is how many recipients are checked at a time.
	probeWidth = 8
)

// probe checks every recipient at the start, each that failed every probeBad,
// and each that works every check_interval of its key, so that neither status nor
// the end of a revoked master key depend on who happens to call.
func (b *Broker) probe() {
	for {
		b.probeDue()
		b.heal()
		select {
		case <-b.ctx.Done():
			return
		case <-time.After(probeEvery):
		}
	}
}

func (b *Broker) probeDue() {
	snap, now := b.snap.Load(), b.uptime()
	var group errgroup.Group
	group.SetLimit(probeWidth)
	due := 0
	for _, name := range snap.names {
		k := snap.present[name]
		for i, r := range k.recipients {
			known := b.conditions.get(keyRecipient{name, r})
			if known.tried && now.Before(known.due) || !known.tried && now.Before(b.startsAt) {
				continue
			}
			due++
			// A first check wraps nothing, unless a key that was handed over is refused
			// and it has to tell whether that is about one version of the master key.
			_, proven := b.conditions.proof(keyRecipient{name, r})
			group.Go(func() error {
				b.checkRecipient(k, r, (known.tried || proven) && i < len(k.writers()))
				return nil
			})
		}
	}
	_ = group.Wait()
	if due > 0 {
		b.gauge()
	}
}

// checkRecipient finds out whether r can be used for k. What a KMS refuses
// definitely is no longer served from the cache, and is on the record. mayWrap lets
// it wrap something to have it opened.
func (b *Broker) checkRecipient(k *key, r recipient, mayWrap bool) {
	err := b.proveRecipient(k, r, mayWrap)
	if b.ctx.Err() != nil || !b.snap.Load().present[k.Name].lists(r) {
		return // what it found out is about nothing that is served any more
	}
	refused := err != nil && refusal(backends.ClassOf(err), true)
	// Who does not answer neither refuses nor takes a refusal back.
	told := err == nil || answered(backends.ClassOf(err))
	before := b.conditions.change(keyRecipient{k.Name, r}, func(c *condition) {
		if told {
			c.refused = refused
		}
		if b.failed(k, c, err); err == nil {
			c.good, c.due = true, b.uptime().Add(jittered(k.CheckInterval))
		}
	})
	b.observe.KEK(k.Name, r.Backend, r.Key, err == nil)
	switch {
	case err != nil && (before.good || !before.tried || told && before.refused != refused):
		b.log.Warn("a recipient does not work", "key", k.Name, "backend", r.Backend, "kek", r.Key, "class", backends.ClassOf(err), "error", err)
	case err == nil && before.tried && !before.good:
		b.log.Info("a recipient works again", "key", k.Name, "backend", r.Backend, "kek", r.Key)
	}
	if told && refused != before.refused {
		b.recordKEK(k, r, err)
	}
}

// recordKEK writes that a master key is refused, or no longer is.
func (b *Broker) recordKEK(k *key, r recipient, err error) {
	rec := audit.Record{
		Event: audit.EventBackend, Outcome: audit.OutcomeOK, Code: CodeOK.String(),
		Key: k.Name, Backend: r.Backend, KEK: r.Key, Detail: "the master key is no longer refused",
	}
	if err != nil {
		reason := reasonOf([]failure{{r.Recipient, err}})
		rec.Outcome, rec.Reason, rec.Code = audit.OutcomeError, string(reason), reason.Code().String()
		rec.Detail = "the master key does not open what it wrapped: " + backends.ClassOf(err).String()
	}
	if err := b.record(b.ctx, rec, false); err != nil {
		b.log.Error("the audit record of a master key's state could not be written", "key", k.Name, "backend", r.Backend, "error", err)
	}
}

// proveRecipient has r open a wrap of the broker's own making, since nothing less
// proves that it may: neither a key's state nor a permission to wrap. Before there
// is such a wrap, one is made if mayWrap, and else the backend's own check must do.
//
// A definite refusal wipes from the cache what r has opened for k. If it is only
// about one version of the master key, since a new wrap does open, that is what r
// opened with that version.
func (b *Broker) proveRecipient(k *key, r recipient, mayWrap bool) error {
	at := keyRecipient{k.Name, r}
	p, ok := b.conditions.proof(at)
	if !ok {
		if !mayWrap {
			return r.kms.check(b.ctx, r.Key)
		}
		err := b.newProof(k, r)
		var e *backends.Error
		if errors.As(err, &e) && e.Op == "wrap" && e.Class == backends.Denied {
			// It may unwrap and not wrap, so there will never be a proof.
			return r.kms.check(b.ctx, r.Key)
		}
		return err
	}
	ik, err := r.unwrapConfirmed(b.ctx, p.wrap, p.part, true)
	if err == nil {
		defer clear(ik)
		if err := p.part.Verify(ik); err != nil {
			return backends.Errorf(backends.Internal, "unwrap", r.Key, "it did not give back what it had wrapped: %v", err)
		}
		return nil
	}
	if !refusal(backends.ClassOf(err), true) || b.ctx.Err() != nil {
		return err
	}
	var again error
	if mayWrap {
		again = b.newProof(k, r)
	}
	whole := !mayWrap || again != nil && refusal(backends.ClassOf(again), true)
	refusedKEK := kekName(p.wrap.Reference, p.wrap.Version)
	n, _ := b.purgeCached(b.ctx, func(_ [32]byte, held *intermediate) bool {
		return held.key == k.Name && held.opener == r.Recipient && held.by == r.kms && (whole || held.kek == refusedKEK)
	})
	b.log.Warn("a master key is refused; what it had opened is wiped from the cache",
		"key", k.Name, "backend", r.Backend, "kek", refusedKEK, "only_this_version", !whole, "wiped", n, "error", err)
	if mayWrap && again == nil {
		return nil
	}
	return err
}

// newProof has r wrap random bytes and open them again, and keeps the wrap.
func (b *Broker) newProof(k *key, r recipient) error {
	part, wrap, err := b.makeProof(b.ctx, k, r)
	if err == nil {
		b.conditions.prove(keyRecipient{k.Name, r}, proof{part, wrap})
	}
	return err
}

func (b *Broker) makeProof(ctx context.Context, k *key, r recipient) (*envelope.IKPart, envelope.Recipient, error) {
	pairs, err := envelope.AssociatedPairs(k.Name, k.Context)
	if err != nil {
		return nil, envelope.Recipient{}, err
	}
	ik := make([]byte, envelope.IKSize)
	defer clear(ik)
	if _, err := io.ReadFull(b.random, ik); err != nil {
		return nil, envelope.Recipient{}, fmt.Errorf("random bytes: %w", err)
	}
	wrap, err := wrapProven(ctx, r, false, pairs, ik)
	if err != nil {
		return nil, envelope.Recipient{}, err
	}
	part, err := envelope.NewIKPart(k.Name, k.Context, []envelope.Recipient{wrap}, ik)
	return part, wrap, err
}

// jittered spreads the checks of many brokers over a tenth of their interval, so
// that they do not all meet a KMS at once.
func jittered(d time.Duration) time.Duration { return d - spread(d/10) }

// spread is a random part of d. It needs no secrecy.
func spread(d time.Duration) time.Duration {
	return time.Duration(rand.Int64N(int64(d) + 1)) //nolint:gosec // it needs no secrecy
}

// tried notes how a recipient did in a call. Opening anything shows that it
// works, but that one which was refused no longer is, is for the check to find; a
// refusal about one envelope says nothing about the rest.
func (b *Broker) tried(k *key, r recipient, err error) {
	at := keyRecipient{k.Name, r}
	switch known := b.conditions.get(at); {
	case err == nil && (known.good || known.refused):
	case err == nil && (!known.tried || known.throttled):
		// A check would ask for the same again.
		b.conditions.change(at, func(c *condition) {
			c.good, c.throttled, c.due = true, false, b.uptime().Add(jittered(k.CheckInterval))
		})
		b.observe.KEK(k.Name, r.Backend, r.Key, true)
	case err == nil:
		b.conditions.suspect(r.Backend, b.uptime())
		b.conditions.change(at, func(c *condition) { c.good, c.due = true, b.uptime().Add(probeBad) })
	case !answered(backends.ClassOf(err)) && b.ctx.Err() == nil:
		if known.good && !throttled(err) {
			b.conditions.suspect(r.Backend, b.uptime())
		}
		b.conditions.change(at, func(c *condition) { b.failed(k, c, err) })
	}
}

// failed notes in c that a recipient of k did not answer, and when to check it.
func (b *Broker) failed(k *key, c *condition, err error) {
	c.good, c.throttled, c.due = false, throttled(err), b.uptime().Add(probeBad)
	if c.throttled && !c.refused {
		// A fleet's checks would take from the quota what callers wait for.
		c.due = c.due.Add(spread(k.CheckInterval))
	}
}

// wrote notes how a recipient did when it was to wrap. What it wrapped and opened
// again is what it is checked with from now on.
func (b *Broker) wrote(k *key, r recipient, err error) {
	at := keyRecipient{k.Name, r}
	if err != nil && !answered(backends.ClassOf(err)) && !throttled(err) && b.conditions.get(at).good {
		b.conditions.suspect(r.Backend, b.uptime())
	}
	before := b.conditions.change(at, func(c *condition) {
		if c.unwritable = err != nil && answered(backends.ClassOf(err)); err != nil && !c.unwritable {
			b.failed(k, c, err)
			return
		}
		c.good, c.throttled, c.due = c.good || err == nil, false, b.uptime().Add(jittered(k.CheckInterval))
		if err != nil || c.refused {
			c.due = b.uptime().Add(probeBad)
		}
	})
	if err == nil && !before.tried {
		b.observe.KEK(k.Name, r.Backend, r.Key, true)
	}
}

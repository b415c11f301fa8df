package broker

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

// writing is the intermediate key that a key's new envelopes are made with. Its
// bytes are in the cache under its id, subject to the cache's rules: what a KMS
// refuses to open is not used to wrap either.
type writing struct {
	part *envelope.IKPart
	// keks are the master keys that it is wrapped for.
	keks   map[Recipient]KEK
	madeAt time.Time
	maxAge time.Duration
	// lacks is how many of the key's recipients could not wrap it.
	lacks int
	// healAt is when another may be made that lacks none, and healAfter how long
	// after that attempt the next one. Under writers.mu.
	healAt    time.Time
	healAfter time.Duration
	maxUses   uint64
	uses      atomic.Uint64
}

// take counts one use. It is false if the key is too old or used up, or if the
// clock says that it was made in the future.
func (w *writing) take(now time.Time) bool {
	age := now.Sub(w.madeAt)
	return age >= 0 && age < w.maxAge && w.uses.Add(1) <= w.maxUses
}

// aging tells that it is time to make the successor: a quarter of the age or of
// the uses is left.
func (w *writing) aging(now time.Time) bool {
	return now.Sub(w.madeAt) >= w.maxAge/4*3 || w.uses.Load() >= w.maxUses/4*3+w.maxUses%4
}

// writers holds the present writing of each key, and makes new ones, one at a
// time for each key.
type writers struct {
	mu      sync.Mutex
	current map[string]*writing // by key name
	making  map[string]*making
	// failedAt is when the last attempt for a key failed. It is forgotten when
	// one succeeds.
	failedAt map[string]time.Time
}

// making is one attempt that its waiters share.
type making struct {
	done chan struct{}
	err  error
	// overtaken, under writers.mu: a purge or a reload came since it began, so
	// what it makes is not used; its waiters make another.
	overtaken bool
}

// wait returns an error if ctx ends before the attempt does.
func (m *making) wait(ctx context.Context) error {
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return givenUp(ctx)
	}
}

// removed is for a call that a reload has overtaken.
func removed(name string) error {
	return refuse(KeyNotFound, "key "+name+" was removed from the configuration")
}

// successorPause is how long after a failure the next attempt to make a
// successor waits, while the present key can still be used: an outage is no
// reason to ask a KMS at the rate of calls.
const successorPause = 5 * time.Second

// writer returns an intermediate key of the key called name that may be used once
// more, with the use counted, and that key as it is configured now: a reload may
// have changed it since the call began. It waits for a KMS only if there is none.
func (b *Broker) writer(ctx context.Context, name string) (*key, *writing, error) {
	// A new intermediate key may be used up by others before this call takes it,
	// if max_uses is small, or be overtaken; each round then makes another.
	for {
		k := b.snap.Load().present[name]
		if k == nil {
			return nil, nil, removed(name)
		}
		b.writers.mu.Lock()
		w := b.writers.current[k.Name]
		now := b.uptime()
		if w != nil && w.take(now) {
			if w.aging(now) {
				b.startSuccessor(k, now)
			}
			b.writers.mu.Unlock()
			return k, w, nil
		}
		m := b.startMaking(k)
		b.writers.mu.Unlock()
		if err := m.wait(ctx); err != nil {
			return nil, nil, err
		}
		if m.err != nil {
			return nil, nil, explainMaking(k, m.err)
		}
	}
}

// forget drops w, so that the next envelope gets a new intermediate key.
func (b *Broker) forget(name string, w *writing) {
	b.writers.mu.Lock()
	defer b.writers.mu.Unlock()
	if b.writers.current[name] == w {
		delete(b.writers.current, name)
	}
}

// startMaking begins to make an intermediate key for k, or joins the attempt
// that is under way. b.writers.mu is held.
func (b *Broker) startMaking(k *key) *making {
	if m := b.writers.making[k.Name]; m != nil {
		return m
	}
	m := &making{done: make(chan struct{})}
	b.writers.making[k.Name] = m
	b.tasks.Go(func() {
		defer close(m.done)
		w, held, err := b.make(b.ctx, k)
		b.writers.mu.Lock()
		defer b.writers.mu.Unlock()
		if b.writers.making[k.Name] == m {
			delete(b.writers.making, k.Name)
		}
		if err != nil {
			m.err = err
			b.writers.failedAt[k.Name] = b.uptime()
			return
		}
		delete(b.writers.failedAt, k.Name)
		if m.overtaken || !sameWriters(b.snap.Load().present[k.Name], k) {
			m.overtaken = true
			held.bytes.Wipe()
			return
		}
		if old := b.writers.current[k.Name]; old != nil && w.lacks > 0 && old.lacks <= w.lacks && !old.aging(b.uptime()) {
			held.bytes.Wipe() // meant to heal the old one, and does not
			return
		}
		b.cache.Put(w.part.ID(), held, k.Limits)
		b.writers.current[k.Name] = w
	})
	return m
}

// keks returns the master keys that the present writing of the key called name is
// wrapped for; nil if there is none.
func (ws *writers) keks(name string) map[Recipient]KEK {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w := ws.current[name]; w != nil {
		return w.keks
	}
	return nil
}

// overtake drops the writings of the keys whose names match, and keeps what is
// being made for them from being used.
func (ws *writers) overtake(match func(name string) bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for name := range ws.current {
		if match(name) {
			delete(ws.current, name)
		}
	}
	for name, m := range ws.making {
		if match(name) {
			m.overtaken = true
			delete(ws.making, name)
		}
	}
}

// make makes an intermediate key for k: random bytes, wrapped by every
// recipient, and each wrap opened again through its KMS, since a role that may
// encrypt but not decrypt would else be found in the disaster.
//
// What it returns is in nobody's hands yet: the caller caches held or wipes it.
func (b *Broker) make(ctx context.Context, k *key) (w *writing, held *intermediate, err error) {
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("panic while an intermediate key was made", "key", k.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			w, held, err = nil, nil, fmt.Errorf("panic")
		}
	}()
	pairs, err := envelope.AssociatedPairs(k.Name, k.Context)
	if err != nil {
		return nil, nil, err
	}
	ik := make([]byte, envelope.IKSize)
	defer clear(ik)
	if _, err := io.ReadFull(b.random, ik); err != nil {
		return nil, nil, fmt.Errorf("random bytes: %w", err)
	}

	wraps, failed := b.wrapForAll(ctx, k, pairs, ik)
	if len(wraps) < k.MinRecipients {
		return nil, nil, failed
	}
	recipients := make([]envelope.Recipient, len(wraps))
	for i, done := range wraps {
		recipients[i] = done.wrap
	}
	part, err := envelope.NewIKPart(k.Name, k.Context, recipients, ik)
	if err != nil {
		return nil, nil, err
	}
	locked, err := b.arena.New(ik)
	if err != nil {
		return nil, nil, fmt.Errorf("no locked memory for an intermediate key: %w", err)
	}
	first := wraps[0]
	held = &intermediate{
		bytes: locked, key: k.Name, part: part, opener: first.recipient.Recipient, by: first.recipient.kms,
		kek: kekName(first.wrap.Reference, first.wrap.Version),
	}

	w = &writing{part: part, keks: make(map[Recipient]KEK, len(wraps)), madeAt: b.uptime(), maxAge: k.MaxAge, maxUses: k.MaxUses}
	for _, done := range wraps {
		w.keks[done.recipient.Recipient] = KEK{done.wrap.Provider, done.wrap.Reference, done.wrap.Version}
		b.conditions.prove(keyRecipient{k.Name, done.recipient}, proof{part, done.wrap})
	}
	if w.lacks = len(k.writers()) - len(wraps); w.lacks > 0 {
		w.maxAge = min(k.MaxAge, k.CheckInterval)
		w.healAt, w.healAfter = w.madeAt, probeBad
		b.log.Warn("an intermediate key lacks recipients; another is made with all of them as soon as they answer",
			"key", k.Name, "lacking", w.lacks, "error", failed)
	}
	b.log.Info("made an intermediate key", "key", k.Name, "recipients", len(wraps))
	return w, held, nil
}

// wrapped is one recipient's wrap that has been opened again.
type wrapped struct {
	recipient recipient
	wrap      envelope.Recipient
}

// stragglerWait is how long a recipient is waited for once enough others have
// wrapped: one that hangs does not hold up a key that may do without it.
const stragglerWait = time.Second

// errStraggler is why a wrap is cancelled that took too long after the others.
var errStraggler = errors.New("enough other recipients have wrapped, and this one is late")

// wrapForAll has all of k's recipients wrap ik at the same time. It returns the
// wraps that were proven, in the config's order, and what the others said. ik is
// not used any more when it returns.
func (b *Broker) wrapForAll(ctx context.Context, k *key, pairs envelope.Pairs, ik []byte) ([]wrapped, *loadError) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	recipients := k.writers()
	wraps := make([]envelope.Recipient, len(recipients))
	errs := make([]error, len(recipients))
	var all sync.WaitGroup
	var proven atomic.Int32
	for i, r := range recipients {
		all.Go(func() {
			if wraps[i], errs[i] = wrapProven(ctx, r, true, pairs, ik); errs[i] == nil && int(proven.Add(1)) == k.MinRecipients {
				time.AfterFunc(stragglerWait, func() { cancel(errStraggler) })
			}
		})
	}
	all.Wait()
	var good []wrapped
	failed := &loadError{}
	for i, r := range recipients {
		b.wrote(k, r, errs[i])
		if errs[i] != nil {
			failed.add(r.Recipient, errs[i])
			b.logFailed("a recipient did not wrap an intermediate key", k, r, errs[i])
			continue
		}
		good = append(good, wrapped{r, wraps[i]})
	}
	return good, failed
}

// useWriters keeps what new envelopes are made with from growing old unused, so
// that the next one need not wait for a KMS.
func (b *Broker) useWriters() {
	snap, now := b.snap.Load(), b.uptime()
	b.writers.mu.Lock()
	defer b.writers.mu.Unlock()
	for name, w := range b.writers.current {
		k := snap.present[name]
		if k == nil {
			continue
		}
		b.cache.Use(w.part.ID(), k.Limits, b.loader(name, w.part))
		if w.aging(now) && w.uses.Load() > 0 {
			b.startSuccessor(k, now)
		}
	}
	for _, name := range snap.names {
		if k := snap.present[name]; k.Warm && b.writers.current[name] == nil && !now.Before(b.startsAt) {
			b.startSuccessor(k, now)
		}
	}
}

// startSuccessor begins to make an intermediate key ahead of its time, but not at
// once after that has failed. b.writers.mu is held.
func (b *Broker) startSuccessor(k *key, now time.Time) {
	if failedAt, failed := b.writers.failedAt[k.Name]; !failed || now.Sub(failedAt) >= successorPause {
		b.startMaking(k)
	}
}

// heal has the successor made of each intermediate key that lacks recipients, as
// soon as all recipients of its key work.
func (b *Broker) heal() {
	snap, now := b.snap.Load(), b.uptime()
	b.writers.mu.Lock()
	defer b.writers.mu.Unlock()
	for name, w := range b.writers.current {
		k := snap.present[name]
		if w.lacks == 0 || k == nil || now.Before(w.healAt) || !b.allGood(k) {
			continue
		}
		w.healAt = now.Add(w.healAfter)
		w.healAfter = min(2*w.healAfter, k.CheckInterval)
		b.startMaking(k)
	}
}

// allGood tells whether every recipient of k worked when it was last checked.
func (b *Broker) allGood(k *key) bool {
	for _, r := range k.writers() {
		if !b.conditions.get(keyRecipient{k.Name, r}).good {
			return false
		}
	}
	return true
}

// wrapProven has one recipient wrap ik and open the wrap again; patient says what
// becomes of it if the KMS throttles.
func wrapProven(ctx context.Context, r recipient, patient bool, pairs envelope.Pairs, ik []byte) (envelope.Recipient, error) {
	var w backends.Wrapped
	err := r.kms.send(ctx, "wrap", r.Key, patient, nil, func() (err error) {
		w, err = r.kms.wrap(ctx, backends.WrapRequest{
			Key: r.Key, Plaintext: ik, Pairs: pairs.Map(), AssociatedData: pairs.Canonical(),
		})
		return err
	})
	if err != nil {
		return envelope.Recipient{}, err
	}
	if w.Provider != r.kms.of.Provider {
		return envelope.Recipient{}, backends.Errorf(backends.Internal, "wrap", r.Key, "the backend says that it is %q", w.Provider)
	}
	var again []byte
	err = r.kms.send(ctx, "unwrap", r.Key, patient, nil, func() (err error) {
		again, err = r.kms.unwrap(ctx, backends.UnwrapRequest{
			Key: r.Key, Reference: w.Reference, Version: w.Version, Binding: w.Binding, Ciphertext: w.Ciphertext,
			Pairs: pairs.Map(), AssociatedData: pairs.Canonical(),
		})
		return err
	})
	if err != nil {
		return envelope.Recipient{}, fmt.Errorf("it wrapped, but does not unwrap: %w", err)
	}
	defer clear(again)
	if subtle.ConstantTimeCompare(again, ik) != 1 {
		return envelope.Recipient{}, backends.Errorf(backends.Internal, "unwrap", r.Key, "it did not give back what it had wrapped")
	}
	return envelope.Recipient{
		Provider: w.Provider, Reference: w.Reference, Version: w.Version, Binding: w.Binding, Wrapped: w.Ciphertext,
	}, nil
}

package broker

import (
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keybroker/keybroker/backends"
)

// conditions remember, for each recipient, whether it could be used when it was
// last tried. They are for status and readiness only; no call is refused for
// what they say.
type conditions struct {
	mu sync.Mutex
	of map[Recipient]condition
}

type condition struct {
	good bool
	due  time.Time // when to check again
}

// note remembers how a try went that says something about the recipient itself,
// and not only about one envelope.
func (c *conditions) note(r Recipient, good bool, due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[r] = condition{good, due}
}

func (c *conditions) get(r Recipient) (known condition, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok = c.of[r]
	return known, ok
}

// keep forgets the recipients that snap does not list.
func (c *conditions) keep(snap *snapshot) {
	listed := map[Recipient]bool{}
	for _, name := range snap.names {
		for _, r := range snap.present[name].recipients {
			listed[r.Recipient] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.of {
		if !listed[r] {
			delete(c.of, r)
		}
	}
}

const (
	// probeEvery is how often recipients that are due are looked for.
	probeEvery = time.Second
	// probeBad is how soon a recipient that failed is checked again. It is
	// local: status and readiness follow an outage's end within this time.
	probeBad = 10 * time.Second
	// probeWidth is how many recipients are checked at a time.
	probeWidth = 8
)

// probe checks every recipient at the start, each that failed every probeBad,
// and each that works every check_interval of its key, so that status and
// readiness do not depend on who happens to call.
func (b *Broker) probe() {
	for {
		b.probeDue()
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
	due := map[Recipient]bool{}
	for _, name := range snap.names {
		k := snap.present[name]
		for _, r := range k.writers() {
			if known, ok := b.conditions.get(r.Recipient); due[r.Recipient] || ok && now.Before(known.due) {
				continue
			}
			due[r.Recipient] = true
			group.Go(func() error {
				err := r.kms.check(b.ctx, r.Key)
				wait := probeBad
				if err == nil {
					wait = jittered(k.CheckInterval)
				} else if b.ctx.Err() == nil {
					b.log.Warn("a recipient does not work", "key", k.Name, "backend", r.Backend, "kek", r.Key, "class", backends.ClassOf(err), "error", err)
				}
				b.conditions.note(r.Recipient, err == nil, b.uptime().Add(wait))
				return nil
			})
		}
	}
	_ = group.Wait()
	if len(due) > 0 {
		b.gauge()
	}
}

// jittered spreads the checks of many brokers over a tenth of their interval, so
// that they do not all meet a KMS at once. It needs no secrecy.
func jittered(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/10+1)) //nolint:gosec // it needs no secrecy
}

// tried notes how a recipient did in a call. Opening anything shows that it
// works; a refusal about one envelope says nothing about the rest.
func (b *Broker) tried(r Recipient, err error) {
	known, ok := b.conditions.get(r)
	switch {
	case err == nil && (!ok || !known.good):
		b.conditions.note(r, true, b.uptime().Add(probeBad))
	case err != nil && !answered(backends.ClassOf(err)) && b.ctx.Err() == nil:
		b.conditions.note(r, false, b.uptime().Add(probeBad))
	}
}

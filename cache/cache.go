// Package cache keeps unwrapped keys for a bounded time and loads each missing
// one once, however many ask for it.
//
// It knows nothing of what it keeps: the owner passes in how a value is wiped.
// These rules hold for every entry:
//
//   - it leaves by its own age, by a purge, by a refusal or for want of room,
//     never because something else was late;
//   - it is served as fresh for its TTL, and after that only if loading it
//     again failed by what the owner calls an outage, and only as long as that
//     allows;
//   - from RefreshAfter on it is loaded again in the background, if it was used
//     since it was loaded, and served meanwhile;
//   - what a load returns is kept only if nothing was purged since the load
//     began: a purge cannot be undone by an answer that was under way;
//   - whatever leaves is wiped through Config.Evict, exactly once.
//
// A definite refusal is remembered for NegativeTTL, and nothing else that failed.
//
// Ages are differences of Config.Now. An entry from the future, which a clock
// that was set back leaves behind, counts as past all its limits.
package cache

import (
	"container/list"
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// ErrClosed is returned by Get after Close.
var ErrClosed = errors.New("cache: closed")

// ErrPurged is returned by Get if a purge overlapped the load that it waited
// for. What was loaded is wiped; a new Get loads afresh.
var ErrPurged = errors.New("cache: purged while loading")

// errPanicked is what waiters get if the loader panicked. The panic itself goes
// on and ends the process.
var errPanicked = errors.New("cache: the loader panicked")

// Source tells where a value came from.
type Source uint8

const (
	// Loaded is by this call or by one that it waited for.
	Loaded Source = iota
	// Fresh is from the cache, within its TTL.
	Fresh
	// Stale is from the cache past its TTL, because loading it again failed by an
	// outage.
	Stale
	// Negative is no value but a refusal that was remembered.
	Negative
)

// Limits bound how long a value is served. All but NegativeTTL count from its
// load.
type Limits struct {
	// TTL is how long it is served without asking again. Not positive: never.
	TTL time.Duration
	// RefreshAfter is when it is loaded again in the background, up to a tenth
	// earlier (Config.Jitter). Not positive, or not before TTL: never.
	RefreshAfter time.Duration
	// MaxStale is how long it is served in an outage. Not above TTL: not past
	// TTL.
	MaxStale time.Duration
	// NegativeTTL is how long a definite refusal is remembered. Not positive: not
	// at all.
	NegativeTTL time.Duration
}

// Until is how long after its load a value is served at the latest.
func (l Limits) Until() time.Duration { return max(l.TTL, l.MaxStale, 0) }

// Config says how a Cache behaves.
type Config[K comparable, V any] struct {
	// Capacity is how many values are kept at most. Required, at least 1.
	Capacity int
	// Now is the clock. Required.
	Now func() time.Time
	// Evict wipes a value that leaves the cache. Required. It is called without
	// the cache's lock.
	Evict func(V)
	// Kept and Left tell a copy of the cache, which outlives the process, what there
	// is: Kept that value is kept for key from now on, in place of any other, and
	// Left that nothing is. Both are called with the cache locked, so in the order in
	// which it happens, and have returned before whoever caused it goes on: no answer
	// that follows from a value's end is given while the copy still has it. They must
	// not call the cache. Left may be called for a key that had nothing. Neither is
	// called for what Close wipes. Nil: there is no copy.
	Kept func(key K, value V, loadedAt time.Time)
	Left func(key K)
	// Outage tells until which age a value may be served although loading it again
	// failed by err: at most limits.Until(), and 0 if err is no outage. Nil: none
	// is one.
	Outage func(err error, limits Limits) time.Duration
	// Refusal tells whether a load failed by a definite no, upon which what is
	// kept is purged before Get returns. Nil: it never did.
	Refusal func(error) bool
	// Definite tells whether the next load would fail like this one, so that err
	// is worth remembering. Nil: it never is.
	Definite func(err error) bool
	// Linger is how long a load goes on that every caller has given up: who comes back
	// meanwhile joins it. Not positive: not at all.
	Linger time.Duration
	// Jitter returns a number from 0 to 1, by which the refreshes of many caches
	// are spread. Nil: they are not.
	Jitter func() float64
}

// Cache maps K to V. It is safe for concurrent use.
//
// A value that Get returned may be evicted, and so wiped, while it is in use:
// V must be able to tell, and its user then asks again.
type Cache[K comparable, V any] struct {
	cfg Config[K, V]

	mu      sync.Mutex
	entries map[K]*entry[K, V]
	byUse   *list.List // of *entry[K, V], least recently used in front
	flights map[K]*flight[V]
	refused negatives[K]
	closed  bool
	loads   sync.WaitGroup
}

type entry[K comparable, V any] struct {
	key      K
	value    V
	loadedAt time.Time
	limits   Limits
	place    *list.Element

	// load is how it is loaded again; nil for one that was Put and not yet got.
	load func(context.Context) (V, error)
	// used: since it was loaded.
	used   bool
	jitter float64
	// What came of the last attempt to load it again, if one failed by an outage.
	outage   error
	outageAt time.Time
}

// retryEvery is how often, in an outage, an entry is loaded again in the
// background. As long as the last attempt is not older than outageKnown, who asks
// for a stale value does not wait for another.
const (
	retryEvery  = 5 * time.Second
	outageKnown = time.Minute
)

// flight is one load that one or more callers wait for.
type flight[V any] struct {
	cancel  context.CancelFunc
	waiters int         // under Cache.mu
	linger  *time.Timer // under Cache.mu: ends it, if nobody has come back
	purged  bool        // under Cache.mu: a purge came since the load began

	done  chan struct{} // closed once value and err are set
	value V
	err   error
}

// New returns an empty cache. It panics if a required field of cfg is missing.
func New[K comparable, V any](cfg Config[K, V]) *Cache[K, V] {
	if cfg.Capacity < 1 || cfg.Now == nil || cfg.Evict == nil {
		panic("cache: Capacity, Now and Evict are required")
	}
	if cfg.Kept == nil {
		cfg.Kept = func(K, V, time.Time) {}
	}
	if cfg.Left == nil {
		cfg.Left = func(K) {}
	}
	if cfg.Outage == nil {
		cfg.Outage = func(error, Limits) time.Duration { return 0 }
	}
	if cfg.Refusal == nil {
		cfg.Refusal = func(error) bool { return false }
	}
	if cfg.Definite == nil {
		cfg.Definite = func(error) bool { return false }
	}
	if cfg.Jitter == nil {
		cfg.Jitter = func() float64 { return 0 }
	}
	return &Cache[K, V]{
		cfg:     cfg,
		entries: make(map[K]*entry[K, V]),
		byUse:   list.New(),
		flights: make(map[K]*flight[V]),
		refused: newNegatives[K](cfg.Capacity),
	}
}

// Get returns the value of key, and loads it first if it is missing or past its
// TTL. The limits of this call govern, not those of the load.
//
// Callers that miss the same key at the same time share one load: the loader of
// the first. It runs under a context that has the values of the first caller's
// ctx but not its deadline, and is cancelled when every caller that waits for it
// has given up, Config.Linger after the last. A caller whose ctx ends returns
// context.Cause(ctx) at once and disturbs nobody else.
//
// load is also kept to load the value again in the background; it must look up
// for itself whatever may change until then. Such a load has the values of no
// caller's ctx and ends with Close at the latest.
//
// A value past its TTL is served at once if the cache knows already, from a load
// a moment ago, that there is an outage.
//
// What a load returns belongs to the cache, also if every caller is gone.
//
// If admit is not nil it is asked before a load begins, with the cache locked,
// and its error is returned instead; who joins a load is not asked.
//
// Errors: the loader's, with Negative if it was remembered; admit's; ErrPurged;
// ErrClosed; the ctx's cause.
func (c *Cache[K, V]) Get(ctx context.Context, key K, limits Limits, admit func() error, load func(context.Context) (V, error)) (V, Source, error) {
	var none V
	if ctx.Err() != nil {
		return none, Loaded, context.Cause(ctx)
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return none, Loaded, ErrClosed
	}
	now := c.cfg.Now()
	if e := c.entries[key]; e != nil {
		e.limits, e.load, e.used = limits, load, true
		if v, source, ok := c.serve(e, now); ok {
			c.mu.Unlock()
			return v, source, nil
		}
	} else if err := c.refused.of(key, now); err != nil && limits.NegativeTTL > 0 {
		c.mu.Unlock()
		return none, Negative, err
	}
	f := c.flights[key]
	if f == nil {
		if admit != nil {
			if err := admit(); err != nil {
				c.mu.Unlock()
				return none, Loaded, err
			}
		}
		f = c.launch(context.WithoutCancel(ctx), key, limits, load)
	}
	f.waiters++
	if f.linger != nil {
		f.linger.Stop()
	}
	c.mu.Unlock()

	select {
	case <-f.done:
	case <-ctx.Done():
		c.giveUp(key, f)
		return none, Loaded, context.Cause(ctx)
	}
	if f.err == nil {
		return f.value, Loaded, nil
	}
	if v, ok := c.stale(key, f.err, limits); ok {
		return v, Stale, nil
	}
	return none, Loaded, f.err
}

// serve returns the value of e if it may be served without waiting, and has it
// loaded again if it is time. c.mu is held.
func (c *Cache[K, V]) serve(e *entry[K, V], now time.Time) (v V, source Source, ok bool) {
	age := c.age(e)
	switch {
	case age < e.limits.TTL:
		source = Fresh
	case e.outage != nil && now.Sub(e.outageAt) < outageKnown && age < c.cfg.Outage(e.outage, e.limits):
		source = Stale
	default:
		return v, Loaded, false
	}
	c.byUse.MoveToBack(e.place)
	c.refresh(e, now)
	return e.value, source, true
}

// refresh begins to load e again if it is time. c.mu is held.
func (c *Cache[K, V]) refresh(e *entry[K, V], now time.Time) {
	after := e.limits.RefreshAfter
	switch age := c.age(e); {
	case e.load == nil || !e.used || c.flights[e.key] != nil || c.closed:
	case e.outage != nil && now.Sub(e.outageAt) < retryEvery:
	case after > 0 && after < e.limits.TTL && age >= after-time.Duration(e.jitter*float64(after)/10), age >= e.limits.TTL && e.outage != nil:
		f := c.launch(context.Background(), e.key, e.limits, e.load)
		f.waiters = 1 // nobody gives it up
	}
}

// Refresh begins to load again, in the background, every value that is due and
// that was used since it was loaded. It is to be called every second or so.
func (c *Cache[K, V]) Refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	for _, e := range c.entries {
		if c.age(e) < e.limits.Until() {
			c.refresh(e, now)
		}
	}
}

// Use counts as a use of the value of key, as a Get would, and says how it is
// loaded again. It does nothing if there is none.
func (c *Cache[K, V]) Use(key K, limits Limits, load func(context.Context) (V, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		e.limits, e.load, e.used = limits, load, true
	}
}

// Has tells whether a value of key is kept, fresh or not.
func (c *Cache[K, V]) Has(key K) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[key] != nil
}

// Put keeps a value that was made, not loaded, as if it had been loaded now.
// The value belongs to the cache from then on. After Close it is wiped.
func (c *Cache[K, V]) Put(key K, value V, limits Limits) {
	c.mu.Lock()
	var gone []V
	if c.closed {
		gone = append(gone, value)
	} else {
		gone = c.keep(key, value, c.cfg.Now(), limits, nil)
	}
	c.mu.Unlock()
	c.evict(gone)
}

// Restore keeps a value that was loaded at loadedAt, before this cache was made,
// and tells whether it did: not if the value is past all its limits, if there is
// one of key already, if there is no room or after Close. It is then wiped. It is
// as old as loadedAt says, and counts as not used yet.
func (c *Cache[K, V]) Restore(key K, value V, loadedAt time.Time, limits Limits) bool {
	c.mu.Lock()
	kept := !c.closed && c.entries[key] == nil && len(c.entries) < c.cfg.Capacity && c.since(loadedAt) < limits.Until()
	if kept {
		c.keep(key, value, loadedAt, limits, nil)
	}
	c.mu.Unlock()
	if !kept {
		c.cfg.Evict(value)
	}
	return kept
}

// Purge wipes every value for which match is true and returns how many. Loads
// that are under way, whatever their key, are not kept: a Purge cannot know what
// they will return. Refusals that are remembered are forgotten. match is called with the cache locked and must not call it.
func (c *Cache[K, V]) Purge(match func(K, V) bool) int {
	c.mu.Lock()
	var gone []V
	for key, e := range c.entries {
		if match(key, e.value) {
			gone = c.leave(e, gone)
		}
	}
	for _, f := range c.flights {
		f.purged = true
	}
	c.refused.clear()
	c.mu.Unlock()
	c.evict(gone)
	return len(gone)
}

// Drop wipes the value of key, if there is one, while a load of it goes on: it is
// for a loader that knows before it is done that the value may be served no more.
// What the load then returns is kept.
func (c *Cache[K, V]) Drop(key K) {
	c.mu.Lock()
	var gone []V
	c.cfg.Left(key)
	if e := c.entries[key]; e != nil {
		gone = c.drop(e, gone)
	}
	c.mu.Unlock()
	c.evict(gone)
}

// Sweep wipes every value that is past all its limits and returns how many. Get
// serves none of them in any case: Sweep is for values that nobody asks for.
func (c *Cache[K, V]) Sweep() int {
	c.mu.Lock()
	var gone []V
	for _, e := range c.entries {
		if c.age(e) >= e.limits.Until() {
			gone = c.leave(e, gone)
		}
	}
	c.mu.Unlock()
	c.evict(gone)
	return len(gone)
}

// Each calls f for every value that is kept, in no order, with the time of its
// load. f is called with the cache locked and must not call it.
func (c *Cache[K, V]) Each(f func(key K, value V, loadedAt time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, e := range c.entries {
		f(key, e.value, e.loadedAt)
	}
}

// Len returns how many values are kept.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// Close wipes all values, cancels the loads under way and waits for them. Get
// fails with ErrClosed from then on. Close is idempotent.
func (c *Cache[K, V]) Close() {
	c.mu.Lock()
	c.closed = true
	var gone []V
	for _, e := range c.entries {
		gone = c.drop(e, gone)
	}
	for _, f := range c.flights {
		f.purged = true
		f.cancel()
	}
	c.mu.Unlock()
	c.evict(gone)
	c.loads.Wait()
}

// launch begins the load of key. c.mu is held.
func (c *Cache[K, V]) launch(ctx context.Context, key K, limits Limits, load func(context.Context) (V, error)) *flight[V] {
	ctx, cancel := context.WithCancel(ctx)
	f := &flight[V]{cancel: cancel, done: make(chan struct{}), err: errPanicked}
	c.flights[key] = f
	c.loads.Go(func() {
		defer cancel()
		defer c.land(key, f, limits, load)
		f.value, f.err = load(ctx)
	})
	return f
}

// land ends a load: what it brought is kept, or what it refuses is purged, and
// only then do its waiters go on.
func (c *Cache[K, V]) land(key K, f *flight[V], limits Limits, load func(context.Context) (V, error)) {
	c.mu.Lock()
	if c.flights[key] == f {
		delete(c.flights, key)
	}
	var gone []V
	switch {
	case f.err != nil:
		gone = c.failed(key, f, limits)
	case f.purged:
		gone = append(gone, f.value)
		f.err = ErrPurged
	default:
		gone = c.keep(key, f.value, c.cfg.Now(), limits, load)
	}
	c.mu.Unlock()
	c.evict(gone)
	close(f.done)
}

// failed notes what a load failed by, and returns what had to go. c.mu is held.
func (c *Cache[K, V]) failed(key K, f *flight[V], limits Limits) (gone []V) {
	now := c.cfg.Now()
	e := c.entries[key]
	if e != nil {
		e.outage = nil
	}
	switch {
	case c.cfg.Refusal(f.err):
		c.cfg.Left(key) // also after Close, which leaves the copy as it is
		if e != nil {
			gone = c.drop(e, gone)
		}
	case e != nil && c.cfg.Outage(f.err, e.limits) > 0:
		e.outage, e.outageAt = f.err, now
	}
	// What a purge has overtaken may be different now.
	if limits.NegativeTTL > 0 && !f.purged && c.cfg.Definite(f.err) {
		c.refused.add(key, f.err, now.Add(limits.NegativeTTL))
	}
	return gone
}

// giveUp takes one waiter off a load, and cancels it if that was the last. A
// cancelled load is no longer joined: who comes next begins a new one.
func (c *Cache[K, V]) giveUp(key K, f *flight[V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	switch {
	case f.waiters > 0:
	case c.cfg.Linger > 0 && !c.closed:
		f.linger = time.AfterFunc(c.cfg.Linger, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if f.waiters == 0 {
				c.abandon(key, f)
			}
		})
	default:
		c.abandon(key, f)
	}
}

// abandon cancels a load that nobody waits for. c.mu is held.
func (c *Cache[K, V]) abandon(key K, f *flight[V]) {
	f.cancel()
	if c.flights[key] == f {
		delete(c.flights, key)
	}
	// Out of the map, it would escape a Purge that comes while it still runs.
	f.purged = true
}

// stale returns the value of key if what its load failed by lets it be served.
func (c *Cache[K, V]) stale(key K, err error, limits Limits) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil && c.age(e) < c.cfg.Outage(err, limits) {
		c.byUse.MoveToBack(e.place)
		return e.value, true
	}
	var none V
	return none, false
}

// keep puts value in place of what key had, makes room for it, and returns what
// had to go. c.mu is held.
func (c *Cache[K, V]) keep(key K, value V, loadedAt time.Time, limits Limits, load func(context.Context) (V, error)) (gone []V) {
	if old := c.entries[key]; old != nil {
		gone = c.drop(old, gone)
	}
	c.refused.forget(key)
	for len(c.entries) >= c.cfg.Capacity {
		gone = c.leave(c.byUse.Front().Value.(*entry[K, V]), gone)
	}
	e := &entry[K, V]{key: key, value: value, loadedAt: loadedAt, limits: limits, load: load, jitter: c.cfg.Jitter()}
	e.place = c.byUse.PushBack(e)
	c.entries[key] = e
	c.cfg.Kept(key, value, loadedAt)
	return gone
}

// leave is drop, for an entry that is gone from the copy too. c.mu is held.
func (c *Cache[K, V]) leave(e *entry[K, V], gone []V) []V {
	c.cfg.Left(e.key)
	return c.drop(e, gone)
}

// drop takes e out and appends its value to gone. c.mu is held.
func (c *Cache[K, V]) drop(e *entry[K, V], gone []V) []V {
	delete(c.entries, e.key)
	c.byUse.Remove(e.place)
	return append(gone, e.value)
}

func (c *Cache[K, V]) evict(gone []V) {
	for _, v := range gone {
		c.cfg.Evict(v)
	}
}

// age is how long ago e was loaded. c.mu is held.
func (c *Cache[K, V]) age(e *entry[K, V]) time.Duration { return c.since(e.loadedAt) }

// since is how long ago t was: very long if it is still to come.
func (c *Cache[K, V]) since(t time.Time) time.Duration {
	if age := c.cfg.Now().Sub(t); age >= 0 {
		return age
	}
	return math.MaxInt64
}

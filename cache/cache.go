// Package cache keeps unwrapped keys for a bounded time and loads each missing
// one once, however many ask for it.
//
// It knows nothing of what it keeps: the owner passes in how a value is wiped.
// Four rules hold for every entry:
//
//   - it leaves by its own age, by a purge, by a refusal or for want of room,
//     never because something else was late;
//   - it is served as fresh for its TTL, and after that only if loading it
//     again failed by what the owner calls an outage, and only until MaxStale;
//   - what a load returns is kept only if nothing was purged since the load
//     began: a purge cannot be undone by an answer that was under way;
//   - whatever leaves is wiped through Config.Evict, exactly once.
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
)

// Limits bound how long a value is served. Both count from its load.
type Limits struct {
	// TTL is how long it is served without asking again. Not positive: never.
	TTL time.Duration
	// MaxStale is how long it is served in an outage. Not above TTL: not past
	// TTL.
	MaxStale time.Duration
}

// Until is how long after its load a value is served at the latest.
func (l Limits) Until() time.Duration { return max(l.TTL, l.MaxStale, 0) }

// Config says how a Cache behaves.
type Config[V any] struct {
	// Capacity is how many values are kept at most. Required, at least 1.
	Capacity int
	// Now is the clock. Required.
	Now func() time.Time
	// Evict wipes a value that leaves the cache. Required. It is called without
	// the cache's lock.
	Evict func(V)
	// Outage tells whether a load failed because nobody answered, so that a
	// stale value may be served. Nil: it never did.
	Outage func(error) bool
	// Refusal tells whether a load failed by a definite no, upon which what is
	// kept is purged before Get returns. Nil: it never did.
	Refusal func(error) bool
}

// Cache maps K to V. It is safe for concurrent use.
//
// A value that Get returned may be evicted, and so wiped, while it is in use:
// V must be able to tell, and its user then asks again.
type Cache[K comparable, V any] struct {
	cfg Config[V]

	mu      sync.Mutex
	entries map[K]*entry[K, V]
	byUse   *list.List // of *entry[K, V], least recently used in front
	flights map[K]*flight[V]
	closed  bool
	loads   sync.WaitGroup
}

type entry[K comparable, V any] struct {
	key      K
	value    V
	loadedAt time.Time
	limits   Limits
	place    *list.Element
}

// flight is one load that one or more callers wait for.
type flight[V any] struct {
	cancel  context.CancelFunc
	waiters int  // under Cache.mu
	purged  bool // under Cache.mu: a purge came since the load began

	done  chan struct{} // closed once value and err are set
	value V
	err   error
}

// New returns an empty cache. It panics if a required field of cfg is missing.
func New[K comparable, V any](cfg Config[V]) *Cache[K, V] {
	if cfg.Capacity < 1 || cfg.Now == nil || cfg.Evict == nil {
		panic("cache: Capacity, Now and Evict are required")
	}
	if cfg.Outage == nil {
		cfg.Outage = func(error) bool { return false }
	}
	if cfg.Refusal == nil {
		cfg.Refusal = func(error) bool { return false }
	}
	return &Cache[K, V]{
		cfg:     cfg,
		entries: make(map[K]*entry[K, V]),
		byUse:   list.New(),
		flights: make(map[K]*flight[V]),
	}
}

// Get returns the value of key, and loads it first if it is missing or past its
// TTL. The limits of this call govern, not those of the load.
//
// Callers that miss the same key at the same time share one load: the loader of
// the first. It runs under a context that has the values of the first caller's
// ctx but not its deadline, and is cancelled when every caller that waits for it
// has given up. A caller whose ctx ends returns context.Cause(ctx) at once and
// disturbs nobody else.
//
// What a load returns belongs to the cache, also if every caller is gone.
//
// If admit is not nil it is asked before a load begins, with the cache locked,
// and its error is returned instead; who joins a load is not asked.
//
// Errors: the loader's; admit's; ErrPurged; ErrClosed; the ctx's cause.
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
	if e := c.entries[key]; e != nil {
		e.limits = limits
		if c.age(e) < limits.TTL {
			c.byUse.MoveToBack(e.place)
			v := e.value
			c.mu.Unlock()
			return v, Fresh, nil
		}
	}
	f := c.flights[key]
	if f == nil {
		if admit != nil {
			if err := admit(); err != nil {
				c.mu.Unlock()
				return none, Loaded, err
			}
		}
		f = c.launch(ctx, key, limits, load)
	}
	f.waiters++
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
	if c.cfg.Outage(f.err) {
		if v, ok := c.stale(key, limits); ok {
			return v, Stale, nil
		}
	}
	return none, Loaded, f.err
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
		gone = c.keep(key, value, limits)
	}
	c.mu.Unlock()
	c.evict(gone)
}

// Purge wipes every value for which match is true and returns how many. Loads
// that are under way, whatever their key, are not kept: a Purge cannot know what
// they will return. match is called with the cache locked and must not call it.
func (c *Cache[K, V]) Purge(match func(K, V) bool) int {
	c.mu.Lock()
	var gone []V
	for key, e := range c.entries {
		if match(key, e.value) {
			gone = c.drop(e, gone)
		}
	}
	for _, f := range c.flights {
		f.purged = true
	}
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
			gone = c.drop(e, gone)
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
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight[V]{cancel: cancel, done: make(chan struct{}), err: errPanicked}
	c.flights[key] = f
	c.loads.Go(func() {
		defer cancel()
		defer c.land(key, f, limits)
		f.value, f.err = load(ctx)
	})
	return f
}

// land ends a load: what it brought is kept, or what it refuses is purged, and
// only then do its waiters go on.
func (c *Cache[K, V]) land(key K, f *flight[V], limits Limits) {
	c.mu.Lock()
	if c.flights[key] == f {
		delete(c.flights, key)
	}
	var gone []V
	switch {
	case f.err != nil:
		if e := c.entries[key]; e != nil && c.cfg.Refusal(f.err) {
			gone = c.drop(e, gone)
		}
	case f.purged:
		gone = append(gone, f.value)
		f.err = ErrPurged
	default:
		gone = c.keep(key, f.value, limits)
	}
	c.mu.Unlock()
	c.evict(gone)
	close(f.done)
}

// giveUp takes one waiter off a load, and cancels it if that was the last. A
// cancelled load is no longer joined: who comes next begins a new one.
func (c *Cache[K, V]) giveUp(key K, f *flight[V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if f.waiters > 0 {
		return
	}
	f.cancel()
	if c.flights[key] == f {
		delete(c.flights, key)
	}
	// Out of the map, it would escape a Purge that comes while it still runs.
	f.purged = true
}

// stale returns the value of key if an outage lets it be served.
func (c *Cache[K, V]) stale(key K, limits Limits) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil && c.age(e) < limits.Until() {
		c.byUse.MoveToBack(e.place)
		return e.value, true
	}
	var none V
	return none, false
}

// keep puts value in place of what key had, makes room for it, and returns what
// had to go. c.mu is held.
func (c *Cache[K, V]) keep(key K, value V, limits Limits) (gone []V) {
	if old := c.entries[key]; old != nil {
		gone = c.drop(old, gone)
	}
	for len(c.entries) >= c.cfg.Capacity {
		gone = c.drop(c.byUse.Front().Value.(*entry[K, V]), gone)
	}
	e := &entry[K, V]{key: key, value: value, loadedAt: c.cfg.Now(), limits: limits}
	e.place = c.byUse.PushBack(e)
	c.entries[key] = e
	return gone
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
func (c *Cache[K, V]) age(e *entry[K, V]) time.Duration {
	if age := c.cfg.Now().Sub(e.loadedAt); age >= 0 {
		return age
	}
	return math.MaxInt64
}

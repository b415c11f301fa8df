// Package broker is the core of keybroker: it generates, wraps, unwraps and
// rewraps data keys for callers that the policy names, through the KMSs that the
// config lists, and answers nothing that is not in the audit log.
//
// It knows no wire protocol and no SDK. A front door proves who calls, hands the
// request to a Broker and words its answer; every check, refusal and record is
// made here, once for all front doors. A request goes through these files:
//
//	operation.go     who is it, may he, and the audit record of what came of it
//	wrap.go, unwrap.go, rewrap.go, batch.go, inspect.go, status.go, purge.go
//	make.go          makes the intermediate keys that new envelopes are under
//	intermediate.go  finds the intermediate key of an envelope, cached or not
//	load.go          has its recipients open it, the next if one fails or is slow
//	kms.go           calls a backend, unless breaker.go holds the call back
//	retry.go         calls it again while it throttles
//	handover.go      hands what is cached to the next process, and takes it over
//	persist.go       keeps it in a sealed file, where nobody can hand it over
//
// Beside the requests, health.go checks every recipient, and has the cache forget
// what a master key had opened that is now refused.
package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/handover"
	"github.com/keybroker/keybroker/internal/secret"
)

// Options are what a Broker is made of. All fields but Handover, Received and Persist
// are required.
type Options struct {
	// Version of the program, for the audit.
	Version string
	// BootID is the kernel's id of this boot, for the audit and for what is handed
	// over; empty if unknown.
	BootID string
	// Load reads the configuration again. It returns whole new Settings, in
	// which the KMS of a backend that did not change is the same as before, or
	// an error that says all that is wrong with them.
	Load func(context.Context) (Settings, error)
	// Audit is written by every call. The Broker does not close it.
	Audit *audit.Log
	// Arena holds the intermediate keys. The Broker does not close it.
	Arena *secret.Arena
	// Handover is what the next process will be handed: a copy of the cache, from
	// which is wiped what leaves the cache before anybody is told that it left. The
	// Broker does not close it. Nil: nothing is handed over.
	Handover *handover.Memory
	// Received is what the former process handed over. New restores from it what may
	// still be served, and wipes it once that is on the record; the caller closes it.
	// Nil: nothing was.
	Received *handover.Received
	// Persist is the sealed file. The zero value: there is none.
	Persist Persist
	// CacheCapacity is how many intermediate keys are cached; at least 1.
	CacheCapacity int
	// CallTimeout bounds a call, whatever deadline its caller set.
	CallTimeout time.Duration
	// Patience is how long what a caller needs and nothing but a KMS can give is tried
	// for: a KMS that throttles is asked again, and a caller who gives up before that
	// may find it when he comes back. 0: not at all.
	Patience time.Duration
	// StartSpread is the time over which a fleet that starts at once spreads what a
	// broker asks of the KMSs by itself: it waits for a random part of it. A recipient
	// that a caller's key has used by then needs no first check. 0: it does not wait.
	StartSpread time.Duration
	// AuditTimeout bounds the wait for a record to be written.
	AuditTimeout time.Duration
	// Now is the wall clock, for what is written down.
	Now func() time.Time
	// Uptime is a clock whose differences are ages: never set, and running on
	// while the machine sleeps.
	Uptime   func() time.Time
	Random   io.Reader
	Logger   *slog.Logger
	Observer Observer
}

// Broker answers calls. It is safe for concurrent use.
type Broker struct {
	version       string
	bootID        string
	reload        func(context.Context) (Settings, error)
	audit         *audit.Log
	refusals      *audit.Refusals
	arena         *secret.Arena
	handover      *handover.Memory
	persist       Persist
	cache         *cache.Cache[[32]byte, *intermediate]
	cacheCapacity int
	callTimeout   time.Duration
	patience      time.Duration
	auditTimeout  time.Duration
	now           func() time.Time
	uptime        func() time.Time
	random        io.Reader
	log           *slog.Logger
	observe       Observer

	snap       atomic.Pointer[snapshot]
	writers    writers
	budgets    budgets
	conditions conditions
	drilling   atomic.Pointer[tally]
	// startsAt is when it begins to ask KMSs by itself; see Options.StartSpread.
	startsAt time.Time

	applying sync.Mutex // held while settings change
	ctx      context.Context
	stop     context.CancelFunc
	tasks    sync.WaitGroup
}

// New returns a Broker that serves s, and writes the audit's start record. It
// calls no KMS. The caller ends it with Close.
func New(ctx context.Context, o Options, s Settings) (*Broker, error) {
	b := &Broker{
		version:       o.Version,
		bootID:        o.BootID,
		reload:        o.Load,
		audit:         o.Audit,
		refusals:      audit.NewRefusals(o.Audit, o.Uptime),
		arena:         o.Arena,
		handover:      o.Handover,
		persist:       o.Persist,
		cacheCapacity: o.CacheCapacity,
		callTimeout:   o.CallTimeout,
		patience:      o.Patience,
		auditTimeout:  o.AuditTimeout,
		now:           o.Now,
		uptime:        o.Uptime,
		random:        o.Random,
		log:           o.Logger,
		observe:       o.Observer,
		writers:       writers{current: map[string]*writing{}, making: map[string]*making{}, failedAt: map[string]time.Time{}},
		budgets:       budgets{of: map[string]*rate.Limiter{}},
		conditions:    conditions{of: map[keyRecipient]condition{}, proofs: map[keyRecipient]proof{}},
	}
	b.cache = cache.New(cache.Config[[32]byte, *intermediate]{
		Capacity: o.CacheCapacity,
		Now:      o.Uptime,
		Evict:    func(i *intermediate) { i.bytes.Wipe() },
		Kept:     b.kept,
		Left:     b.left,
		Outage:   servedUntil,
		Refusal:  isRefusal,
		Definite: isDefinite,
		Linger:   o.Patience,
		Jitter:   rand.Float64,
	})
	snap, err := s.resolve(b.kmsOf)
	if err != nil {
		return nil, err
	}
	snap.loadedAt = b.now()
	started := audit.Record{
		Event: audit.EventStart, Outcome: audit.OutcomeOK, BootID: o.BootID,
		Detail: "version " + o.Version + ", config " + s.SHA256,
	}
	started.Detail += b.restoreAll(snap, o)
	if _, err := b.audit.Append(ctx, started); err != nil {
		b.cache.Close()
		return nil, fmt.Errorf("the audit's start record: %w", err)
	}
	if o.Received != nil {
		// From here on something may be refused, which only Handover then forgets.
		o.Received.Wipe()
	}
	b.commitSealed(ctx)
	b.startsAt = b.uptime().Add(spread(o.StartSpread))
	b.snap.Store(snap)
	b.configured(snap)
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.tasks.Go(b.tend)
	b.tasks.Go(b.probe)
	b.tasks.Go(b.flushRefusals)
	return b, nil
}

// Close ends the Broker's background work, wipes the cache but not what is handed
// over or sealed of it, writes the audit's stop record and closes the KMSs. The front
// doors are closed before it. ctx bounds the wait for the record.
func (b *Broker) Close(ctx context.Context) error {
	b.stop()
	b.cache.Close()
	b.tasks.Wait()
	err := b.refusals.Close(ctx)
	_, unwritten := b.audit.Append(ctx, audit.Record{Event: audit.EventStop, Outcome: audit.OutcomeOK, Detail: b.sealed(ctx)})
	err = errors.Join(err, unwritten)
	for _, m := range b.snap.Load().kmss {
		err = errors.Join(err, m.of.KMS.Close())
	}
	return err
}

// kmsOf wraps a backend, or finds the wrapper it has.
func (b *Broker) kmsOf(name string, of Backend) *kms {
	if old := b.snap.Load(); old != nil {
		if m := old.kmss[name]; m != nil && m.of.same(of) {
			return m
		}
	}
	return &kms{
		name: name, of: of, observe: b.observe, log: b.log, now: b.now, uptime: b.uptime,
		breaker:  newBreaker(func(s BreakerState) { b.breakerChanged(name, s) }),
		quota:    newQuota(),
		retries:  newRetries(),
		patience: b.patience,
	}
}

// breakerChanged tells observer and log.
func (b *Broker) breakerChanged(backend string, s BreakerState) {
	b.observe.Breaker(backend, s)
	switch s {
	case BreakerOpen:
		b.log.Warn("a backend does not answer, and is not asked for now", "backend", backend)
	case BreakerClosed:
		b.log.Info("a backend answers again", "backend", backend)
	case BreakerHalfOpen:
	}
}

// configured tells the observer which names there are, and what is known of them.
func (b *Broker) configured(snap *snapshot) {
	names := make([]string, 0, len(snap.kmss))
	for name := range snap.kmss {
		names = append(names, name)
	}
	b.observe.Configured(names, snap.names)
	for name, m := range snap.kmss {
		b.observe.Breaker(name, breakerState(m.breaker.State()))
	}
	for _, name := range snap.names {
		for _, r := range snap.present[name].recipients {
			if known := b.conditions.get(keyRecipient{name, r}); known.tried {
				b.observe.KEK(name, r.Backend, r.Key, known.good)
			}
		}
	}
}

// tend has what is in use loaded again before its time; once a minute it wipes
// what nobody asks for any more, and tells the observer how the cache is.
func (b *Broker) tend() {
	refresh, sweep := time.NewTicker(refreshEvery), time.NewTicker(sweepEvery)
	defer refresh.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-refresh.C:
			b.useWriters()
			b.cache.Refresh()
		case <-sweep.C:
			b.cache.Sweep()
			b.gauge()
		}
	}
}

// refreshEvery is how often the cache looks for what is due.
const refreshEvery = time.Second

// flushRefusals writes the sums of refusals when their minute has passed.
func (b *Broker) flushRefusals() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
			ctx, cancel := context.WithTimeout(b.ctx, b.auditTimeout)
			if err := b.refusals.Flush(ctx); err != nil {
				b.log.Error("sums of refused calls could not be written", "error", err)
			}
			cancel()
		}
	}
}

// sweepEvery is how long a key that nobody asks for may stay in locked memory
// past its limits. It is served to nobody in that time.
const sweepEvery = time.Minute

// gauge tells the observer how full the cache is and how long each key would
// last.
func (b *Broker) gauge() {
	b.observe.CacheEntries(b.cache.Len())
	snap := b.snap.Load()
	for _, name := range snap.names {
		_, runway := b.lasts(snap.present[name])
		b.observe.Runway(name, runway)
	}
}

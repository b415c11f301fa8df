package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/policy"
)

// A drill is at least long enough to see something, and not so long that it is
// forgotten.
const (
	MinDrill = time.Second
	MaxDrill = time.Hour
)

// drillEvery is how often a drill reports.
const drillEvery = time.Second

// DrillReport is how a drill stands.
type DrillReport struct {
	// Left is how long it goes on; 0 in the last report.
	Left time.Duration
	Keys []DrilledKey
}

// DrilledKey is a key, and what became of the calls that needed an intermediate
// key of it since the drill began.
type DrilledKey struct {
	KeyInfo
	// Calls answered from the cache as fresh, as stale, by a KMS, and those that
	// failed.
	Fresh, Stale, Backend, Failed uint64
	// Depends tells that the key has a recipient in the backend that is treated as
	// gone.
	Depends bool
}

// errDrill is why a backend is not asked during a drill.
var errDrill = fmt.Errorf("%w: a drill treats this backend as gone", errNotAsked)

// tally counts calls during a drill. Nil counts none.
type tally struct {
	mu sync.Mutex
	of map[string]*DrilledKey // by key name; only its counts are used
}

func (t *tally) count(rec *audit.Record) {
	switch rec.Event {
	case audit.EventGenerate, audit.EventWrap, audit.EventUnwrap, audit.EventRewrap:
	default:
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.of[rec.Key]
	if k == nil {
		k = &DrilledKey{}
		t.of[rec.Key] = k
	}
	switch {
	case rec.Outcome != audit.OutcomeOK:
		k.Failed++
	case rec.Source == "cache":
		k.Fresh++
	case rec.Source == "stale_cache":
		k.Stale++
	default:
		k.Backend++
	}
}

// Drill treats a backend as gone, in this broker only, until d has passed or ctx
// ends, and calls report once a second and at the end. Calls that are under way at
// the backend are let through; it is asked nothing else, not even whether it is
// back. It needs the admin right drill. There is one drill at a time.
//
// Its errors are *Error, or report's.
func (b *Broker) Drill(ctx context.Context, call Call, backend string, d time.Duration, report func(DrillReport) error) error {
	var m *kms
	var count *tally
	err := b.perform(ctx, call, audit.EventDrill, func(_ context.Context, op *operation) error {
		if err := op.authorizeAdmin(policy.Drill); err != nil {
			return err
		}
		op.rec.Backend = backend
		switch m = op.snap.kmss[backend]; {
		case m == nil:
			return refuse(InvalidArgument, fmt.Sprintf("there is no backend %q; `keybroker status` lists those there are", backend))
		case d < MinDrill || d > MaxDrill:
			return refuse(InvalidArgument, fmt.Sprintf("a drill of %v; want %v to %v", d, MinDrill, MaxDrill))
		}
		count = &tally{of: map[string]*DrilledKey{}}
		if !b.drilling.CompareAndSwap(nil, count) {
			return refuse(InvalidArgument, "a drill is under way already")
		}
		op.note(fmt.Sprintf("begins, for %v", d))
		return nil
	})
	if err != nil {
		if count != nil {
			b.drilling.CompareAndSwap(count, nil) // its record could not be written
		}
		return err
	}
	b.log.Warn("a drill begins", "backend", backend, "for", d.String())
	m.drilled.Store(true)
	b.observe.BackendUp(backend, false)
	b.conditions.suspect(backend, b.uptime())
	err = b.drill(ctx, m, count, d, report)
	m.drilled.Store(false)
	b.drilling.Store(nil)
	b.observe.BackendUp(backend, m.state().up)
	b.conditions.suspect(backend, b.uptime())
	b.log.Warn("a drill ends", "backend", backend)
	rec := audit.Record{
		Event: audit.EventDrill, Outcome: audit.OutcomeOK, Code: CodeOK.String(), RequestID: call.RequestID,
		Client: auditClient(call.Method, call.Caller), Backend: backend, Detail: "ends",
	}
	if unwritten := b.record(ctx, rec, false); unwritten != nil {
		b.log.Error("the audit record of a drill's end could not be written", "error", unwritten)
	}
	return err
}

// drill reports until the drill is over.
func (b *Broker) drill(ctx context.Context, m *kms, count *tally, d time.Duration, report func(DrillReport) error) error {
	ends := b.uptime().Add(d)
	tick := time.NewTicker(drillEvery)
	defer tick.Stop()
	for {
		left := max(0, ends.Sub(b.uptime()))
		if err := report(b.drillReport(m, count, left)); err != nil || left == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil // whoever asked for it has gone, and so it is over
		case <-b.ctx.Done():
			return refuse(BackendUnavailable, "the broker stops, and the drill with it")
		}
	}
}

func (b *Broker) drillReport(m *kms, count *tally, left time.Duration) DrillReport {
	snap := b.snap.Load()
	r := DrillReport{Left: left}
	count.mu.Lock()
	defer count.mu.Unlock()
	for _, name := range snap.names {
		k := snap.present[name]
		drilled := DrilledKey{KeyInfo: b.keyInfo(k)}
		if c := count.of[name]; c != nil {
			drilled.Fresh, drilled.Stale, drilled.Backend, drilled.Failed = c.Fresh, c.Stale, c.Backend, c.Failed
		}
		for _, of := range k.recipients {
			drilled.Depends = drilled.Depends || of.kms == m
		}
		r.Keys = append(r.Keys, drilled)
	}
	return r
}

// drill is the error of a call during a drill, or nil.
func (m *kms) drill(op string) error {
	if m.drilled.Load() {
		return &backends.Error{Class: backends.Unavailable, Op: op, Err: errDrill}
	}
	return nil
}

package broker_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/handover"
	"github.com/keybroker/keybroker/internal/persist"
	"github.com/keybroker/keybroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// uids of the callers in these tests.
const (
	uidTiKV    = 1001 // client tikv: generate, unwrap with key tikv
	uidOps     = 1002 // client ops: everything, admin
	uidNobody  = 1003 // no client
	uidOther   = 1004 // client other: everything with key other
	uidInspect = 1005 // client auditor: inspect, list
	uidRewrap  = 1006 // client mover: rewrap with key tikv
)

// fixture is a Broker with fake KMSs and a real cache, arena, policy and audit
// log.
type fixture struct {
	*broker.Broker
	t        *testing.T
	audit    *auditLog
	one, two *fakeKMS
	settings broker.Settings
	loadErr  error // of each reload
	now      *fakeClock
	// clock is both clocks of the Broker: now's, unless the test is about what
	// passes by itself.
	clock func() time.Time
	// uptime is the Broker's second clock, if it is not the same as the first.
	uptime  func() time.Time
	arena   *secret.Arena
	observe *observer
	logger  *slog.Logger
	// What a restart needs; nil and empty unless the test is about that.
	memory   *handover.Memory
	received *handover.Received
	bootID   string
	// patience and startSpread are Options'; with early the fixture is there before
	// the first checks.
	patience, startSpread time.Duration
	early                 bool
	// What keeps the cache in a sealed file, likewise.
	persist broker.Persist
	place   sealedPlace
	look    sealedLook
}

// sealedPlace is where a sealed file is, and what seals it.
type sealedPlace struct {
	path   string
	sealer persist.KeyFile
}

// sealedLook is what was in a sealed file when it was last looked at.
type sealedLook struct {
	mu    sync.Mutex
	bytes []byte
	found map[[32]byte]bool
}

// fakeClock is both clocks of a Broker. It moves only when told.
type fakeClock struct{ ns atomic.Int64 }

func (c *fakeClock) Now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *fakeClock) Advance(d time.Duration) { c.ns.Add(int64(d)) }

// newFixture returns a Broker with the keys "tikv" (alias "tikv-master") and
// "other", each with a master key in the KMS "one"; change may change that.
func newFixture(t *testing.T, change ...func(*fixture)) *fixture {
	t.Helper()
	f := &fixture{t: t, one: newFakeKMS("one"), two: newFakeKMS("two"), now: &fakeClock{}}
	f.now.ns.Store(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).UnixNano())
	f.clock = f.now.Now
	f.arena = newArena(t)
	f.observe = newObserver()
	f.logger = slog.New(slog.DiscardHandler)
	f.settings = broker.Settings{
		Backends: map[string]broker.Backend{
			"one": {KMS: f.one, Provider: "fake", Type: "fake", Timeout: time.Minute, KeyOf: keyOf},
			"two": {KMS: f.two, Provider: "fake", Type: "fake", Timeout: time.Minute, KeyOf: keyOf},
		},
		Keys:   []broker.Key{newKey("tikv", "one/a"), newKey("other", "one/a")},
		Policy: newPolicy(t),
		SHA256: "0",
	}
	f.settings.Keys[0].Aliases = []string{"tikv-master"}
	for _, c := range change {
		c(f)
	}
	f.audit = newAuditLog(t, f.clock)
	b, err := broker.New(t.Context(), f.options(), f.settings)
	if err != nil {
		t.Fatal(err)
	}
	f.Broker = b
	if !f.early {
		f.observe.wait(f.firstChecks)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil && !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Close: %v", err)
		}
	})
	return f
}

func (f *fixture) options() broker.Options {
	uptime := f.uptime
	if uptime == nil {
		uptime = f.clock
	}
	return broker.Options{
		Version:       "test",
		BootID:        f.bootID,
		Handover:      f.memory,
		Received:      f.received,
		Persist:       f.persist,
		Load:          func(context.Context) (broker.Settings, error) { return f.settings, f.loadErr },
		Audit:         f.audit.Log,
		Arena:         f.arena,
		CacheCapacity: 64,
		CallTimeout:   10 * time.Second,
		Patience:      f.patience,
		StartSpread:   f.startSpread,
		AuditTimeout:  5 * time.Second,
		Now:           f.clock,
		Uptime:        uptime,
		Random:        rand.Reader,
		Logger:        f.logger,
		Observer:      f.observe,
	}
}

// firstChecks tells whether each recipient has been checked once. A test that
// counts calls begins after that: a first check that comes later finds what was
// wrapped meanwhile, and unwraps it.
func (f *fixture) firstChecks(counts map[string]int) bool {
	for _, k := range f.settings.Keys {
		for _, r := range slices.Concat(k.Recipients, k.FormerRecipients) {
			kek := strings.Join([]string{"kek", k.Name, r.Backend, r.Key}, " ")
			if counts[kek+" true"]+counts[kek+" false"] == 0 {
				return false
			}
		}
	}
	return true
}

// newKey returns a key whose recipients are written "backend/master key".
func newKey(name string, recipients ...string) broker.Key {
	k := broker.Key{
		Name: name, MinRecipients: len(recipients), CheckInterval: time.Hour,
		Limits: cache.Limits{TTL: time.Hour, MaxStale: 3 * time.Hour},
		MaxAge: 24 * time.Hour, MaxUses: 1 << 20,
	}
	for _, r := range recipients {
		backend, master, _ := strings.Cut(r, "/")
		k.Recipients = append(k.Recipients, broker.Recipient{Backend: backend, Key: master})
	}
	return k
}

func newPolicy(t *testing.T) *policy.Policy {
	t.Helper()
	uid := func(n uint32) *uint32 { return &n }
	all := []policy.Operation{policy.Any}
	p, err := policy.New([]policy.Client{
		{Name: "tikv", Match: policy.Match{UID: uid(uidTiKV)}, Allow: []policy.Rule{{Keys: []string{"tikv"}, Operations: []policy.Operation{policy.Generate, policy.Unwrap}}}},
		{Name: "ops", Match: policy.Match{UID: uid(uidOps)}, Allow: []policy.Rule{{Keys: []string{"*"}, Operations: all}}, Admin: []policy.Right{policy.AnyRight}},
		{Name: "other", Match: policy.Match{UID: uid(uidOther)}, Allow: []policy.Rule{{Keys: []string{"other"}, Operations: all}}},
		{Name: "mover", Match: policy.Match{UID: uid(uidRewrap)}, Allow: []policy.Rule{{Keys: []string{"tikv"}, Operations: []policy.Operation{policy.Rewrap}}}},
		{Name: "auditor", Match: policy.Match{UID: uid(uidInspect)}, Allow: []policy.Rule{{Keys: []string{"tikv"}, Operations: []policy.Operation{policy.Inspect, policy.List}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// by is a call of the process with this uid.
func by(uid uint32) broker.Call {
	return broker.Call{API: "test", Method: "Test", Caller: identity(uid), RequestID: "r"}
}

// generate makes a data key that must succeed.
func (f *fixture) generate(uid uint32, key string, ctx map[string]string) (plaintext, wrapped []byte) {
	f.t.Helper()
	g, err := f.Generate(f.t.Context(), by(uid), broker.GenerateRequest{KeyName: key, Context: ctx})
	if err != nil {
		f.t.Fatalf("Generate: %v", explain(err))
	}
	return g.Plaintext.Bytes(), g.WrappedKey
}

// unwrap opens a wrapped key as ops.
func (f *fixture) unwrap(wrapped []byte, ctx map[string]string) (broker.Unwrapped, error) {
	return f.Unwrap(f.t.Context(), by(uidOps), broker.UnwrapRequest{WrappedKey: wrapped, Context: ctx})
}

// wantReason fails the test unless err is an *Error with this reason.
func wantReason(t *testing.T, err error, want broker.Reason) {
	t.Helper()
	_ = wantError(t, err, want)
}

// wantError is wantReason, and returns the *Error.
func wantError(t *testing.T, err error, want broker.Reason) *broker.Error {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want reason %s", err, want)
	}
	if e.Reason != want {
		t.Fatalf("reason %s (%s), want %s", e.Reason, explain(err), want)
	}
	return e
}

// explain shows an error with its hidden cause.
func explain(err error) string {
	s := err.Error()
	if cause := errors.Unwrap(err); cause != nil {
		s += " [" + cause.Error() + "]"
	}
	return s
}

// fakeKMS keeps the semantics of a KMS with associated data in a map: a
// ciphertext is a handle to what was wrapped. Each of its faults is a field.
type fakeKMS struct {
	name string

	mu     sync.Mutex
	stored map[string]fakeWrap
	next   int

	// delay is how long each wrap and unwrap takes, if its ctx does not end before.
	delay atomic.Int64
	// version is what it wraps with; of those in disabled it opens nothing.
	version  atomic.Pointer[string]
	disabled sync.Map

	wraps, unwraps, checks atomic.Int32
	fail                   atomic.Pointer[backends.Error] // for every call
	failUnwrap, failWrap   atomic.Pointer[backends.Error]
	onUnwrap               atomic.Pointer[func(context.Context, []byte) ([]byte, error)]
	onWrap                 atomic.Pointer[func()]
	closed                 atomic.Bool
	seen                   sync.Map // every reference that was sent to it
}

type fakeWrap struct {
	key, ad   string
	version   string
	plaintext []byte
}

func newFakeKMS(name string) *fakeKMS {
	k := &fakeKMS{name: name, stored: map[string]fakeWrap{}}
	k.rotate("1")
	return k
}

// rotate makes version the one that it wraps with.
func (k *fakeKMS) rotate(version string) { k.version.Store(&version) }

// work takes as long as the test asked.
func (k *fakeKMS) work(ctx context.Context, op string) error {
	delay := time.Duration(k.delay.Load())
	if delay == 0 {
		return nil
	}
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return backends.Errorf(backends.Unavailable, op, "", "%w", ctx.Err())
	}
}

func (k *fakeKMS) ref(key string) string { return "ref:" + k.name + "/" + key }

func keyOf(reference string) string { return reference[strings.LastIndex(reference, "/")+1:] }

func (k *fakeKMS) Wrap(ctx context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	k.wraps.Add(1)
	if f := k.onWrap.Load(); f != nil {
		(*f)()
	}
	if err := k.work(ctx, "wrap"); err != nil {
		return backends.Wrapped{}, err
	}
	if err := k.fail.Load(); err != nil {
		return backends.Wrapped{}, err
	}
	if err := k.failWrap.Load(); err != nil {
		return backends.Wrapped{}, err
	}
	version := *k.version.Load()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	handle := k.name + ":" + strings.Repeat("x", k.next)
	k.stored[handle] = fakeWrap{req.Key, string(req.AssociatedData), version, append([]byte(nil), req.Plaintext...)}
	return backends.Wrapped{Provider: "fake", Reference: k.ref(req.Key), Version: version, Binding: backends.BindingAAD, Ciphertext: []byte(handle)}, nil
}

func (k *fakeKMS) Unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	k.unwraps.Add(1)
	k.seen.Store(req.Reference, true)
	if err := k.work(ctx, "unwrap"); err != nil {
		return nil, err
	}
	if err := k.fail.Load(); err != nil {
		return nil, err
	}
	if err := k.failUnwrap.Load(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	w, ok := k.stored[string(req.Ciphertext)]
	k.mu.Unlock()
	if !ok || w.key != req.Key || w.ad != string(req.AssociatedData) {
		return nil, backends.Errorf(backends.InvalidCiphertext, "unwrap", req.Key, "not what I made")
	}
	if _, disabled := k.disabled.Load(w.version); disabled {
		return nil, backends.Errorf(backends.Disabled, "unwrap", req.Key, "version %s", w.version)
	}
	plaintext := append([]byte(nil), w.plaintext...)
	if f := k.onUnwrap.Load(); f != nil {
		return (*f)(ctx, plaintext)
	}
	return plaintext, nil
}

func (k *fakeKMS) Match(_ context.Context, key, reference string) (bool, error) {
	return reference == k.ref(key), nil
}

func (k *fakeKMS) Check(context.Context, string) error {
	k.checks.Add(1)
	if err := k.fail.Load(); err != nil {
		return err
	}
	return nil
}

func (k *fakeKMS) Close() error { k.closed.Store(true); return nil }

// down makes every call fail with class.
func (k *fakeKMS) down(class backends.Class) {
	k.fail.Store(backends.Errorf(class, "call", "", "as the test asked"))
}

func (k *fakeKMS) up() { k.fail.Store(nil) }

// observer counts what it is told.
type observer struct {
	mu     sync.Mutex
	more   *sync.Cond // of mu
	counts map[string]int
}

func newObserver() *observer {
	o := &observer{counts: map[string]int{}}
	o.more = sync.NewCond(&o.mu)
	return o
}

// wait returns once what it was told is enough.
func (o *observer) wait(enough func(counts map[string]int) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !enough(o.counts) {
		o.more.Wait()
	}
}

func (o *observer) count(parts ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts[strings.Join(parts, " ")]++
	o.more.Broadcast()
}

// of is how often it was told so.
func (o *observer) of(parts ...string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts[strings.Join(parts, " ")]
}

func (o *observer) Request(_, method, client, key string, code broker.Code, _ time.Duration) {
	o.count("request", method, client, key, code.String())
}
func (o *observer) Lookup(key, result string) { o.count("lookup", key, result) }
func (o *observer) CacheEntries(int)          {}
func (o *observer) BackendCall(backend, op, class string, _ time.Duration) {
	o.count("call", backend, op, class)
}
func (o *observer) BackendUp(string, bool) {}
func (o *observer) Breaker(backend string, s broker.BreakerState) {
	o.count("breaker", backend, s.String())
}
func (o *observer) KEK(key, backend, kek string, usable bool) {
	o.count("kek", key, backend, kek, strconv.FormatBool(usable))
}
func (o *observer) Hedge(key string)             { o.count("hedge", key) }
func (o *observer) Degraded(key string)          { o.count("degraded", key) }
func (o *observer) Runway(string, time.Duration) {}
func (o *observer) Configured(_, _ []string)     {}

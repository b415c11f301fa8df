package integration_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/broker/envelope"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// chaosLoad is the callers of a chaos run. They come whether the former ones have been
// answered or not.
type chaosLoad struct {
	t       *testing.T
	started time.Time
	keys    []string
	client  keybrokerv1.KeyBrokerClient

	mu    sync.Mutex
	given map[string][]given
	calls []call
	// stalled is the longest that this process itself was not run for, though it was
	// its time.
	stalled time.Duration
}

// given is a wrapped key and what it has to open to.
type given struct {
	plaintext, wrapped []byte
	key                string
	ik                 [32]byte
	sum                string
}

const (
	// callEvery is when the next caller comes.
	callEvery = 5 * time.Millisecond
	// patient is the deadline of most callers: longer than the broker's own limit,
	// so that it is the broker who keeps it.
	patient = callLimit + 5*time.Second
	// hot is how many of a key's last wrapped keys most callers open.
	hot = 50
)

// loadContext is bound to every wrapped key of the load.
var loadContext = map[string]string{"test": "chaos"}

func newChaosLoad(t *testing.T, socket string, keys []string, started time.Time) *chaosLoad {
	t.Helper()
	soon := backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: 20 * time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &chaosLoad{t: t, started: started, keys: keys, client: keybrokerv1.NewKeyBrokerClient(conn), given: map[string][]given{}}
}

// prime makes the first wrapped keys.
func (l *chaosLoad) prime() {
	l.t.Helper()
	for _, key := range l.keys {
		for range hot {
			l.generate(key, patient)
		}
	}
	for _, c := range l.calls {
		if c.reason != "" {
			l.t.Fatalf("before any fault: %s", c)
		}
	}
}

// run sends callers until ctx ends, and returns when all are answered.
func (l *chaosLoad) run(ctx context.Context, seed uint64) {
	random := mathrand.New(mathrand.NewPCG(seed, 1<<32))
	var callers sync.WaitGroup
	defer callers.Wait()
	tick := time.NewTicker(callEvery)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := time.Now()
			l.stalled = max(l.stalled, now.Sub(last)-callEvery)
			last = now
			next := l.next(random)
			callers.Go(next)
		}
	}
}

// next draws what the next caller does.
func (l *chaosLoad) next(random *mathrand.Rand) func() {
	key := l.keys[random.IntN(len(l.keys))]
	allowed := patient
	if random.IntN(10) == 0 {
		allowed = 50*time.Millisecond + time.Duration(random.Int64N(int64(2*time.Second)))
	}
	g := l.pick(random, key, hot)
	switch n := random.IntN(100); {
	case n < 50:
		return func() { l.unwrap(g, "unwrap", allowed) }
	case n < 56:
		cold := l.pick(random, key, 0)
		return func() { l.unwrap(cold, "unwrap", allowed) }
	case n < 70:
		return func() { l.generate(key, allowed) }
	case n < 78:
		return func() { l.wrap(key, allowed) }
	case n < 86:
		return func() { l.rewrap(g, allowed) }
	case n < 96:
		items := make([]given, 8)
		for i := range items {
			items[i] = l.pick(random, l.keys[random.IntN(len(l.keys))], hot)
		}
		return func() { l.batch(items, "unwrap", allowed) }
	default:
		damaged := g
		damaged.wrapped = bytes.Clone(g.wrapped)
		damaged.wrapped[random.IntN(len(damaged.wrapped))] ^= 1 << random.IntN(8)
		return func() { l.unwrap(damaged, damagedUnwrap, allowed) }
	}
}

// pick draws one of the last wrapped keys of a key, or of all for 0.
func (l *chaosLoad) pick(random *mathrand.Rand, key string, last int) given {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.given[key]
	if last > 0 && len(all) > last {
		all = all[len(all)-last:]
	}
	return all[random.IntN(len(all))]
}

// do makes one call and notes what came of it, but for what f sets.
func (l *chaosLoad) do(operation, key string, allowed time.Duration, f func(context.Context, *call) error) {
	c := call{operation: operation, key: key, allowed: allowed, began: time.Since(l.started)}
	ctx, cancel := context.WithTimeout(l.t.Context(), allowed)
	defer cancel()
	err := f(ctx, &c)
	c.ended = time.Since(l.started)
	if err != nil {
		c.reason = failedBy(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, c)
}

// made keeps a wrapped key that the broker has given out.
func (l *chaosLoad) made(c *call, key string, plaintext, wrapped []byte) {
	sum := sha256.Sum256(wrapped)
	c.envelope = hex.EncodeToString(sum[:])
	env, err := envelope.Parse(wrapped)
	if err != nil {
		l.t.Errorf("the broker gave out what is no wrapped key: %v", err)
		return
	}
	c.ik = env.IK().ID()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given[key] = append(l.given[key], given{plaintext, wrapped, key, c.ik, c.envelope})
}

func (l *chaosLoad) generate(key string, allowed time.Duration) {
	l.do("generate", key, allowed, func(ctx context.Context, c *call) error {
		r, err := l.client.GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{KeyName: key, Context: loadContext})
		if err == nil {
			c.wrong = len(r.GetPlaintext()) != 32
			l.made(c, key, r.GetPlaintext(), r.GetWrappedKey())
		}
		return err
	})
}

func (l *chaosLoad) wrap(key string, allowed time.Duration) {
	plaintext := make([]byte, 32)
	_, _ = rand.Read(plaintext) // never fails
	l.do("wrap", key, allowed, func(ctx context.Context, c *call) error {
		r, err := l.client.WrapKey(ctx, &keybrokerv1.WrapKeyRequest{KeyName: key, Plaintext: plaintext, Context: loadContext})
		if err == nil {
			l.made(c, key, plaintext, r.GetWrappedKey())
		}
		return err
	})
}

func (l *chaosLoad) rewrap(g given, allowed time.Duration) {
	l.do("rewrap", g.key, allowed, func(ctx context.Context, c *call) error {
		r, err := l.client.RewrapKey(ctx, &keybrokerv1.RewrapKeyRequest{WrappedKey: g.wrapped, Context: loadContext})
		if err == nil {
			l.made(c, g.key, g.plaintext, r.GetWrappedKey())
		}
		return err
	})
}

func (l *chaosLoad) unwrap(g given, operation string, allowed time.Duration) {
	l.do(operation, g.key, allowed, func(ctx context.Context, c *call) error {
		c.ik, c.envelope = g.ik, g.sum
		r, err := l.client.UnwrapKey(ctx, &keybrokerv1.UnwrapKeyRequest{WrappedKey: g.wrapped, Context: loadContext})
		if err == nil {
			c.source = r.GetSource()
			c.wrong = operation == damagedUnwrap || !bytes.Equal(r.GetPlaintext(), g.plaintext)
		}
		return err
	})
}

// batch opens items in one call, each of which is noted as one of its own.
func (l *chaosLoad) batch(items []given, operation string, allowed time.Duration) {
	req := &keybrokerv1.BatchUnwrapKeysRequest{}
	for _, g := range items {
		req.Items = append(req.Items, &keybrokerv1.BatchUnwrapKeysItem{WrappedKey: g.wrapped, Context: loadContext})
	}
	began := time.Since(l.started)
	ctx, cancel := context.WithTimeout(l.t.Context(), allowed)
	defer cancel()
	r, err := l.client.BatchUnwrapKeys(ctx, req)
	ended := time.Since(l.started)
	if err == nil && len(r.GetResults()) != len(items) {
		l.t.Errorf("%d results for %d items", len(r.GetResults()), len(items))
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, g := range items {
		c := call{began: began, ended: ended, allowed: allowed, operation: operation, key: g.key, ik: g.ik, envelope: g.sum}
		switch {
		case err != nil:
			c.reason = failedBy(err)
		case r.GetResults()[i].GetError().GetCode() != int32(codes.OK):
			c.reason = failedBy(status.FromProto(r.GetResults()[i].GetError()).Err())
		default:
			c.source, c.wrong = r.GetResults()[i].GetSource(), !bytes.Equal(r.GetResults()[i].GetPlaintext(), g.plaintext)
		}
		l.calls = append(l.calls, c)
	}
}

// final opens everything that was ever given out: first as a client does that tries
// again where it is told to, since a KMS that has throttled is sent less for a while.
func (l *chaosLoad) final() {
	for end := time.Now().Add(throttledFor); !l.openAll("unwrap") && time.Now().Before(end); {
		time.Sleep(time.Second)
	}
	l.openAll(finalUnwrap)
}

// throttledFor is how long a KMS is sent less after it has throttled
// (docs/failover.md).
const throttledFor = 30 * time.Second

// openAll opens everything that was ever given out, and tells whether all of it did.
func (l *chaosLoad) openAll(operation string) bool {
	before := len(l.calls)
	const atOnce = 500
	for _, key := range l.keys {
		for all := l.given[key]; len(all) > 0; {
			n := min(atOnce, len(all))
			l.batch(all[:n], operation, patient)
			all = all[n:]
		}
	}
	return !slices.ContainsFunc(l.calls[before:], func(c call) bool { return c.reason != "" })
}

// damagedUnwrap is of a wrapped key of which one bit is another.
const damagedUnwrap = "damaged unwrap"

// What a call fails by that no broker has answered.
const (
	callerGaveUp = "the caller gave up"
	noConnection = "no connection"
)

// failedBy is what a call failed by: the broker's reason, or why there is none.
func failedBy(err error) string {
	if reason, _ := reasonOf(err); reason != "" {
		return reason
	}
	switch code := status.Code(err); code {
	case codes.DeadlineExceeded:
		return callerGaveUp
	case codes.Unavailable:
		return noConnection
	default:
		return code.String()
	}
}

package broker_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/cache"
)

// threeKMS is a fixture whose key "tikv" has the recipients one, two and three, in
// this order, and whose clocks are the bubble's.
type threeKMS struct {
	*fixture
	three *fakeKMS
	dek   []byte
	// wrapped opens with each of them.
	wrapped []byte
}

// newThreeKMS must be called in a bubble.
func newThreeKMS(t *testing.T, change ...func(*fixture)) *threeKMS {
	t.Helper()
	f := &threeKMS{three: newFakeKMS("three")}
	f.fixture = newFixture(t, append([]func(*fixture){func(of *fixture) {
		of.clock = time.Now
		timeout := 3 * time.Second
		of.settings.Backends = map[string]broker.Backend{}
		for _, k := range []*fakeKMS{of.one, of.two, f.three} {
			of.settings.Backends[k.name] = broker.Backend{KMS: k, Provider: "fake", Type: "fake", Timeout: timeout}
		}
		of.settings.Keys = []broker.Key{newKey("tikv", "one/a", "two/a", "three/a")}
	}}, change...)...)
	synctest.Wait() // for the first checks
	f.dek, f.wrapped = f.generate(uidTiKV, "tikv", nil)
	return f
}

// opens empties the cache, unwraps, and returns how long that took.
func (f *threeKMS) opens() time.Duration {
	f.t.Helper()
	f.purgeAll()
	began := time.Now()
	u, err := f.unwrap(f.wrapped, nil)
	if err != nil {
		f.t.Fatalf("Unwrap: %s", explain(err))
	}
	if !bytes.Equal(u.Plaintext.Bytes(), f.dek) {
		f.t.Fatal("another data key")
	}
	return time.Since(began)
}

// hang has every call of k wait for its ctx.
func (k *fakeKMS) hang() { k.delay.Store(int64(time.Hour)) }

func TestHedge(t *testing.T) {
	t.Run("a slow recipient is hedged by the next", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			f.one.hang()
			if took := f.opens(); took != 300*time.Millisecond {
				t.Errorf("it took %v, want the wait for a backend of unknown pace", took)
			}
			synctest.Wait()
			if f.observe.of("hedge", "tikv") != 1 || f.observe.of("call", "one", "unwrap", "canceled") != 1 {
				t.Errorf("hedges and cancelled calls are not counted once: %v", f.observe.counts)
			}
			if f.observe.of("call", "one", "unwrap", "unavailable") != 0 {
				t.Error("a call that lost the race is counted as a failure")
			}
			if n := f.three.unwraps.Load(); n != 1 {
				t.Errorf("the third was asked %d times, want only for its own read-back", n)
			}
		})
	})
	t.Run("after hedge_after if it is configured", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, func(f *fixture) { f.settings.Keys[0].HedgeAfter = 70 * time.Millisecond })
			f.one.hang()
			f.two.hang()
			if took := f.opens(); took != 140*time.Millisecond {
				t.Errorf("it took %v, want twice 70 ms", took)
			}
		})
	})
	t.Run("after what 95 % of its answers took", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			f.one.delay.Store(int64(90 * time.Millisecond))
			for range 40 {
				if took := f.opens(); took != 90*time.Millisecond {
					t.Fatalf("it took %v", took)
				}
			}
			f.one.hang()
			if took := f.opens(); took != 112500*time.Microsecond {
				t.Errorf("it took %v, want a quarter more than its answers took", took)
			}
		})
	})
	t.Run("bounded below", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			for range 40 {
				f.opens()
			}
			f.one.hang()
			if took := f.opens(); took != 20*time.Millisecond {
				t.Errorf("it took %v, want 20 ms", took)
			}
		})
	})
	t.Run("the slow one may still win", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			f.one.delay.Store(int64(400 * time.Millisecond))
			f.two.hang()
			f.three.down(backends.Unavailable)
			if took := f.opens(); took != 400*time.Millisecond {
				t.Errorf("it took %v", took)
			}
			if last := f.audit.last(t); !strings.Contains(last, `"backend":"one"`) {
				t.Errorf("the record names another backend: %s", last)
			}
		})
	})
	t.Run("nothing that a loser opened stays in memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			// It does not notice that it was cancelled.
			late := func(_ context.Context, ik []byte) ([]byte, error) { time.Sleep(time.Second); return ik, nil }
			f.one.onUnwrap.Store(&late)
			f.opens()
			time.Sleep(time.Second)
			synctest.Wait()
			f.purgeAll()
			if used := f.arena.Stats().UsedSlots; used != 0 {
				t.Errorf("%d keys are in locked memory after a purge", used)
			}
		})
	})
}

func TestSlowBackendIsAskedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t)
		f.one.hang()
		f.opens()
		f.opens()
		asked := f.one.unwraps.Load()
		if took := f.opens(); took != 0 {
			t.Errorf("the third call took %v, want none: it lost twice", took)
		}
		if f.one.unwraps.Load() != asked {
			t.Error("the slow one was asked again")
		}
		// If nobody else answers, it is.
		f.two.down(backends.Unavailable)
		f.three.down(backends.Unavailable)
		f.one.delay.Store(int64(2 * time.Second))
		if took := f.opens(); took != 2*time.Second {
			t.Errorf("it took %v, want the slow one's two seconds", took)
		}
		f.two.up()
		f.three.up()
		f.one.delay.Store(0)
		time.Sleep(12 * time.Second) // it is checked
		asked = f.one.unwraps.Load()
		if f.opens(); f.one.unwraps.Load() != asked+1 {
			t.Error("it is not asked first, now that a check found it fast again")
		}
	})
}

// One that may not wrap is checked by its own word alone: that too ends it.
func TestSlowBackendThatMayNotWrapIsAskedFirstAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		f.one.failWrap.Store(backends.Errorf(backends.Denied, "wrap", "a", "as the test asked"))
		one := f.settings.Backends["one"]
		one.Timeout++ // which makes it another: nothing that it wrapped is known
		f.settings.Backends["one"] = one
		f.reload()
		time.Sleep(2 * checkEvery)
		f.one.hang()
		f.opens()
		f.opens()
		f.one.delay.Store(0)
		asked := f.one.unwraps.Load()
		if f.opens(); f.one.unwraps.Load() != asked {
			t.Fatal("it is not asked last, although it lost twice")
		}
		time.Sleep(12 * time.Second) // it is checked
		if f.opens(); f.one.unwraps.Load() != asked+1 {
			t.Error("it is not asked first, now that a check found it fast again")
		}
	})
}

func TestFailover(t *testing.T) {
	for name, fault := range map[string]func(*fakeKMS){
		"unavailable":     func(k *fakeKMS) { k.down(backends.Unavailable) },
		"throttled":       func(k *fakeKMS) { k.down(backends.Throttled) },
		"unauthenticated": func(k *fakeKMS) { k.down(backends.Unauthenticated) },
		"internal":        func(k *fakeKMS) { k.down(backends.Internal) },
		"disabled":        func(k *fakeKMS) { k.down(backends.Disabled) },
		"denied":          func(k *fakeKMS) { k.down(backends.Denied) },
		"deleted":         func(k *fakeKMS) { k.down(backends.NotFound) },
		"another key": func(k *fakeKMS) {
			other := func(context.Context, []byte) ([]byte, error) { return bytes.Repeat([]byte{1}, 32), nil }
			k.onUnwrap.Store(&other)
		},
		"garbage": func(k *fakeKMS) {
			short := func(context.Context, []byte) ([]byte, error) { return []byte{1}, nil }
			k.onUnwrap.Store(&short)
		},
		"panic": func(k *fakeKMS) {
			panics := func(context.Context, []byte) ([]byte, error) { panic("as the test asked") }
			k.onUnwrap.Store(&panics)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newThreeKMS(t)
				fault(f.one)
				if took := f.opens(); took != 0 {
					t.Errorf("with one of three gone it took %v, want no wait", took)
				}
				fault(f.two)
				if took := f.opens(); took != 0 {
					t.Errorf("with two of three gone it took %v, want no wait", took)
				}
			})
		})
	}
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t)
		f.one.down(backends.Unavailable)
		for range 5 {
			f.opens()
		}
		if f.observe.of("breaker", "one", "open") != 1 {
			t.Fatalf("five failures in a row did not open the breaker: %v", f.observe.counts)
		}
		asked := f.one.unwraps.Load()
		f.opens()
		if f.one.unwraps.Load() != asked {
			t.Error("it was asked although its breaker is open")
		}
		f.one.up()
		time.Sleep(1500 * time.Millisecond)
		f.opens()
		if f.one.unwraps.Load() != asked+1 || f.observe.of("breaker", "one", "closed") < 2 {
			t.Error("it is not tried and trusted again")
		}
	})
	t.Run("what a caller can cause does not open it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			for _, k := range []*fakeKMS{f.one, f.two, f.three} {
				k.failUnwrap.Store(backends.Errorf(backends.InvalidCiphertext, "unwrap", "a", "as the test asked"))
			}
			for range 20 {
				f.purgeAll()
				_, err := f.unwrap(f.wrapped, nil)
				wantReason(t, err, broker.InvalidEnvelope)
			}
			if f.observe.of("breaker", "one", "open") != 0 {
				t.Error("it opened")
			}
		})
	})
	t.Run("with all of them open the answer comes at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			for _, k := range []*fakeKMS{f.one, f.two, f.three} {
				k.hang()
			}
			f.purgeAll()
			for range 5 {
				_, err := f.unwrap(f.wrapped, nil)
				wantReason(t, err, broker.BackendUnavailable)
			}
			began := time.Now()
			_, err := f.unwrap(f.wrapped, nil)
			if e := wantError(t, err, broker.BackendUnavailable); e.RetryAfter == 0 {
				t.Error("it does not say when to try again")
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	})
}

func TestRefusalDuringARace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, func(f *fixture) { f.settings.Keys[0].HedgeAfter = 100 * time.Millisecond })
		f.purgeAll()
		// One refuses while two, which was asked before that, is at work.
		f.one.delay.Store(int64(100 * time.Millisecond)) // twice, since it is confirmed
		f.one.failUnwrap.Store(backends.Errorf(backends.Disabled, "unwrap", "a", "as the test asked"))
		f.two.delay.Store(int64(130 * time.Millisecond))
		asked := f.two.unwraps.Load()
		f.three.hang()
		u, err := f.unwrap(f.wrapped, nil)
		if err != nil || !bytes.Equal(u.Plaintext.Bytes(), f.dek) {
			t.Fatalf("Unwrap: %v", err)
		}
		if n := f.two.unwraps.Load() - asked; n != 2 {
			t.Errorf("two was asked %d times, want 2: its first answer was to a call from before the refusal", n)
		}
		f.purgeAll()
		if n := f.cachedKeys(); n != 0 {
			t.Errorf("%d keys are in locked memory after a purge: what is not used is not wiped", n)
		}
	})
	t.Run("what is cached is gone at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			f.opens()
			time.Sleep(time.Hour) // past the ttl
			f.one.failUnwrap.Store(backends.Errorf(backends.Disabled, "unwrap", "a", "as the test asked"))
			f.two.hang()
			f.three.hang()
			var err error
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, err = f.unwrap(f.wrapped, nil)
			}()
			synctest.Wait()
			if n := f.cachedKeys(); n != 0 {
				t.Errorf("%d keys are kept while the others are asked", n)
			}
			<-done
			wantReason(t, err, broker.BackendUnavailable) // not stale, although the others are unreachable
			if used := f.arena.Stats().UsedSlots; used != 0 {
				t.Errorf("%d keys are kept after the refusal", used)
			}
		})
	})
}

func TestStaleWhileEveryBreakerIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t)
		for _, k := range []*fakeKMS{f.one, f.two, f.three} {
			k.down(backends.Unavailable)
		}
		time.Sleep(time.Hour + time.Minute)
		for range 10 {
			u, err := f.unwrap(f.wrapped, nil)
			if err != nil || u.Source != cache.Stale {
				t.Fatalf("source %v, error %v", u.Source, err)
			}
		}
	})
}

func TestHedgeThatFailsIsFollowedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t)
		f.one.hang()
		f.two.down(backends.Unavailable)
		if took := f.opens(); took != 300*time.Millisecond {
			t.Errorf("it took %v, want one wait: the second failed at once", took)
		}
	})
}

func TestHedgeIsBoundedAbove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t)
		f.one.delay.Store(int64(2 * time.Second))
		f.two.hang()
		f.three.hang()
		for range 17 { // few enough that the checks after the purges open no breaker
			f.opens()
		}
		f.two.delay.Store(0)
		if took := f.opens(); took != time.Second {
			t.Errorf("it took %v, want a second", took)
		}
	})
}

// stale has the intermediate key of f.wrapped cached and past its ttl.
func (f *threeKMS) stale() {
	f.t.Helper()
	f.opens()
	time.Sleep(time.Hour + time.Minute)
	synctest.Wait()
}

func TestKnownIntermediateKey(t *testing.T) {
	t.Run("a KMS that gives another key is not believed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			f.stale()
			other := func(context.Context, []byte) ([]byte, error) { return bytes.Repeat([]byte{1}, 32), nil }
			f.one.onUnwrap.Store(&other)
			u, err := f.unwrap(f.wrapped, nil)
			if err != nil || !bytes.Equal(u.Plaintext.Bytes(), f.dek) || u.Source != cache.Loaded {
				t.Errorf("source %v, error %v", u.Source, err)
			}
		})
	})
	t.Run("a refusal that is not confirmed is none", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			f.stale()
			f.two.hang()
			f.three.hang()
			first := true
			once := func(_ context.Context, ik []byte) ([]byte, error) {
				if first {
					first = false
					return nil, backends.Errorf(backends.Denied, "unwrap", "a", "as the test asked")
				}
				return ik, nil
			}
			f.one.onUnwrap.Store(&once)
			if _, err := f.unwrap(f.wrapped, nil); err != nil {
				t.Error(explain(err))
			}
		})
	})
	t.Run("one that it does not open any more is refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t)
			f.stale()
			f.one.failUnwrap.Store(backends.Errorf(backends.InvalidCiphertext, "unwrap", "a", "as the test asked"))
			f.two.down(backends.Unavailable)
			f.three.down(backends.Unavailable)
			_, err := f.unwrap(f.wrapped, nil)
			wantReason(t, err, broker.BackendUnavailable) // not stale
			if n := f.cachedKeys(); n != 0 {
				t.Errorf("%d keys are kept", n)
			}
		})
	})
}

func TestBreakerIsClosedByACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		f.one.down(backends.Unavailable)
		for range 5 {
			f.opens()
		}
		closed := f.observe.of("breaker", "one", "closed")
		f.one.up()
		time.Sleep(12 * time.Second) // nobody calls
		synctest.Wait()
		if f.observe.of("breaker", "one", "closed") != closed+1 {
			t.Error("it is open, although a check was answered")
		}
	})
}

// The call that tries a backend again may be overtaken by the next recipient.
func TestBreakerTriesAgainAfterALostRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		f.one.down(backends.Unavailable)
		for range 5 {
			f.opens()
		}
		f.one.up()
		f.one.hang()
		time.Sleep(1500 * time.Millisecond)
		f.opens()
		f.one.delay.Store(0)
		time.Sleep(1500 * time.Millisecond)
		asked := f.one.unwraps.Load()
		if f.opens(); f.one.unwraps.Load() != asked+1 {
			t.Error("it is not tried again")
		}
	})
}

func TestBreakerAndCallsThatAreGivenUp(t *testing.T) {
	t.Run("a caller's impatience does not open it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, checked)
			f.one.hang()
			f.purgeAll()
			for range 10 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				_, err := f.Unwrap(ctx, by(uidTiKV), broker.UnwrapRequest{WrappedKey: f.wrapped})
				cancel()
				wantReason(t, err, broker.Deadline)
			}
			synctest.Wait()
			if f.observe.of("breaker", "one", "open") != 0 {
				t.Error("it opened")
			}
		})
	})
	t.Run("that a recipient keeps the others waiting does", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, func(f *fixture) { f.settings.Keys[0].MinRecipients = 1 })
			f.two.hang()
			for range 6 {
				f.purgeAll()
				f.generate(uidTiKV, "tikv", nil)
			}
			if f.observe.of("breaker", "two", "open") == 0 {
				t.Error("it did not open")
			}
		})
	})
}

// Who was asked after the one that won has lost no race.
func TestHedgeThatIsNotNeededIsNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t)
		f.one.delay.Store(int64(400 * time.Millisecond))
		f.two.hang()
		f.opens()
		f.opens()
		f.one.down(backends.Unavailable)
		f.one.delay.Store(0)
		f.two.delay.Store(0)
		asked := f.two.unwraps.Load()
		if f.opens(); f.two.unwraps.Load() != asked+1 {
			t.Error("it is asked last")
		}
	})
}

// TestOneCallForEachRecipient: what an envelope claims does not multiply calls.
func TestOneCallForEachRecipient(t *testing.T) {
	f := newFixture(t)
	same := envelope.Recipient{Provider: "fake", Reference: f.one.ref("a"), Version: "1", Binding: backends.BindingAAD, Wrapped: []byte("none")}
	forged := forge(t, "tikv", same, same, same, same, same, same, same, same)
	_, err := f.unwrap(forged, nil)
	wantReason(t, err, broker.InvalidEnvelope)
	if n := f.one.unwraps.Load(); n != 1 {
		t.Errorf("its KMS was asked %d times", n)
	}
}

// TestKMSThatLiesPurgesNothing: an intermediate key that was opened before is not
// given up because one KMS now returns another.
func TestKMSThatLiesPurgesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t)
		other := func(context.Context, []byte) ([]byte, error) { return bytes.Repeat([]byte{1}, 32), nil }
		for _, k := range []*fakeKMS{f.one, f.two, f.three} {
			k.onUnwrap.Store(&other)
		}
		time.Sleep(time.Hour)
		if u, err := f.unwrap(f.wrapped, nil); err != nil || u.Source != cache.Stale {
			t.Errorf("source %v, error %v", u.Source, err)
		}
	})
}

// TestThrottledBackendIsSentLess: what a KMS turns away is sent to it ever less, its
// calls go to the next recipient, and it is used as before when it takes them again.
func TestThrottledBackendIsSentLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, func(f *fixture) { f.settings.MissRates = map[string]float64{"ops": 1e6} })
		f.one.down(backends.Throttled)
		for range 20 {
			f.opens()
		}
		asked := f.one.unwraps.Load()
		const calls = 400
		for range calls {
			if took := f.opens(); took != 0 {
				t.Fatalf("a call waited %v", took)
			}
		}
		if n := f.one.unwraps.Load() - asked; n < calls/100 || n > calls/4 {
			t.Errorf("of %d calls %d were sent to it, want about a tenth", calls, n)
		}
		f.one.up()
		for range 600 { // a minute
			time.Sleep(100 * time.Millisecond)
			f.opens()
		}
		asked = f.one.unwraps.Load()
		for range 100 {
			f.opens()
		}
		if n := f.one.unwraps.Load() - asked; n < 100 {
			t.Errorf("a minute after it takes calls again, of 100 calls %d were sent to it", n)
		}
	})
}

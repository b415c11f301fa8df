package broker_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/cache"
)

// patience is how long a caller waits in these tests.
const patience = 8 * time.Second

func patient(f *fixture) {
	f.patience = patience
	f.settings.MissRates = map[string]float64{"ops": 1e6}
}

// throttledFor has every KMS throttle, and one of them take calls again after d.
func (f *threeKMS) throttledFor(d time.Duration, again *fakeKMS) {
	f.allOf(func(k *fakeKMS) { k.down(backends.Throttled) })
	time.AfterFunc(d, again.up)
}

func TestThrottledCallWaits(t *testing.T) {
	t.Run("until a KMS takes calls again, whichever that is", func(t *testing.T) {
		for i := range 3 {
			synctest.Test(t, func(t *testing.T) {
				f := newThreeKMS(t, patient)
				f.throttledFor(3*time.Second, []*fakeKMS{f.one, f.two, f.three}[i])
				if took := f.opens(); took < 3*time.Second || took > patience {
					t.Errorf("it took %v", took)
				}
			})
		}
	})
	t.Run("also if the others do not answer or refuse", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, patient)
			f.throttledFor(3*time.Second, f.one)
			f.two.down(backends.Unavailable)
			f.three.down(backends.Disabled)
			f.opens()
		})
	})
	t.Run("not for ever, and with pauses that grow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, patient)
			f.purgeAll()
			f.allOf(func(k *fakeKMS) { k.down(backends.Throttled) })
			asked, began := f.one.unwraps.Load(), time.Now()
			_, err := f.unwrap(f.wrapped, nil)
			wantReason(t, err, broker.BackendThrottled)
			if took := time.Since(began); took != patience {
				t.Errorf("it took %v", took)
			}
			// The pauses are 0.5, 1, 2, 2, 2 s on average.
			if n := f.one.unwraps.Load() - asked; n < 3 || n > 20 {
				t.Errorf("it was asked %d times", n)
			}
		})
	})
	t.Run("no longer than its deadline, and what it waited for is there when it comes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, patient)
			f.purgeAll()
			f.throttledFor(3*time.Second, f.one)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := f.Unwrap(ctx, by(uidOps), broker.UnwrapRequest{WrappedKey: f.wrapped})
			wantReason(t, err, broker.Deadline)
			time.Sleep(patience)
			asked := f.one.unwraps.Load()
			if u, err := f.unwrap(f.wrapped, nil); err != nil || u.Source != cache.Fresh || f.one.unwraps.Load() != asked {
				t.Errorf("source %v, error %v", u.Source, err)
			}
		})
	})
	t.Run("and is not held back for how many were turned away before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, patient, func(f *fixture) {
				f.settings.Keys[0].Recipients = f.settings.Keys[0].Recipients[:1]
				f.settings.Keys[0].MinRecipients = 1
			})
			for range 5 {
				f.purgeAll()
				f.one.down(backends.Throttled)
				for range 4 {
					_, err := f.unwrap(f.wrapped, nil)
					wantReason(t, err, broker.BackendThrottled)
				}
				f.throttledFor(3*time.Second, f.one)
				f.opens()
			}
		})
	})
	t.Run("nobody else's failure is waited out", func(t *testing.T) {
		for _, class := range []backends.Class{backends.Unavailable, backends.Unauthenticated, backends.Internal, backends.Disabled, backends.Denied} {
			synctest.Test(t, func(t *testing.T) {
				f := newThreeKMS(t, patient)
				f.purgeAll()
				f.allOf(func(k *fakeKMS) { k.down(class) })
				began := time.Now()
				if _, err := f.unwrap(f.wrapped, nil); err == nil || time.Since(began) != 0 {
					t.Errorf("%v: %v after %v", class, err, time.Since(began))
				}
			})
		}
	})
}

// TestThrottledCallPrefersWhatIsAtHand: it waits only if nothing else serves it.
func TestThrottledCallPrefersWhatIsAtHand(t *testing.T) {
	t.Run("the cache", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, patient, refreshed)
			f.opens()
			f.allOf(func(k *fakeKMS) { k.down(backends.Throttled) })
			time.Sleep(2 * time.Hour)
			for range 10 {
				began := time.Now()
				if u, err := f.unwrap(f.wrapped, nil); err != nil || u.Source != cache.Stale || time.Since(began) != 0 {
					t.Fatalf("source %v, error %v after %v", u.Source, err, time.Since(began))
				}
				time.Sleep(7 * time.Second)
			}
		})
	})
	t.Run("the other recipients", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, patient)
			f.one.down(backends.Throttled)
			for range 5 {
				if took := f.opens(); took != 0 {
					t.Fatalf("it took %v, though only the first throttles", took)
				}
			}
			f.one.up()
			asked := f.one.unwraps.Load()
			if f.opens(); f.one.unwraps.Load() != asked+1 {
				t.Error("the first passes for slow, since it was waited for")
			}
		})
	})
}

// TestKeyIsMadeThoughKMSThrottles: what one of them has wrapped is not wrapped again.
func TestKeyIsMadeThoughKMSThrottles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, patient)
		f.purgeAll()
		wraps := f.one.wraps.Load()
		f.throttledFor(2*time.Second, f.one)
		time.AfterFunc(3*time.Second, f.two.up)
		time.AfterFunc(4*time.Second, f.three.up)
		f.one.up()
		f.one.failUnwrap.Store(backends.Errorf(backends.Throttled, "unwrap", "a", "as the test asked"))
		time.AfterFunc(2*time.Second, func() { f.one.failUnwrap.Store(nil) })
		f.generate(uidTiKV, "tikv", nil)
		if n := f.one.wraps.Load() - wraps; n != 1 {
			t.Errorf("one wrapped %d times", n)
		}
	})
}

// crowdedKMS throttles, and takes a second for it. It knows how many retries it had at
// a time.
type crowdedKMS struct {
	*fakeKMS
	throttling atomic.Bool
	mu         sync.Mutex
	seen       map[string]bool
	now, most  int // retries
	retries    int
}

func (k *crowdedKMS) Unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	if !k.throttling.Load() {
		return k.fakeKMS.Unwrap(ctx, req)
	}
	k.mu.Lock()
	retry := k.seen[string(req.Ciphertext)]
	k.seen[string(req.Ciphertext)] = true
	if retry {
		k.now++
		k.retries++
		k.most = max(k.most, k.now)
	}
	k.mu.Unlock()
	time.Sleep(time.Second)
	k.mu.Lock()
	if retry {
		k.now--
	}
	k.mu.Unlock()
	return nil, backends.Errorf(backends.Throttled, "unwrap", req.Key, "as the test asked")
}

// TestRetryBudget: however many calls a KMS turns away, few are sent again at a time,
// and those beyond it are told so at once.
func TestRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 100
		crowded := &crowdedKMS{seen: map[string]bool{}}
		f := newFixture(t, patient, func(f *fixture) {
			crowded.fakeKMS = f.one
			f.clock = time.Now
			f.settings.Backends["one"] = broker.Backend{KMS: crowded, Provider: "fake", Type: "fake", Timeout: time.Minute}
			f.settings.Keys = []broker.Key{newKey("tikv", "one/a")}
			f.settings.Keys[0].MaxUses = 1
		})
		var wrapped [][]byte
		for range calls {
			_, w := f.generate(uidOps, "tikv", nil)
			wrapped = append(wrapped, w)
		}
		f.purgeAll()
		crowded.throttling.Store(true)
		var all sync.WaitGroup
		for _, w := range wrapped {
			all.Go(func() {
				_, err := f.unwrap(w, nil)
				if r := broker.AsError(err).Reason; r != broker.BackendThrottled && r != broker.Deadline {
					t.Errorf("reason %s", r)
				}
			})
		}
		all.Wait()
		if crowded.most < 2 || crowded.most > calls/10+2 || crowded.retries > calls {
			t.Errorf("%d retries at a time, and %d in all, of %d calls", crowded.most, crowded.retries, calls)
		}
	})
}

package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/cache"
)

// refreshed are the limits in these tests.
func refreshed(f *fixture) {
	f.settings.Keys[0].Limits = cache.Limits{
		TTL: time.Hour, RefreshAfter: 45 * time.Minute, MaxStale: 6 * time.Hour, NegativeTTL: 5 * time.Second,
	}
	f.settings.Keys[0].MaxAge = 24 * time.Hour
}

// allOf applies f to all three KMSs.
func (f *threeKMS) allOf(do func(*fakeKMS)) {
	for _, k := range []*fakeKMS{f.one, f.two, f.three} {
		do(k)
	}
}

func TestNobodyWaitsForARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, refreshed)
		f.allOf(func(k *fakeKMS) { k.delay.Store(int64(2 * time.Second)) })
		for range 20 {
			time.Sleep(10 * time.Minute)
			began := time.Now()
			u, err := f.unwrap(f.wrapped, nil)
			if err != nil || u.Source != cache.Fresh {
				t.Fatalf("source %v, error %v", u.Source, err)
			}
			if _, _ = f.generate(uidTiKV, "tikv", nil); time.Since(began) != 0 {
				t.Fatal("a call waited for a KMS")
			}
		}
	})
}

func TestRefreshAsksThePresentRecipients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, refreshed)
		if _, err := f.unwrap(f.wrapped, nil); err != nil {
			t.Fatal(err)
		}
		f.opens() // opened by one
		f.settings.Keys[0].Recipients = f.settings.Keys[0].Recipients[1:]
		f.settings.Keys[0].MinRecipients = 2
		f.reload()
		if _, err := f.unwrap(f.wrapped, nil); err != nil { // by two, who keeps it
			t.Fatal(err)
		}
		if _, err := f.unwrap(f.wrapped, nil); err != nil {
			t.Fatal(err)
		}
		asked := f.one.unwraps.Load()
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if f.one.unwraps.Load() != asked {
			t.Error("a refresh asked a recipient that is not listed any more")
		}
		if u, err := f.unwrap(f.wrapped, nil); err != nil || u.Source != cache.Fresh {
			t.Errorf("source %v, error %v", u.Source, err)
		}
	})
}

func TestGenerateGoesOnInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, refreshed, func(f *fixture) {
			f.settings.Keys[0].Limits.MaxStale = 72 * time.Hour
			f.settings.Keys[0].MaxAge = 5 * time.Hour
		})
		f.allOf((*fakeKMS).hang)
		time.Sleep(time.Hour + time.Minute)
		for range 20 {
			began := time.Now()
			f.generate(uidTiKV, "tikv", nil)
			if took := time.Since(began); took != 0 {
				t.Fatalf("a call waited %v for a KMS that is known to be away", took)
			}
			if last := f.audit.last(t); !strings.Contains(last, `"source":"stale_cache"`) {
				t.Fatalf("not on the record as stale: %s", last)
			}
			time.Sleep(10 * time.Minute)
		}
		time.Sleep(40 * time.Minute) // the intermediate key is five hours old now
		wantReason(t, f.tryGenerate("tikv", 32)(by(uidTiKV)), broker.BackendUnavailable)
	})
}

func TestShutOutIsCarriedForOneTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, refreshed)
		f.opens()
		f.one.down(backends.Unauthenticated)
		f.two.down(backends.Unavailable)
		f.three.down(backends.Unavailable)
		time.Sleep(2*time.Hour - time.Minute)
		if u, err := f.unwrap(f.wrapped, nil); err != nil || u.Source != cache.Stale {
			t.Errorf("source %v, error %v", u.Source, err)
		}
		time.Sleep(time.Minute)
		_, err := f.unwrap(f.wrapped, nil)
		wantReason(t, err, broker.BackendUnavailable)
	})
}

func TestGarbageIsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, refreshed)
		f.opens()
		f.allOf(func(k *fakeKMS) { k.down(backends.Internal) })
		time.Sleep(3 * time.Hour)
		if u, err := f.unwrap(f.wrapped, nil); err != nil || u.Source != cache.Stale {
			t.Errorf("source %v, error %v", u.Source, err)
		}
	})
}

func TestRefusalsAreRememberedForAMoment(t *testing.T) {
	for _, class := range []backends.Class{backends.Disabled, backends.Denied, backends.NotFound} {
		t.Run(class.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newThreeKMS(t, refreshed)
				f.purgeAll()
				f.allOf(func(k *fakeKMS) {
					k.failUnwrap.Store(backends.Errorf(class, "unwrap", "a", "as the test asked"))
				})
				var told broker.Reason
				for range 10 {
					_, err := f.unwrap(f.wrapped, nil)
					told = broker.AsError(err).Reason
					if told != broker.KEKDisabled && told != broker.KEKDenied {
						t.Fatal(explain(err))
					}
				}
				if n := f.one.unwraps.Load() - 1; n != 2 { // and its confirmation; one is the read-back
					t.Errorf("one was asked %d times, want twice", n)
				}
				if n := f.observe.of("lookup", "tikv", "negative"); n != 9 {
					t.Errorf("%d are counted as remembered, want 9", n)
				}
				if last := f.audit.last(t); !strings.Contains(last, string(told)) {
					t.Errorf("what is refused from memory is not on the record: %s", last)
				}
				f.allOf(func(k *fakeKMS) { k.failUnwrap.Store(nil) })
				time.Sleep(5 * time.Second)
				if _, err := f.unwrap(f.wrapped, nil); err != nil {
					t.Error(explain(err))
				}
			})
		})
	}
	t.Run("nothing that an envelope brings about", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, refreshed)
			f.purgeAll()
			f.allOf(func(k *fakeKMS) {
				k.failUnwrap.Store(backends.Errorf(backends.InvalidCiphertext, "unwrap", "a", "as the test asked"))
			})
			_, err := f.unwrap(f.wrapped, nil)
			wantReason(t, err, broker.InvalidEnvelope)
			f.allOf(func(k *fakeKMS) { k.failUnwrap.Store(nil) })
			if _, err := f.unwrap(f.wrapped, nil); err != nil {
				t.Error(explain(err))
			}
		})
	})
	t.Run("nor one of several, while others are out of reach", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, refreshed)
			f.purgeAll()
			f.one.failUnwrap.Store(backends.Errorf(backends.Disabled, "unwrap", "a", "as the test asked"))
			f.two.down(backends.Unavailable)
			f.three.down(backends.Unavailable)
			_, err := f.unwrap(f.wrapped, nil)
			wantReason(t, err, broker.BackendUnavailable)
			f.two.up()
			if _, err := f.unwrap(f.wrapped, nil); err != nil {
				t.Error(explain(err))
			}
		})
	})
}

func TestWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, refreshed, func(f *fixture) { f.clock = time.Now; f.settings.Keys[0].Warm = true; f.one.down(backends.Unavailable) })
		time.Sleep(time.Minute)
		f.one.up()
		time.Sleep(15 * time.Second)
		if n := f.cachedKeys(); n != 1 {
			t.Fatalf("%d intermediate keys were prepared, want that of the warm key", n)
		}
		hang := func() { time.Sleep(time.Hour) }
		f.one.onWrap.Store(&hang)
		began := time.Now()
		f.generate(uidTiKV, "tikv", nil)
		if took := time.Since(began); took != 0 {
			t.Errorf("the first call waited %v", took)
		}
	})
}

// TestSuccessorIsMadeUnasked: the last call before an intermediate key is too old
// is not the one that has to start its successor.
func TestSuccessorIsMadeUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, refreshed)
		f.allOf(func(k *fakeKMS) { k.delay.Store(int64(time.Second)) })
		time.Sleep(23 * time.Hour) // not a single call
		began := time.Now()
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		if took := time.Since(began); took != 0 {
			t.Errorf("it waited %v", took)
		}
		if f.partOf(wrapped) == f.partOf(f.wrapped) {
			t.Error("it is still the first intermediate key")
		}
	})
}

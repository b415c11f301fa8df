package broker_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
)

// checkEvery is the check_interval in these tests.
const checkEvery = 5 * time.Minute

func checked(f *fixture) { f.settings.Keys[0].CheckInterval = checkEvery }

// cachedKeys is how many intermediate keys are in locked memory.
func (f *fixture) cachedKeys() int { return f.arena.Stats().UsedSlots }

// backendRecords are the records of master keys' states.
func (f *fixture) backendRecords() []string {
	f.t.Helper()
	var found []string
	for _, line := range f.audit.lines(f.t) {
		if strings.Contains(line, `"event":"backend"`) {
			found = append(found, line)
		}
	}
	return found
}

func TestRefusedKEKIsFound(t *testing.T) {
	for _, test := range []struct {
		class  backends.Class
		reason broker.Reason
	}{
		{backends.Disabled, broker.KEKDisabled},
		{backends.NotFound, broker.KEKDisabled},
		{backends.Denied, broker.KEKDenied},
	} {
		t.Run(test.class.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newThreeKMS(t, checked)
				f.one.failUnwrap.Store(backends.Errorf(test.class, "unwrap", "a", "as the test asked"))
				time.Sleep(checkEvery)
				synctest.Wait()
				if n := f.cachedKeys(); n != 0 {
					t.Errorf("%d intermediate keys that it opened are still cached", n)
				}
				if f.observe.of("kek", "tikv", "one", "a", "false") == 0 {
					t.Error("no metric tells")
				}
				records := f.backendRecords()
				if len(records) != 1 || !strings.Contains(records[0], `"reason":"`+string(test.reason)+`"`) || !strings.Contains(records[0], `"backend":"one"`) {
					t.Fatalf("want one record that names it: %v", records)
				}
				infos, err := f.ListKeys(t.Context(), by(uidOps))
				if err != nil || infos[0].State != broker.KeyDegraded {
					t.Errorf("state %v, %v", infos, err)
				}
				if took := f.opens(); took != 0 {
					t.Errorf("the others took %v", took)
				}
				if last := f.audit.last(t); !strings.Contains(last, `"backend":"two"`) {
					t.Errorf("not opened by the next: %s", last)
				}

				// It is told once, and again when it is over.
				time.Sleep(checkEvery)
				f.one.failUnwrap.Store(nil)
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if records := f.backendRecords(); len(records) != 2 || !strings.Contains(records[1], `"outcome":"ok"`) {
					t.Errorf("want a second record, that it works: %v", records)
				}
			})
		})
	}
}

func TestRefusedVersionIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		f.one.rotate("2")
		f.one.disabled.Store("1", true)
		time.Sleep(checkEvery)
		synctest.Wait()
		if n := f.cachedKeys(); n != 0 {
			t.Errorf("%d intermediate keys that the version opened are still cached", n)
		}
		infos, err := f.ListKeys(t.Context(), by(uidOps))
		if err != nil || infos[0].State != broker.KeyReady {
			t.Errorf("state %v, %v, although the master key works", infos, err)
		}
	})
}

func TestOutageIsNoRefusal(t *testing.T) {
	for _, class := range []backends.Class{backends.Unavailable, backends.Throttled, backends.Internal, backends.Unauthenticated} {
		t.Run(class.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newThreeKMS(t, checked)
				cached := f.cachedKeys()
				f.one.down(class)
				time.Sleep(2 * checkEvery)
				synctest.Wait()
				if n := f.cachedKeys(); n != cached {
					t.Errorf("%d keys are cached, of %d", n, cached)
				}
				if records := f.backendRecords(); len(records) != 0 {
					t.Errorf("an outage is on the record as a refusal: %v", records)
				}
			})
		})
	}
}

func TestCheckReallyUnwraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		// A broker that never wrapped anything makes itself something to open.
		f.settings.Keys = append(f.settings.Keys, newKey("unused", "one/b"))
		f.settings.Keys[1].CheckInterval = checkEvery
		f.reload()
		time.Sleep(checkEvery + time.Second)
		f.one.failUnwrap.Store(backends.Errorf(backends.Disabled, "unwrap", "b", "as the test asked"))
		checks := f.one.checks.Load() // they go on to say that all is well
		time.Sleep(checkEvery)
		synctest.Wait()
		if f.observe.of("kek", "unused", "one", "b", "false") == 0 {
			t.Error("a master key that wraps and does not unwrap passes for good")
		}
		if f.one.checks.Load() != checks {
			t.Error("it relied on what the backend says of itself")
		}
	})
}

func TestRecipientThatMayOnlyUnwrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked, func(f *fixture) {
			f.settings.Keys[0].MinRecipients = 1
			f.one.failWrap.Store(backends.Errorf(backends.Denied, "wrap", "a", "as the test asked"))
		})
		if n := f.recipientsOf(f.wrapped); n != 2 {
			t.Fatalf("%d recipients", n)
		}
		time.Sleep(3 * checkEvery)
		synctest.Wait()
		if f.observe.of("kek", "tikv", "one", "a", "false") != 0 || len(f.backendRecords()) != 0 {
			t.Errorf("it passes for refused: %v, %v", f.observe.counts, f.backendRecords())
		}
		infos, err := f.ListKeys(t.Context(), by(uidOps))
		if err != nil || infos[0].State != broker.KeyDegraded {
			t.Errorf("state %v, %v, although what is wrapped lacks it", infos, err)
		}
	})
}

func TestDegraded(t *testing.T) {
	oneIsEnough := func(f *fixture) { f.settings.Keys[0].MinRecipients = 1 }
	t.Run("a recipient that hangs does not hold up the others for long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, checked, oneIsEnough)
			f.two.hang()
			f.purgeAll()
			began := time.Now()
			_, wrapped := f.generate(uidTiKV, "tikv", nil)
			if took := time.Since(began); took != time.Second {
				t.Errorf("it took %v, want a second", took)
			}
			if n := f.recipientsOf(wrapped); n != 2 {
				t.Errorf("%d recipients, want 2", n)
			}
			if f.observe.of("degraded", "tikv") != 1 || !strings.Contains(f.audit.last(t), "degraded") {
				t.Errorf("neither metric nor record says so: %s", f.audit.last(t))
			}
		})
	})
	t.Run("healed as soon as the KMS is back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, checked, oneIsEnough)
			f.two.down(backends.Unavailable)
			f.purgeAll()
			_, degraded := f.generate(uidTiKV, "tikv", nil)
			f.two.up()
			time.Sleep(12 * time.Second)
			synctest.Wait()
			_, whole := f.generate(uidTiKV, "tikv", nil)
			if n := f.recipientsOf(whole); n != 3 {
				t.Errorf("%d recipients, want 3 within seconds", n)
			}
			healed, err := f.Rewrap(t.Context(), by(uidOps), broker.RewrapRequest{WrappedKey: degraded})
			if err != nil {
				t.Fatal(explain(err))
			}
			if n := f.recipientsOf(healed.WrappedKey); n != 3 {
				t.Errorf("%d recipients after rewrap, want 3", n)
			}
		})
	})
	t.Run("not tried at every check while it still fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, checked, oneIsEnough)
			f.two.failWrap.Store(backends.Errorf(backends.Unavailable, "wrap", "a", "as the test asked"))
			f.purgeAll()
			f.generate(uidTiKV, "tikv", nil)
			before := f.one.wraps.Load()
			time.Sleep(checkEvery / 4 * 3)
			synctest.Wait()
			if n := f.one.wraps.Load() - before; n < 1 || n > 8 {
				t.Errorf("%d attempts to heal, want a few, further and further apart", n)
			}
		})
	})
}

// A caller that gives up says nothing of the recipients: else whoever may unwrap
// could have every key pass for unavailable, and all of a backend's checked.
func TestGivenUpCallConcludesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		for _, k := range []*fakeKMS{f.one, f.two, f.three} {
			k.delay.Store(int64(50 * time.Millisecond))
		}
		f.purgeAll()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err := f.Unwrap(ctx, by(uidTiKV), broker.UnwrapRequest{WrappedKey: f.wrapped})
		wantReason(t, err, broker.Deadline)
		synctest.Wait()
		infos, err := f.ListKeys(t.Context(), by(uidOps))
		if err != nil || infos[0].State != broker.KeyReady {
			t.Errorf("state %v, %v, although every recipient works", infos, err)
		}
	})
}

func TestPanicOfABackend(t *testing.T) {
	panics := func(context.Context, []byte) ([]byte, error) { panic("as the test asked") }
	t.Run("while it is checked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, checked)
			f.one.onUnwrap.Store(&panics)
			time.Sleep(checkEvery)
			synctest.Wait()
			infos, err := f.ListKeys(t.Context(), by(uidOps))
			if err != nil || infos[0].State != broker.KeyDegraded {
				t.Errorf("state %v, %v", infos, err)
			}
			if f.observe.of("call", "one", "unwrap", "internal") == 0 {
				t.Error("the call is not counted")
			}
		})
	})
	t.Run("while it wraps", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, checked)
			f.purgeAll()
			wraps := func() { panic("as the test asked") }
			f.one.onWrap.Store(&wraps)
			wantReason(t, f.tryGenerate("tikv", 32)(by(uidTiKV)), broker.BackendUnavailable)
		})
	})
	t.Run("while its breaker tries it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, checked)
			f.one.down(backends.Unavailable)
			for range 5 {
				f.opens()
			}
			f.one.up()
			f.one.onUnwrap.Store(&panics)
			time.Sleep(1500 * time.Millisecond)
			f.opens()
			f.one.onUnwrap.Store(nil)
			time.Sleep(1500 * time.Millisecond)
			asked := f.one.unwraps.Load()
			if f.opens(); f.one.unwraps.Load() != asked+1 {
				t.Error("it is not tried again")
			}
		})
	})
}

// A check that a reload overtakes says nothing of the backend that has the name
// now: it may find the old one closed, or refuse.
func TestCheckIsOvertakenByAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		release := make(chan struct{})
		refuses := func(context.Context, []byte) ([]byte, error) {
			<-release
			return nil, backends.Errorf(backends.Disabled, "unwrap", "a", "as the test asked")
		}
		f.one.onUnwrap.Store(&refuses)
		time.Sleep(checkEvery)
		synctest.Wait()

		f.settings.Backends["one"] = broker.Backend{KMS: newFakeKMS("one"), Provider: "fake", Type: "fake", Timeout: 3 * time.Second}
		f.reload()
		f.generate(uidTiKV, "tikv", nil)
		cached, counted := f.cachedKeys(), f.observe.of("kek", "tikv", "one", "a", "false")
		close(release)
		synctest.Wait()
		if n := f.cachedKeys(); n != cached {
			t.Errorf("%d of %d intermediate keys are still cached, although only the old backend refused", n, cached)
		}
		infos, err := f.ListKeys(t.Context(), by(uidOps))
		if err != nil || infos[0].State != broker.KeyReady {
			t.Errorf("state %v, %v", infos, err)
		}
		if records := f.backendRecords(); len(records) != 0 || f.observe.of("kek", "tikv", "one", "a", "false") != counted {
			t.Errorf("the new one passes for refused: %v", records)
		}
	})
}

// A KMS that refuses and at times does not answer is one that refuses: the record
// does not change its mind at every check.
func TestOutageTakesNoRefusalBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		f.one.down(backends.Disabled)
		time.Sleep(checkEvery)
		for range 5 {
			f.one.down(backends.Throttled)
			time.Sleep(12 * time.Second)
			f.one.down(backends.Disabled)
			time.Sleep(12 * time.Second)
		}
		synctest.Wait()
		if records := f.backendRecords(); len(records) != 1 {
			t.Errorf("want one record: %v", records)
		}
		f.one.up()
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if records := f.backendRecords(); len(records) != 2 || !strings.Contains(records[1], `"outcome":"ok"`) {
			t.Errorf("want a second record, that it works: %v", records)
		}
	})
}

// In an outage those who call do not have the backend's other recipients checked
// at their rate.
func TestOutageIsCheckedAtItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked, func(f *fixture) {
			f.settings.Keys = append(f.settings.Keys, newKey("unused", "one/b"))
			f.settings.Keys[1].CheckInterval = checkEvery
		})
		time.Sleep(2 * checkEvery) // by now each has something to be checked with
		f.purgeAll()
		f.one.down(backends.Unavailable)
		_ = f.tryGenerate("tikv", 32)(by(uidTiKV))
		time.Sleep(2 * time.Second)
		asked := f.one.unwraps.Load()
		for range 600 {
			_ = f.tryGenerate("tikv", 32)(by(uidTiKV))
			time.Sleep(100 * time.Millisecond)
		}
		if n := f.one.unwraps.Load() - asked; n > 14 {
			t.Errorf("%d checks of two recipients in a minute, want 6 of each", n)
		}
	})
}

// A refusal wipes what the version opened, or the master key, or the recipient for
// this key: not more, and not less.
func TestScopeOfARefusal(t *testing.T) {
	t.Run("of a version, and then of the master key", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, checked)
			f.one.rotate("2")
			f.purgeAll()
			f.generate(uidTiKV, "tikv", nil) // with version 2
			if _, err := f.unwrap(f.wrapped, nil); err != nil {
				t.Fatal(explain(err)) // with version 1
			}
			f.one.rotate("3")
			f.one.disabled.Store("2", true)
			time.Sleep(checkEvery)
			synctest.Wait()
			if n := f.cachedKeys(); n != 1 {
				t.Fatalf("%d intermediate keys are cached, want the one that version 1 opened", n)
			}
			f.one.failUnwrap.Store(backends.Errorf(backends.Disabled, "unwrap", "a", "as the test asked"))
			time.Sleep(checkEvery)
			synctest.Wait()
			if n := f.cachedKeys(); n != 0 {
				t.Errorf("%d intermediate keys that the master key opened are cached", n)
			}
		})
	})
	t.Run("for one key", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newThreeKMS(t, checked, func(f *fixture) {
				f.settings.Keys = append(f.settings.Keys, newKey("other", "one/a")) // checked in an hour
			})
			f.generate(uidOther, "other", nil)
			f.one.failUnwrap.Store(backends.Errorf(backends.Denied, "unwrap", "a", "as the test asked"))
			time.Sleep(checkEvery)
			synctest.Wait()
			if n := f.cachedKeys(); n != 1 {
				t.Errorf("%d intermediate keys are cached, want that of the other key", n)
			}
		})
	})
}

func TestCheckDoesNotBelieveAnotherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		other := func(_ context.Context, ik []byte) ([]byte, error) { return make([]byte, len(ik)), nil }
		f.one.onUnwrap.Store(&other)
		time.Sleep(checkEvery)
		synctest.Wait()
		if infos, err := f.ListKeys(t.Context(), by(uidOps)); err != nil || infos[0].State != broker.KeyDegraded {
			t.Errorf("state %v, %v", infos, err)
		}
	})
}

func TestWhatWorksIsCheckedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		asked := f.one.unwraps.Load()
		time.Sleep(2*checkEvery + time.Second)
		synctest.Wait()
		if n := f.one.unwraps.Load() - asked; n != 2 {
			t.Errorf("%d checks in two intervals", n)
		}
	})
}

// What one key's calls show of a backend is found out for the others at once.
func TestNewsOfABackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked, func(f *fixture) {
			f.settings.Keys = append(f.settings.Keys, newKey("unused", "one/b")) // checked in an hour
		})
		f.one.down(backends.Unavailable)
		f.opens()
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if f.observe.of("kek", "unused", "one", "b", "false") != 1 {
			t.Error("that it is down is not found")
		}
		works := f.observe.of("kek", "unused", "one", "b", "true")
		f.one.up()
		f.opens()
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if f.observe.of("kek", "unused", "one", "b", "true") != works+1 {
			t.Error("that it is back is not found")
		}
	})
}

func TestNothingIsHealedInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked, func(f *fixture) { f.settings.Keys[0].MinRecipients = 1 })
		f.two.down(backends.Unavailable)
		f.purgeAll()
		f.generate(uidTiKV, "tikv", nil)
		before := f.one.wraps.Load()
		time.Sleep(checkEvery / 2)
		synctest.Wait()
		if n := f.one.wraps.Load() - before; n != 0 {
			t.Errorf("%d attempts to heal while a recipient is down", n)
		}
	})
}

// TestBrokerThatOnlyUnwraps: it has wrapped nothing, and still finds that what it
// opened is refused now.
func TestBrokerThatOnlyUnwraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		maker := newThreeKMS(t)
		f := newFixture(t, func(of *fixture) {
			of.clock = time.Now
			of.one = maker.one
			of.settings.Backends = map[string]broker.Backend{"one": {KMS: maker.one, Provider: "fake", Type: "fake", Timeout: 3 * time.Second}}
			of.settings.Keys = []broker.Key{newKey("tikv", "one/a")}
			of.settings.Keys[0].CheckInterval = checkEvery
			maker.one.failWrap.Store(backends.Errorf(backends.Denied, "wrap", "a", "as the test asked"))
		})
		if _, err := f.unwrap(maker.wrapped, nil); err != nil {
			t.Fatal(explain(err))
		}
		maker.one.failUnwrap.Store(backends.Errorf(backends.Disabled, "unwrap", "a", "as the test asked"))
		time.Sleep(checkEvery)
		synctest.Wait()
		if n := f.cachedKeys(); n != 0 {
			t.Errorf("%d intermediate keys are still cached", n)
		}
		if records := f.backendRecords(); len(records) != 1 {
			t.Errorf("records: %v", records)
		}
	})
}

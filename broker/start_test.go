package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// startSpread is over how long a fleet spreads its first checks in these tests.
const startSpread = 30 * time.Second

// spreadStart has the KMS one behind a key with one recipient, which is checked every
// five minutes, and does not wait for the first check.
func spreadStart(one *fakeKMS) func(*fixture) {
	return func(f *fixture) {
		f.one, f.clock, f.startSpread, f.early = one, time.Now, startSpread, true
		backend := f.settings.Backends["one"]
		backend.KMS = one
		f.settings.Backends["one"] = backend
		f.settings.Keys = f.settings.Keys[:1]
		checked(f)
	}
}

// A fleet that starts at once does not meet its KMS at once.
func TestFleetStartsSpread(t *testing.T) {
	const nodes = 30
	// inThirds has a fleet start, and returns what count says of each third of the time.
	inThirds := func(t *testing.T, count func(*fakeKMS) int32, change ...func(*fixture)) (thirds [3]int32) {
		one := newFakeKMS("one")
		for range nodes {
			newFixture(t, append([]func(*fixture){spreadStart(one)}, change...)...)
		}
		for i := range thirds {
			before := count(one)
			time.Sleep(startSpread / 3)
			if i == len(thirds)-1 {
				time.Sleep(2 * time.Second) // what is due is looked for once a second
			}
			synctest.Wait()
			thirds[i] = count(one) - before
		}
		return thirds
	}
	for name, test := range map[string]struct {
		count  func(*fakeKMS) int32
		change func(*fixture)
	}{
		"the first checks": {func(k *fakeKMS) int32 { return k.checks.Load() }, func(*fixture) {}},
		"warm keys":        {func(k *fakeKMS) int32 { return k.wraps.Load() }, func(f *fixture) { f.settings.Keys[0].Warm = true }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				thirds := inThirds(t, test.count, test.change)
				if sum := thirds[0] + thirds[1] + thirds[2]; sum != nodes {
					t.Errorf("%d of %d: %v", sum, nodes, thirds)
				}
				for _, n := range thirds {
					if n == 0 || n > nodes*3/4 {
						t.Errorf("in the thirds of the time they are %v", thirds)
					}
				}
			})
		})
	}
}

// What a caller's key has shown of a recipient needs no first check: for a node that
// opens one key there is one call of the KMS until the next check is due.
func TestFirstUseIsTheFirstCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		former := newFixture(t, func(f *fixture) { f.clock = time.Now })
		_, wrapped := former.generate(uidTiKV, "tikv", nil)
		one := former.one
		if err := former.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		asked := one.unwraps.Load() + one.checks.Load()
		f := newFixture(t, spreadStart(one))
		if _, err := f.unwrap(wrapped, nil); err != nil {
			t.Fatal(explain(err))
		}
		if f.observe.of("kek", "tikv", "one", "a", "true") != 1 {
			t.Error("the metrics do not have it that the master key can be used")
		}
		time.Sleep(checkEvery * 8 / 10)
		if n := one.unwraps.Load() + one.checks.Load() - asked; n != 1 {
			t.Errorf("%d calls, want one", n)
		}
		time.Sleep(checkEvery * 3 / 10)
		if n := one.unwraps.Load() + one.checks.Load() - asked; n != 2 {
			t.Errorf("%d calls, want one more for the check", n)
		}
	})
}

// A KMS that throttles is not asked by the broker itself every few seconds, and one of
// its recipients has not all others checked.
func TestChecksLeaveAThrottlingKMSAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newThreeKMS(t, checked)
		f.settings.Keys = append(f.settings.Keys, newKey("other", "one/b"))
		f.settings.Keys[1].CheckInterval = checkEvery
		f.reload()
		time.Sleep(time.Minute)
		f.one.down(backends.Throttled)
		calls := func() int32 { return f.one.unwraps.Load() + f.one.checks.Load() + f.one.wraps.Load() }
		f.opens() // by two
		asked := calls()
		time.Sleep(5 * time.Second)
		if n := calls() - asked; n != 0 {
			t.Errorf("it throttled one call, and %d checks followed", n)
		}
		time.Sleep(time.Hour)
		// Each of two recipients is checked every 10 s to 310 s.
		if n := calls() - asked; n < 12 || n > 90 {
			t.Errorf("%d calls in an hour", n)
		}
	})
}

package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
)

// hold keeps the next wraps of k in the KMS until the returned function is called.
func (k *fakeKMS) hold() (release func()) {
	gate := make(chan struct{})
	wait := func() { <-gate }
	k.onWrap.Store(&wait)
	return func() {
		k.onWrap.Store(nil)
		close(gate)
	}
}

// held is how many intermediate keys are in locked memory, and how many of them
// can be found by a call.
func (f *fixture) held() (inMemory, cached int) {
	f.t.Helper()
	s, err := f.Status(f.t.Context(), by(uidOps))
	if err != nil {
		f.t.Fatal(explain(err))
	}
	return s.Memory.UsedSlots, s.CacheEntries
}

// wrapsOf are the wraps of an envelope's intermediate key, as the KMSs made them.
func (f *fixture) wrapsOf(wrapped []byte) string {
	f.t.Helper()
	env, err := envelope.Parse(wrapped)
	if err != nil {
		f.t.Fatal(err)
	}
	var wraps []string
	for _, r := range env.IK().Recipients() {
		wraps = append(wraps, string(r.Wrapped))
	}
	return strings.Join(wraps, " ")
}

// What is being made when a purge or a reload comes was made for what held
// before: it is wiped, and its waiters get another.
func TestMakingIsOvertaken(t *testing.T) {
	moved := []broker.Recipient{{Backend: "two", Key: "a"}}
	for name, tc := range map[string]struct {
		overtake func(*fixture)
		want     string // the wraps in the envelope of the call that waited
	}{
		"by a purge of all":         {(*fixture).purgeAll, "one:xx"},
		"by a purge of it":          {func(f *fixture) { f.purge("tikv") }, "one:xx"},
		"not by a purge of another": {func(f *fixture) { f.purge("other") }, "one:x"},
		"by a reload that changes its recipients": {func(f *fixture) {
			f.settings.Keys[0].Recipients = moved
			f.reload()
		}, "two:x"},
		"by a reload that changes its static pairs": {func(f *fixture) {
			f.settings.Keys[0].Context = pairs(f.t, map[string]string{"cluster": "prod-1"})
			f.reload()
		}, "one:xx"},
		"not by a reload that changes another's recipients": {func(f *fixture) {
			f.settings.Keys[1].Recipients = moved
			f.reload()
		}, "one:x"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				release := f.one.hold()
				var g broker.Generated
				var err error
				done := make(chan struct{})
				go func() {
					defer close(done)
					g, err = f.Generate(t.Context(), by(uidTiKV), broker.GenerateRequest{KeyName: "tikv"})
				}()
				synctest.Wait() // until the KMS is at it
				tc.overtake(f)
				release()
				<-done
				if err != nil {
					t.Fatalf("the call that waited: %v", explain(err))
				}
				if got := f.wrapsOf(g.WrappedKey); got != tc.want {
					t.Errorf("it got an intermediate key wrapped as %q, want %q", got, tc.want)
				}
				if inMemory, cached := f.held(); inMemory != 1 || cached != 1 {
					t.Errorf("%d intermediate keys are in memory and %d cached, want the one in use", inMemory, cached)
				}
				_, next := f.generate(uidTiKV, "tikv", nil)
				if f.partOf(next) != f.partOf(g.WrappedKey) {
					t.Error("the next call got another intermediate key than the one that waited")
				}
			})
		})
	}
}

// A call that comes after the purge does not wait for what was begun before it.
func TestMakingAfterAPurgeIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		release := f.one.hold()
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			err = f.tryGenerate("tikv", 32)(by(uidTiKV))
		}()
		synctest.Wait()
		f.purgeAll()
		f.one.onWrap.Store(nil)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		release()
		<-done
		if err != nil {
			t.Errorf("the call from before the purge: %v", explain(err))
		}
		if n := f.one.wraps.Load(); n != 2 {
			t.Errorf("%d intermediate keys were made, want the overtaken one and its successor", n)
		}
		if _, next := f.generate(uidTiKV, "tikv", nil); f.partOf(next) != f.partOf(wrapped) {
			t.Error("what was made before the purge took the place of what was made after it")
		}
		if inMemory, cached := f.held(); inMemory != 1 || cached != 1 {
			t.Errorf("%d intermediate keys are in memory and %d cached, want the one in use", inMemory, cached)
		}
	})
}

func TestMakingForAKeyThatIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		release := f.one.hold()
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			err = f.tryGenerate("tikv", 32)(by(uidTiKV))
		}()
		synctest.Wait()
		f.settings.Keys = []broker.Key{newKey("other", "one/a")}
		f.reload()
		release()
		<-done
		e := wantError(t, err, broker.KeyNotFound)
		if !strings.Contains(e.Message, "removed from the configuration") {
			t.Errorf("the message does not say what happened: %s", e.Message)
		}
		if inMemory, cached := f.held(); inMemory != 0 || cached != 0 {
			t.Errorf("%d intermediate keys are in memory and %d cached, of a key that is no more", inMemory, cached)
		}
	})
}

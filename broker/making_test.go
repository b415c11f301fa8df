package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
)

// While the present intermediate key can be used, a KMS that does not make its
// successor is asked every 5 s and not with each call.
func TestSuccessorIsTriedAtAPause(t *testing.T) {
	const maxUses, beforeAging = 40, 29 // a quarter of the uses is left from the 30th on
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(f *fixture) { f.settings.Keys[0].MaxUses = maxUses })
		_, first := f.generate(uidTiKV, "tikv", nil)
		for range beforeAging - 1 {
			f.generate(uidTiKV, "tikv", nil)
		}
		synctest.Wait()
		if n := f.one.wraps.Load(); n != 1 {
			t.Fatalf("%d intermediate keys were made before the first one ages, want 1", n)
		}
		f.one.failWrap.Store(backends.Errorf(backends.Denied, "wrap", "a", "as the test asked"))

		// call makes a data key, which the present intermediate key must serve, and
		// returns how often the KMS was asked to wrap by then.
		call := func() int32 {
			t.Helper()
			_, wrapped := f.generate(uidTiKV, "tikv", nil)
			if f.partOf(wrapped) != f.partOf(first) {
				t.Error("the present intermediate key was not used")
			}
			synctest.Wait()
			return f.one.wraps.Load()
		}
		for _, step := range []struct {
			name    string
			advance time.Duration
			want    int32
		}{
			{"the first that finds it aging", 0, 2},
			{"at once after the failure", 0, 2},
			{"just before the pause ends", 5*time.Second - 1, 2},
			{"as it ends", 1, 3},
			{"at once after the second failure", 0, 3},
		} {
			f.now.Advance(step.advance)
			if n := call(); n != step.want {
				t.Errorf("%s: the KMS had been asked to wrap %d times, want %d", step.name, n, step.want)
			}
		}

		f.one.failWrap.Store(nil)
		f.now.Advance(5 * time.Second)
		if n := call(); n != 4 {
			t.Errorf("after the outage the KMS had been asked to wrap %d times, want 4", n)
		}
		if _, wrapped := f.generate(uidTiKV, "tikv", nil); f.partOf(wrapped) == f.partOf(first) {
			t.Error("the successor is not used")
		}
	})
}

// Without a key that can be used there is nothing to wait with.
func TestNoPauseWithoutAPresentKey(t *testing.T) {
	f := newFixture(t)
	f.one.failWrap.Store(backends.Errorf(backends.Denied, "wrap", "a", "as the test asked"))
	wantReason(t, f.tryGenerate("tikv", 32)(by(uidTiKV)), broker.KEKDenied)
	f.one.failWrap.Store(nil)
	if err := f.tryGenerate("tikv", 32)(by(uidTiKV)); err != nil {
		t.Errorf("right after a failure: %v", explain(err))
	}
}

// A master key of a kind that does not wrap at all is the operator's to replace,
// and nothing that the caller sent is at fault.
func TestMasterKeyThatCannotServe(t *testing.T) {
	for _, class := range []backends.Class{backends.InvalidArgument, backends.WrongKey, backends.InvalidCiphertext} {
		t.Run(class.String(), func(t *testing.T) {
			f := newFixture(t)
			f.one.failWrap.Store(backends.Errorf(class, "wrap", "a", "an HMAC key does not encrypt"))
			for name, call := range map[string]func(broker.Call) error{
				"generate": f.tryGenerate("tikv", 32),
				"wrap":     f.tryWrap("tikv", 32),
			} {
				t.Run(name, func(t *testing.T) {
					before := len(f.audit.lines(t))
					e := wantError(t, call(by(uidOps)), broker.KEKDisabled)
					for _, part := range []string{"key tikv", "backend one", "master key a", class.String(), "cannot serve", "use another"} {
						if !strings.Contains(e.Message, part) {
							t.Errorf("the message does not say %q: %s", part, e.Message)
						}
					}
					if e.RetryAfter != 0 {
						t.Errorf("it says to try again after %v, which is no use", e.RetryAfter)
					}
					if r := f.audit.since(t, before); len(r) != 1 || r[0].Reason != "KEK_DISABLED" || r[0].Detail != e.Message {
						t.Errorf("the record: %+v", r)
					}
				})
			}
		})
	}
}

// A clock that was set back must not lengthen an intermediate key's life.
func TestIntermediateKeyFromTheFuture(t *testing.T) {
	f := newFixture(t)
	_, first := f.generate(uidTiKV, "tikv", nil)
	f.now.Advance(-time.Hour)
	if _, next := f.generate(uidTiKV, "tikv", nil); f.partOf(next) == f.partOf(first) {
		t.Error("it is used")
	}
}

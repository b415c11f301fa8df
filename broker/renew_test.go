package broker_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
)

func (f *fixture) renew(uid uint32, key string) (broker.KeyInfo, error) {
	return f.Renew(f.t.Context(), by(uid), key)
}

// After a rotation at the KMS, a renewed key wraps with the new version, and what
// was cached before still needs no KMS.
func TestRenewFollowsARotation(t *testing.T) {
	f := newFixture(t)
	_, before := f.generate(uidTiKV, "tikv", nil)
	f.one.rotate("2")
	if _, same := f.generate(uidTiKV, "tikv", nil); f.partOf(same) != f.partOf(before) {
		t.Fatal("the rotation was noticed without a renewal, so this test shows nothing")
	}
	info, err := f.renew(uidOps, "tikv-master")
	if err != nil {
		t.Fatal(explain(err))
	}
	if r := info.Recipients[0]; info.Name != "tikv" || r.Version != "2" || r.State != broker.RecipientUsable {
		t.Errorf("the renewed key: %+v", info)
	}
	if r := f.audit.since(t, 0); r[len(r)-1].Event != "renew" || r[len(r)-1].Key != "tikv" {
		t.Errorf("the record: %+v", r[len(r)-1])
	}
	_, after := f.generate(uidTiKV, "tikv", nil)
	i, err := f.Inspect(t.Context(), by(uidOps), after)
	if err != nil || i.Recipients[0].Version != "2" {
		t.Errorf("what was wrapped after the renewal: %+v %v", i, err)
	}
	calls := f.one.unwraps.Load()
	for _, wrapped := range [][]byte{before, after} {
		if _, err := f.unwrap(wrapped, nil); err != nil {
			t.Error(explain(err))
		}
	}
	if f.one.unwraps.Load() != calls {
		t.Error("a cached key asked the KMS after the renewal")
	}
}

// Whoever may wrap or rewrap with a key may have it renewed, and nobody else.
func TestRenewNeedsARight(t *testing.T) {
	f := newFixture(t)
	for name, c := range map[string]struct {
		uid  uint32
		key  string
		want broker.Reason
	}{
		"rewrap alone":        {uidRewrap, "tikv", ""},
		"everything":          {uidOps, "other", ""},
		"generate and unwrap": {uidTiKV, "tikv", broker.AccessDenied},
		"inspect and list":    {uidInspect, "tikv", broker.AccessDenied},
		"another key":         {uidRewrap, "other", broker.AccessDenied},
		"no such key":         {uidOps, "nothere", broker.KeyNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			before := f.one.wraps.Load()
			_, err := f.renew(c.uid, c.key)
			if c.want != "" {
				wantReason(t, err, c.want)
				if f.one.wraps.Load() != before {
					t.Error("a KMS was asked")
				}
			} else if err != nil {
				t.Error(explain(err))
			}
		})
	}
}

// A renewal costs the client of its miss_rate, like any call that asks a KMS.
func TestRenewIsLimited(t *testing.T) {
	f := newFixture(t)
	for range broker.DefaultMissRate {
		if _, err := f.renew(uidRewrap, "tikv"); err != nil {
			t.Fatal(explain(err))
		}
	}
	_, err := f.renew(uidRewrap, "tikv")
	wantReason(t, err, broker.RateLimited)
}

// An attempt that was under way when the call came may have asked the KMS before
// the rotation, so it is not what the call waits for.
func TestRenewBeginsAfterTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		held := make(chan struct{})
		wait := func(_ context.Context, plaintext []byte) ([]byte, error) {
			<-held
			return plaintext, nil
		}
		f.one.onUnwrap.Store(&wait)
		go func() { _ = f.tryGenerate("tikv", 32)(by(uidOps)) }()
		synctest.Wait() // it has wrapped, and waits for that to be opened again
		renewed := make(chan broker.KeyInfo, 1)
		go func() {
			info, err := f.renew(uidOps, "tikv")
			if err != nil {
				t.Error(explain(err))
			}
			renewed <- info
		}()
		synctest.Wait()
		wraps := f.one.wraps.Load()
		f.one.rotate("2")
		close(held)
		info := <-renewed
		if v := info.Recipients[0].Version; v != "2" {
			t.Errorf("it is renewed to version %q, want 2", v)
		}
		if n := f.one.wraps.Load() - wraps; n != 1 {
			t.Errorf("the KMS was asked to wrap %d times after the call, want once", n)
		}
	})
}

// A master key that does not wrap is told apart, and the key goes on with what wraps
// the most.
func TestRenewWithoutARecipient(t *testing.T) {
	refused := backends.Errorf(backends.Denied, "wrap", "b", "as the test asked")
	t.Run("all are needed", func(t *testing.T) {
		f := newFixture(t, func(f *fixture) { f.settings.Keys[0] = newKey("tikv", "one/a", "two/b") })
		_, before := f.generate(uidTiKV, "tikv", nil)
		f.two.failWrap.Store(refused)
		_, err := f.renew(uidOps, "tikv")
		wantReason(t, err, broker.KEKDenied)
		if _, after := f.generate(uidTiKV, "tikv", nil); f.partOf(after) != f.partOf(before) {
			t.Error("the intermediate key of before is not used any more")
		}
	})
	t.Run("one is enough", func(t *testing.T) {
		f := newFixture(t, func(f *fixture) {
			f.settings.Keys[0] = newKey("tikv", "one/a", "two/b")
			f.settings.Keys[0].MinRecipients = 1
		})
		_, before := f.generate(uidTiKV, "tikv", nil)
		f.two.failWrap.Store(refused)
		info, err := f.renew(uidOps, "tikv")
		if err != nil {
			t.Fatal(explain(err))
		}
		if one, two := info.Recipients[0], info.Recipients[1]; one.State != broker.RecipientUsable || two.State != broker.RecipientRefused {
			t.Errorf("the recipients: %+v", info.Recipients)
		}
		if _, after := f.generate(uidTiKV, "tikv", nil); f.partOf(after) != f.partOf(before) {
			t.Error("the intermediate key that lacks a recipient is used")
		}
	})
}

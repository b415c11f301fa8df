package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
)

func TestGenerateThenUnwrap(t *testing.T) {
	f := newFixture(t)
	ctx := map[string]string{"file": "00001.sst"}
	for _, size := range []uint32{0, 16, 24, 32, 64} {
		g, err := f.Generate(t.Context(), by(uidTiKV), broker.GenerateRequest{KeyName: "tikv-master", Length: size, Context: ctx})
		if err != nil {
			t.Fatalf("Generate(%d): %v", size, explain(err))
		}
		want := int(size)
		if size == 0 {
			want = broker.DefaultDataKey
		}
		if g.KeyName != "tikv" || len(g.Plaintext.Bytes()) != want || len(g.WrappedKey) > envelope.MaxSize {
			t.Errorf("Generate(%d): key %q, %d bytes, wrapped %d", size, g.KeyName, len(g.Plaintext.Bytes()), len(g.WrappedKey))
		}
		u, err := f.unwrap(g.WrappedKey, ctx)
		if err != nil {
			t.Fatalf("Unwrap: %v", explain(err))
		}
		if !bytes.Equal(u.Plaintext.Bytes(), g.Plaintext.Bytes()) || u.KeyName != "tikv" || u.Source != cache.Fresh {
			t.Errorf("Unwrap: key %q, source %v, same plaintext %v", u.KeyName, u.Source, bytes.Equal(u.Plaintext.Bytes(), g.Plaintext.Bytes()))
		}
	}
	if n := f.one.wraps.Load(); n != 1 {
		t.Errorf("%d KMS wraps for five data keys, want 1", n)
	}
}

func TestRefusedRequests(t *testing.T) {
	f := newFixture(t)
	_, wrapped := f.generate(uidOps, "tikv", map[string]string{"a": "b"})
	long := map[string]string{}
	for i := range envelope.MaxContextPairs + 1 {
		long[fmt.Sprint(i)] = ""
	}
	for name, tc := range map[string]struct {
		uid  uint32
		call func(broker.Call) error
		want broker.Reason
	}{
		"no client":                   {uidNobody, f.tryGenerate("tikv", 32), broker.AccessDenied},
		"another's key":               {uidTiKV, f.tryGenerate("other", 32), broker.AccessDenied},
		"a key that is not":           {uidTiKV, f.tryGenerate("nothing", 32), broker.AccessDenied},
		"a key that is not, for ops":  {uidOps, f.tryGenerate("nothing", 32), broker.KeyNotFound},
		"an operation not granted":    {uidTiKV, f.tryWrap("tikv", 32), broker.AccessDenied},
		"too short a key":             {uidTiKV, f.tryGenerate("tikv", 15), broker.InvalidArgument},
		"too long a key":              {uidTiKV, f.tryGenerate("tikv", 65), broker.InvalidArgument},
		"too short a plaintext":       {uidOps, f.tryWrap("tikv", 15), broker.InvalidArgument},
		"too long a plaintext":        {uidOps, f.tryWrap("tikv", 65), broker.InvalidArgument},
		"too many pairs":              {uidOps, f.tryUnwrap(wrapped, long), broker.InvalidArgument},
		"another context":             {uidOps, f.tryUnwrap(wrapped, map[string]string{"a": "c"}), broker.InvalidEnvelope},
		"no context":                  {uidOps, f.tryUnwrap(wrapped, nil), broker.InvalidEnvelope},
		"cut":                         {uidOps, f.tryUnwrap(wrapped[:len(wrapped)-1], nil), broker.InvalidEnvelope},
		"nothing":                     {uidOps, f.tryUnwrap(nil, nil), broker.InvalidEnvelope},
		"random bytes":                {uidOps, f.tryUnwrap(bytes.Repeat([]byte{7}, 10<<20), nil), broker.InvalidEnvelope},
		"an envelope, without right":  {uidOther, f.tryUnwrap(wrapped, nil), broker.AccessDenied},
		"status, without right":       {uidTiKV, func(c broker.Call) error { _, err := f.Status(t.Context(), c); return err }, broker.AccessDenied},
		"purge, without right":        {uidTiKV, func(c broker.Call) error { _, err := f.Purge(t.Context(), c, "", true); return err }, broker.AccessDenied},
		"reload, without right":       {uidTiKV, func(c broker.Call) error { _, err := f.Reload(t.Context(), c); return err }, broker.AccessDenied},
		"list, without right":         {uidTiKV, func(c broker.Call) error { _, err := f.ListKeys(t.Context(), c); return err }, broker.AccessDenied},
		"rewrap, without right":       {uidTiKV, f.tryRewrap(wrapped, ""), broker.AccessDenied},
		"rewrap to a key not granted": {uidTiKV, f.tryRewrap(wrapped, "other"), broker.AccessDenied},
		"a batch too large": {uidOps, func(c broker.Call) error {
			_, err := f.UnwrapBatch(t.Context(), c, make([]broker.UnwrapRequest, 1001))
			return err
		}, broker.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			before := f.audit.lines(t)
			err := tc.call(by(tc.uid))
			wantReason(t, err, tc.want)
			added := f.audit.lines(t)[len(before):]
			if len(added) != 1 {
				t.Fatalf("%d audit records, want one: %s", len(added), added)
			}
			if !strings.Contains(added[0], `"reason":"`+string(tc.want)+`"`) {
				t.Errorf("the record does not say %s: %s", tc.want, added[0])
			}
		})
	}
}

// Without any right on a name, nobody can tell whether there is such a key.
func TestNoOracleForKeyNames(t *testing.T) {
	f := newFixture(t)
	there := wantError(t, f.tryGenerate("other", 32)(by(uidTiKV)), broker.AccessDenied)
	not := wantError(t, f.tryGenerate("otter", 32)(by(uidTiKV)), broker.AccessDenied)
	if strings.ReplaceAll(there.Message, "other", "otter") != not.Message {
		t.Errorf("%q and %q differ", there.Message, not.Message)
	}
}

func TestSealedKMSServesWhatIsCached(t *testing.T) {
	f := newFixture(t)
	dek, wrapped := f.generate(uidTiKV, "tikv", nil)
	f.one.down(backends.Unavailable)
	f.now.Advance(30 * time.Minute)

	u, err := f.unwrap(wrapped, nil)
	if err != nil || !bytes.Equal(u.Plaintext.Bytes(), dek) || u.Source != cache.Fresh {
		t.Fatalf("a fresh key in an outage: %v, source %v", err, u.Source)
	}
	f.now.Advance(time.Hour)
	u, err = f.unwrap(wrapped, nil)
	if err != nil || u.Source != cache.Stale {
		t.Fatalf("a stale key in an outage: %v, source %v", err, u.Source)
	}
	e := wantError(t, f.tryGenerate("other", 32)(by(uidOther)), broker.BackendUnavailable)
	if e.RetryAfter <= 0 {
		t.Error("an outage without a hint when to try again")
	}
	f.now.Advance(2 * time.Hour)
	_, err = f.unwrap(wrapped, nil)
	wantReason(t, err, broker.BackendUnavailable)

	f.one.up()
	if u, err = f.unwrap(wrapped, nil); err != nil || u.Source != cache.Loaded {
		t.Errorf("after the outage: %v, source %v", err, u.Source)
	}
	if err := f.tryGenerate("other", 32)(by(uidOther)); err != nil {
		t.Errorf("after the outage: %v", err)
	}
}

func TestWhatEachClassBecomes(t *testing.T) {
	for class, want := range map[backends.Class]broker.Reason{
		backends.Unavailable:       broker.BackendUnavailable,
		backends.Unauthenticated:   broker.BackendUnavailable,
		backends.Internal:          broker.BackendUnavailable,
		backends.Throttled:         broker.BackendThrottled,
		backends.Disabled:          broker.KEKDisabled,
		backends.NotFound:          broker.KEKDisabled,
		backends.Denied:            broker.KEKDenied,
		backends.InvalidCiphertext: broker.InvalidEnvelope,
		backends.WrongKey:          broker.InvalidEnvelope,
	} {
		t.Run(class.String(), func(t *testing.T) {
			f := newFixture(t)
			_, wrapped := f.generate(uidTiKV, "tikv", nil)
			if _, err := f.Purge(t.Context(), by(uidOps), "", true); err != nil {
				t.Fatal(err)
			}
			f.one.failUnwrap.Store(backends.Errorf(class, "unwrap", "a", "as the test asked"))
			_, err := f.unwrap(wrapped, nil)
			e := wantError(t, err, want)
			if !strings.Contains(e.Message, "one") || !strings.Contains(e.Message, class.String()) {
				t.Errorf("the message names neither the backend nor the class: %q", e.Message)
			}
		})
	}
}

func TestRefusalPurgesAndIsNeverStale(t *testing.T) {
	f := newFixture(t)
	_, wrapped := f.generate(uidTiKV, "tikv", nil)
	f.now.Advance(2 * time.Hour)
	f.one.failUnwrap.Store(backends.Errorf(backends.Disabled, "unwrap", "a", "disabled"))
	_, err := f.unwrap(wrapped, nil)
	wantReason(t, err, broker.KEKDisabled)
	f.one.failUnwrap.Store(nil)
	f.one.down(backends.Unavailable)
	_, err = f.unwrap(wrapped, nil)
	wantReason(t, err, broker.BackendUnavailable)
}

// A KMS that wraps but does not unwrap would be found in the disaster.
func TestWrapIsReadBack(t *testing.T) {
	f := newFixture(t)
	f.one.failUnwrap.Store(backends.Errorf(backends.Denied, "unwrap", "a", "not granted"))
	err := f.tryGenerate("tikv", 32)(by(uidTiKV))
	wantReason(t, err, broker.KEKDenied)

	f.one.failUnwrap.Store(nil)
	wrong := func(context.Context, []byte) ([]byte, error) { return make([]byte, 32), nil }
	f.one.onUnwrap.Store(&wrong)
	err = f.tryGenerate("tikv", 32)(by(uidTiKV))
	wantReason(t, err, broker.BackendUnavailable)
}

func TestRecipients(t *testing.T) {
	both := func(f *fixture) {
		f.settings.Keys[0].Recipients = []broker.Recipient{{Backend: "one", Key: "a"}, {Backend: "two", Key: "a"}}
		f.settings.Keys[0].MinRecipients = 2
	}
	quorum := func(f *fixture) { f.settings.Keys[0].MinRecipients = 1 }

	t.Run("either opens", func(t *testing.T) {
		f := newFixture(t, both)
		dek, wrapped := f.generate(uidTiKV, "tikv", nil)
		for _, down := range []*fakeKMS{f.one, f.two} {
			f.purgeAll()
			down.down(backends.Unavailable)
			u, err := f.unwrap(wrapped, nil)
			if err != nil || !bytes.Equal(u.Plaintext.Bytes(), dek) {
				t.Errorf("without %s: %v", down.name, err)
			}
			down.up()
		}
	})
	t.Run("all must wrap", func(t *testing.T) {
		f := newFixture(t, both)
		f.two.down(backends.Unavailable)
		wantReason(t, f.tryGenerate("tikv", 32)(by(uidTiKV)), broker.BackendUnavailable)
	})
	t.Run("fewer by configuration, and healed", func(t *testing.T) {
		f := newFixture(t, both, quorum)
		f.two.down(backends.Unavailable)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		if n := f.recipientsOf(wrapped); n != 1 {
			t.Fatalf("%d recipients, want 1", n)
		}
		if last := f.audit.last(t); !strings.Contains(last, "degraded") {
			t.Errorf("the record does not say degraded: %s", last)
		}
		f.two.up()
		f.now.Advance(time.Hour)
		_, wrapped = f.generate(uidTiKV, "tikv", nil)
		if n := f.recipientsOf(wrapped); n != 2 {
			t.Errorf("%d recipients after the KMS came back, want 2", n)
		}
	})
	t.Run("a KMS that returns another key is passed over", func(t *testing.T) {
		f := newFixture(t, both)
		dek, wrapped := f.generate(uidTiKV, "tikv", nil)
		f.purgeAll()
		substitute := func(context.Context, []byte) ([]byte, error) { return bytes.Repeat([]byte{1}, 32), nil }
		f.one.onUnwrap.Store(&substitute)
		u, err := f.unwrap(wrapped, nil)
		if err != nil || !bytes.Equal(u.Plaintext.Bytes(), dek) {
			t.Errorf("one recipient blocks the other: %v", err)
		}
	})
	t.Run("a former one still opens, a dropped one is asked nothing", func(t *testing.T) {
		f := newFixture(t)
		dek, wrapped := f.generate(uidTiKV, "tikv", nil)
		k := &f.settings.Keys[0]
		k.Recipients, k.FormerRecipients = []broker.Recipient{{Backend: "two", Key: "a"}}, k.Recipients
		f.reload()
		if u, err := f.unwrap(wrapped, nil); err != nil || !bytes.Equal(u.Plaintext.Bytes(), dek) {
			t.Fatalf("a former recipient: %v", err)
		}
		k.FormerRecipients = nil
		f.reload()
		asked := f.one.unwraps.Load()
		_, err := f.unwrap(wrapped, nil)
		e := wantError(t, err, broker.NoBackend)
		for _, part := range []string{f.one.ref("a"), `add {backend: one, key: "a"} to keys.tikv.former_recipients`} {
			if !strings.Contains(e.Message, part) {
				t.Errorf("the message does not name %s: %s", part, e.Message)
			}
		}
		if f.one.unwraps.Load() != asked {
			t.Error("a recipient that the config does not list was asked")
		}
	})
}

// forge makes an envelope whose recipients are what the test says.
func forge(t *testing.T, key string, recipients ...envelope.Recipient) []byte {
	t.Helper()
	ik := bytes.Repeat([]byte{9}, envelope.IKSize)
	part, err := envelope.NewIKPart(key, envelope.Pairs{}, recipients, ik)
	if err != nil {
		t.Fatal(err)
	}
	b, err := part.Seal(ik, strings.NewReader(strings.Repeat("s", 64)), time.Unix(0, 0), envelope.Pairs{}, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestForgedEnvelopes(t *testing.T) {
	f := newFixture(t)
	dek, wrapped := f.generate(uidTiKV, "tikv", nil)
	env, err := envelope.Parse(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	genuine := env.IK().Recipients()[0]

	t.Run("renamed to another key", func(t *testing.T) {
		renamed := bytes.Replace(wrapped, []byte("\x04tikv"), []byte("\x05other"), 1)
		if bytes.Equal(renamed, wrapped) {
			t.Fatal("nothing was renamed")
		}
		_, err := f.unwrap(renamed, nil)
		wantReason(t, err, broker.InvalidEnvelope)
		asked := f.one.unwraps.Load()
		if u, err := f.unwrap(wrapped, nil); err != nil || !bytes.Equal(u.Plaintext.Bytes(), dek) || u.Source != cache.Fresh {
			t.Errorf("the genuine envelope suffered: %v", err)
		}
		if f.one.unwraps.Load() != asked {
			t.Error("the genuine envelope's key was purged")
		}
	})
	t.Run("a recipient that is not listed", func(t *testing.T) {
		r := genuine
		r.Reference = f.one.ref("secret-of-another-application")
		_, err := f.unwrap(forge(t, "tikv", r), nil)
		wantReason(t, err, broker.NoBackend)
		if _, ok := f.one.seen.Load(r.Reference); ok {
			t.Error("its reference was sent to the KMS")
		}
	})
	t.Run("another provider with the same reference", func(t *testing.T) {
		r := genuine
		r.Provider = "other"
		asked := f.one.unwraps.Load()
		_, err := f.unwrap(forge(t, "tikv", r), nil)
		wantReason(t, err, broker.NoBackend)
		if f.one.unwraps.Load() != asked {
			t.Error("the KMS was asked")
		}
	})
	t.Run("a genuine wrap beside a forged commitment", func(t *testing.T) {
		_, err := f.unwrap(forge(t, "tikv", genuine), nil)
		wantReason(t, err, broker.InvalidEnvelope)
	})
	t.Run("static pairs that the key does not list", func(t *testing.T) {
		pairs, err := envelope.NewPairs(map[string]string{"cluster": "evil"})
		if err != nil {
			t.Fatal(err)
		}
		ik := bytes.Repeat([]byte{9}, envelope.IKSize)
		part, err := envelope.NewIKPart("tikv", pairs, []envelope.Recipient{genuine}, ik)
		if err != nil {
			t.Fatal(err)
		}
		b, err := part.Seal(ik, strings.NewReader(strings.Repeat("s", 64)), time.Unix(0, 0), envelope.Pairs{}, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		asked := f.one.unwraps.Load()
		_, err = f.unwrap(b, nil)
		wantReason(t, err, broker.InvalidEnvelope)
		if f.one.unwraps.Load() != asked {
			t.Error("the KMS was asked")
		}
	})
	t.Run("an alias instead of the name", func(t *testing.T) {
		_, err := f.unwrap(forge(t, "tikv-master", genuine), nil)
		wantReason(t, err, broker.InvalidEnvelope)
	})
	t.Run("every bit flipped", func(t *testing.T) {
		for i := range wrapped {
			for bit := range 8 {
				bad := bytes.Clone(wrapped)
				bad[i] ^= 1 << bit
				if u, err := f.unwrap(bad, nil); err == nil {
					t.Fatalf("byte %d bit %d: it opens, to the same key: %v", i, bit, bytes.Equal(u.Plaintext.Bytes(), dek))
				}
			}
		}
		if u, err := f.unwrap(wrapped, nil); err != nil || u.Source != cache.Fresh {
			t.Errorf("the genuine envelope suffered: %v, source %v", err, u.Source)
		}
	})
}

func TestNothingIsAnsweredUnaudited(t *testing.T) {
	f := newFixture(t)
	_, wrapped := f.generate(uidTiKV, "tikv", nil)
	f.audit.end(t)
	for name, call := range map[string]func(broker.Call) error{
		"generate": f.tryGenerate("tikv", 32),
		"wrap":     f.tryWrap("tikv", 32),
		"unwrap":   f.tryUnwrap(wrapped, nil),
		"rewrap":   f.tryRewrap(wrapped, ""),
		"refused":  f.tryGenerate("nothing", 32),
		"inspect":  func(c broker.Call) error { _, err := f.Inspect(t.Context(), c, wrapped); return err },
		"list":     func(c broker.Call) error { _, err := f.ListKeys(t.Context(), c); return err },
	} {
		t.Run(name, func(t *testing.T) { wantReason(t, call(by(uidOps)), broker.AuditUnavailable) })
	}
}

func TestUnauditedByChoice(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.settings.AllowUnaudited = true })
	f.audit.end(t)
	if err := f.tryGenerate("tikv", 32)(by(uidTiKV)); err != nil {
		t.Errorf("on_failure: allow: %v", err)
	}
}

func TestIntermediateKeysAreBounded(t *testing.T) {
	t.Run("by uses", func(t *testing.T) {
		f := newFixture(t, func(f *fixture) { f.settings.Keys[0].MaxUses = 1 })
		seen := map[[32]byte]bool{}
		for range 5 {
			_, wrapped := f.generate(uidTiKV, "tikv", nil)
			seen[f.partOf(wrapped)] = true
		}
		if len(seen) != 5 {
			t.Errorf("%d intermediate keys for 5 data keys with max_uses 1", len(seen))
		}
	})
	t.Run("by age, also in an outage", func(t *testing.T) {
		f := newFixture(t, func(f *fixture) { f.settings.Keys[0].Limits.MaxStale = 1000 * time.Hour })
		_, first := f.generate(uidTiKV, "tikv", nil)
		f.one.down(backends.Unavailable)
		f.now.Advance(24*time.Hour - time.Second)
		if _, err := f.Generate(t.Context(), by(uidTiKV), broker.GenerateRequest{KeyName: "tikv"}); err != nil {
			t.Fatalf("before max_age: %v", explain(err))
		}
		f.now.Advance(time.Second)
		wantReason(t, f.tryGenerate("tikv", 32)(by(uidTiKV)), broker.BackendUnavailable)
		f.one.up()
		_, second := f.generate(uidTiKV, "tikv", nil)
		if f.partOf(first) == f.partOf(second) {
			t.Error("an intermediate key outlived max_age")
		}
	})
	t.Run("concurrently", func(t *testing.T) {
		f := newFixture(t, func(f *fixture) { f.settings.Keys[0].MaxUses = 10 })
		var mu sync.Mutex
		uses := map[[32]byte]int{}
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				g, err := f.Generate(t.Context(), by(uidTiKV), broker.GenerateRequest{KeyName: "tikv"})
				if err != nil {
					t.Errorf("Generate: %v", explain(err))
					return
				}
				id := f.partOf(g.WrappedKey)
				mu.Lock()
				defer mu.Unlock()
				uses[id]++
			})
		}
		wg.Wait()
		for _, n := range uses {
			if n > 10 {
				t.Errorf("an intermediate key was used %d times", n)
			}
		}
	})
}

// A key whose old version is retired in the KMS goes on with a new intermediate
// key, made with the present version.
func TestRetiredVersionDoesNotStopWraps(t *testing.T) {
	f := newFixture(t)
	f.generate(uidTiKV, "tikv", nil)
	f.now.Advance(2 * time.Hour)
	old := f.one.next
	retired := func(_ context.Context, ik []byte) ([]byte, error) {
		f.one.mu.Lock()
		fresh := f.one.next > old
		f.one.mu.Unlock()
		if fresh {
			return ik, nil
		}
		return nil, backends.Errorf(backends.Disabled, "unwrap", "a", "this version is too old")
	}
	f.one.onUnwrap.Store(&retired)
	if err := f.tryGenerate("tikv", 32)(by(uidTiKV)); err != nil {
		t.Errorf("Generate: %v", explain(err))
	}
}

func TestRewrap(t *testing.T) {
	f := newFixture(t)
	ctx := map[string]string{"a": "b"}
	dek, wrapped := f.generate(uidOps, "tikv", ctx)
	w, err := f.Rewrap(t.Context(), by(uidOps), broker.RewrapRequest{WrappedKey: wrapped, Context: ctx, KeyName: "other"})
	if err != nil || w.KeyName != "other" {
		t.Fatalf("Rewrap: key %q, %v", w.KeyName, err)
	}
	u, err := f.unwrap(w.WrappedKey, ctx)
	if err != nil || !bytes.Equal(u.Plaintext.Bytes(), dek) || u.KeyName != "other" {
		t.Errorf("the rewrapped key: %v", err)
	}
	if _, err := f.unwrap(wrapped, ctx); err != nil {
		t.Errorf("the old wrapped key: %v", err)
	}
}

func TestBatch(t *testing.T) {
	f := newFixture(t)
	var items []broker.UnwrapRequest
	var deks [][]byte
	for range 100 {
		dek, wrapped := f.generate(uidOps, "tikv", nil)
		deks = append(deks, bytes.Clone(dek))
		items = append(items, broker.UnwrapRequest{WrappedKey: wrapped})
	}
	items[7].WrappedKey = []byte("nothing")
	before := len(f.audit.lines(t))
	results, err := f.UnwrapBatch(t.Context(), by(uidOps), items)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if i == 7 {
			wantReason(t, r.Err, broker.InvalidEnvelope)
			continue
		}
		if r.Err != nil || !bytes.Equal(r.Plaintext.Bytes(), deks[i]) {
			t.Errorf("item %d: %v", i, r.Err)
		}
	}
	if n := len(f.audit.lines(t)) - before; n != len(items) {
		t.Errorf("%d records for %d items", n, len(items))
	}
}

func TestInspectAsksNobody(t *testing.T) {
	f := newFixture(t)
	_, wrapped := f.generate(uidTiKV, "tikv", nil)
	calls := f.one.unwraps.Load()
	i, err := f.Inspect(t.Context(), by(uidInspect), wrapped)
	if err != nil {
		t.Fatal(err)
	}
	if len(i.Missing) != 0 {
		t.Errorf("it is said to lack %+v", i.Missing)
	}
	want := broker.RecipientInfo{KEK: broker.KEK{Provider: "fake", Reference: f.one.ref("a"), Version: "1"}, Backend: "one", State: broker.RecipientUsable}
	if i.KeyName != "tikv" || len(i.Recipients) != 1 || i.Recipients[0] != want || !i.CreatedAt.Equal(f.now.Now()) {
		t.Errorf("%+v", i)
	}
	f.settings.Keys[0].Recipients[0].Backend = "two"
	f.reload()
	if i, err = f.Inspect(t.Context(), by(uidInspect), wrapped); err != nil {
		t.Fatal(err)
	}
	want.Backend, want.State = "", broker.RecipientNotConfigured
	if len(i.Recipients) != 1 || i.Recipients[0] != want {
		t.Errorf("%+v for a recipient that is not listed any more", i)
	}
	if len(i.Missing) != 1 || i.Missing[0].Backend != "two" {
		t.Errorf("it is not said to lack the present recipient: %+v", i.Missing)
	}
	if f.one.unwraps.Load() != calls {
		t.Error("a backend was called")
	}
}

func TestListShowsOnlyWhatIsGranted(t *testing.T) {
	f := newFixture(t)
	for uid, want := range map[uint32]string{uidOps: "[other tikv]", uidOther: "[other]", uidInspect: "[tikv]"} {
		keys, err := f.ListKeys(t.Context(), by(uid))
		if err != nil {
			t.Errorf("uid %d: %v", uid, err)
		}
		var names []string
		for _, k := range keys {
			names = append(names, k.Name)
		}
		if fmt.Sprint(names) != want {
			t.Errorf("uid %d sees %v, want %s", uid, names, want)
		}
	}
}

func TestPurge(t *testing.T) {
	f := newFixture(t)
	_, wrapped := f.generate(uidTiKV, "tikv", nil)
	f.generate(uidOther, "other", nil)
	f.one.down(backends.Unavailable)
	_, err := f.Purge(t.Context(), by(uidOps), "tikv", false)
	wantReason(t, err, broker.BackendUnavailable)
	if _, err := f.unwrap(wrapped, nil); err != nil {
		t.Fatalf("a purge that was refused purged: %v", err)
	}
	n, err := f.Purge(t.Context(), by(uidOps), "tikv", true)
	if err != nil || n != 1 {
		t.Fatalf("forced purge: %d, %v", n, err)
	}
	if last := f.audit.last(t); !strings.Contains(last, "forced") {
		t.Errorf("the record does not say forced: %s", last)
	}
	_, err = f.unwrap(wrapped, nil)
	wantReason(t, err, broker.BackendUnavailable)
	if s, err := f.Status(t.Context(), by(uidOps)); err != nil || s.CacheEntries != 1 {
		t.Errorf("%d entries are left, want the other key's: %v", s.CacheEntries, err)
	}
}

func TestReload(t *testing.T) {
	t.Run("a client that is taken away is refused at once", func(t *testing.T) {
		f := newFixture(t)
		f.generate(uidTiKV, "tikv", nil)
		p, err := policy.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		f.settings.Policy = p
		f.reload()
		wantReason(t, f.tryGenerate("tikv", 32)(by(uidTiKV)), broker.AccessDenied)
	})
	t.Run("what it does not touch stays cached", func(t *testing.T) {
		f := newFixture(t)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		f.reload()
		if u, err := f.unwrap(wrapped, nil); err != nil || u.Source != cache.Fresh {
			t.Errorf("source %v, %v", u.Source, err)
		}
		if f.one.closed.Load() {
			t.Error("a backend that did not change was closed")
		}
	})
	t.Run("a backend that is taken away is closed", func(t *testing.T) {
		f := newFixture(t)
		delete(f.settings.Backends, "two")
		f.reload()
		if !f.two.closed.Load() || f.one.closed.Load() {
			t.Errorf("closed: one %v, two %v", f.one.closed.Load(), f.two.closed.Load())
		}
	})
	t.Run("static pairs that changed need former_contexts", func(t *testing.T) {
		f := newFixture(t)
		_, wrapped := f.generate(uidTiKV, "tikv", nil)
		f.settings.Keys[0].Context = pairs(t, map[string]string{"cluster": "prod-1"})
		f.reload()
		_, err := f.unwrap(wrapped, nil)
		wantReason(t, err, broker.InvalidEnvelope)
		f.settings.Keys[0].FormerContexts = []envelope.Pairs{{}}
		f.reload()
		if _, err := f.unwrap(wrapped, nil); err != nil {
			t.Errorf("with former_contexts: %v", err)
		}
	})
}

func TestMissRate(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.settings.MissRates = map[string]float64{"ops": 2} })
	_, wrapped := f.generate(uidOther, "other", nil)
	env, err := envelope.Parse(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	limited := 0
	for i := range 10 {
		r := env.IK().Recipients()[0]
		r.Version = fmt.Sprint(i) // each is another intermediate key
		_, err := f.unwrap(forge(t, "other", r), nil)
		var e *broker.Error
		if errors.As(err, &e) && e.Reason == broker.RateLimited {
			limited++
		}
	}
	if limited < 7 {
		t.Errorf("%d of 10 misses were limited with a budget of 2 a second", limited)
	}
	if _, err := f.Unwrap(t.Context(), by(uidOther), broker.UnwrapRequest{WrappedKey: wrapped}); err != nil {
		t.Errorf("another client suffered: %v", err)
	}
}

func TestPanicIsAnErrorAndOnTheRecord(t *testing.T) {
	f := newFixture(t)
	boom := func() { panic("boom") }
	f.one.onWrap.Store(&boom)
	wantReason(t, f.tryGenerate("tikv", 32)(by(uidTiKV)), broker.BackendUnavailable)
	if last := f.audit.last(t); !strings.Contains(last, `"outcome":"error"`) {
		t.Errorf("the record: %s", last)
	}
	f.one.onWrap.Store(nil)
	f.generate(uidTiKV, "tikv", nil)
}

func TestHungKMSDoesNotHang(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		b := f.settings.Backends["one"]
		b.Timeout = time.Millisecond
		f.settings.Backends["one"] = b
	})
	hang := func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, backends.Errorf(backends.Unavailable, "unwrap", "a", "%w", ctx.Err())
	}
	f.one.onUnwrap.Store(&hang)
	wantReason(t, f.tryGenerate("tikv", 32)(by(uidTiKV)), broker.BackendUnavailable)
}

func TestServes(t *testing.T) {
	f := newFixture(t)
	f.generate(uidTiKV, "tikv", nil)
	f.one.down(backends.Unavailable)
	wantReason(t, f.tryGenerate("other", 32)(by(uidOther)), broker.BackendUnavailable)
	serves := f.Serves()
	if serves["other"] {
		t.Error("a key with neither KMS nor cache is said to be served")
	}
	if _, err := f.KeyHealth(t.Context(), by(uidNobody), "tikv"); err == nil {
		t.Error("health of a key for nobody")
	}
}

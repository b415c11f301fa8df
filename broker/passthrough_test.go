package broker_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
)

// foreign is a ciphertext that the KMS "two" made for somebody else under its
// master key "old".
type foreign struct {
	*fixture
	blob, dek []byte
}

func mustPairs(t *testing.T, m map[string]string) envelope.Pairs {
	t.Helper()
	p, err := envelope.NewPairs(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newForeign returns a broker whose key tikv passes through to that master key.
func newForeign(t *testing.T, size int, bound map[string]string, change ...func(*fixture)) foreign {
	t.Helper()
	f := foreign{dek: bytes.Repeat([]byte{7}, size)}
	f.fixture = newFixture(t, append(change, func(of *fixture) {
		of.settings.Keys[0].Passthrough = &broker.Passthrough{
			Recipient: broker.Recipient{Backend: "two", Key: "old"},
			Contexts:  []envelope.Pairs{mustPairs(t, map[string]string{"app": "tikv"})},
		}
	})...)
	w, err := f.two.Wrap(t.Context(), backends.WrapRequest{Key: "old", Plaintext: f.dek, AssociatedData: mustPairs(t, bound).Canonical()})
	if err != nil {
		t.Fatal(err)
	}
	f.blob = w.Ciphertext
	return f
}

func (f foreign) open(uid uint32, key string, ctx map[string]string) (broker.Unwrapped, error) {
	return f.Unwrap(f.t.Context(), by(uid), broker.UnwrapRequest{WrappedKey: f.blob, KeyName: key, Context: ctx})
}

func TestPassthrough(t *testing.T) {
	t.Run("opens, each time by its KMS", func(t *testing.T) {
		f := newForeign(t, 32, nil)
		for n := range 2 {
			u, err := f.open(uidTiKV, "tikv-master", nil)
			if err != nil || !bytes.Equal(u.Plaintext.Bytes(), f.dek) || u.KeyName != "tikv" {
				t.Fatalf("%v, %+v", err, u)
			}
			if asked := f.two.unwraps.Load(); int(asked) != n+1 {
				t.Errorf("its KMS was asked %d times, want %d: nothing of it is cached", asked, n+1)
			}
		}
		for _, part := range []string{`"backend":"two"`, `"kek":"old"`, "passthrough", `"key":"tikv"`} {
			if last := f.audit.last(t); !strings.Contains(last, part) {
				t.Errorf("the record lacks %s: %s", part, last)
			}
		}
		infos, err := f.ListKeys(t.Context(), by(uidOps))
		if err != nil || !infos[1].StaleUntil.IsZero() {
			t.Errorf("the runway of such a key is not 0: %+v, %v", infos, err)
		}
	})
	t.Run("with a context that is listed", func(t *testing.T) {
		f := newForeign(t, 32, map[string]string{"app": "tikv"})
		if u, err := f.open(uidTiKV, "tikv", map[string]string{"app": "tikv"}); err != nil || !bytes.Equal(u.Plaintext.Bytes(), f.dek) {
			t.Error(err)
		}
	})
	for name, test := range map[string]struct {
		size   int
		bound  map[string]string
		change func(*foreign)
		uid    uint32
		key    string
		want   broker.Reason
		asked  int32
	}{
		"a context that is not listed":     {size: 32, bound: map[string]string{"app": "other"}, uid: uidTiKV, key: "tikv", want: broker.InvalidEnvelope},
		"no key named":                     {size: 32, uid: uidTiKV, want: broker.InvalidEnvelope},
		"a key without passthrough":        {size: 32, uid: uidOps, key: "other", want: broker.WrongKey},
		"a caller without the right":       {size: 32, uid: uidOther, key: "tikv", want: broker.AccessDenied},
		"not a data key's size":            {size: 8, uid: uidTiKV, key: "tikv", want: broker.InvalidEnvelope, asked: 1},
		"too long":                         {size: 32, uid: uidTiKV, key: "tikv", want: broker.InvalidArgument, change: func(f *foreign) { f.blob = make([]byte, envelope.MaxSize+1) }},
		"empty":                            {size: 32, uid: uidTiKV, key: "tikv", want: broker.InvalidArgument, change: func(f *foreign) { f.blob = nil }},
		"what its KMS did not make":        {size: 32, uid: uidTiKV, key: "tikv", want: broker.InvalidEnvelope, asked: 1, change: func(f *foreign) { f.blob = []byte("x") }},
		"made by another master key":       {size: 32, uid: uidTiKV, key: "tikv", want: broker.WrongKey, asked: 1, change: func(f *foreign) { f.two.down(backends.WrongKey) }},
		"its KMS is down":                  {size: 32, uid: uidTiKV, key: "tikv", want: broker.BackendUnavailable, asked: 1, change: func(f *foreign) { f.two.down(backends.Unavailable) }},
		"its KMS does not take the broker": {size: 32, uid: uidTiKV, key: "tikv", want: broker.BackendUnavailable, asked: 1, change: func(f *foreign) { f.two.down(backends.Unauthenticated) }},
		"its master key is disabled":       {size: 32, uid: uidTiKV, key: "tikv", want: broker.KEKDisabled, asked: 1, change: func(f *foreign) { f.two.down(backends.Disabled) }},
		"the broker may not use it":        {size: 32, uid: uidTiKV, key: "tikv", want: broker.KEKDenied, asked: 1, change: func(f *foreign) { f.two.down(backends.Denied) }},
		"its KMS throttles":                {size: 32, uid: uidTiKV, key: "tikv", want: broker.BackendThrottled, asked: 1, change: func(f *foreign) { f.two.down(backends.Throttled) }},
		"a wrapped key that was cut":       {size: 32, uid: uidTiKV, key: "tikv", want: broker.InvalidEnvelope, change: func(f *foreign) { f.blob = []byte(envelope.Magic + "\x01") }},
		"a client that spent its misses": {size: 32, uid: uidTiKV, key: "tikv", want: broker.RateLimited, change: func(f *foreign) {
			f.settings.MissRates = map[string]float64{"tikv": 1e-9}
			f.reload()
			_, _ = f.open(uidTiKV, "tikv", nil)
		}, asked: 1},
		"a passthrough that was taken away":   {size: 32, uid: uidTiKV, key: "tikv", want: broker.WrongKey, change: func(f *foreign) { f.settings.Keys[0].Passthrough = nil; f.reload() }},
		"a key that is not in the config":     {size: 32, uid: uidOps, key: "nothing", want: broker.KeyNotFound},
		"no record of it":                     {size: 32, uid: uidTiKV, key: "tikv", want: broker.AuditUnavailable, asked: 1, change: func(f *foreign) { f.audit.end(f.t) }},
		"a caller who gave up before it came": {size: 32, uid: uidTiKV, key: "tikv", want: broker.Deadline, asked: 1, change: func(f *foreign) { f.two.onUnwrap.Store(&hangs) }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForeign(t, test.size, test.bound)
			if test.change != nil {
				test.change(&f)
			}
			ctx := t.Context()
			if test.want == broker.Deadline {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 1)
				defer cancel()
			}
			_, err := f.Unwrap(ctx, by(test.uid), broker.UnwrapRequest{WrappedKey: f.blob, KeyName: test.key, Context: test.bound})
			wantReason(t, err, test.want)
			if asked := f.two.unwraps.Load(); asked != test.asked {
				t.Errorf("the KMS was asked %d times, want %d", asked, test.asked)
			}
		})
	}
}

// hangs waits for the call's end.
var hangs = func(ctx context.Context, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, backends.Errorf(backends.Unavailable, "unwrap", "", "%w", ctx.Err())
}

// A caller that says of which key a wrapped key must be gets no other's.
func TestUnwrapOfANamedKey(t *testing.T) {
	f := newFixture(t)
	dek, wrapped := f.generate(uidOps, "other", nil)
	open := func(uid uint32, key string) (broker.Unwrapped, error) {
		return f.Unwrap(t.Context(), by(uid), broker.UnwrapRequest{WrappedKey: wrapped, KeyName: key})
	}
	if u, err := open(uidOps, "other"); err != nil || !bytes.Equal(u.Plaintext.Bytes(), dek) {
		t.Errorf("its own key: %v", err)
	}
	calls := f.one.unwraps.Load()
	for _, key := range []string{"tikv", "tikv-master"} {
		_, err := open(uidOps, key)
		wantReason(t, err, broker.WrongKey)
	}
	_, err := open(uidTiKV, "tikv") // who has no right on the other key learns no more
	wantReason(t, err, broker.WrongKey)
	_, err = open(uidOther, "tikv")
	wantReason(t, err, broker.AccessDenied)
	if f.one.unwraps.Load() != calls {
		t.Error("a KMS was asked")
	}
}

func TestAnySize(t *testing.T) {
	f := newFixture(t)
	for _, size := range []int{1, 15, 65, envelope.MaxPlaintext} {
		plaintext := bytes.Repeat([]byte{3}, size)
		w, err := f.Wrap(t.Context(), by(uidOps), broker.WrapRequest{KeyName: "other", Plaintext: plaintext, AnySize: true})
		if err != nil {
			t.Fatalf("%d bytes: %v", size, explain(err))
		}
		_, err = f.unwrap(w.WrappedKey, nil)
		wantReason(t, err, broker.InvalidEnvelope) // it is no data key
		u, err := f.Unwrap(t.Context(), by(uidOps), broker.UnwrapRequest{WrappedKey: w.WrappedKey, AnySize: true})
		if err != nil || !bytes.Equal(u.Plaintext.Bytes(), plaintext) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for _, size := range []int{0, envelope.MaxPlaintext + 1} {
		_, err := f.Wrap(t.Context(), by(uidOps), broker.WrapRequest{KeyName: "other", Plaintext: make([]byte, size), AnySize: true})
		wantReason(t, err, broker.InvalidArgument)
	}
	g, err := f.Generate(t.Context(), by(uidOps), broker.GenerateRequest{KeyName: "other", Length: 1024, AnySize: true})
	if err != nil || g.Plaintext.Len() != 1024 {
		t.Errorf("%v, %d bytes", err, g.Plaintext.Len())
	}
}

func TestRewrapToAnotherContext(t *testing.T) {
	f := newFixture(t)
	was, is := map[string]string{"a": "1"}, map[string]string{"a": "2"}
	dek, wrapped := f.generate(uidOps, "other", was)
	r, err := f.Rewrap(t.Context(), by(uidOps), broker.RewrapRequest{
		WrappedKey: wrapped, Context: was, NewContext: is, ChangeContext: true, SourceKeyName: "other", KeyName: "tikv",
	})
	if err != nil {
		t.Fatal(explain(err))
	}
	if r.SourceKeyName != "other" || r.KeyName != "tikv" {
		t.Errorf("%+v", r)
	}
	if u, err := f.unwrap(r.WrappedKey, is); err != nil || !bytes.Equal(u.Plaintext.Bytes(), dek) {
		t.Errorf("with the new context: %v", err)
	}
	_, err = f.unwrap(r.WrappedKey, was)
	wantReason(t, err, broker.InvalidEnvelope)
	_, err = f.Rewrap(t.Context(), by(uidOps), broker.RewrapRequest{WrappedKey: wrapped, Context: was, SourceKeyName: "tikv"})
	wantReason(t, err, broker.WrongKey)

	// The right to rewrap is one to move a data key, not to change its context.
	_, own := f.generate(uidTiKV, "tikv", was)
	_, err = f.Rewrap(t.Context(), by(uidRewrap), broker.RewrapRequest{WrappedKey: own, Context: was})
	if err != nil {
		t.Fatal(explain(err))
	}
	_, err = f.Rewrap(t.Context(), by(uidRewrap), broker.RewrapRequest{WrappedKey: own, Context: was, NewContext: is, ChangeContext: true})
	wantReason(t, err, broker.AccessDenied)
}

func TestDescribe(t *testing.T) {
	f := newFixture(t)
	k, err := f.Describe(t.Context(), by(uidTiKV), "tikv-master")
	if err != nil || k.Name != "tikv" || len(k.Aliases) != 1 || k.Aliases[0] != "tikv-master" {
		t.Errorf("%+v, %v", k, err)
	}
	_, err = f.Describe(t.Context(), by(uidTiKV), "other")
	wantReason(t, err, broker.AccessDenied)
	_, err = f.Describe(t.Context(), by(uidOps), "nothing")
	wantReason(t, err, broker.KeyNotFound)
}

func TestRandom(t *testing.T) {
	f := newFixture(t)
	a, err := f.Random(t.Context(), by(uidTiKV), broker.MaxRandom)
	if err != nil || a.Len() != broker.MaxRandom {
		t.Fatalf("%v, %d bytes", err, a.Len())
	}
	b, err := f.Random(t.Context(), by(uidTiKV), broker.MaxRandom)
	if err != nil || bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Errorf("twice the same: %v", err)
	}
	for _, n := range []int{-1, 0, broker.MaxRandom + 1} {
		_, err := f.Random(t.Context(), by(uidTiKV), n)
		wantReason(t, err, broker.InvalidArgument)
	}
	_, err = f.Random(t.Context(), by(uidInspect), 32) // who may generate nothing
	wantReason(t, err, broker.AccessDenied)
	if last := f.audit.last(t); !strings.Contains(last, `"event":"random"`) {
		t.Error(last)
	}
}

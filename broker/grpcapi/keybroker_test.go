package grpcapi_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// pairs is a caller's context.
var pairs = map[string]string{"file": "000123.sst", "ключ": "значение"}

func TestGenerateAndUnwrap(t *testing.T) {
	f := newFixture(t)
	g, err := f.keys.GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv-master", KeyLength: 48, Context: pairs})
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Plaintext) != 48 || bytes.Equal(g.Plaintext, make([]byte, 48)) {
		t.Fatalf("the data key is %d bytes: %x", len(g.Plaintext), g.Plaintext)
	}
	if g.KeyName != "tikv" {
		t.Errorf("key_name %q, want the canonical name tikv", g.KeyName)
	}
	if default32 := f.generate("tikv", nil); len(default32.Plaintext) != 32 {
		t.Errorf("a data key of default length is %d bytes", len(default32.Plaintext))
	}

	f.purge()
	for _, want := range []keybrokerv1.Source{keybrokerv1.Source_SOURCE_BACKEND, keybrokerv1.Source_SOURCE_CACHE} {
		u, err := f.keys.UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: g.WrappedKey, Context: pairs})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(u.Plaintext, g.Plaintext) {
			t.Fatal("another data key came back")
		}
		if u.KeyName != "tikv" || u.Source != want {
			t.Errorf("key_name %q, source %v; want tikv, %v", u.KeyName, u.Source, want)
		}
	}
	_, err = f.keys.UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: g.WrappedKey})
	wantReason(t, err, broker.InvalidEnvelope)
}

// TestStaleSource: an answer says that it comes from past the TTL.
func TestStaleSource(t *testing.T) {
	now := &fakeClock{at: time.Now()}
	f := newFixture(t, func(f *fixture) { f.options.Uptime = now.Now })
	g := f.generate("tikv", nil)
	now.advance(2 * time.Hour)
	f.kms.down(backends.Unavailable)
	u, err := f.keys.UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: g.WrappedKey})
	if err != nil {
		t.Fatal(err)
	}
	if u.Source != keybrokerv1.Source_SOURCE_STALE_CACHE {
		t.Errorf("source %v, want SOURCE_STALE_CACHE", u.Source)
	}
}

func TestWrap(t *testing.T) {
	f := newFixture(t)
	dek := bytes.Repeat([]byte{7}, 16)
	w, err := f.keys.WrapKey(t.Context(), &keybrokerv1.WrapKeyRequest{KeyName: "other", Plaintext: dek, Context: pairs})
	if err != nil {
		t.Fatal(err)
	}
	if w.KeyName != "other" {
		t.Errorf("key_name %q", w.KeyName)
	}
	u, err := f.keys.UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: w.WrappedKey, Context: pairs})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(u.Plaintext, dek) || u.KeyName != "other" {
		t.Errorf("unwrapped %x under %q", u.Plaintext, u.KeyName)
	}
}

func TestRewrap(t *testing.T) {
	f := newFixture(t)
	g := f.generate("tikv", pairs)
	for _, to := range []string{"", "other"} {
		t.Run("to "+to, func(t *testing.T) {
			r, err := f.keys.RewrapKey(t.Context(), &keybrokerv1.RewrapKeyRequest{WrappedKey: g.WrappedKey, Context: pairs, KeyName: to})
			if err != nil {
				t.Fatal(err)
			}
			want := to
			if to == "" {
				want = "tikv"
			}
			if r.KeyName != want || bytes.Equal(r.WrappedKey, g.WrappedKey) {
				t.Errorf("key_name %q, the same wrapped key: %v", r.KeyName, bytes.Equal(r.WrappedKey, g.WrappedKey))
			}
			u, err := f.keys.UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: r.WrappedKey, Context: pairs})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(u.Plaintext, g.Plaintext) {
				t.Error("the data key changed")
			}
		})
	}
}

func TestInspect(t *testing.T) {
	f := newFixture(t)
	before := time.Now().Truncate(time.Second)
	g := f.generate("tikv", pairs)
	f.kms.down(backends.Unavailable) // it is not asked
	i, err := f.keys.InspectKey(t.Context(), &keybrokerv1.InspectKeyRequest{WrappedKey: g.WrappedKey})
	if err != nil {
		t.Fatal(err)
	}
	at := i.CreatedAt.AsTime()
	if i.KeyName != "tikv" || at.Before(before) || at.After(time.Now()) {
		t.Errorf("key_name %q, created_at %v", i.KeyName, at)
	}
	want := &keybrokerv1.Recipient{Provider: "fake", KeyRef: "ref:a", KeyVersion: "7", Backend: "one", State: keybrokerv1.RecipientState_RECIPIENT_STATE_USABLE}
	if len(i.Recipients) != 1 || !proto.Equal(i.Recipients[0], want) {
		t.Errorf("recipients %v, want %v", i.Recipients, want)
	}
}

func TestListKeys(t *testing.T) {
	f := newFixture(t)
	before := time.Now()
	f.generate("tikv", nil)
	l, err := f.keys.ListKeys(t.Context(), &keybrokerv1.ListKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Keys) != 2 || l.Keys[0].Name != "other" || l.Keys[1].Name != "tikv" {
		t.Fatalf("keys %v, want other and tikv", l.Keys)
	}
	other, tikv := l.Keys[0], l.Keys[1]
	if other.CachedUntil != nil || other.StaleUntil != nil {
		t.Errorf("nothing of other is cached, but it says %v", other)
	}
	if tikv.State != keybrokerv1.KeyState_KEY_STATE_READY {
		t.Errorf("state %v of a key that was used", tikv.State)
	}
	want := &keybrokerv1.Recipient{Provider: "fake", KeyRef: "ref:a", KeyVersion: "7", Backend: "one", State: keybrokerv1.RecipientState_RECIPIENT_STATE_USABLE}
	if len(tikv.Recipients) != 1 || !proto.Equal(tikv.Recipients[0], want) {
		t.Errorf("recipients %v, want %v", tikv.Recipients, want)
	}
	if fresh := tikv.CachedUntil.AsTime().Sub(before); fresh <= 0 || fresh > 2*time.Hour {
		t.Errorf("cached_until %v", tikv.CachedUntil.AsTime())
	}
	if stale := tikv.StaleUntil.AsTime().Sub(tikv.CachedUntil.AsTime()); stale != 2*time.Hour {
		t.Errorf("stale_until is %v after cached_until, want max_stale - ttl", stale)
	}
}

// TestRecorded: each call leaves its record, with who made it.
func TestRecorded(t *testing.T) {
	f := newFixture(t)
	g := f.generate("tikv", pairs)
	r := f.last()
	sum := sha256.Sum256(g.WrappedKey)
	if r.Event != "generate" || r.Outcome != "ok" || r.Code != "OK" || r.Key != "tikv" || r.Envelope != hex.EncodeToString(sum[:]) {
		t.Errorf("record %+v", r)
	}
	if r.Client.Name != "me" || r.Client.Method != "GenerateDataKey" || r.Client.UID == nil || *r.Client.UID != *uid(myUID()) || r.RequestID == "" {
		t.Errorf("client %+v, request id %q", r.Client, r.RequestID)
	}
	if !maps.Equal(r.Context, pairs) {
		t.Errorf("context %v", r.Context)
	}
}

// TestMetadataIgnored: nothing that a caller says of itself in headers has any
// effect.
func TestMetadataIgnored(t *testing.T) {
	f := newFixture(t, withPolicy(allowAll("root", somebodyElse())))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "uid", fmt.Sprint(myUID()+1), "x-client", "root",
		"authorization", "Bearer root", "x-request-id", "chosen", "x-forwarded-for", "10.0.0.1")
	_, err := f.keys.GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
	wantReason(t, err, broker.AccessDenied)
	if r := f.last(); r.Client.Name != "" || r.RequestID == "chosen" || r.Client.Addr != "" {
		t.Errorf("record %+v", r)
	}
}

func TestBatch(t *testing.T) {
	f := newFixture(t)
	a, b := f.generate("tikv", pairs), f.generate("other", nil)
	req := &keybrokerv1.BatchUnwrapKeysRequest{}
	var want [][]byte // nil: it does not open
	add := func(wrapped []byte, pairs map[string]string, plaintext []byte) {
		req.Items = append(req.Items, &keybrokerv1.BatchUnwrapKeysItem{WrappedKey: wrapped, Context: pairs})
		want = append(want, plaintext)
	}
	for range 50 {
		add(a.WrappedKey, pairs, a.Plaintext)
		add(b.WrappedKey, nil, b.Plaintext)
		add(b.WrappedKey, pairs, nil)
	}
	before := len(f.records())
	got, err := f.keys.BatchUnwrapKeys(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Results) != len(want) {
		t.Fatalf("%d results of %d items", len(got.Results), len(want))
	}
	for i, r := range got.Results {
		if want[i] == nil {
			s := status.FromProto(r.Error)
			if reason, _ := detailsOf(t, s.Err()); reason != string(broker.InvalidEnvelope) || s.Code() != codes.InvalidArgument {
				t.Errorf("item %d: %v, want INVALID_ENVELOPE", i, r)
			}
			if r.Plaintext != nil || r.KeyName != "" || r.Source != 0 {
				t.Errorf("item %d failed, but has %v", i, r)
			}
			continue
		}
		if r.Error != nil || !bytes.Equal(r.Plaintext, want[i]) || r.Source != keybrokerv1.Source_SOURCE_CACHE {
			t.Errorf("item %d: %v", i, r)
		}
		if name := []string{"tikv", "other"}[i%3]; r.KeyName != name {
			t.Errorf("item %d: key_name %q, want %q", i, r.KeyName, name)
		}
	}
	if n := len(f.records()) - before; n != len(want) {
		t.Errorf("%d records of %d items", n, len(want))
	}
}

func TestBatchBounds(t *testing.T) {
	f := newFixture(t)
	g := f.generate("tikv", nil)
	items := func(n int) *keybrokerv1.BatchUnwrapKeysRequest {
		req := &keybrokerv1.BatchUnwrapKeysRequest{}
		for range n {
			req.Items = append(req.Items, &keybrokerv1.BatchUnwrapKeysItem{WrappedKey: g.WrappedKey})
		}
		return req
	}
	for _, n := range []int{0, 1, 1000} {
		got, err := f.keys.BatchUnwrapKeys(t.Context(), items(n))
		if err != nil {
			t.Fatalf("%d items: %v", n, err)
		}
		if len(got.Results) != n {
			t.Errorf("%d results of %d items", len(got.Results), n)
		}
	}
	before := len(f.records())
	_, err := f.keys.BatchUnwrapKeys(t.Context(), items(1001))
	wantReason(t, err, broker.InvalidArgument)
	if n := len(f.records()) - before; n != 1 {
		t.Errorf("a batch that is too large left %d records, want 1", n)
	}
}

// TestConcurrentCallers: each of many callers gets its own data key back, over
// one connection and over several.
func TestConcurrentCallers(t *testing.T) {
	f := newFixture(t)
	conns := []keybrokerv1.KeyBrokerClient{f.keys, keybrokerv1.NewKeyBrokerClient(f.dial()), keybrokerv1.NewKeyBrokerClient(f.dial())}
	var all sync.WaitGroup
	for caller := range 64 {
		all.Go(func() {
			keys := conns[caller%len(conns)]
			for round := range 10 {
				dek := bytes.Repeat([]byte{byte(caller + 1), byte(round + 1)}, 8+caller%24)
				ctx := map[string]string{"caller": fmt.Sprint(caller), "round": fmt.Sprint(round)}
				if err := roundTrip(t.Context(), keys, dek, ctx); err != nil {
					t.Errorf("caller %d: %v", caller, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// roundTrip wraps dek and has it opened again, alone and in a batch.
func roundTrip(ctx context.Context, keys keybrokerv1.KeyBrokerClient, dek []byte, pairs map[string]string) error {
	w, err := keys.WrapKey(ctx, &keybrokerv1.WrapKeyRequest{KeyName: "tikv", Plaintext: dek, Context: pairs})
	if err != nil {
		return err
	}
	u, err := keys.UnwrapKey(ctx, &keybrokerv1.UnwrapKeyRequest{WrappedKey: w.WrappedKey, Context: pairs})
	if err != nil {
		return err
	}
	item := &keybrokerv1.BatchUnwrapKeysItem{WrappedKey: w.WrappedKey, Context: pairs}
	b, err := keys.BatchUnwrapKeys(ctx, &keybrokerv1.BatchUnwrapKeysRequest{Items: []*keybrokerv1.BatchUnwrapKeysItem{item, item, item}})
	if err != nil {
		return err
	}
	if !bytes.Equal(u.Plaintext, dek) {
		return errors.New("UnwrapKey returned another data key")
	}
	for _, r := range b.Results {
		if !bytes.Equal(r.Plaintext, dek) {
			return fmt.Errorf("BatchUnwrapKeys returned another data key (%v)", r.Error)
		}
	}
	return nil
}

// TestWrappedKeyMax: the largest context there may be fits through the door.
func TestWrappedKeyMax(t *testing.T) {
	f := newFixture(t)
	big := map[string]string{"k": strings.Repeat("x", envelope.MaxContextBytes-64)}
	g := f.generate("tikv", big)
	if _, err := f.keys.UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: g.WrappedKey, Context: big}); err != nil {
		t.Error(err)
	}
}

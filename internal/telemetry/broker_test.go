package telemetry_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLabelsAreBounded: whatever callers send, only configured names become label
// values.
func TestLabelsAreBounded(t *testing.T) {
	m := telemetry.New("v1.2.3", "abcdef", "go1.26")
	b := newBroker(t, m)
	ops := broker.Call{API: "test", Method: "Test", Caller: peer.Identity{Network: peer.Unix, UID: 1001}}
	stranger := broker.Call{API: "test", Method: "Test", Caller: peer.Identity{Network: peer.Unix, UID: 1002}}
	g, err := b.Generate(t.Context(), ops, broker.GenerateRequest{KeyName: "tikv"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		name := fmt.Sprintf("invented-%d", i)
		forged := forge(t, name)
		for _, call := range []broker.Call{ops, stranger} {
			attempts := []error{
				errOf(b.Generate(t.Context(), call, broker.GenerateRequest{KeyName: name})),
				errOf(b.Wrap(t.Context(), call, broker.WrapRequest{KeyName: name, Plaintext: make([]byte, 32)})),
				errOf(b.Unwrap(t.Context(), call, broker.UnwrapRequest{WrappedKey: forged})),
				errOf(b.Rewrap(t.Context(), call, broker.RewrapRequest{WrappedKey: g.WrappedKey, KeyName: name})),
				errOf(b.Inspect(t.Context(), call, forged)),
				errOf(b.Purge(t.Context(), call, name, true)),
				errOf(b.KeyHealth(t.Context(), call, name)),
			}
			if i := slices.Index(attempts, nil); i >= 0 {
				t.Fatalf("attempt %d succeeded", i)
			}
		}
	}
	// An alias is counted under the key's own name.
	if _, err := b.Generate(t.Context(), ops, broker.GenerateRequest{KeyName: "tikv-master"}); err != nil {
		t.Fatal(err)
	}
	allowed := map[string][]string{
		"key":     {"", "tikv"},
		"client":  {"", "ops"},
		"backend": {"one"},
		"api":     {"test"},
		"method":  {"Test"},
		"op":      {"wrap", "unwrap", "check"},
		"result":  {"hit", "miss", "stale", "negative"},
	}
	for _, f := range ours(t, m) {
		for _, series := range f.Metric {
			for _, l := range series.Label {
				if values, ok := allowed[l.GetName()]; ok && !slices.Contains(values, l.GetValue()) {
					t.Errorf("%s has %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	if n := len(seriesOf(t, m, "keybroker_requests_total")); n > 10 {
		t.Errorf("keybroker_requests_total has %d series", n)
	}
	if n := countOf(seriesOf(t, m, "keybroker_requests_total"), "key", "tikv"); n != 2+100 {
		t.Errorf("%v calls were counted for tikv, want 2 and the rewraps of ops", n)
	}
}

// errOf is the error of a call.
func errOf[T any](_ T, err error) error { return err }

// forge returns a whole envelope of a key that does not exist.
func forge(t *testing.T, name string) []byte {
	t.Helper()
	ik := make([]byte, envelope.IKSize)
	part, err := envelope.NewIKPart(name, envelope.Pairs{}, []envelope.Recipient{
		{Provider: "fake", Reference: "ref", Version: "1", Binding: backends.BindingAAD, Wrapped: []byte{1}},
	}, ik)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := part.Seal(ik, rand.Reader, time.Now(), envelope.Pairs{}, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// newBroker returns a broker with one key, "tikv", and one client, "ops", that may
// do everything with any key.
func newBroker(t *testing.T, o broker.Observer) *broker.Broker {
	t.Helper()
	log, err := audit.Open(audit.Config{
		Path: filepath.Join(t.TempDir(), "audit.jsonl"), Node: "test", Sync: audit.SyncOS, SyncInterval: time.Hour,
		Now: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	arena, err := secret.NewArena(secret.Config{Bytes: 4 << 10, Locked: secret.Prefer})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New([]policy.Client{{
		Name: "ops", Match: policy.Match{UID: new(uint32(1001))}, Admin: []policy.Right{policy.AnyRight},
		Allow: []policy.Rule{{Keys: []string{policy.AnyKey}, Operations: []policy.Operation{policy.Any}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.New(t.Context(), broker.Options{
		Version: "test", Audit: log, Arena: arena, CacheCapacity: 8, CallTimeout: time.Minute, AuditTimeout: time.Minute,
		Now: time.Now, Uptime: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler), Observer: o,
	}, broker.Settings{
		Backends: map[string]broker.Backend{"one": {KMS: plainKMS{}, Provider: "fake", Type: "fake", Timeout: time.Minute}},
		Keys: []broker.Key{{
			Name: "tikv", Aliases: []string{"tikv-master"}, Recipients: []broker.Recipient{{Backend: "one", Key: "a"}},
			MinRecipients: 1, CheckInterval: time.Hour, Limits: cache.Limits{TTL: time.Hour}, MaxAge: time.Hour, MaxUses: 1 << 20,
		}},
		Policy: p,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, close := range []func() error{
			func() error { return b.Close(context.Background()) },
			func() error { return log.Close(context.Background()) },
			arena.Close,
		} {
			if err := close(); err != nil {
				t.Error(err)
			}
		}
	})
	return b
}

// plainKMS wraps by leaving everything as it is.
type plainKMS struct{}

func (plainKMS) Wrap(_ context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	return backends.Wrapped{
		Provider: "fake", Reference: "ref", Version: "1", Binding: backends.BindingAAD, Ciphertext: slices.Clone(req.Plaintext),
	}, nil
}

func (plainKMS) Unwrap(_ context.Context, req backends.UnwrapRequest) ([]byte, error) {
	return slices.Clone(req.Ciphertext), nil
}

func (plainKMS) Match(_ context.Context, _, reference string) (bool, error) {
	return reference == "ref", nil
}

func (plainKMS) Check(context.Context, string) error { return nil }

func (plainKMS) Close() error { return nil }

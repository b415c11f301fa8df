package admin_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/admin"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is the admin server of a real broker with real metrics and a real audit
// log, on a port of the loopback. Only the KMS is a fake.
type fixture struct {
	t      *testing.T
	broker *broker.Broker
	log    *audit.Log
	kms    *plainKMS
	client *http.Client
	url    string
}

// newFixture serves a broker with the keys "tikv" and "other".
func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, kms: &plainKMS{}, client: &http.Client{Transport: &http.Transport{}}}
	metrics := telemetry.New("v1.2.3", "abcdef", "go1.26")
	var err error
	f.log, err = audit.Open(audit.Config{
		Path: filepath.Join(t.TempDir(), "audit.jsonl"), Node: "test", Sync: audit.SyncAlways,
		Now: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
		Observer: audit.Observer{
			Written:    func(e audit.Event, o audit.Outcome) { metrics.AuditWritten(string(e), string(o)) },
			WriteError: metrics.AuditWriteError, Synced: metrics.AuditSynced, HeadSeq: metrics.AuditHead,
		},
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
	settings := broker.Settings{
		Backends: map[string]broker.Backend{"one": {KMS: f.kms, Provider: "fake", Type: "fake", Timeout: time.Minute}},
		Keys:     []broker.Key{newKey("tikv", "a"), newKey("other", "b")},
		Policy:   p,
	}
	f.broker, err = broker.New(t.Context(), broker.Options{
		Version: "test", Load: func(context.Context) (broker.Settings, error) { return settings, nil }, Audit: f.log, Arena: arena, CacheCapacity: 8, CallTimeout: time.Minute, AuditTimeout: time.Minute,
		Now: time.Now, Uptime: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler), Observer: metrics,
	}, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.broker.Close(context.Background()); err != nil && !errors.Is(err, audit.ErrUnavailable) {
			t.Error(err)
		}
		f.closeAudit()
		if err := arena.Close(); err != nil {
			t.Error(err)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + l.Addr().String()
	server := admin.NewServer(admin.Config{
		Gatherer: metrics.Registry, Serves: f.broker.Serves, Auditing: func() error { return f.log.Head().Err },
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return f
}

func newKey(name, master string) broker.Key {
	return broker.Key{
		Name: name, Recipients: []broker.Recipient{{Backend: "one", Key: master}}, MinRecipients: 1, CheckInterval: time.Hour,
		Limits: cache.Limits{TTL: time.Hour, MaxStale: 2 * time.Hour}, MaxAge: time.Hour, MaxUses: 1 << 20,
	}
}

// ops is a call of the client ops.
func ops() broker.Call {
	return broker.Call{API: "grpc", Method: "Test", Caller: peer.Identity{Network: peer.Unix, UID: 1001}}
}

// generate makes a data key that must succeed.
func (f *fixture) generate(key string) []byte {
	f.t.Helper()
	g, err := f.broker.Generate(f.t.Context(), ops(), broker.GenerateRequest{KeyName: key})
	if err != nil {
		f.t.Fatal(err)
	}
	return g.WrappedKey
}

// lose takes the KMS down and has the broker find that out by an envelope that
// only the KMS can open.
func (f *fixture) lose(wrapped []byte) {
	f.t.Helper()
	f.kms.down.Store(true)
	_, err := f.broker.Unwrap(f.t.Context(), ops(), broker.UnwrapRequest{WrappedKey: wrapped})
	if err == nil {
		f.t.Fatal("the KMS is down")
	}
}

func (f *fixture) keyStates() map[string]broker.KeyState {
	f.t.Helper()
	keys, err := f.broker.ListKeys(f.t.Context(), ops())
	if err != nil {
		f.t.Fatal(err)
	}
	states := map[string]broker.KeyState{}
	for _, k := range keys {
		states[k.Name] = k.State
	}
	return states
}

func (f *fixture) purge(key string) {
	f.t.Helper()
	if _, err := f.broker.Purge(f.t.Context(), ops(), key, true); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) closeAudit() {
	if err := f.log.Close(context.Background()); err != nil {
		f.t.Error(err)
	}
}

// answer is what came back for a request.
type answer struct {
	code   int
	header http.Header
	body   string
}

func (f *fixture) request(method, path string, header http.Header) answer {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	res, err := f.client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

func (f *fixture) get(path string) answer {
	f.t.Helper()
	return f.request(http.MethodGet, path, nil)
}

// plainKMS wraps by leaving everything as it is, as long as it is not down.
type plainKMS struct{ down atomic.Bool }

func (k *plainKMS) answer(op string) error {
	if k.down.Load() {
		return backends.Errorf(backends.Unavailable, op, "", "as the test asked")
	}
	return nil
}

func (k *plainKMS) Wrap(_ context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	if err := k.answer("wrap"); err != nil {
		return backends.Wrapped{}, err
	}
	return backends.Wrapped{
		Provider: "fake", Reference: req.Key, Version: "1", Binding: backends.BindingAAD, Ciphertext: slices.Clone(req.Plaintext),
	}, nil
}

func (k *plainKMS) Unwrap(_ context.Context, req backends.UnwrapRequest) ([]byte, error) {
	if err := k.answer("unwrap"); err != nil {
		return nil, err
	}
	return slices.Clone(req.Ciphertext), nil
}

func (k *plainKMS) Match(_ context.Context, key, reference string) (bool, error) {
	return key == reference, nil
}

// Check does not answer, so that nothing is known but what a test's calls find
// out.
func (k *plainKMS) Check(ctx context.Context, _ string) error {
	<-ctx.Done()
	return backends.Errorf(backends.Unavailable, "check", "", "%w", ctx.Err())
}

func (k *plainKMS) Close() error { return nil }

package grpcapi_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/grpcapi"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/secret"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func TestMain(m *testing.M) {
	if actAsCaller() {
		return
	}
	encoding.RegisterCompressor(noCompression{}) // for TestCompressed; it must come first
	goleak.VerifyTestMain(m)
}

// fixture is a Server on a unix socket before a real broker, cache, arena,
// policy and audit log. Only the KMS is a fake.
type fixture struct {
	t        testing.TB
	server   *grpcapi.Server
	broker   *broker.Broker
	kms      *fakeKMS
	auditLog *audit.Log

	// What a test may change before the broker is made.
	settings broker.Settings
	options  broker.Options
	config   grpcapi.Config
	// Faults: of the broker's source of randomness, and of reloads.
	random    *faultyRandom
	loadError atomic.Pointer[error]

	// Paths of the socket and the audit log.
	socket, auditPath string

	// Clients of the API, as the process that runs the tests.
	conn   *grpc.ClientConn
	keys   keybrokerv1.KeyBrokerClient
	admin  keybrokerv1.AdminClient
	health healthpb.HealthClient
}

// newFixture serves the keys "tikv" (alias "tikv-master") and "other", each with
// one master key of the KMS "one", to the client "me", which is this process and
// may do everything. Each of change may change that.
func newFixture(t testing.TB, change ...func(*fixture)) *fixture {
	t.Helper()
	f := &fixture{t: t, kms: newFakeKMS(), random: &faultyRandom{}}
	dir := t.TempDir()
	f.socket, f.auditPath = filepath.Join(dir, "s"), filepath.Join(dir, "audit.jsonl")
	f.settings = broker.Settings{
		Backends: map[string]broker.Backend{"one": {KMS: f.kms, Provider: "fake", Type: "fake", Timeout: time.Minute}},
		Keys:     []broker.Key{newKey("tikv", "a"), newKey("other", "a")},
		Policy:   newPolicy(t, allowAll("me", policy.Match{UID: uid(myUID())})),
		SHA256:   strings.Repeat("0", 64),
	}
	f.settings.Keys[0].Aliases = []string{"tikv-master"}
	var err error
	f.auditLog, err = audit.Open(audit.Config{
		Path: f.auditPath, Node: "test", Sync: audit.SyncOS, SyncInterval: time.Hour,
		Now: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.closeAudit)
	arena, err := secret.NewArena(secret.Config{Bytes: 16 << 10, Locked: secret.Prefer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := arena.Close(); err != nil {
			t.Errorf("arena: %v", err)
		}
	})
	f.options = broker.Options{
		Version: "test", Load: f.load,
		Audit: f.auditLog, Arena: arena, CacheCapacity: 64,
		CallTimeout: time.Minute, AuditTimeout: time.Minute,
		Now: time.Now, Uptime: time.Now, Random: f.random,
		Logger: slog.New(slog.DiscardHandler), Observer: &observer{},
	}
	f.config.About = grpcapi.About{Version: "v1.2.3", Node: "node-1", StartedAt: time.Unix(1700000000, 0)}
	for _, c := range change {
		c(f)
	}
	if f.broker, err = broker.New(t.Context(), f.options, f.settings); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.kms.resume() // whatever hangs there would keep Close waiting
		if err := f.broker.Close(context.Background()); err != nil && !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("broker: %v", err)
		}
	})
	f.config.Broker = f.broker
	f.server = grpcapi.New(f.config)
	f.serve(f.listenUnix())
	f.conn = f.dial()
	f.keys = keybrokerv1.NewKeyBrokerClient(f.conn)
	f.admin = keybrokerv1.NewAdminClient(f.conn)
	f.health = healthpb.NewHealthClient(f.conn)
	return f
}

func (f *fixture) listenUnix() net.Listener {
	f.t.Helper()
	l, err := peer.ListenUnix(peer.Config{Path: f.socket, Mode: 0o600, UID: -1, GID: -1})
	if errors.Is(err, peer.ErrUnsupported) {
		f.t.Skip("needs Linux: ", err)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

// serve serves l until the server stops.
func (f *fixture) serve(l net.Listener) {
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(l) }()
	f.t.Cleanup(func() {
		f.stop()
		if err := <-served; err != nil {
			f.t.Errorf("Serve: %v", err)
		}
	})
}

// stop stops the server at once. It may be called again.
func (f *fixture) stop() {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	f.server.Stop(now)
}

// dial returns a connection of its own.
func (f *fixture) dial(opts ...grpc.DialOption) *grpc.ClientConn {
	f.t.Helper()
	conn, err := grpc.NewClient("unix://"+f.socket, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpcapi.MaxMessage)),
	}, opts...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (f *fixture) closeAudit() {
	if err := f.auditLog.Close(context.Background()); err != nil {
		f.t.Errorf("audit: %v", err)
	}
}

// generate makes a data key that must succeed.
func (f *fixture) generate(key string, pairs map[string]string) *keybrokerv1.GenerateDataKeyResponse {
	f.t.Helper()
	g, err := f.keys.GenerateDataKey(f.t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: key, Context: pairs})
	if err != nil {
		f.t.Fatalf("GenerateDataKey: %v", err)
	}
	return g
}

// purge empties the cache.
func (f *fixture) purge() {
	f.t.Helper()
	if _, err := f.admin.PurgeCache(f.t.Context(), &keybrokerv1.PurgeCacheRequest{Force: true}); err != nil {
		f.t.Fatalf("PurgeCache: %v", err)
	}
}

// reload puts f.settings in force.
func (f *fixture) reload() {
	f.t.Helper()
	if err := f.broker.ReloadBySignal(f.t.Context()); err != nil {
		f.t.Fatalf("reload: %v", err)
	}
}

// record is an audit record as it stands in the file.
type record struct {
	Event, Outcome, Code, Reason, Key, Envelope, Source, Backend, KEK, Detail string
	RequestID                                                                 string `json:"request_id"`
	Context                                                                   map[string]string
	Client                                                                    struct {
		Name, Method, Addr, Exe string
		UID, GID                *uint32
		PID                     int32
		SPIFFEID                string `json:"spiffe_id"`
	}
}

// records are the audit records so far.
func (f *fixture) records() []record {
	f.t.Helper()
	text, err := os.ReadFile(f.auditPath)
	if err != nil {
		f.t.Fatal(err)
	}
	var records []record
	for line := range strings.Lines(string(text)) {
		records = append(records, parse(f.t, []byte(line)))
	}
	return records
}

func parse(t testing.TB, line []byte) record {
	t.Helper()
	var r record
	if err := json.Unmarshal(line, &r); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return r
}

// last is the last record of the audit log.
func (f *fixture) last() record {
	f.t.Helper()
	all := f.records()
	return all[len(all)-1]
}

func newKey(name string, masters ...string) broker.Key {
	k := broker.Key{
		Name: name, MinRecipients: len(masters), CheckInterval: time.Hour,
		Limits: cache.Limits{TTL: time.Hour, MaxStale: 3 * time.Hour},
		MaxAge: 24 * time.Hour, MaxUses: math.MaxInt32,
	}
	for _, m := range masters {
		k.Recipients = append(k.Recipients, broker.Recipient{Backend: "one", Key: m})
	}
	return k
}

func myUID() int { return os.Getuid() }

func uid(n int) *uint32 { return new(uint32(n)) }

// somebodyElse is a uid that is not this process's.
func somebodyElse() policy.Match { return policy.Match{UID: uid(myUID() + 1)} }

func allowAll(name string, match policy.Match) policy.Client {
	return policy.Client{
		Name: name, Match: match, Admin: []policy.Right{policy.AnyRight},
		Allow: []policy.Rule{{Keys: []string{policy.AnyKey}, Operations: []policy.Operation{policy.Any}}},
	}
}

// allow is a client that may do these operations with one key.
func allow(name string, match policy.Match, key string, operations ...policy.Operation) policy.Client {
	return policy.Client{Name: name, Match: match, Allow: []policy.Rule{{Keys: []string{key}, Operations: operations}}}
}

func newPolicy(t testing.TB, clients ...policy.Client) *policy.Policy {
	t.Helper()
	p, err := policy.New(clients)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// withPolicy makes these the clients.
func withPolicy(clients ...policy.Client) func(*fixture) {
	return func(f *fixture) { f.settings.Policy = newPolicy(f.t, clients...) }
}

// observer is a broker.Observer of which a test can ask to panic, or to wait, when
// it is told of the end of a call, outside of all that the broker guards.
type observer struct {
	panics atomic.Int32
	held   atomic.Pointer[hang]
}

// hold makes calls wait at their end until goOn is called. ended tells that one
// does.
func (o *observer) hold() (ended <-chan struct{}, goOn func()) {
	h := newHang()
	o.held.Store(h)
	return h.met, func() {
		o.held.Store(nil)
		close(h.resumed)
	}
}

func (o *observer) Request(_, _, _, _ string, _ broker.Code, _ time.Duration) {
	if n := o.panics.Load(); n > 0 && o.panics.CompareAndSwap(n, n-1) {
		panic("as the test asked")
	}
	if h := o.held.Load(); h != nil {
		h.meet.Do(func() { close(h.met) })
		<-h.resumed
	}
}
func (*observer) Lookup(_, _ string)                          {}
func (*observer) CacheEntries(int)                            {}
func (*observer) BackendCall(_, _, _ string, _ time.Duration) {}
func (*observer) BackendUp(string, bool)                      {}
func (*observer) Breaker(string, broker.BreakerState)         {}
func (*observer) KEK(_, _, _ string, _ bool)                  {}
func (*observer) Hedge(string)                                {}
func (*observer) Degraded(string)                             {}
func (*observer) Runway(string, time.Duration)                {}
func (*observer) Configured(_, _ []string)                    {}

// faultyRandom is random until it is broken.
type faultyRandom struct{ broken atomic.Bool }

func (r *faultyRandom) Read(b []byte) (int, error) {
	if r.broken.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	return rand.Read(b)
}

// fakeClock moves only when told.
type fakeClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

package awsapi_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/awsapi"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	region    = "eu-central-1"
	account   = "000000000000"
	accessKey = "KBTEST"
	secretKey = "0123456789abcdef0123456789abcdef0123" // of this test alone
	ourUID    = 4711
)

func arn(resource string) string { return "arn:aws:kms:" + region + ":" + account + ":" + resource }

// fixture is a Server on TCP before a real broker, cache, arena, policy and audit log.
// Only the KMS is a fake.
type fixture struct {
	t        testing.TB
	server   *awsapi.Server
	broker   *broker.Broker
	kms      *fakeKMS
	auditLog *audit.Log
	log      *syncBuffer

	// What a test may change before the broker is made.
	settings broker.Settings
	options  broker.Options
	config   awsapi.Config
	random   *faultyRandom
	observer *observer

	// uid is what the callers' uid is taken for; unknownUID makes it unknown.
	uid        atomic.Uint32
	unknownUID atomic.Bool
	auditPath  string

	address, scheme string
	client          *http.Client
	keys            *kms.Client
}

// newFixture serves the keys "tikv" (alias "tikv-master") and "other" to the client
// "me", who is uid 4711 and may do everything. Each of change may change that.
func newFixture(t testing.TB, change ...func(*fixture)) *fixture {
	t.Helper()
	f := &fixture{t: t, kms: newFakeKMS(), random: &faultyRandom{}, observer: &observer{}, log: &syncBuffer{}, scheme: "http"}
	f.uid.Store(ourUID)
	f.auditPath = filepath.Join(t.TempDir(), "audit.jsonl")
	f.settings = broker.Settings{
		Backends:   map[string]broker.Backend{"one": {KMS: f.kms, Provider: "fake", Type: "fake", Timeout: time.Minute}},
		Keys:       []broker.Key{newKey("tikv", "a"), newKey("other", "a")},
		Policy:     newPolicy(t, allowAll("me", ourUID)),
		AccessKeys: map[string]secret.Value{accessKey: secret.NewValue([]byte(secretKey))},
		SHA256:     strings.Repeat("0", 64),
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
		Version: "test", Load: func(context.Context) (broker.Settings, error) { return f.settings, nil },
		Audit: f.auditLog, Arena: arena, CacheCapacity: 64,
		CallTimeout: time.Minute, AuditTimeout: time.Minute,
		Now: time.Now, Uptime: time.Now, Random: f.random,
		Logger: slog.New(slog.DiscardHandler), Observer: f.observer,
	}
	f.config = awsapi.Config{
		Region: region, Account: account, AnswerBy: time.Minute,
		Logger: slog.New(slog.NewJSONHandler(f.log, nil)),
		Caller: func(conn net.Conn) peer.Identity {
			id := peer.Identity{Network: peer.AWS, Addr: conn.RemoteAddr().String()}
			if id.UIDKnown = !f.unknownUID.Load(); id.UIDKnown {
				id.UID = f.uid.Load()
			}
			return id
		},
	}
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
	if f.server, err = awsapi.New(f.config); err != nil {
		t.Fatal(err)
	}
	f.serve()
	f.keys = kms.New(kms.Options{
		Region: region, BaseEndpoint: aws.String(f.scheme + "://" + f.address), HTTPClient: f.client,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}, nil
		}),
		Retryer: aws.NopRetryer{},
	})
	return f
}

// serve serves until the server stops.
func (f *fixture) serve() {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.serveOn(l)
	transport := &http.Transport{ForceAttemptHTTP2: true, DisableCompression: true}
	if f.config.TLS != nil {
		f.scheme = "https"
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		transport.TLSClientConfig.RootCAs.AddCert(f.config.TLS.Certificates[0].Leaf)
	}
	f.client = &http.Client{Transport: transport}
	f.t.Cleanup(transport.CloseIdleConnections)
}

// serveOn serves l, where requests are sent from now on.
func (f *fixture) serveOn(l net.Listener) {
	f.address = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(l) }()
	f.t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = f.server.Stop(now) // which cuts off what is under way
		if err := <-served; err != nil {
			f.t.Errorf("Serve: %v", err)
		}
	})
}

// withTLS serves HTTPS.
func withTLS(f *fixture) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		f.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	f.config.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}}
}

// request returns a signed request.
func (f *fixture) request(operation, body string) *http.Request {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.scheme+"://"+f.address+"/", strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TrentService."+operation)
	f.sign(r, body, accessKey, secretKey, time.Now())
	return r
}

func (f *fixture) sign(r *http.Request, body, id, key string, at time.Time) {
	f.t.Helper()
	r.Header.Del("Authorization")
	sum := sha256.Sum256([]byte(body))
	credentials := aws.Credentials{AccessKeyID: id, SecretAccessKey: key}
	if err := v4.NewSigner().SignHTTP(f.t.Context(), credentials, r, hex.EncodeToString(sum[:]), "kms", region, at); err != nil {
		f.t.Fatal(err)
	}
}

// answer is what a client sees.
type answer struct {
	status int
	header http.Header
	body   []byte
	fields map[string]any
}

func (a answer) code() string    { s, _ := a.fields["__type"].(string); return s }
func (a answer) message() string { s, _ := a.fields["message"].(string); return s }

func (a answer) text(name string) string { s, _ := a.fields[name].(string); return s }

// send sends r, and holds the answer to what every answer has to be.
func (f *fixture) send(r *http.Request) answer {
	f.t.Helper()
	response, err := f.client.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.read(response)
}

func (f *fixture) read(response *http.Response) answer {
	f.t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	a := answer{status: response.StatusCode, header: response.Header, body: body}
	checkAnswer(f.t, a, &a.fields)
	return a
}

// checkAnswer holds an answer to §2 of what TiKV needs.
func checkAnswer(t testing.TB, a answer, fields *map[string]any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(a.body))
	if err := d.Decode(fields); err != nil {
		t.Fatalf("the answer is not JSON: %v: %d %q", err, a.status, a.body)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		t.Errorf("something follows the object: %q", a.body)
	}
	if bytes.Contains(a.body, []byte(`\/`)) || bytes.Contains(a.body, []byte(`\u002b`)) {
		t.Errorf("escapes in %q", a.body)
	}
	h := a.header
	if h.Get("Content-Type") != "application/x-amz-json-1.1" || h.Get("X-Amzn-Requestid") == "" ||
		h.Get("X-Amzn-Errortype") != "" || h.Get("X-Amz-Retry-After") != "" || h.Get("Transfer-Encoding") != "" {
		t.Errorf("headers %v", h)
	}
	if code, ok := (*fields)["__type"]; ok == (a.status == http.StatusOK) || ok && ((*fields)["message"] == "" || len(*fields) != 2) {
		t.Errorf("status %d with code %v: %v", a.status, code, *fields)
	}
}

// call sends an operation.
func (f *fixture) call(operation, body string) answer {
	f.t.Helper()
	return f.send(f.request(operation, body))
}

func (f *fixture) want(a answer, code string, status int) {
	f.t.Helper()
	if a.code() != code || a.status != status {
		f.t.Errorf("got %d %s (%s), want %d %s", a.status, a.code(), a.message(), status, code)
	}
}

// generate makes a data key that must succeed, and returns its ciphertext in base64.
func (f *fixture) generate(key string) string {
	f.t.Helper()
	a := f.call("GenerateDataKey", `{"KeyId":"`+key+`","KeySpec":"AES_256"}`)
	if a.status != http.StatusOK {
		f.t.Fatalf("GenerateDataKey: %d %s", a.status, a.body)
	}
	return a.text("CiphertextBlob")
}

func (f *fixture) decrypt(key, ciphertext string) answer {
	f.t.Helper()
	return f.call("Decrypt", `{"KeyId":"`+key+`","CiphertextBlob":"`+ciphertext+`"}`)
}

// purge empties the cache.
func (f *fixture) purge() {
	f.t.Helper()
	call := broker.Call{API: "test", Method: "purge", Caller: peer.Identity{Network: peer.AWS, AccessKeyID: accessKey, UID: ourUID, UIDKnown: true}}
	if _, err := f.broker.Purge(f.t.Context(), call, "", true); err != nil {
		f.t.Fatalf("purge: %v", err)
	}
}

func (f *fixture) closeAudit() {
	if err := f.auditLog.Close(context.Background()); err != nil {
		f.t.Errorf("audit: %v", err)
	}
}

// record is an audit record as it stands in the file.
type record struct {
	Event, Outcome, Code, Reason, Key, Detail string
	RequestID                                 string `json:"request_id"`
	Context                                   map[string]string
	Client                                    struct {
		Name, Method string
		UID          *uint32
		AccessKeyID  string `json:"access_key_id"`
	}
}

// last is the last record of the audit log.
func (f *fixture) last() record {
	f.t.Helper()
	text, err := os.ReadFile(f.auditPath)
	if err != nil {
		f.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var r record
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		f.t.Fatal(err)
	}
	return r
}

// logged are the lines of the log.
func (f *fixture) logged() []map[string]any {
	f.t.Helper()
	var lines []map[string]any
	for line := range strings.Lines(f.log.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			f.t.Fatal(err)
		}
		lines = append(lines, fields)
	}
	return lines
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

func byAccessKey(uid uint32) policy.Match {
	return policy.Match{AWS: &policy.AWSMatch{AccessKeyID: accessKey, UID: &uid}}
}

func allowAll(name string, uid uint32) policy.Client {
	return policy.Client{
		Name: name, Match: byAccessKey(uid), Admin: []policy.Right{policy.AnyRight},
		Allow: []policy.Rule{{Keys: []string{policy.AnyKey}, Operations: []policy.Operation{policy.Any}}},
	}
}

// allowed has the client "me" do these operations with one key alone.
func allowed(key string, operations ...policy.Operation) func(*fixture) {
	return func(f *fixture) {
		f.settings.Policy = newPolicy(f.t, policy.Client{
			Name: "me", Match: byAccessKey(ourUID), Allow: []policy.Rule{{Keys: []string{key}, Operations: operations}},
		})
	}
}

func newPolicy(t testing.TB, clients ...policy.Client) *policy.Policy {
	t.Helper()
	p, err := policy.New(clients)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// observer is a broker.Observer that panics when a test asks it to, outside of all
// that the broker guards.
type observer struct{ panics atomic.Int32 }

func (o *observer) Request(_, _, _, _ string, _ broker.Code, _ time.Duration) {
	if n := o.panics.Load(); n > 0 && o.panics.CompareAndSwap(n, n-1) {
		panic("as the test asked")
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

// faultyRandom is random until it is broken, and short when it is told to be.
type faultyRandom struct{ broken atomic.Bool }

func (r *faultyRandom) Read(b []byte) (int, error) {
	if r.broken.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	return rand.Read(b)
}

// syncBuffer is a buffer for concurrent use.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

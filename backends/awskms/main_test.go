package awskms_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// isolate keeps what the machine has of AWS's configuration from the test, and
// gives it the credentials that a fake accepts.
func isolate(t testing.TB) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AWS_") {
			unset(t, name)
		}
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "credentials"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
}

// unset takes a variable out of the environment until the test ends.
func unset(t testing.TB, name string) {
	t.Setenv(name, "") // puts the former value back
	if err := os.Unsetenv(name); err != nil {
		t.Fatal(err)
	}
}

// bench is a KMS and the fake that it asks.
type bench struct {
	*testing.T
	fake *fakeKMS
	kms  *awskms.KMS
	cfg  awskms.Config
	log  *logs
}

// logs keeps what is logged, safe for concurrent use.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newBench returns a KMS that asks a fake over real sockets. change may change its
// configuration.
func newBench(t *testing.T, change func(f *fakeKMS, cfg *awskms.Config)) *bench {
	t.Helper()
	isolate(t)
	f := newFakeKMS()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	cfg := awskms.Config{Region: region, Endpoint: server.URL}
	if change != nil {
		change(f, &cfg)
	}
	b := &bench{T: t, fake: f, log: &logs{}}
	cfg.Logger = slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.cfg = cfg
	b.kms = open(t, cfg)
	t.Cleanup(func() { f.clean(t) })
	return b
}

// open makes a KMS and closes it when the test ends.
func open(t *testing.T, cfg awskms.Config) *awskms.KMS {
	t.Helper()
	k, err := awskms.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return k
}

// somePairs are such as an envelope has.
func somePairs() map[string]string {
	return map[string]string{"keybroker:key": "tikv", "cluster": "prod"}
}

func (b *bench) wrapErr(key string) (backends.Wrapped, []byte, error) {
	plaintext := randomBytes(32)
	w, err := b.kms.Wrap(b.Context(), backends.WrapRequest{Key: key, Plaintext: plaintext, Pairs: somePairs()})
	return w, plaintext, err
}

// wrap wraps a random key, or ends the test.
func (b *bench) wrap(key string) (backends.Wrapped, []byte) {
	b.Helper()
	w, plaintext, err := b.wrapErr(key)
	if err != nil {
		b.Fatalf("Wrap under %s: %v", key, err)
	}
	return w, plaintext
}

func request(key string, w backends.Wrapped) backends.UnwrapRequest {
	return backends.UnwrapRequest{
		Key: key, Reference: w.Reference, Version: w.Version, Binding: w.Binding, Ciphertext: w.Ciphertext, Pairs: somePairs(),
	}
}

func (b *bench) unwrap(key string, w backends.Wrapped) ([]byte, error) {
	return b.kms.Unwrap(b.Context(), request(key, w))
}

// opens fails the test unless w opens to plaintext.
func (b *bench) opens(key string, w backends.Wrapped, plaintext []byte) {
	b.Helper()
	got, err := b.unwrap(key, w)
	if err != nil || !bytes.Equal(got, plaintext) {
		b.Errorf("Unwrap gives %d bytes, %v", len(got), err)
	}
}

// works fails the test unless the key wraps and unwraps.
func (b *bench) works(key string) {
	b.Helper()
	w, plaintext, err := b.wrapErr(key)
	if err != nil {
		b.Errorf("Wrap under %s: %v", key, err)
		return
	}
	b.opens(key, w, plaintext)
}

// fails fails the test unless err is of the class, and its text has the parts.
func (b *bench) fails(what string, err error, class backends.Class, parts ...string) {
	b.Helper()
	fails(b.T, what, err, class, parts...)
}

func fails(t *testing.T, what string, err error, class backends.Class, parts ...string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("%s: no error, want %v", what, class)
		return
	case backends.ClassOf(err) != class:
		t.Errorf("%s: class %v, want %v: %v", what, backends.ClassOf(err), class, err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: the error does not say %q: %v", what, part, err)
		}
	}
}

// handlerTransport serves requests without sockets.
type handlerTransport struct{ http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Host == "" {
		r = r.Clone(r.Context())
		r.Host = r.URL.Host
	}
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

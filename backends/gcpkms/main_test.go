package gcpkms_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/gcpkms"
	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
)

// No credential, proxy or metadata server of this machine is looked at.
func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if upper := strings.ToUpper(name); strings.HasPrefix(upper, "GOOGLE_") || strings.HasPrefix(upper, "GCE_") || strings.HasSuffix(upper, "_PROXY") {
			_ = os.Unsetenv(name)
		}
	}
	_ = os.Setenv("HOME", filepath.Join(os.TempDir(), "keybroker-has-no-home"))
	_ = os.Setenv("GCE_METADATA_HOST", "127.0.0.1:1")
	goleak.VerifyTestMain(m)
}

// bench is a KMS and the Cloud KMS that it asks.
type bench struct {
	*testing.T
	cloud *gcptest.Server
	kms   *gcpkms.KMS
	cfg   gcpkms.Config
	log   *logs
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

// tikv and other are the keys that a bench has.
var tikv, other = gcptest.Key("tikv"), gcptest.Key("other")

// newBench returns a KMS as a service account. change may change its
// configuration.
func newBench(t *testing.T, change func(s *gcptest.Server, cfg *gcpkms.Config)) *bench {
	t.Helper()
	s := gcptest.New(t)
	s.AddKey(tikv)
	s.AddKey(other)
	b := &bench{T: t, cloud: s, log: &logs{}, cfg: gcpkms.Config{
		Endpoint: s.Endpoint(), CAFile: s.CAFile(), CredentialsFile: s.CredentialsFile(),
	}}
	if change != nil {
		change(s, &b.cfg)
	}
	b.open()
	return b
}

// open makes the KMS.
func (b *bench) open() {
	b.Helper()
	b.cfg.Logger = slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	k, err := gcpkms.New(b.cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.kms = k
	b.Cleanup(func() {
		if err := k.Close(); err != nil {
			b.Errorf("Close: %v", err)
		}
	})
}

// someAD is associated data as an envelope has it.
var someAD = []byte("\x00\x00\x00\x01\x00\x00\x00\x0dkeybroker:key\x00\x00\x00\x04tikv")

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func (b *bench) wrapErr() (backends.Wrapped, []byte, error) {
	plaintext := randomBytes(32)
	w, err := b.kms.Wrap(b.Context(), backends.WrapRequest{Key: tikv, Plaintext: plaintext, AssociatedData: someAD})
	return w, plaintext, err
}

// wrap wraps a random key, or ends the test.
func (b *bench) wrap() (backends.Wrapped, []byte) {
	b.Helper()
	w, plaintext, err := b.wrapErr()
	if err != nil {
		b.Fatalf("Wrap: %v", err)
	}
	return w, plaintext
}

func request(w backends.Wrapped) backends.UnwrapRequest {
	return backends.UnwrapRequest{
		Key: tikv, Reference: w.Reference, Version: w.Version, Binding: w.Binding, Ciphertext: w.Ciphertext, AssociatedData: someAD,
	}
}

func (b *bench) unwrap(ctx context.Context, w backends.Wrapped) ([]byte, error) {
	return b.kms.Unwrap(ctx, request(w))
}

// opens fails the test unless w opens to plaintext.
func (b *bench) opens(w backends.Wrapped, plaintext []byte) {
	b.Helper()
	got, err := b.unwrap(b.Context(), w)
	if err != nil || !bytes.Equal(got, plaintext) {
		b.Errorf("Unwrap gives %d bytes, %v", len(got), err)
	}
}

// works fails the test unless the key wraps and unwraps.
func (b *bench) works() {
	b.Helper()
	w, plaintext, err := b.wrapErr()
	if err != nil {
		b.Errorf("Wrap: %v", err)
		return
	}
	b.opens(w, plaintext)
}

// fails fails the test unless err is of the class, names the key, and says each
// of words.
func (b *bench) fails(what string, err error, class backends.Class, words ...string) {
	b.Helper()
	var e *backends.Error
	switch {
	case err == nil:
		b.Errorf("%s: no error, want %v", what, class)
		return
	case !errors.As(err, &e) || e.Key == "" || e.Op == "":
		b.Errorf("%s: %#v", what, err)
	case e.Class != class:
		b.Errorf("%s: class %v, want %v: %v", what, e.Class, class, err)
	case len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\n\x1b"):
		b.Errorf("%s: the message is %q", what, err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			b.Errorf("%s: it does not say %q: %v", what, word, err)
		}
	}
}

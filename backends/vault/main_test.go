package vault_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a KMS and the fake Vault that it asks.
type bench struct {
	*testing.T
	vault *fakeVault
	kms   *vault.KMS
	cfg   vault.Config
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

// writeFile writes a credential into a directory of the test and returns its
// path.
func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	replaceFile(t, path, content)
	return path
}

// replaceFile puts a new file in place of the one at path.
func replaceFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// tokenAuth logs in with a token in a file.
func tokenAuth(t testing.TB, token string) vault.Auth {
	return vault.Auth{Method: vault.MethodToken, TokenFile: writeFile(t, "token", token+"\n")}
}

// The AppRole that newBench's fake knows.
const (
	roleID   = "role-id-of-the-test"
	secretID = "secret-id-of-the-test"
)

// appRoleAuth logs in by AppRole, as a role that v gets.
func appRoleAuth(t testing.TB, v *fakeVault, role fakeRole) vault.Auth {
	v.set(func() { v.roles[roleID+" "+secretID] = role })
	return vault.Auth{
		Method: vault.MethodAppRole, RoleIDFile: writeFile(t, "role-id", roleID), SecretIDFile: writeFile(t, "secret-id", secretID),
	}
}

// newBench returns a KMS with the fake's root token, over real sockets. change
// may change its configuration.
func newBench(t *testing.T, change func(v *fakeVault, cfg *vault.Config)) *bench {
	t.Helper()
	v := newFakeVault()
	server := httptest.NewServer(v)
	t.Cleanup(server.Close)
	b := &bench{T: t, vault: v, log: &logs{}, cfg: vault.Config{Address: server.URL, Auth: tokenAuth(t, rootToken)}}
	if change != nil {
		change(v, &b.cfg)
	}
	b.open()
	return b
}

// newQuietBench is newBench without sockets.
func newQuietBench(t *testing.T, change func(v *fakeVault, cfg *vault.Config)) *bench {
	t.Helper()
	v := newFakeVault()
	b := &bench{T: t, vault: v, log: &logs{}, cfg: vault.WithTransport(vault.Config{Address: "http://vault.test:8200", Auth: tokenAuth(t, rootToken)}, network{v})}
	if change != nil {
		change(v, &b.cfg)
	}
	b.open()
	return b
}

// open makes the KMS.
func (b *bench) open() {
	b.Helper()
	b.cfg.Logger = slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	k, err := vault.New(b.cfg)
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

func (b *bench) wrapErr(key string) (backends.Wrapped, []byte, error) {
	plaintext := randomBytes(32)
	w, err := b.kms.Wrap(b.Context(), backends.WrapRequest{Key: key, Plaintext: plaintext, AssociatedData: someAD})
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
		Key: key, Reference: w.Reference, Version: w.Version, Binding: w.Binding, Ciphertext: w.Ciphertext, AssociatedData: someAD,
	}
}

func (b *bench) unwrap(ctx context.Context, key string, w backends.Wrapped) ([]byte, error) {
	return b.kms.Unwrap(ctx, request(key, w))
}

// opens fails the test unless w opens to plaintext.
func (b *bench) opens(key string, w backends.Wrapped, plaintext []byte) {
	b.Helper()
	got, err := b.unwrap(b.Context(), key, w)
	if err != nil || !bytes.Equal(got, plaintext) {
		b.Errorf("Unwrap gives %d bytes, %v", len(got), err)
	}
}

// works fails the test unless the key wraps and unwraps. Like opens, it may be
// called by any goroutine.
func (b *bench) works(key string) {
	b.Helper()
	w, plaintext, err := b.wrapErr(key)
	if err != nil {
		b.Errorf("Wrap under %s: %v", key, err)
		return
	}
	b.opens(key, w, plaintext)
}

// fails fails the test unless err is of the class.
func (b *bench) fails(what string, err error, class backends.Class) {
	b.Helper()
	switch {
	case err == nil:
		b.Errorf("%s: no error, want %v", what, class)
	case backends.ClassOf(err) != class:
		b.Errorf("%s: class %v, want %v: %v", what, backends.ClassOf(err), class, err)
	}
}

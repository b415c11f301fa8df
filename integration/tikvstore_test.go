package integration_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/internal/tikv"
)

// masterKey is a [security.encryption.master-key] of TiKV's. Its zero value is the
// default, plaintext.
type masterKey struct {
	kind                    string // kms or file
	keyID, endpoint, region string
	accessKey, secret       string
	path                    string
	// caFile is what the host of a store with an endpoint by TLS trusts.
	caFile string
}

const (
	kindKMS  = "kms"
	kindFile = "file"
)

// tikvStore is a TiKV as far as its KMS is concerned: key.dict in TiKV's own format,
// and the state machine of components/encryption/src/manager/mod.rs and master_key/.
// It asks by aws-sdk-go-v2 where TiKV has aws-sdk-rust; TestTiKVClient holds that both
// are told the same.
type tikvStore struct {
	t   *testing.T
	dir string
	// master and previous are master-key and previous-master-key.
	master, previous masterKey
	clock            *tikvClock
	attempt          time.Duration

	// keys are the data keys, as long as it runs, and backend what wraps them.
	keys    []byte
	backend tikvBackend
	// steps and calls are what the last start did.
	steps []string
	calls []*kmsCall
}

// tikvBackend is what encrypts key.dict (the trait Backend).
type tikvBackend interface {
	encrypt(ctx context.Context, plaintext []byte) (tikv.Content, error)
	decrypt(ctx context.Context, content tikv.Content) ([]byte, error)
}

var errBothMasterKeyFail = errors.New("BothMasterKeyFail")

// newTiKV returns a store that was never started.
func newTiKV(t *testing.T, master masterKey) *tikvStore {
	t.Helper()
	return &tikvStore{t: t, dir: t.TempDir(), master: master, clock: &tikvClock{divisor: 20}, attempt: tikvAttempt}
}

func (s *tikvStore) path() string { return filepath.Join(s.dir, "key.dict") }

// start is DataKeyManager::new. An error of it is what TiKV panics with.
func (s *tikvStore) start(ctx context.Context) error {
	s.keys, s.backend, s.steps, s.calls = nil, nil, nil, nil
	s.clock.passed = 0
	master, err := s.newBackend(s.master)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		keys := make([]byte, 64)
		_, _ = rand.Read(keys) // never fails
		return s.save(ctx, master, keys)
	}
	if err != nil {
		return err
	}
	content, err := tikv.ParseKeyDict(b)
	if err != nil {
		return err
	}
	keys, err := master.decrypt(ctx, content)
	switch {
	case err == nil:
		s.keys, s.backend = keys, master
		return nil
	case !errors.Is(err, errWrongMasterKey):
		return err
	}
	previous, before := s.newBackend(s.previous)
	if before != nil {
		return before
	}
	keys, before = previous.decrypt(ctx, content)
	switch {
	case errors.Is(before, errWrongMasterKey):
		return fmt.Errorf("%w: %w; %w", errBothMasterKeyFail, err, before)
	case before != nil:
		return before
	}
	return s.save(ctx, master, keys)
}

// save encrypts keys with the master key and replaces key.dict in one step.
func (s *tikvStore) save(ctx context.Context, master tikvBackend, keys []byte) error {
	content, err := master.encrypt(ctx, keys)
	if err != nil {
		return err
	}
	next := s.path() + ".tmp"
	if err := os.WriteFile(next, content.KeyDict(), 0o600); err != nil {
		return err
	}
	if err := os.Rename(next, s.path()); err != nil {
		return err
	}
	s.steps = append(s.steps, "key.dict written")
	s.keys, s.backend = keys, master
	return nil
}

// rotate makes a data key, as a store does that runs, and asks no KMS.
func (s *tikvStore) rotate() {
	s.t.Helper()
	s.steps, s.calls = nil, nil
	keys := make([]byte, 32)
	_, _ = rand.Read(keys)
	if err := s.save(s.t.Context(), s.backend, append(bytes.Clone(s.keys), keys...)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *tikvStore) newBackend(m masterKey) (tikvBackend, error) {
	switch m.kind {
	case kindKMS:
		return &kmsBackend{kms: newTiKVKMS(m, s.clock, s.attempt, func(c *kmsCall) {
			s.steps = append(s.steps, c.String())
			s.calls = append(s.calls, c)
		})}, nil
	case kindFile:
		b, err := os.ReadFile(m.path)
		if err != nil {
			return nil, err
		}
		key, err := hex.DecodeString(strings.TrimSuffix(string(b), "\n"))
		if err != nil || len(key) != tikv.KeySize {
			return nil, fmt.Errorf("%s holds no key: %w", m.path, err)
		}
		return fileMasterKey(key), nil
	}
	return plaintextMasterKey{}, nil
}

// kmsBackend is KmsBackend (master_key/kms.rs). It keeps the data key of the KMS that
// it has last seen, with what it is wrapped as.
type kmsBackend struct {
	kms       *tikvKMS
	key, blob []byte
}

func (b *kmsBackend) encrypt(ctx context.Context, plaintext []byte) (tikv.Content, error) {
	if b.blob == nil {
		key, blob, err := b.kms.generate(ctx)
		if err != nil {
			return tikv.Content{}, err
		}
		b.key, b.blob = key, blob
	}
	return tikv.Seal(b.key, plaintext, b.blob)
}

func (b *kmsBackend) decrypt(ctx context.Context, content tikv.Content) ([]byte, error) {
	vendor, blob, ok := content.KMS()
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: key.dict is of no KMS", errWrongMasterKey)
	case vendor != tikv.VendorAWS:
		return nil, fmt.Errorf("KMS vendor mismatch expect %s got %s", tikv.VendorAWS, vendor)
	}
	if !bytes.Equal(b.blob, blob) {
		key, err := b.kms.decrypt(ctx, blob)
		if err != nil {
			return nil, err
		}
		b.key, b.blob = key, blob
	}
	return opened(content.Open(b.key))
}

// opened has a wrong tag be a wrong master key (master_key/mem.rs).
func opened(plaintext []byte, err error) ([]byte, error) {
	if errors.Is(err, tikv.ErrWrongKey) {
		return nil, fmt.Errorf("%w: %w", errWrongMasterKey, err)
	}
	return plaintext, err
}

// fileMasterKey is FileBackend (master_key/file.rs).
type fileMasterKey []byte

func (k fileMasterKey) encrypt(_ context.Context, plaintext []byte) (tikv.Content, error) {
	c, err := tikv.Seal(k, plaintext, []byte("of no KMS"))
	delete(c.Metadata, tikv.MetaKMSVendor)
	delete(c.Metadata, tikv.MetaKMSCiphertextKey)
	return c, err
}

func (k fileMasterKey) decrypt(_ context.Context, content tikv.Content) ([]byte, error) {
	return opened(content.Open(k))
}

// plaintextMasterKey is PlaintextBackend (master_key/mod.rs), the default.
type plaintextMasterKey struct{}

func (plaintextMasterKey) encrypt(context.Context, []byte) (tikv.Content, error) {
	return tikv.Content{}, errors.New("plaintext is no master key")
}

func (plaintextMasterKey) decrypt(_ context.Context, content tikv.Content) ([]byte, error) {
	if method := string(content.Metadata[tikv.MetaMethod]); method != tikv.MethodPlaintext {
		return nil, fmt.Errorf("%w: encryption method mismatch, expected plaintext got %s", errWrongMasterKey, method)
	}
	return content.Ciphertext, nil
}

// comesUp starts the store, and holds that it did so in these steps, which are regular
// expressions, and has the data keys that it had.
func (s *tikvStore) comesUp(steps ...string) {
	s.t.Helper()
	had := s.keys
	if err := s.start(s.t.Context()); err != nil {
		s.t.Fatalf("the store does not start: %v\n%s", err, strings.Join(s.steps, "\n"))
	}
	if had != nil && !bytes.Equal(s.keys, had) {
		s.t.Fatal("the store has other data keys than before")
	}
	s.went(steps)
}

// fails holds that a start fails with err in these steps, and leaves key.dict alone.
func (s *tikvStore) fails(want error, steps ...string) {
	s.t.Helper()
	had := s.keys
	before, _ := os.ReadFile(s.path())
	err := s.start(s.t.Context())
	if err == nil || want != nil && !errors.Is(err, want) {
		s.t.Fatalf("the store's start ends with %v, want %v\n%s", err, want, strings.Join(s.steps, "\n"))
	}
	if after, _ := os.ReadFile(s.path()); !bytes.Equal(before, after) {
		s.t.Fatal("a start that failed has changed key.dict")
	}
	s.went(steps)
	s.keys = had
}

func (s *tikvStore) went(steps []string) {
	s.t.Helper()
	same := len(steps) == len(s.steps)
	for i := range s.steps {
		same = same && regexp.MustCompile("^(?:"+steps[i]+")$").MatchString(s.steps[i])
	}
	if !same {
		s.t.Errorf("the store's start went\n  %s\nwant\n  %s", strings.Join(s.steps, "\n  "), strings.Join(steps, "\n  "))
	}
}

// atOnce holds that each call of the last start was a single request.
func (s *tikvStore) atOnce() {
	s.t.Helper()
	for _, c := range s.calls {
		if c.requests != 1 || c.slept != 0 {
			s.t.Errorf("%s: %d requests and %v of waiting, want one at once", c, c.requests, c.slept)
		}
	}
}

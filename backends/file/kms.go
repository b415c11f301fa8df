package file

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"sync"

	"github.com/keybroker/keybroker/backends"
)

// Provider is the kind of KMS as it stands in envelopes.
const Provider = "file"

const (
	// maxPlaintext is the greatest size of what is wrapped, in bytes.
	maxPlaintext = 64
	// maxReaders is how many calls may wait for the disk at a time. Each holds
	// a thread for as long as the disk hangs, and threads are not endless.
	maxReaders = 16
)

// Config says where the keyring is.
type Config struct {
	// Dir is the directory. Required. That it is there and private is looked at
	// by each call.
	Dir string
}

// KMS is a keyring directory as a backends.KMS. Each call looks at the key's file
// and reads it again if it was changed, so that Create, Rotate, Retire, Activate
// and Import take effect at once.
//
// A key wraps by AES-256-GCM with random 96-bit nonces under its newest active
// version: not more than 2^32 times for each version. A ciphertext is nonce,
// encrypted plaintext and tag, 28 bytes longer than the plaintext.
//
// Classes: NotFound if the keyring has no such key; Disabled if the version
// needed is retired; WrongKey for another reference; InvalidCiphertext for
// what does not open, and for a version that the key does not have, which
// whoever changes an envelope can claim. Only those are said of the key. A file
// that is damaged, or not private, or not this process's to read, is Internal: an
// accident must not look like a withdrawal. Everything else that keeps the file
// from being read is Unavailable.
type KMS struct {
	dir     string
	readers chan struct{}

	mu     sync.Mutex
	closed bool
	keys   map[string]*masterKey // as last read, by name
	// references are those of the keys that were ever read. They are no secret,
	// and answer Match while the disk does not.
	references map[string]string
}

var _ backends.KMS = (*KMS)(nil)

// New returns a KMS of the keyring in c.Dir, which it does not look at.
func New(c Config) (*KMS, error) {
	if c.Dir == "" {
		return nil, errors.New("a file backend needs the path of a keyring directory")
	}
	return &KMS{
		dir:        c.Dir,
		readers:    make(chan struct{}, maxReaders),
		keys:       map[string]*masterKey{},
		references: map[string]string{},
	}, nil
}

// Wrap implements backends.KMS.
func (k *KMS) Wrap(ctx context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	const op = "wrap"
	if n := len(req.Plaintext); n < 1 || n > maxPlaintext {
		return backends.Wrapped{}, backends.Errorf(backends.InvalidArgument, op, req.Key, "the plaintext is %d bytes, not 1 to %d", n, maxPlaintext)
	}
	m, err := k.open(ctx, op, req.Key, false)
	if err != nil {
		return backends.Wrapped{}, err
	}
	v := m.newest
	return backends.Wrapped{
		Provider:   Provider,
		Reference:  m.reference,
		Version:    strconv.Itoa(v.number),
		Binding:    backends.BindingAAD,
		Ciphertext: v.aead.Seal(nil, nil, req.Plaintext, req.AssociatedData),
	}, nil
}

// Unwrap implements backends.KMS.
func (k *KMS) Unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	const op = "unwrap"
	m, err := k.open(ctx, op, req.Key, false)
	if err != nil {
		return nil, err
	}
	if req.Reference != m.reference {
		return nil, backends.Errorf(backends.WrongKey, op, req.Key, "it is wrapped by %.200q, and the key in %s is %s", req.Reference, k.dir, m.reference)
	}
	v := m.version(req.Version)
	switch {
	case req.Binding != backends.BindingAAD:
		return nil, backends.Errorf(backends.InvalidCiphertext, op, req.Key, "its binding is %s; a keyring wraps with %s", req.Binding, backends.BindingAAD)
	case v == nil:
		return nil, backends.Errorf(backends.InvalidCiphertext, op, req.Key, "it names version %.64q of the key, which has 1 to %d; if it was made here, the keyring is older than it: restore a newer backup", req.Version, len(m.versions))
	case v.state != Active:
		return nil, backends.Errorf(backends.Disabled, op, req.Key, "version %d is %s, until it is activated again", v.number, v.state)
	}
	plaintext, err := v.aead.Open(nil, nil, req.Ciphertext, req.AssociatedData)
	if err != nil || len(plaintext) < 1 || len(plaintext) > maxPlaintext {
		clear(plaintext)
		return nil, backends.Errorf(backends.InvalidCiphertext, op, req.Key, "version %d did not make it with these pairs", v.number)
	}
	return plaintext, nil
}

// Match implements backends.KMS. Once the key has been read, it is answered also
// while the file cannot be.
func (k *KMS) Match(ctx context.Context, key, reference string) (bool, error) {
	m, err := k.open(ctx, "match", key, false)
	if err == nil {
		return m.reference == reference, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	known, ok := k.references[key]
	switch {
	case k.closed || ctx.Err() != nil || backends.ClassOf(err) == backends.InvalidArgument:
		return false, err
	case ok:
		return known == reference, nil
	case !strings.HasSuffix(reference, "/"+key):
		return false, nil
	}
	return false, err
}

// Check implements backends.KMS: it reads the file, changed or not, and uses the
// newest version.
func (k *KMS) Check(ctx context.Context, key string) error {
	const op = "check"
	m, err := k.open(ctx, op, key, true)
	if err != nil {
		return err
	}
	probe := m.newest.aead.Seal(nil, nil, make([]byte, 1), nil)
	if _, err := m.newest.aead.Open(nil, nil, probe, nil); err != nil {
		return backends.Errorf(backends.Internal, op, key, "version %d does not open what it sealed", m.newest.number)
	}
	return nil
}

// Close implements backends.KMS. It lets go of the keys, and does not wait for a
// disk that hangs.
func (k *KMS) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	clear(k.keys)
	return nil
}

// open returns the key as its file now says; with again, the file is read even
// if it looks as it did. It waits for the disk until ctx ends: a file cannot be
// read with a deadline, so that is left behind. The error is a *backends.Error.
func (k *KMS) open(ctx context.Context, op, key string, again bool) (*masterKey, error) {
	switch {
	case k.isClosed():
		return nil, backends.Errorf(backends.Unavailable, op, key, "the backend is closed")
	case !ValidKey(key):
		return nil, &backends.Error{Class: backends.InvalidArgument, Op: op, Key: key, Err: errKeyName(key)}
	case ctx.Err() != nil:
		return nil, k.gaveUp(ctx, op, key)
	}
	select {
	case k.readers <- struct{}{}:
	case <-ctx.Done():
		return nil, k.gaveUp(ctx, op, key)
	}
	type answer struct {
		key *masterKey
		err error
	}
	done := make(chan answer, 1)
	go func() {
		defer func() { <-k.readers }()
		m, err := k.look(key, again)
		done <- answer{m, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return nil, &backends.Error{Class: classOf(a.err), Op: op, Key: key, Err: a.err}
		}
		return a.key, nil
	case <-ctx.Done():
		return nil, k.gaveUp(ctx, op, key)
	}
}

// look returns the key as its file now says.
func (k *KMS) look(key string, again bool) (*masterKey, error) {
	info, err := stat(k.dir, key)
	if err == nil {
		if m := k.remembered(key); m != nil && !again && m.isOf(info) {
			return m, nil
		}
	}
	var m *masterKey
	if err == nil {
		m, err = load(k.dir, key)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err != nil:
		// A key that may not be used any more is not kept either.
		delete(k.keys, key)
		return nil, err
	case k.closed:
		return m, nil
	}
	k.keys[key] = m
	k.references[key] = m.reference
	return m, nil
}

func (k *KMS) remembered(key string) *masterKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[key]
}

func (k *KMS) isClosed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closed
}

// gaveUp is the error of a call whose ctx has ended.
func (k *KMS) gaveUp(ctx context.Context, op, key string) error {
	return backends.Errorf(backends.Unavailable, op, key, "waiting for the keyring %s: %w", k.dir, ctx.Err())
}

// classOf sorts what can keep a key's file from being read.
func classOf(err error) backends.Class {
	var private *PermissionError
	switch {
	case errors.Is(err, errNoKey):
		return backends.NotFound
	case errors.Is(err, ErrDamaged), errors.As(err, &private),
		errors.Is(err, fs.ErrPermission), errors.Is(err, errors.ErrUnsupported):
		return backends.Internal
	default:
		return backends.Unavailable
	}
}

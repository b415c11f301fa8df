package backendtest_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"maps"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/keybroker/keybroker/backends"
)

// fault is what a memory KMS does wrong; "" is nothing.
type fault string

const (
	ignoresPairs       fault = "ignores pairs"
	ignoresAFlip       fault = "ignores a flipped bit"
	ignoresTheRest     fault = "ignores what follows"
	ignoresBinding     fault = "ignores the binding"
	ignoresReference   fault = "ignores the reference"
	asksBeforeItLooks  fault = "asks before it looks at the reference"
	ignoresVersion     fault = "ignores the version and opens to something else"
	oneKeyForAll       fault = "has one key for all"
	changesRequests    fault = "changes requests"
	sharesReplies      fault = "shares replies"
	keepsRequests      fault = "keeps requests"
	longVersion        fault = "has a long version"
	anotherProvider    fault = "names another provider"
	missingIsDenied    fault = "denies a missing key"
	bareErrors         fault = "returns bare errors"
	namesNoKey         fault = "names no key in errors"
	tellsPlaintext     fault = "tells the plaintext"
	matchesAll         fault = "matches all"
	failsCheck         fault = "fails every check"
	forgetsVersions    fault = "forgets versions"
	keepsItsVersion    fault = "keeps its version's name"
	opensDisabled      fault = "opens what is disabled"
	staysDisabled      fault = "stays disabled"
	ignoresContext     fault = "ignores the ctx"
	hidesContext       fault = "hides the ctx's error"
	oneAtATime         fault = "takes one caller at a time"
	worksWhenClosed    fault = "works when closed"
	closesOnce         fault = "closes once"
	internalWhenClosed fault = "is internal when closed"
	staysDown          fault = "stays down"
	internalWhenDown   fault = "is internal when down"
	emptyPlaintext     fault = "wraps nothing"
)

// memory is a KMS in memory.
type memory struct {
	fault fault

	mu       sync.Mutex
	closed   bool
	down     bool
	requests int
	keys     map[string]*memoryKey
	shared   []byte
	last     []byte // what was wrapped last, kept by a fault
	first    chan struct{}
}

type memoryKey struct {
	versions []cipher.AEAD
	disabled map[int]bool
}

func newMemory(f fault) *memory {
	k := &memory{fault: f, keys: map[string]*memoryKey{}, first: make(chan struct{}, 1)}
	for _, name := range []string{"one", "two"} {
		k.keys[name] = &memoryKey{versions: []cipher.AEAD{newAEAD()}, disabled: map[int]bool{}}
	}
	if f == oneKeyForAll {
		k.keys["two"] = k.keys["one"]
	}
	return k
}

func newAEAD() cipher.AEAD {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (k *memory) error(class backends.Class, op, key string, cause error) error {
	switch k.fault {
	case bareErrors:
		return fmt.Errorf("%s %q: %w", op, key, cause)
	case namesNoKey:
		key = ""
	case tellsPlaintext:
		cause = fmt.Errorf("%w: %x", cause, k.last)
	}
	return &backends.Error{Class: class, Op: op, Key: key, Err: cause}
}

// ask returns the key, if it may be asked now. k.mu is held.
func (k *memory) ask(ctx context.Context, op, key string) (*memoryKey, error) {
	unavailable := backends.Unavailable
	if err := ctx.Err(); err != nil && k.fault != ignoresContext {
		if k.fault == hidesContext {
			err = fmt.Errorf("%v", err)
		}
		return nil, k.error(unavailable, op, key, err)
	}
	if k.closed && k.fault != worksWhenClosed {
		if k.fault == internalWhenClosed {
			unavailable = backends.Internal
		}
		return nil, k.error(unavailable, op, key, fmt.Errorf("closed"))
	}
	if k.down {
		if k.fault == internalWhenDown {
			unavailable = backends.Internal
		}
		return nil, k.error(unavailable, op, key, fmt.Errorf("down"))
	}
	k.requests++
	m, ok := k.keys[key]
	if !ok {
		class := backends.NotFound
		if k.fault == missingIsDenied {
			class = backends.Denied
		}
		return nil, k.error(class, op, key, fmt.Errorf("no such key"))
	}
	return m, nil
}

func reference(key string) string { return "memory/" + key }

// binding is what is authenticated.
func (k *memory) binding(associatedData []byte) []byte {
	if k.fault == ignoresPairs {
		return nil
	}
	return associatedData
}

func (k *memory) Wrap(ctx context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	if k.fault == oneAtATime {
		select {
		case k.first <- struct{}{}:
			// Others come meanwhile.
			for range 100 {
				runtime.Gosched()
			}
			defer func() { <-k.first }()
		default:
			return backends.Wrapped{}, k.error(backends.Throttled, "wrap", req.Key, fmt.Errorf("busy"))
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = append([]byte(nil), req.Plaintext...)
	m, err := k.ask(ctx, "wrap", req.Key)
	if err != nil {
		return backends.Wrapped{}, err
	}
	plaintext := req.Plaintext
	switch k.fault {
	case changesRequests:
		_ = append(req.AssociatedData, 0)
	case keepsRequests:
		k.shared = req.Plaintext
	case emptyPlaintext:
		plaintext = nil
	}
	number := len(m.versions)
	w := backends.Wrapped{
		Provider: "memory", Reference: reference(req.Key), Version: strconv.Itoa(number), Binding: backends.BindingAAD,
		Ciphertext: m.versions[number-1].Seal(nil, nil, plaintext, k.binding(req.AssociatedData)),
	}
	switch k.fault {
	case longVersion:
		w.Version += strings.Repeat(" ", 64)
	case anotherProvider:
		w.Provider = "memories"
	case keepsItsVersion:
		w.Version = "1"
	}
	return w, nil
}

func (k *memory) Unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	const op = "unwrap"
	k.mu.Lock()
	defer k.mu.Unlock()
	if req.Reference != reference(req.Key) && k.fault != ignoresReference {
		if k.fault == asksBeforeItLooks {
			k.requests++
		}
		return nil, k.error(backends.WrongKey, op, req.Key, fmt.Errorf("wrapped by %q", req.Reference))
	}
	m, err := k.ask(ctx, op, req.Key)
	if err != nil {
		return nil, err
	}
	invalid := k.error(backends.InvalidCiphertext, op, req.Key, fmt.Errorf("not made here"))
	number, err := strconv.Atoi(strings.TrimSpace(req.Version))
	if k.fault == ignoresVersion && (err != nil || number != 1) {
		return make([]byte, 32), nil
	}
	switch {
	case err != nil, number < 1, number > len(m.versions):
		return nil, invalid
	case req.Binding != backends.BindingAAD && k.fault != ignoresBinding:
		return nil, invalid
	case m.disabled[number]:
		return nil, k.error(backends.Disabled, op, req.Key, fmt.Errorf("version %d is disabled", number))
	}
	ciphertext := req.Ciphertext
	switch k.fault {
	case ignoresTheRest:
		ciphertext = ciphertext[:min(len(ciphertext), 32+28)]
	case keepsRequests:
		if k.shared != nil {
			return append([]byte(nil), k.shared...), nil
		}
	}
	plaintext, err := m.versions[number-1].Open(nil, nil, ciphertext, k.binding(req.AssociatedData))
	if err != nil && k.fault == ignoresAFlip && len(ciphertext) > 0 {
		mended := append([]byte(nil), ciphertext...)
		mended[0] ^= 1
		plaintext, err = m.versions[number-1].Open(nil, nil, mended, k.binding(req.AssociatedData))
	}
	if err != nil || len(plaintext) == 0 && k.fault != emptyPlaintext {
		return nil, invalid
	}
	if k.fault == sharesReplies {
		k.shared = append(k.shared[:0], plaintext...)
		return k.shared, nil
	}
	return plaintext, nil
}

func (k *memory) Match(_ context.Context, key, ref string) (bool, error) {
	return ref == reference(key) || k.fault == matchesAll, nil
}

func (k *memory) Check(ctx context.Context, key string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fault == failsCheck {
		return k.error(backends.Denied, "check", key, fmt.Errorf("no"))
	}
	_, err := k.ask(ctx, "check", key)
	return err
}

func (k *memory) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed && k.fault == closesOnce {
		return fmt.Errorf("closed twice")
	}
	k.closed = true
	return nil
}

func (k *memory) rotate(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.keys[key]
	m.versions = append(m.versions, newAEAD())
	if k.fault == forgetsVersions {
		m.versions[0] = newAEAD()
	}
}

func (k *memory) able(key, version string, able bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fault == opensDisabled || k.fault == staysDisabled && able {
		return
	}
	number, err := strconv.Atoi(version)
	if err != nil {
		panic(err)
	}
	disabled := maps.Clone(k.keys[key].disabled)
	disabled[number] = !able
	k.keys[key].disabled = disabled
}

func (k *memory) reach(up bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if up && k.fault == staysDown {
		return
	}
	k.down = !up
}

func (k *memory) sent() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.requests
}

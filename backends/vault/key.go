package vault

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const (
	// freshToWrap is how old what is known of a key may be when something is
	// encrypted. To encrypt with a key that is gone makes a new one, if the token
	// may create, so this is short; it spares the question where keys are
	// wrapped one after the other.
	freshToWrap = 10 * time.Second
	// freshToUnwrap is the same for decrypting, which makes nothing. A definite
	// refusal has it asked again sooner.
	freshToUnwrap = 5 * time.Minute
)

// masterKey is what Vault says of a Transit key.
type masterKey struct {
	Name              string `json:"name"`
	Type              string `json:"type"`
	Derived           bool   `json:"derived"`
	Convergent        bool   `json:"convergent_encryption"`
	LatestVersion     int    `json:"latest_version"`
	MinDecryption     int    `json:"min_decryption_version"`
	SupportEncryption *bool  `json:"supports_encryption"`
	SupportDecryption *bool  `json:"supports_decryption"`
}

// suitable holds that the key can serve at all, which no change of its settings
// can alter.
func (m *masterKey) suitable() error {
	why := ""
	switch t := m.Type; {
	case m.Convergent:
		why = "with convergent encryption, equal keys have equal ciphertexts"
	case t == "aes128-gcm96", t == "aes256-gcm96", t == "chacha20-poly1305", t == "xchacha20-poly1305":
	case strings.HasPrefix(t, "rsa-"):
		why = "whoever reads the public key could make wrapped keys of his own"
	case strings.HasSuffix(t, "-cbc"):
		why = "it does not authenticate what it encrypts, so a wrapped key could be changed unseen"
	case t == "managed_key":
		why = "Vault does not tell whether it is symmetric and authenticated"
	default:
		why = "it is not a symmetric authenticated cipher"
	}
	if why == "" && (m.SupportEncryption != nil && !*m.SupportEncryption || m.SupportDecryption != nil && !*m.SupportDecryption) {
		why = "Vault does not let it encrypt and decrypt"
	}
	if why == "" {
		return nil
	}
	return backends.Fail(backends.InvalidArgument, "a Transit key of type %.40q cannot serve: %s; use a key of type aes256-gcm96 that is not convergent", m.Type, why)
}

// binding is how something is bound that is wrapped now.
//
// A derived key binds by its context alone, also where the cipher takes
// associated data: Vault can rewrap such a ciphertext by itself, which it cannot
// with associated data.
func (m *masterKey) binding(s *server) backends.Binding {
	switch {
	case m.Derived:
		return backends.BindingDerived
	case s.associatedData:
		return backends.BindingAAD
	default:
		return backends.BindingHash
	}
}

// allows tells whether b can be the binding of something that the key made.
// Vault ignores a context that it has no use for, and an old one associated data:
// what is sent in vain would not be checked.
func (m *masterKey) allows(b backends.Binding, s *server) bool {
	switch b {
	case backends.BindingDerived:
		return m.Derived
	case backends.BindingAAD:
		return !m.Derived && s.associatedData
	case backends.BindingHash:
		return !m.Derived
	default:
		return false
	}
}

// keys remembers what Vault says of keys that can serve.
type keys struct {
	mu sync.Mutex
	of map[string]knownKey
}

type knownKey struct {
	masterKey
	at time.Time // when it was asked
}

func newKeys() *keys { return &keys{of: map[string]knownKey{}} }

func (ks *keys) get(key string, maxAge time.Duration) (*masterKey, bool) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	known, ok := ks.of[key]
	if !ok || time.Since(known.at) >= maxAge {
		return nil, false
	}
	return &known.masterKey, true
}

func (ks *keys) put(key string, m masterKey, at time.Time) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	ks.of[key] = knownKey{m, at}
}

func (ks *keys) forget(key string) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	delete(ks.of, key)
}

// key returns what Vault says of a key, asking if that is older than maxAge. It
// fails if the key cannot serve.
func (k *KMS) key(ctx context.Context, key string, maxAge time.Duration) (*masterKey, error) {
	if m, ok := k.keys.get(key, maxAge); ok {
		return m, nil
	}
	at := time.Now()
	body, err := k.call(ctx, request{method: http.MethodGet, path: k.cfg.Mount + "/keys/" + key})
	if err != nil {
		k.keys.forget(key)
		return nil, k.keyRefused(key, err)
	}
	var reply struct {
		Data masterKey `json:"data"`
	}
	m := &reply.Data
	if err := json.Unmarshal(body, &reply); err != nil || m.Name != key || m.Type == "" || m.LatestVersion < 1 || m.MinDecryption > m.LatestVersion {
		return nil, backends.Fail(backends.Internal, "Vault does not describe the key that was asked for")
	}
	if err := m.suitable(); err != nil {
		k.keys.forget(key)
		return nil, err
	}
	k.keys.put(key, *m, at)
	return m, nil
}

// keyRefused says what to do about a refused read of a key.
func (k *KMS) keyRefused(key string, err error) error {
	var answer *refusal
	if !errors.As(err, &answer) {
		return err
	}
	switch backends.ClassOf(err) {
	case backends.NotFound:
		if answer.says("no handler for route") {
			return backends.Fail(backends.NotFound, "%w; is there a Transit engine at %q%s?", answer, k.cfg.Mount, k.inNamespace())
		}
		return backends.Fail(backends.NotFound, "Transit engine %q%s has no such key; make it with: vault write -f %s/keys/%s", k.cfg.Mount, k.inNamespace(), k.cfg.Mount, key)
	case backends.Denied:
		return k.denied(key, answer)
	}
	return err
}

// denied says what a policy needs.
func (k *KMS) denied(key string, answer *refusal) error {
	return backends.Fail(backends.Denied, "%w; the broker's policy needs read on %[2]s/keys/%[3]s, and update on %[2]s/encrypt/%[3]s and %[2]s/decrypt/%[3]s", answer, k.cfg.Mount, key)
}

func (k *KMS) inNamespace() string {
	if k.cfg.Namespace == "" {
		return ""
	}
	return " of namespace " + k.cfg.Namespace
}

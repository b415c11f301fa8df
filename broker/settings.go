package broker

import (
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/secret"
)

// Settings are what a reload can change. A Broker takes them as a whole and
// never changes them.
type Settings struct {
	// Backends by their name in the config.
	Backends map[string]Backend
	Keys     []Key
	Policy   *policy.Policy
	// MissRates is how many loads from a KMS each client may cause a second, by
	// the client's name. A client that is not in it has DefaultMissRate.
	MissRates map[string]float64
	// AccessKeys are the secrets of access keys, by their id, for the front door
	// that is spoken to in AWS's way.
	AccessKeys map[string]secret.Value
	// AllowUnaudited lets calls succeed although their record could not be
	// written (audit.on_failure: allow).
	AllowUnaudited bool
	// SHA256 of the configuration, in hex, for status.
	SHA256 string
	// Warnings are what a reload should tell whoever asked for it: what is valid
	// but may not be meant, and what holds only after a restart.
	Warnings []string
}

// DefaultMissRate is how many loads from a KMS a client may cause a second.
const DefaultMissRate = 50

// Backend is a connection to a KMS.
type Backend struct {
	KMS backends.KMS
	// Provider is the kind of KMS as it stands in envelopes. A wrap of another
	// provider is never sent to this backend.
	Provider string
	// Type is the backend's type in the config, for status.
	Type string
	// KeyOf returns the master key, as the config would write it, that reference
	// could be. It is for messages to operators; nil if there is no telling.
	KeyOf func(reference string) string
	// Timeout bounds each call; positive.
	Timeout time.Duration
}

func (b Backend) same(as Backend) bool {
	return b.KMS == as.KMS && b.Provider == as.Provider && b.Type == as.Type && b.Timeout == as.Timeout
}

// Key is a broker key.
type Key struct {
	Name    string
	Aliases []string
	// Recipients wrap and unwrap, in order of preference: 1 to 8.
	Recipients []Recipient
	// FormerRecipients only unwrap.
	FormerRecipients []Recipient
	// MinRecipients is how many wraps an intermediate key needs: 1 to
	// len(Recipients).
	MinRecipients int
	// HedgeAfter is how long a recipient is waited for before the next one is
	// asked beside it. 0: a little longer than 95 % of its backend's recent
	// answers took, at least 20 ms and at most a second.
	HedgeAfter time.Duration
	// CheckInterval is how often each recipient that works is checked, and how
	// long an intermediate key that lacks recipients is used before all of them
	// are tried again.
	CheckInterval time.Duration
	// Context is bound to every wrap made now; FormerContexts are accepted in
	// envelopes made before.
	Context        envelope.Pairs
	FormerContexts []envelope.Pairs
	// Limits bound the cache.
	Limits cache.Limits
	// MaxAge and MaxUses bound how long one intermediate key is used for new
	// envelopes. Both are at least 1.
	MaxAge  time.Duration
	MaxUses uint64
	// Warm has an intermediate key made as soon as the key is configured, before
	// anybody asks for an envelope.
	Warm bool
	// HideContext has the values of callers' contexts hidden in audit records of the key,
	// and of a call that is about another key as well.
	HideContext bool
	// Passthrough opens what was wrapped before there was a broker; nil: nothing
	// does.
	Passthrough *Passthrough
}

// Passthrough is a master key that opens ciphertexts which its KMS made for a
// caller directly. They are opened for whoever may unwrap with the broker's key,
// if he names that key, and are never cached.
type Passthrough struct {
	Recipient
	// Contexts are what they may be bound to, beside nothing.
	Contexts []envelope.Pairs
}

// Recipient is a master key in a backend.
type Recipient struct {
	// Backend is a name in Settings.Backends.
	Backend string
	// Key is the master key as the backend knows it.
	Key string
}

// snapshot is one Settings with its names resolved. It never changes.
type snapshot struct {
	Settings
	keys    map[string]*key // by name and alias
	names   []string        // of keys, sorted
	present map[string]*key // by name only
	kmss    map[string]*kms // by name

	loadedAt time.Time
}

// key is a Key with its backends.
type key struct {
	Key
	recipients []recipient // Recipients, then FormerRecipients
	passes     recipient   // Passthrough's, if that is not nil
}

// recipient is a Recipient with its backend.
type recipient struct {
	Recipient
	kms *kms
}

// resolve checks s and resolves its names. kmsOf makes or finds the *kms of a
// backend.
func (s Settings) resolve(kmsOf func(name string, b Backend) *kms) (*snapshot, error) {
	snap := &snapshot{Settings: s, keys: map[string]*key{}, present: map[string]*key{}, kmss: map[string]*kms{}}
	if s.Policy == nil {
		return nil, fmt.Errorf("settings without a policy")
	}
	for name, b := range s.Backends {
		if b.KMS == nil || b.Provider == "" || b.Timeout <= 0 {
			return nil, fmt.Errorf("backend %s: it has no KMS, provider or timeout", name)
		}
		snap.kmss[name] = kmsOf(name, b)
	}
	for _, k := range s.Keys {
		if !envelope.ValidKeyName(k.Name) {
			return nil, fmt.Errorf("%q cannot name a key", k.Name)
		}
		if n := len(k.Recipients); n < 1 || n > envelope.MaxRecipients || k.MinRecipients < 1 || k.MinRecipients > n {
			return nil, fmt.Errorf("key %s: %d recipients of which %d are needed", k.Name, n, k.MinRecipients)
		}
		if k.MaxAge <= 0 || k.MaxUses < 1 {
			return nil, fmt.Errorf("key %s: its intermediate keys may not be used at all", k.Name)
		}
		resolved := &key{Key: k}
		for _, r := range slices.Concat(k.Recipients, k.FormerRecipients) {
			m, ok := snap.kmss[r.Backend]
			if !ok {
				return nil, fmt.Errorf("key %s: there is no backend %s", k.Name, r.Backend)
			}
			resolved.recipients = append(resolved.recipients, recipient{Recipient: r, kms: m})
		}
		if p := k.Passthrough; p != nil {
			m, ok := snap.kmss[p.Backend]
			if !ok {
				return nil, fmt.Errorf("key %s: there is no backend %s for its passthrough", k.Name, p.Backend)
			}
			resolved.passes = recipient{Recipient: p.Recipient, kms: m}
		}
		for _, name := range append([]string{k.Name}, k.Aliases...) {
			if snap.keys[name] != nil {
				return nil, fmt.Errorf("two keys are called %s", name)
			}
			snap.keys[name] = resolved
		}
		snap.present[k.Name] = resolved
		snap.names = append(snap.names, k.Name)
	}
	slices.Sort(snap.names)
	return snap, nil
}

// writers are the recipients that a new intermediate key is wrapped for.
func (k *key) writers() []recipient { return k.recipients[:len(k.Recipients)] }

// accepts tells whether an envelope with these static pairs may be opened.
func (k *key) accepts(pairs envelope.Pairs) bool {
	return pairs.Equal(k.Context) || slices.ContainsFunc(k.FormerContexts, pairs.Equal)
}

// missRate is the client's budget.
func (s *snapshot) missRate(client string) float64 {
	if r, ok := s.MissRates[client]; ok {
		return r
	}
	return DefaultMissRate
}

// classified is the class of err for metrics and status: "ok" if it is nil.
func classified(err error) string {
	if err == nil {
		return "ok"
	}
	return backends.ClassOf(err).String()
}

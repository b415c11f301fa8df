package broker

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/internal/secret"
)

// KeyState tells whether a key can be used now, as far as the last calls tell.
type KeyState uint8

// The states.
const (
	// KeyUnknown: not all of its recipients have been tried yet.
	KeyUnknown KeyState = iota
	// KeyReady: every recipient worked when it was last tried.
	KeyReady
	// KeyDegraded: at least one works and at least one does not.
	KeyDegraded
	// KeyCachedOnly: none works; what is cached is served.
	KeyCachedOnly
	// KeyUnavailable: none works and nothing is cached.
	KeyUnavailable
)

// KeyInfo is a key as a client with a right on it may see it.
type KeyInfo struct {
	Name string
	// Aliases are its other names, sorted.
	Aliases []string
	// Recipients are the master keys that new envelopes are wrapped for, in the
	// config's order. Reference is what the KMS resolved and Version what it used,
	// once an intermediate key has been made; before that, Reference is the master
	// key as the config writes it and Version is empty.
	Recipients []RecipientInfo
	State      KeyState
	// CachedUntil is until when the intermediate key that was opened last is
	// served as fresh, StaleUntil until when in an outage. Both are zero if none
	// is cached.
	CachedUntil, StaleUntil time.Time
}

// BackendInfo is a backend and how its last calls went.
type BackendInfo struct {
	Name, Type string
	// Asked is false before the first answer; Up says nothing then.
	Asked, Up bool
	// LastClass and LastError are of the last failure, if LastFailure is not
	// zero.
	LastClass                backends.Class
	LastError                string
	LastSuccess, LastFailure time.Time
}

// Status is what the broker serves and how it is.
type Status struct {
	ConfigSHA256   string
	ConfigLoadedAt time.Time
	Backends       []BackendInfo
	Keys           []KeyInfo
	CacheEntries   int
	CacheCapacity  int
	Audit          audit.Head
	// AuditKey is the key that signs the audit log, AuditSigned the last record that
	// a checkpoint is about.
	AuditKey    string
	AuditSigned uint64
	Memory      secret.Stats
}

// ListKeys lists the keys that the caller has a right on, by name. A caller who
// may list none gets ACCESS_DENIED.
//
// Its errors are *Error.
func (b *Broker) ListKeys(ctx context.Context, call Call) ([]KeyInfo, error) {
	var infos []KeyInfo
	err := b.perform(ctx, call, audit.EventList, func(_ context.Context, op *operation) error {
		for _, name := range op.snap.names {
			if op.client.Allows(name, policy.List) {
				infos = append(infos, b.keyInfo(op.snap.present[name]))
			}
		}
		if len(infos) == 0 && len(op.snap.names) > 0 {
			return op.denied("client " + op.client.Name + " may list no key; grant it `list` under clients." + op.client.Name + ".allow")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// Describe tells of one key, by its name or an alias. It needs any right on it.
//
// Its errors are *Error.
func (b *Broker) Describe(ctx context.Context, call Call, name string) (KeyInfo, error) {
	var info KeyInfo
	err := b.perform(ctx, call, audit.EventList, func(_ context.Context, op *operation) error {
		k, err := op.authorize(name)
		if err == nil {
			info = b.keyInfo(k)
		}
		return err
	})
	return info, err
}

// Status tells what the broker serves and how it is. It needs the admin right
// status.
//
// Its errors are *Error.
func (b *Broker) Status(ctx context.Context, call Call) (Status, error) {
	var s Status
	err := b.perform(ctx, call, audit.EventStatus, func(_ context.Context, op *operation) error {
		if err := op.authorizeAdmin(policy.Status); err != nil {
			return err
		}
		s = b.status(op.snap)
		return nil
	})
	return s, err
}

func (b *Broker) status(snap *snapshot) Status {
	s := Status{
		ConfigSHA256:   snap.SHA256,
		ConfigLoadedAt: snap.loadedAt,
		CacheEntries:   b.cache.Len(),
		CacheCapacity:  b.cacheCapacity,
		Audit:          b.audit.Head(),
		AuditKey:       b.audit.PublicKey(),
		AuditSigned:    b.audit.Checkpoint().Seq,
		Memory:         b.arena.Stats(),
	}
	for name, m := range snap.kmss {
		h := m.state()
		s.Backends = append(s.Backends, BackendInfo{
			Name: name, Type: m.of.Type, Asked: h.asked, Up: h.up,
			LastClass: h.lastClass, LastError: h.lastError, LastSuccess: h.lastSuccess, LastFailure: h.lastFailure,
		})
	}
	slices.SortFunc(s.Backends, func(x, y BackendInfo) int { return strings.Compare(x.Name, y.Name) })
	for _, name := range snap.names {
		s.Keys = append(s.Keys, b.keyInfo(snap.present[name]))
	}
	return s
}

// Serves tells, for each key, whether it can be served now: by a backend that
// answers or has not been asked, or from the cache. It is what readiness means.
func (b *Broker) Serves() map[string]bool {
	snap := b.snap.Load()
	serves := make(map[string]bool, len(snap.names))
	for _, name := range snap.names {
		serves[name] = b.keyInfo(snap.present[name]).State != KeyUnavailable
	}
	return serves
}

func (b *Broker) keyInfo(k *key) KeyInfo {
	info := KeyInfo{Name: k.Name, Aliases: slices.Sorted(slices.Values(k.Aliases))}
	resolved := b.writers.keks(k.Name)
	var up, down, unasked int
	for _, r := range k.writers() {
		kek, ok := resolved[r.Recipient]
		if !ok {
			kek = KEK{Provider: r.kms.of.Provider, Reference: r.Key}
		}
		info.Recipients = append(info.Recipients, RecipientInfo{kek, r.Backend, b.stateOf(k, r)})
		switch known := b.conditions.get(keyRecipient{k.Name, r}); {
		case !known.tried:
			unasked++
		case known.usable():
			up++
		default:
			down++
		}
	}
	if fresh, runway := b.lasts(k); runway > 0 {
		now := b.now()
		info.CachedUntil, info.StaleUntil = now.Add(fresh), now.Add(runway)
	}
	switch {
	case down == 0 && unasked == 0:
		info.State = KeyReady
	case up > 0 && down > 0:
		info.State = KeyDegraded
	case down == 0 || unasked > 0:
		info.State = KeyUnknown
	case !info.StaleUntil.IsZero():
		info.State = KeyCachedOnly
	default:
		info.State = KeyUnavailable
	}
	return info
}

// lasts tells for how long the intermediate key of k that was opened last is
// still served as fresh, and for how long in an outage; 0 if not at all. A key with
// a passthrough has callers whose ciphertexts are not cached.
func (b *Broker) lasts(k *key) (fresh, runway time.Duration) {
	if k.Passthrough != nil {
		return 0, 0
	}
	now := b.uptime()
	b.cache.Each(func(_ [32]byte, held *intermediate, loadedAt time.Time) {
		if held.key != k.Name {
			return
		}
		age := now.Sub(loadedAt)
		fresh = max(fresh, k.Limits.TTL-age)
		runway = max(runway, k.Limits.Until()-age)
	})
	return fresh, runway
}

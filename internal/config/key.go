package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The limits of the envelope that a configuration could break
// (docs/envelope.md). A test holds them to the envelope's own.
const (
	maxRecipients   = 8
	maxStaticPairs  = 63   // the key's name is one more
	maxContextBytes = 8192 // canonical: 4, and 8 a pair
	maxIKPart       = 6010 // with the key's name, the static pairs and the recipients

	// ikPartFrame is what an IK part takes for itself, and leastRecipient what a
	// recipient does at least: seven bytes of lengths and binding, the shortest
	// provider, and 32 bytes with a nonce and a tag.
	ikPartFrame    = 39
	leastRecipient = 7 + len("file") + 60
)

// maxTime is the longest time that may be configured for anything.
const maxTime = 366 * 24 * time.Hour

// keys reads all keys. backends are the backends by name, without a type those of
// which nothing is known; without any, what recipients name is not checked.
func (w *walker) keys(v value, backends map[string]Backend) []Key {
	var keys []Key
	names := map[string]string{} // name, alias or id of a passthrough → the key it belongs to
	members := w.members(v)
	if len(v.node.Content) == 0 {
		w.mismatch(v, "at least one key")
	}
	for _, m := range members {
		if w.isName(m) {
			names[m.name.Value] = m.name.Value
		}
	}
	for _, m := range members {
		keys = append(keys, w.key(m, backends, names))
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	return keys
}

// key reads one key. names has the names of all keys, and the aliases and the ids of
// passthroughs so far.
func (w *walker) key(v value, backends map[string]Backend, names map[string]string) Key {
	b := w.block(v, "keys.NAME")
	k := Key{
		Name: v.name.Value, CheckInterval: DefaultCheckInterval, TTL: DefaultTTL,
		MaxAge: DefaultMaxAge, MaxUses: DefaultMaxUses,
	}
	seen := map[Recipient]int{}
	if v, ok := b.fields["recipients"]; ok {
		k.Recipients = w.recipients(v, "keys.NAME.recipients[]", backends, seen)
		if n := len(v.node.Content); !w.told[v.node] && (n < 1 || n > maxRecipients) {
			w.problem(v, fmt.Sprintf("%d recipients", n), fmt.Sprintf("1 to %d", maxRecipients))
		}
		k.MinRecipients = len(k.Recipients)
	}
	if v, ok := b.fields["min_recipients"]; ok {
		most, reason := w.mostRecipients(b)
		if n, ok := w.numberFor(v, 1, most, reason); ok {
			k.MinRecipients = int(n) //nolint:gosec // at most maxRecipients
		}
	}
	if v, ok := b.fields["former_recipients"]; ok {
		k.FormerRecipients = w.recipients(v, "keys.NAME.former_recipients[]", backends, seen)
	}
	b.duration("hedge_after", &k.HedgeAfter, time.Millisecond, time.Minute)
	b.duration("check_interval", &k.CheckInterval, time.Second, 24*time.Hour)
	if v, ok := b.fields["context"]; ok {
		k.Context = w.context(v, k.Name)
		w.fitsEnvelope(v, k)
	}
	if v, ok := b.fields["former_contexts"]; ok {
		for _, item := range w.items(v) {
			k.FormerContexts = append(k.FormerContexts, w.context(item, k.Name))
		}
	}
	k.MaxStale, k.RefreshAfter, k.NegativeTTL = max(DefaultMaxStale, k.TTL), k.TTL/4*3, DefaultNegativeTTL
	if v, ok := b.fields["cache"]; ok {
		w.keyCache(v, &k)
	}
	b.boolean("warm", &k.Warm)
	values := "plain"
	b.oneOf("context_values", &values)
	k.HideContext = values == "hash"
	if v, ok := b.fields["intermediate"]; ok {
		b := w.block(v, "keys.NAME.intermediate")
		b.duration("max_age", &k.MaxAge, time.Minute, maxTime)
		b.number("max_uses", &k.MaxUses, 1, math.MaxUint32)
	}
	if v, ok := b.fields["aliases"]; ok {
		k.Aliases = w.aliases(v, k.Name, names)
	}
	if v, ok := b.fields["passthrough"]; ok {
		k.Passthrough = w.passthrough(v, backends, k.Name, names)
	}
	return k
}

// mostRecipients is the greatest min_recipients of the key, and why: how many it
// has; or, without a reason, could have where that cannot be told.
func (w *walker) mostRecipients(b block) (most uint64, reason string) {
	v, ok := b.fields["recipients"]
	if !ok || w.told[v.node] { // so it is no list of 1 to 8
		return maxRecipients, ""
	}
	n := len(v.node.Content)
	reason = fmt.Sprintf(", as the key has %d recipients", n)
	if n == 1 {
		reason = ", as the key has 1 recipient"
	}
	return uint64(n), reason
}

func (w *walker) recipients(v value, schema string, backends map[string]Backend, seen map[Recipient]int) []Recipient {
	var recipients []Recipient
	for _, item := range w.items(v) {
		b := w.block(item, schema)
		var r Recipient
		b.text("backend", &r.Backend, "the name of a backend")
		backend, known := backends[r.Backend]
		b.masterKey("key", backend, &r.Key)
		if r.Backend != "" && len(backends) > 0 && !known {
			w.problem(b.fields["backend"], quote(r.Backend)+", which is not under backends", "the name of a backend"+suggest(r.Backend, slices.Sorted(maps.Keys(backends))))
			continue
		}
		if r.Key == "" || backend.Type == "" {
			continue // if the type is not known, r.Key may be anything
		}
		if first, ok := seen[r]; ok {
			w.problem(item, fmt.Sprintf("backend %s and key %s a second time; the first is in line %d", r.Backend, r.Key, first), "each master key once, under recipients or former_recipients")
			continue
		}
		seen[r] = item.node.Line
		recipients = append(recipients, r)
	}
	return recipients
}

// fitsEnvelope holds that the static pairs leave room in every envelope. What a
// KMS's wraps and references take is not known here, so that this finds only what
// could never work.
func (w *walker) fitsEnvelope(v value, k Key) {
	room := maxIKPart - ikPartFrame - len(k.Name)
	for _, r := range k.Recipients {
		room -= leastRecipient + len(r.Key)
	}
	if size := contextSize(k.Context); size > room && !w.told[v.node] {
		w.problem(v, fmt.Sprintf("%d bytes, with 8 for each pair, which fit no envelope beside the key's name and its recipients", size),
			fmt.Sprintf("at most %d bytes, and better much less", room))
	}
}

// contextSize is the length of the canonical encoding of pairs, in bytes.
func contextSize(pairs map[string]string) int {
	size := 4
	for name, value := range pairs {
		size += 8 + len(name) + len(value)
	}
	return size
}

// context reads static pairs.
func (w *walker) context(v value, key string) map[string]string {
	pairs := map[string]string{}
	for _, m := range w.members(v) {
		name := m.name.Value
		if prefix, _, ok := strings.Cut(name, ":"); ok && (prefix == "keybroker" || prefix == "aws") {
			w.misnamed(m, fmt.Sprintf("a pair whose name begins with %s:", prefix), "another name: those that begin with keybroker: and aws: are reserved")
			continue
		}
		if w.told[m.node] {
			continue
		}
		if !m.isText() {
			w.mismatch(m, "a string, in quotes")
			continue
		}
		if !utf8.ValidString(name) || !utf8.ValidString(m.node.Value) {
			w.problem(m, "text that is not valid UTF-8", "UTF-8")
			continue
		}
		pairs[name] = m.node.Value
	}
	size := contextSize(pairs) + 8 + len("keybroker:key") + len(key)
	switch {
	case len(pairs) > maxStaticPairs:
		w.problem(v, fmt.Sprintf("%d pairs", len(pairs)), fmt.Sprintf("at most %d", maxStaticPairs))
	case size > maxContextBytes:
		w.problem(v, fmt.Sprintf("%d bytes, with the key's name and 8 for each pair", size), fmt.Sprintf("at most %d bytes", maxContextBytes))
	}
	return pairs
}

// keyCache reads a key's cache times into k.
func (w *walker) keyCache(v value, k *Key) {
	b := w.block(v, "keys.NAME.cache")
	b.duration("ttl", &k.TTL, time.Second, maxTime)
	k.MaxStale = max(DefaultMaxStale, k.TTL)
	b.duration("max_stale", &k.MaxStale, 0, maxTime)
	ttlTold := w.told[b.fields["ttl"].node]
	if at, ok := b.fields["max_stale"]; ok && k.MaxStale != 0 && k.MaxStale < k.TTL && !ttlTold {
		w.problem(at, fmt.Sprintf("%s, which is less than ttl (%s)", quote(at.node.Value), units(k.TTL)), "at least ttl, since it counts from the same moment, or 0s to serve nothing past ttl")
	}
	k.RefreshAfter = k.TTL / 4 * 3
	b.duration("refresh_after", &k.RefreshAfter, 0, maxTime)
	if at, ok := b.fields["refresh_after"]; ok && k.RefreshAfter >= k.TTL && !ttlTold && !w.told[at.node] {
		w.problem(at, fmt.Sprintf("%s, which is not less than ttl (%s)", quote(at.node.Value), units(k.TTL)), "less than ttl, or 0s to refresh nothing ahead")
	}
	b.duration("negative_ttl", &k.NegativeTTL, 0, maxNegativeTTL)
}

// maxNegativeTTL is how long a refusal may be remembered: what was allowed again
// in a KMS is not to be missed for longer.
const maxNegativeTTL = 5 * time.Minute

// aliases reads other names of key.
func (w *walker) aliases(v value, key string, names map[string]string) []string {
	var aliases []string
	for _, item := range w.items(v) {
		alias, ok := w.text(item, "an alias: "+nameWant)
		if !ok {
			continue
		}
		if !nameForm.MatchString(alias) {
			w.problem(item, quote(alias), "an alias: "+nameWant)
			continue
		}
		if owner, taken := names[alias]; taken {
			w.problem(item, fmt.Sprintf("%s, which is already a name of key %s", quote(alias), owner), "a name that no key has")
			continue
		}
		names[alias] = key
		aliases = append(aliases, alias)
	}
	return aliases
}

// keyNames are the names under keys, and the aliases with the key they belong
// to, as far as they can be read.
func keyNames(keys []Key) (names []string, aliases map[string]string) {
	aliases = map[string]string{}
	for _, k := range keys {
		names = append(names, k.Name)
		for _, a := range k.Aliases {
			aliases[a] = k.Name
		}
	}
	return names, aliases
}

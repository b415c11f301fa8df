package envelope

import (
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// keyPair is the name of the pair by which every wrap is bound to its key.
const keyPair = "keybroker:key"

// Pairs are names and values of text that something is bound to: a caller's
// context, a key's static pairs, what a KMS wrap is bound to. They have exactly
// one encoding, so equal pairs are equal bytes.
//
// Pairs are immutable, comparable with == and safe for concurrent use. The zero
// value is no pairs at all; none and empty are the same.
type Pairs struct {
	// canonical is the canonical encoding, or "" for no pairs, so that == is
	// equality of the pairs.
	canonical string
}

// NewPairs returns the pairs of m and keeps nothing of it. Names and values may
// be any valid UTF-8, empty too, and are taken byte for byte: nothing is
// normalised.
//
// The error wraps ErrPairs: more than MaxContextPairs pairs, a canonical
// encoding longer than MaxContextBytes, or text that is not valid UTF-8. The
// limits are checked before anything is sorted or copied.
func NewPairs(m map[string]string) (Pairs, error) {
	if len(m) > MaxContextPairs {
		return Pairs{}, fmt.Errorf("%w: %d pairs, at most %d are allowed", ErrPairs, len(m), MaxContextPairs)
	}
	size := 4
	for name, value := range m {
		size += 8 + len(name) + len(value)
	}
	if size > MaxContextBytes {
		return Pairs{}, fmt.Errorf("%w: %d bytes with 8 for each pair and 4 for all, at most %d are allowed", ErrPairs, size, MaxContextBytes)
	}
	for name, value := range m {
		if !utf8.ValidString(name) {
			return Pairs{}, fmt.Errorf("%w: the name %.64q is not valid UTF-8", ErrPairs, name)
		}
		if !utf8.ValidString(value) {
			return Pairs{}, fmt.Errorf("%w: the value of %.64q is not valid UTF-8", ErrPairs, name)
		}
	}
	return encodePairs(m, size), nil
}

// AssociatedPairs returns what every KMS wrap of a key is bound to:
// {"keybroker:key": keyName} and the key's static pairs.
//
// The error wraps ErrPairs: keyName is not a ValidKeyName; a static pair's name
// begins with "keybroker:" or "aws:" (the one could hide the key's name, the
// other is what AWS services name their own pairs); or the result is over the
// limits of NewPairs.
func AssociatedPairs(keyName string, static Pairs) (Pairs, error) {
	if !ValidKeyName(keyName) {
		return Pairs{}, fmt.Errorf("%w: %.64q is not a key name ([a-z0-9][a-z0-9._-]{0,63})", ErrPairs, keyName)
	}
	if err := checkStatic(keyName, static); err != nil {
		return Pairs{}, fmt.Errorf("%w: %v", ErrPairs, err)
	}
	return associate(keyName, static), nil
}

// checkStatic tells why static cannot be the static pairs of keyName; if it
// returns nil, associate cannot go over a limit.
func checkStatic(keyName string, static Pairs) error {
	if static.Len() >= MaxContextPairs {
		return fmt.Errorf("%d static pairs, at most %d are allowed", static.Len(), MaxContextPairs-1)
	}
	if n := static.size() + 8 + len(keyPair) + len(keyName); n > MaxContextBytes {
		return fmt.Errorf("the static pairs and the key's name take %d bytes, at most %d are allowed", n, MaxContextBytes)
	}
	for name := range static.all() {
		for _, prefix := range []string{"keybroker:", "aws:"} {
			if strings.HasPrefix(name, prefix) {
				return fmt.Errorf("static pair %.64q: names that begin with %q are reserved", name, prefix)
			}
		}
	}
	return nil
}

func associate(keyName string, static Pairs) Pairs {
	m := static.Map()
	m[keyPair] = keyName
	return encodePairs(m, static.size()+8+len(keyPair)+len(keyName))
}

// Canonical returns the canonical encoding: the number of pairs (uint32), then
// for each pair, sorted by the bytes of its name, the name and the value, each
// after its length in bytes (uint32, big endian). No pairs are four zero bytes.
// The caller owns the result.
func (p Pairs) Canonical() []byte {
	return p.appendCanonical(make([]byte, 0, p.size()))
}

func (p Pairs) appendCanonical(b []byte) []byte {
	if p.canonical == "" {
		return append(b, 0, 0, 0, 0)
	}
	return append(b, p.canonical...)
}

// size is the length of the canonical encoding.
func (p Pairs) size() int { return max(4, len(p.canonical)) }

// Len returns the number of pairs.
func (p Pairs) Len() int {
	if p.canonical == "" {
		return 0
	}
	c := cursor{rest: p.canonical}
	return int(c.uint32())
}

// Equal tells whether p and q are the same pairs.
func (p Pairs) Equal(q Pairs) bool { return p == q }

// Map returns the pairs as a map of its own, never nil.
func (p Pairs) Map() map[string]string {
	m := make(map[string]string, p.Len()+1)
	maps.Insert(m, p.all())
	return m
}

func (p Pairs) all() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		if p.canonical == "" {
			return
		}
		c := cursor{rest: p.canonical}
		c.uint32()
		for len(c.rest) > 0 {
			name := c.text32()
			if !yield(name, c.text32()) {
				return
			}
		}
	}
}

// encodePairs encodes m, which is within the limits and whose canonical
// encoding takes size bytes.
func encodePairs(m map[string]string, size int) Pairs {
	if len(m) == 0 {
		return Pairs{}
	}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.Grow(size)
	var n [4]byte
	put := func(length int) {
		binary.BigEndian.PutUint32(n[:], uint32(length))
		b.Write(n[:])
	}
	put(len(m))
	for _, name := range names {
		value := m[name]
		put(len(name))
		b.WriteString(name)
		put(len(value))
		b.WriteString(value)
	}
	return Pairs{canonical: b.String()}
}

// decodePairs reads canonical pairs and refuses every other encoding of them.
// The result aliases the cursor's bytes.
func decodePairs(c *cursor) Pairs {
	whole := c.rest
	count := c.uint32()
	if count > MaxContextPairs {
		c.fail("%d pairs, at most %d are allowed", count, MaxContextPairs)
		return Pairs{}
	}
	last := ""
	for i := range count {
		name, value := c.text32(), c.text32()
		switch {
		case c.err != nil:
			return Pairs{}
		case i > 0 && name <= last:
			c.fail("pairs are not sorted by name, each name once")
			return Pairs{}
		case !utf8.ValidString(name) || !utf8.ValidString(value):
			c.fail("a pair is not valid UTF-8")
			return Pairs{}
		}
		last = name
	}
	if count == 0 {
		return Pairs{}
	}
	return Pairs{canonical: whole[:len(whole)-len(c.rest)]}
}

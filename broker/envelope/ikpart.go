package envelope

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
)

// commitDomain separates the commitment from every other HMAC under an IK.
const commitDomain = "keybroker/v1/ik"

// IKPart is the first part of an envelope, equal for all envelopes of one
// intermediate key (IK): the key's name, its static pairs, the recipients with
// their wraps of the IK, and a commitment to the IK. It holds no secret.
//
// It is immutable and safe for concurrent use. Nothing that it returns lets a
// caller change it.
type IKPart struct {
	raw        string // the whole part, commitment included
	id         [sha256.Size]byte
	keyName    string // keyName and pairs alias raw
	pairs      Pairs
	recipients string // recipient count and recipients: alias raw
}

// NewIKPart makes the IK part of a new intermediate key. The recipients keep
// their order; it copies what it keeps. ik must be IKSize bytes from a
// cryptographic random source, used for no other IK part, and wrapped by every
// one of the recipients for AssociatedPairs(keyName, pairs); it is neither kept
// nor changed.
//
// It refuses whatever Parse would refuse: an invalid key name, reserved or too
// many static pairs, no or too many recipients, a recipient over its limits, or
// a part longer than MaxIKPart. The error names it and holds no key bytes.
func NewIKPart(keyName string, pairs Pairs, recipients []Recipient, ik []byte) (*IKPart, error) {
	if len(ik) != IKSize {
		return nil, fmt.Errorf("envelope: the intermediate key is %d bytes, want %d", len(ik), IKSize)
	}
	if !ValidKeyName(keyName) {
		return nil, fmt.Errorf("envelope: %.64q is not a key name ([a-z0-9][a-z0-9._-]{0,63})", keyName)
	}
	if err := checkStatic(keyName, pairs); err != nil {
		return nil, fmt.Errorf("envelope: key %q: %v", keyName, err)
	}
	if n := len(recipients); n == 0 || n > MaxRecipients {
		return nil, fmt.Errorf("envelope: %d recipients, not 1 to %d", n, MaxRecipients)
	}
	size := len(Magic) + 1 + 1 + len(keyName) + pairs.size() + 1 + commitmentSize
	for i := range recipients {
		r := &recipients[i]
		if err := r.check(len(r.Wrapped)); err != nil {
			return nil, fmt.Errorf("envelope: recipient %d (%.32q): %v", i+1, r.Provider, err)
		}
		size += 1 + len(r.Provider) + 2 + len(r.Reference) + 1 + len(r.Version) + 1 + 2 + len(r.Wrapped)
	}
	if size > MaxIKPart {
		return nil, fmt.Errorf("envelope: key %q, its static pairs and %d recipients take %d bytes, at most %d are allowed: use fewer recipients or shorter pairs",
			keyName, len(recipients), size, MaxIKPart)
	}

	b := make([]byte, 0, size)
	b = append(b, Magic...)
	b = append(b, formatVersion, byte(len(keyName)))
	b = append(b, keyName...)
	b = pairs.appendCanonical(b)
	b = append(b, byte(len(recipients)))
	for i := range recipients {
		b = recipients[i].append(b)
	}
	commitment := commit(ik, b)
	b = append(b, commitment[:]...)

	// Reading it back holds writer and reader to the same rules.
	var p IKPart
	c := cursor{rest: string(b)}
	p.decode(&c)
	if c.err != nil {
		return nil, fmt.Errorf("envelope: key %q: %v", keyName, c.err)
	}
	p.id = sha256.Sum256(b)
	return &p, nil
}

// ParseIKPart reads the bytes of an IK part alone, which Encoded has returned. It
// copies b once, after its length has been checked, and neither keeps nor changes
// it.
//
// It holds what Parse holds: one encoding only, every limit before anything is
// hashed. It verifies nothing, so what the part says is a claim until Verify has
// succeeded. The error wraps ErrInvalid; it is a *VersionError if b is of a format
// version that is not known here.
func ParseIKPart(b []byte) (*IKPart, error) {
	c := cursor{}
	if len(b) > MaxIKPart {
		c.fail("the IK part is %d bytes, at most %d are allowed", len(b), MaxIKPart)
		return nil, c.err
	}
	c.rest = string(b)
	p := new(IKPart)
	p.decode(&c)
	if len(c.rest) > 0 {
		c.fail("%d bytes follow its end", len(c.rest))
	}
	if c.err != nil {
		return nil, c.err
	}
	p.id = sha256.Sum256(b)
	return p, nil
}

// Encoded returns the part's bytes, commitment included: what every envelope of
// its intermediate key begins with, at most MaxIKPart.
func (p *IKPart) Encoded() string { return p.raw }

// decode reads an IK part and holds all its limits. It leaves id to the caller,
// so that nothing is hashed before the whole envelope has been checked.
func (p *IKPart) decode(c *cursor) {
	whole := c.rest
	if c.take(uint32(len(Magic))) != Magic {
		c.fail("it does not begin with %q, so keybroker did not make it", Magic)
		return
	}
	if v := c.uint8(); v != formatVersion && c.err == nil {
		c.err, c.rest = &VersionError{Version: v}, ""
		return
	}
	p.keyName = c.text8()
	if c.err == nil && !ValidKeyName(p.keyName) {
		c.fail("the key name is not [a-z0-9][a-z0-9._-]{0,63}")
		return
	}
	p.pairs = decodePairs(c)
	if c.err == nil {
		if err := checkStatic(p.keyName, p.pairs); err != nil {
			c.fail("%v", err)
			return
		}
	}
	p.recipients = c.rest
	count := c.uint8()
	if c.err == nil && (count == 0 || count > MaxRecipients) {
		c.fail("%d recipients, not 1 to %d", count, MaxRecipients)
		return
	}
	for i := range count {
		r, wrapped := decodeRecipient(c)
		if c.err != nil {
			return
		}
		if err := r.check(len(wrapped)); err != nil {
			c.fail("recipient %d: %v", i+1, err)
			return
		}
	}
	p.recipients = p.recipients[:len(p.recipients)-len(c.rest)]
	c.take(commitmentSize)
	p.raw = whole[:len(whole)-len(c.rest)]
	if len(p.raw) > MaxIKPart {
		c.fail("the IK part is %d bytes, at most %d are allowed", len(p.raw), MaxIKPart)
	}
}

// ID returns the SHA-256 of the part's bytes: whatever is remembered about an
// intermediate key is kept under it. It was computed when the part was made.
func (p *IKPart) ID() [sha256.Size]byte { return p.id }

// KeyName returns the name of the key, a ValidKeyName.
func (p *IKPart) KeyName() string { return p.keyName }

// Pairs returns the static pairs that the key had when the IK was made.
func (p *IKPart) Pairs() Pairs { return p.pairs }

// Associated returns what the recipients' wraps are bound to:
// AssociatedPairs of KeyName and Pairs.
func (p *IKPart) Associated() Pairs { return associate(p.keyName, p.pairs) }

// Recipients returns the recipients in the envelope's order, 1 to MaxRecipients
// of them. Each call returns a copy that the caller owns.
func (p *IKPart) Recipients() []Recipient {
	c := cursor{rest: p.recipients}
	recipients := make([]Recipient, c.uint8())
	for i := range recipients {
		r, wrapped := decodeRecipient(&c)
		r.Wrapped = []byte(wrapped)
		recipients[i] = r
	}
	return recipients
}

// Verify tells whether ik is the intermediate key that the part was made with:
// nil, or ErrCommitment, also if ik is not IKSize bytes. It compares in constant
// time. An IK that a KMS has returned must pass before it is used, shared or
// cached: only then do the part's claims hold, and only then does an envelope
// open to one plaintext at most.
func (p *IKPart) Verify(ik []byte) error {
	if len(ik) != IKSize {
		return ErrCommitment
	}
	body := []byte(p.raw)
	want := body[len(body)-commitmentSize:]
	got := commit(ik, body[:len(body)-commitmentSize])
	if !hmac.Equal(got[:], want) {
		return ErrCommitment
	}
	return nil
}

// commit returns HMAC-SHA-256(ik, commitDomain || body).
func commit(ik, body []byte) (sum [commitmentSize]byte) {
	shield(func() {
		mac := hmac.New(sha256.New, ik)
		mac.Write([]byte(commitDomain))
		mac.Write(body)
		mac.Sum(sum[:0])
	})
	return sum
}

package envelope_test

// This file reads and writes envelopes from what docs/envelope.md says and
// nothing else. It shares no code with the package, so that where the two agree,
// the document is enough to write an unwrap tool from.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// book is an envelope as the document describes it. Its fields can hold what no
// envelope may hold, so that tests can write such ones.
type book struct {
	magic      string
	version    byte
	keyName    string
	pairs      []bookPair
	recipients []bookRecipient
	commitment []byte
	createdAt  uint64
	salt       []byte
	size       uint16 // what the length field says
	sealed     []byte // nonce, ciphertext, tag
}

type bookPair struct{ name, value string }

type bookRecipient struct {
	provider, reference, version string
	binding                      byte
	wrapped                      []byte
}

func (k book) ikBody() []byte {
	b := []byte(k.magic)
	b = append(b, k.version, byte(len(k.keyName)))
	b = append(b, k.keyName...)
	b = append(b, bookCanonical(k.pairs)...)
	b = append(b, byte(len(k.recipients)))
	for _, r := range k.recipients {
		b = append(b, byte(len(r.provider)))
		b = append(b, r.provider...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.reference)))
		b = append(b, r.reference...)
		b = append(b, byte(len(r.version)))
		b = append(b, r.version...)
		b = append(b, r.binding)
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.wrapped)))
		b = append(b, r.wrapped...)
	}
	return b
}

func (k book) ikPart() []byte { return append(k.ikBody(), k.commitment...) }

func (k book) header() []byte {
	b := binary.BigEndian.AppendUint64(k.ikPart(), k.createdAt)
	return append(b, k.salt...)
}

func (k book) bytes() []byte {
	b := binary.BigEndian.AppendUint16(k.header(), k.size)
	return append(b, k.sealed...)
}

// bookCanonical encodes pairs in the order given.
func bookCanonical(pairs []bookPair) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(pairs)))
	for _, p := range pairs {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p.name)))
		b = append(b, p.name...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(p.value)))
		b = append(b, p.value...)
	}
	return b
}

// bookPairs are m's pairs in canonical order.
func bookPairs(m map[string]string) []bookPair {
	var pairs []bookPair
	for name, value := range m {
		pairs = append(pairs, bookPair{name, value})
	}
	slices.SortFunc(pairs, func(a, b bookPair) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	return pairs
}

var (
	bookKeyName  = regexp.MustCompile(`\A[a-z0-9][a-z0-9._-]{0,63}\z`)
	bookProvider = regexp.MustCompile(`\A[a-z0-9-]{1,32}\z`)
)

// bookRead reads an envelope: steps 1 to 4 of "Unwrapping" in the document.
func bookRead(b []byte) (k book, err error) {
	// Reading past the end panics; every other rule is an error of its own.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cut short: %v", r)
		}
	}()
	if len(b) > 6144 {
		return k, errors.New("over 6144 bytes")
	}
	rest := b
	next := func(n int) []byte {
		field := rest[:n:n]
		rest = rest[n:]
		return field
	}
	integer := func(n int) (v int) {
		for _, c := range next(n) {
			v = v<<8 | int(c)
		}
		return v
	}

	if k.magic = string(next(4)); k.magic != "KBWK" {
		return k, errors.New("magic")
	}
	if k.version = next(1)[0]; k.version != 1 {
		return k, errors.New("version")
	}
	if k.keyName = string(next(integer(1))); !bookKeyName.MatchString(k.keyName) {
		return k, errors.New("key name")
	}
	pairs := integer(4)
	if pairs > 63 {
		return k, errors.New("static pairs")
	}
	for range pairs {
		p := bookPair{string(next(integer(4))), string(next(integer(4)))}
		if len(k.pairs) > 0 && k.pairs[len(k.pairs)-1].name >= p.name {
			return k, errors.New("order of static pairs")
		}
		if !utf8.ValidString(p.name) || !utf8.ValidString(p.value) {
			return k, errors.New("UTF-8 of static pairs")
		}
		if strings.HasPrefix(p.name, "keybroker:") || strings.HasPrefix(p.name, "aws:") {
			return k, errors.New("reserved static pair")
		}
		k.pairs = append(k.pairs, p)
	}
	recipients := integer(1)
	if recipients < 1 || recipients > 8 {
		return k, errors.New("recipients")
	}
	for range recipients {
		var r bookRecipient
		if r.provider = string(next(integer(1))); !bookProvider.MatchString(r.provider) {
			return k, errors.New("provider")
		}
		r.reference = string(next(integer(2)))
		if len(r.reference) < 1 || len(r.reference) > 512 || !utf8.ValidString(r.reference) {
			return k, errors.New("reference")
		}
		r.version = string(next(integer(1)))
		if len(r.version) > 64 || !utf8.ValidString(r.version) {
			return k, errors.New("key version")
		}
		if r.binding = next(1)[0]; r.binding < 1 || r.binding > 3 {
			return k, errors.New("binding")
		}
		r.wrapped = next(integer(2))
		if len(r.wrapped) < 1 || len(r.wrapped) > 1024 {
			return k, errors.New("wrapped IK")
		}
		k.recipients = append(k.recipients, r)
	}
	k.commitment = next(32)
	if len(b)-len(rest) > 6010 {
		return k, errors.New("IK part")
	}
	if k.createdAt = binary.BigEndian.Uint64(next(8)); k.createdAt > 253402300799 {
		return k, errors.New("creation time")
	}
	k.salt = next(32)
	size := integer(2)
	if size < 1 || size > 4096 {
		return k, errors.New("plaintext length")
	}
	k.size = uint16(size)
	k.sealed = next(12 + size + 16)
	if len(rest) != 0 {
		return k, errors.New("trailing bytes")
	}
	return k, nil
}

// bookHMAC is RFC 2104 with SHA-256, for keys of at most 64 bytes.
func bookHMAC(key []byte, message ...[]byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, m := range message {
		mac.Write(m)
	}
	return mac.Sum(nil)
}

// bookKey derives the key of one sealing: RFC 5869, one block.
func (k book) bookKey(ik []byte) []byte {
	sum := sha256.Sum256(k.header())
	prk := bookHMAC(k.salt, ik)
	return bookHMAC(prk, []byte("keybroker/v1/seal"), sum[:], []byte{1})
}

// bookCommitment is what the commitment has to be.
func (k book) bookCommitment(ik []byte) []byte {
	return bookHMAC(ik, []byte("keybroker/v1/ik"), k.ikBody())
}

// bookAEAD reads and writes nonce || ciphertext || tag. (It is the one GCM that
// Go allows in FIPS mode; the bytes are those of any AES-256-GCM.)
func bookAEAD(key []byte) cipher.AEAD {
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

func (k book) bookAdditional(context map[string]string) []byte {
	header := k.header()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(header)))
	b = append(b, header...)
	return append(b, bookCanonical(bookPairs(context))...)
}

var errBookCommitment = errors.New("commitment")

// bookOpen opens an envelope: steps 1 to 8 of "Unwrapping", with the IK given.
func bookOpen(b, ik []byte, context map[string]string) ([]byte, error) {
	k, err := bookRead(b)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(k.commitment, k.bookCommitment(ik)) {
		return nil, errBookCommitment
	}
	return bookAEAD(k.bookKey(ik)).Open(nil, nil, k.sealed, k.bookAdditional(context))
}

// bookSeal commits k to ik and seals plaintext.
func bookSeal(k book, ik, plaintext []byte, context map[string]string) book {
	k.commitment = k.bookCommitment(ik)
	k.size = uint16(len(plaintext))
	k.sealed = bookAEAD(k.bookKey(ik)).Seal(nil, nil, plaintext, k.bookAdditional(context))
	return k
}

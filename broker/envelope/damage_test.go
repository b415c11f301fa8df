package envelope_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/keybroker/keybroker/broker/envelope"
)

// refused fails the test unless b, which is not what was sealed, is refused in
// one of the ways that are known.
func refused(t *testing.T, what string, b, ik []byte, context envelope.Pairs) {
	t.Helper()
	plaintext, err := unwrap(b, ik, context)
	if known := errors.Is(err, envelope.ErrInvalid) || errors.Is(err, envelope.ErrCommitment) || errors.Is(err, envelope.ErrOpen); plaintext != nil || !known {
		t.Fatalf("%s: %x, %v", what, plaintext, err)
	}
}

func TestEveryDamageIsRefused(t *testing.T) {
	ik := testIK("damage")
	for name, static := range map[string]map[string]string{"plain": nil, "static pairs": {"cluster": "prod-1", "zone": ""}} {
		t.Run(name, func(t *testing.T) {
			context := mustPairs(t, map[string]string{"store": "7"})
			p := mustIKPart(t, "tikv", static, testRecipients(3), ik)
			b := mustSeal(t, p, ik, context.Map(), testPlaintext(32))
			if _, err := unwrap(b, ik, context); err != nil {
				t.Fatal(err)
			}
			damaged := slices.Clone(b)
			for i := range b {
				for bit := range 8 {
					damaged[i] ^= 1 << bit
					refused(t, "a flipped bit", damaged, ik, context)
					damaged[i] ^= 1 << bit
				}
			}
			for n := range b {
				if n > 0 {
					refused(t, "a cut off beginning", b[n:], ik, context)
				}
				refused(t, "a prefix", b[:n], ik, context)
				refused(t, "a removed byte", slices.Delete(slices.Clone(b), n, n+1), ik, context)
				// Doubling a byte is the insertion that is hardest to see.
				refused(t, "a doubled byte", slices.Insert(slices.Clone(b), n, b[n]), ik, context)
			}
			for _, more := range [][]byte{{0}, {0xff}, make([]byte, 16), b} {
				refused(t, "appended bytes", slices.Concat(b, more), ik, context)
			}
		})
	}
}

func TestContextIsBound(t *testing.T) {
	ik := testIK("context")
	p := mustIKPart(t, "tikv", map[string]string{"s": "t"}, testRecipients(1), ik)
	contexts := []map[string]string{
		nil,
		{"": ""},
		{"a": "bc"},
		{"ab": "c"},
		{"abc": ""},
		{"": "abc"},
		{"a": "b", "c": ""},
		{"a": "c", "b": ""},
		{"a": "BC"},
		{"A": "bc"},
		{"a": "bc "},
		{"a": "bc", "d": "e"},
		{"s": "t"},
		{"keybroker:key": "tikv"},
		{"\u00e9": "1"},
		{"e\u0301": "1"},
	}
	for i, sealed := range contexts {
		b := mustSeal(t, p, ik, sealed, testPlaintext(16))
		for j, opened := range contexts {
			plaintext, err := unwrap(b, ik, mustPairs(t, opened))
			switch {
			case i == j && (err != nil || !bytes.Equal(plaintext, testPlaintext(16))):
				t.Errorf("%q: %x, %v", sealed, plaintext, err)
			case i != j && (plaintext != nil || !errors.Is(err, envelope.ErrOpen)):
				t.Errorf("sealed with %q, opened with %q: %x, %v", sealed, opened, plaintext, err)
			}
		}
	}
}

// Parts of two envelopes that open by themselves make none that opens.
func TestNothingCanBeSwapped(t *testing.T) {
	ik, otherIK := testIK("swap"), testIK("other")
	static := map[string]string{"cluster": "prod-1"}
	read := func(p *envelope.IKPart, ik []byte, size int) book {
		t.Helper()
		k, err := bookRead(mustSeal(t, p, ik, nil, testPlaintext(size)))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	p := mustIKPart(t, "tikv", static, testRecipients(3), ik)
	one, two := read(p, ik, 32), read(p, ik, 32)
	// The same IK in a part of its own, as a broker must never do.
	twin := read(mustIKPart(t, "tikv", map[string]string{"cluster": "prod-2"}, testRecipients(2), ik), ik, 32)
	// The same key's next IK, and another key's.
	next := read(mustIKPart(t, "tikv", static, testRecipients(3), otherIK), otherIK, 32)
	other := read(mustIKPart(t, "pitr", static, testRecipients(3), otherIK), otherIK, 32)

	tests := []struct {
		name   string
		change func(k *book)
		want   error
	}{
		{"sealed part of the same IK", func(k *book) { k.sealed = two.sealed }, envelope.ErrOpen},
		{"salt of the same IK", func(k *book) { k.salt = two.salt }, envelope.ErrOpen},
		{"salt and sealed part of the same IK, another time", func(k *book) { k.salt, k.sealed, k.createdAt = two.salt, two.sealed, k.createdAt+1 }, envelope.ErrOpen},
		{"creation time", func(k *book) { k.createdAt-- }, envelope.ErrOpen},
		{"nonce of the same IK", func(k *book) { copy(k.sealed, two.sealed[:12]) }, envelope.ErrOpen},
		{"IK part of a twin", func(k *book) { k.pairs, k.recipients, k.commitment = twin.pairs, twin.recipients, twin.commitment }, envelope.ErrOpen},
		{"static pairs of a twin", func(k *book) { k.pairs = twin.pairs }, envelope.ErrCommitment},
		{"recipients of a twin", func(k *book) { k.recipients = twin.recipients }, envelope.ErrCommitment},
		{"commitment of a twin", func(k *book) { k.commitment = twin.commitment }, envelope.ErrCommitment},
		{"no static pairs", func(k *book) { k.pairs = nil }, envelope.ErrCommitment},
		{"one recipient less", func(k *book) { k.recipients = k.recipients[:2] }, envelope.ErrCommitment},
		{"one recipient twice", func(k *book) { k.recipients = append(k.recipients, k.recipients[0]) }, envelope.ErrCommitment},
		{"recipients in another order", func(k *book) { slices.Reverse(k.recipients) }, envelope.ErrCommitment},
		{"two wraps exchanged", func(k *book) {
			k.recipients[0].wrapped, k.recipients[1].wrapped = k.recipients[1].wrapped, k.recipients[0].wrapped
		}, envelope.ErrCommitment},
		{"another binding", func(k *book) { k.recipients[0].binding = 3 }, envelope.ErrCommitment},
		{"another reference", func(k *book) { k.recipients[0].reference += "x" }, envelope.ErrCommitment},
		{"bytes moved between fields", func(k *book) {
			r := &k.recipients[0]
			r.version = r.reference[len(r.reference)-1:] + r.version
			r.reference = r.reference[:len(r.reference)-1]
		}, envelope.ErrCommitment},
		{"renamed to another key", func(k *book) { k.keyName = "pitr" }, envelope.ErrCommitment},
		{"another key's, renamed to this one", func(k *book) { *k = other; k.keyName = "tikv" }, envelope.ErrCommitment},
		{"commitment of the next IK", func(k *book) { k.commitment = next.commitment }, envelope.ErrCommitment},
		{"IK part of the next IK", func(k *book) { k.commitment, k.recipients = next.commitment, next.recipients }, envelope.ErrCommitment},
		{"envelope part and sealed part of the next IK", func(k *book) { k.salt, k.sealed = next.salt, next.sealed }, envelope.ErrOpen},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			k, err := bookRead(one.bytes())
			if err != nil {
				t.Fatal(err)
			}
			k.sealed = slices.Clone(k.sealed)
			if plaintext, err := unwrap(k.bytes(), ik, envelope.Pairs{}); err != nil || plaintext == nil {
				t.Fatalf("before the swap: %v", err)
			}
			test.change(&k)
			plaintext, err := unwrap(k.bytes(), ik, envelope.Pairs{})
			if plaintext != nil || !errors.Is(err, test.want) {
				t.Fatalf("%x, %v, want %v", plaintext, err, test.want)
			}
		})
	}
}

// Whoever can make a KMS return an IK of his choice (a recipient that he runs)
// cannot give one envelope a second meaning: the commitment fits one IK only.
func TestAnotherIKIsRefusedBeforeItIsUsed(t *testing.T) {
	ik := testIK("a")
	p := mustIKPart(t, "tikv", nil, testRecipients(2), ik)
	b := mustSeal(t, p, ik, nil, testPlaintext(32))
	e, err := envelope.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	wrong := [][]byte{nil, {}, ik[:31], append(slices.Clone(ik), 0), make([]byte, 32), testIK("b")}
	for i := range 256 {
		flipped := slices.Clone(ik)
		flipped[i/8] ^= 1 << (i % 8)
		wrong = append(wrong, flipped)
	}
	for _, w := range wrong {
		if err := e.IK().Verify(w); !errors.Is(err, envelope.ErrCommitment) {
			t.Errorf("Verify with %d wrong bytes: %v", len(w), err)
		}
		if plaintext, err := e.Open(w, envelope.Pairs{}); plaintext != nil || !errors.Is(err, envelope.ErrOpen) {
			t.Errorf("Open with %d wrong bytes: %x, %v", len(w), plaintext, err)
		}
	}
}

package envelope_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

var sealedAt = time.Date(2026, 3, 4, 5, 6, 7, 891011121, time.FixedZone("", 3600))

// testIK is an intermediate key that differs for each name.
func testIK(name string) []byte {
	sum := sha256.Sum256([]byte("test IK " + name))
	return sum[:]
}

func testPlaintext(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

func mustPairs(t testing.TB, m map[string]string) envelope.Pairs {
	t.Helper()
	p, err := envelope.NewPairs(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// testRecipients returns n recipients that differ, with every binding among
// them from three on.
func testRecipients(n int) []envelope.Recipient {
	all := []envelope.Recipient{
		{Provider: "vault-transit", Reference: "vault-prod/ns1/transit/tikv", Version: "3", Binding: backends.BindingAAD, Wrapped: []byte("vault:v3:AAAA")},
		{Provider: "aws-kms", Reference: "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", Binding: backends.BindingDerived, Wrapped: bytes.Repeat([]byte{1, 2, 2, 0, 0x78}, 37)},
		{Provider: "file", Reference: "keyring-7/tikv", Version: "12", Binding: backends.BindingHash, Wrapped: bytes.Repeat([]byte{0xee}, 92)},
	}
	var r []envelope.Recipient
	for i := range n {
		next := all[i%len(all)]
		if i >= len(all) {
			next.Reference += fmt.Sprintf("/%d", i)
		}
		r = append(r, next)
	}
	return r
}

func mustIKPart(t testing.TB, keyName string, static map[string]string, recipients []envelope.Recipient, ik []byte) *envelope.IKPart {
	t.Helper()
	p, err := envelope.NewIKPart(keyName, mustPairs(t, static), recipients, ik)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustSeal(t testing.TB, p *envelope.IKPart, ik []byte, context map[string]string, plaintext []byte) []byte {
	t.Helper()
	b, err := p.Seal(ik, rand.Reader, sealedAt, mustPairs(t, context), plaintext)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unwrap does with b what the broker does once a KMS has returned ik.
func unwrap(b, ik []byte, context envelope.Pairs) ([]byte, error) {
	e, err := envelope.Parse(b)
	if err != nil {
		return nil, err
	}
	if err := e.IK().Verify(ik); err != nil {
		return nil, err
	}
	return e.Open(ik, context)
}

func TestSealThenOpen(t *testing.T) {
	ik := testIK("a")
	for _, recipients := range []int{1, 2, 3, 8} {
		for _, size := range []int{1, 16, 32, 64, 4096} {
			for _, static := range []map[string]string{nil, {"cluster": "prod-1", "région": "Île-de-France"}} {
				for _, context := range []map[string]string{nil, {"store": "7", "": ""}} {
					p := mustIKPart(t, "tikv", static, testRecipients(recipients), ik)
					plaintext := testPlaintext(size)
					b := mustSeal(t, p, ik, context, plaintext)

					got, err := unwrap(b, ik, mustPairs(t, context))
					if err != nil || !bytes.Equal(got, plaintext) {
						t.Fatalf("%d recipients, %d bytes: unwrap: %x, %v", recipients, size, got, err)
					}
					got, err = bookOpen(b, ik, context)
					if err != nil || !bytes.Equal(got, plaintext) {
						t.Fatalf("%d recipients, %d bytes: by the document: %x, %v", recipients, size, got, err)
					}
				}
			}
		}
	}
}

// What somebody else seals from the document opens here.
func TestOpenWhatTheDocumentSeals(t *testing.T) {
	ik := testIK("book")
	context := map[string]string{"b": "2", "a": "1"}
	k := validBook()
	b := bookSeal(k, ik, []byte("0123456789abcdef"), context).bytes()
	got, err := unwrap(b, ik, mustPairs(t, context))
	if err != nil || string(got) != "0123456789abcdef" {
		t.Fatalf("unwrap: %q, %v", got, err)
	}
}

func TestAccessors(t *testing.T) {
	ik := testIK("a")
	static := map[string]string{"cluster": "prod-1"}
	p := mustIKPart(t, "tikv.prod_1-a", static, testRecipients(3), ik)
	b := mustSeal(t, p, ik, nil, testPlaintext(32))
	e, err := envelope.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.CreatedAt(), time.Date(2026, 3, 4, 4, 6, 7, 0, time.UTC); got != want {
		t.Errorf("CreatedAt: %v, want %v", got, want)
	}
	if got := e.PlaintextSize(); got != 32 {
		t.Errorf("PlaintextSize: %d", got)
	}
	for name, part := range map[string]*envelope.IKPart{"made": p, "parsed": e.IK()} {
		if got := part.KeyName(); got != "tikv.prod_1-a" {
			t.Errorf("%s: KeyName: %q", name, got)
		}
		if got := part.Pairs(); got != mustPairs(t, static) {
			t.Errorf("%s: Pairs: %v", name, got.Map())
		}
		if got, want := part.Associated(), mustPairs(t, map[string]string{"keybroker:key": "tikv.prod_1-a", "cluster": "prod-1"}); got != want {
			t.Errorf("%s: Associated: %v", name, got.Map())
		}
		if got, want := fmt.Sprint(part.Recipients()), fmt.Sprint(testRecipients(3)); got != want {
			t.Errorf("%s: Recipients:\n%s, want\n%s", name, got, want)
		}
		k, err := bookRead(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := part.ID(), sha256.Sum256(k.ikPart()); got != want {
			t.Errorf("%s: ID: %x, want %x", name, got, want)
		}
	}
}

// Nothing that goes in or comes out is a handle on what is kept.
func TestBytesAreNotShared(t *testing.T) {
	ik := testIK("a")
	recipients := testRecipients(2)
	static := map[string]string{"cluster": "prod-1"}
	p := mustIKPart(t, "tikv", static, recipients, ik)
	recipients[0].Wrapped[0] ^= 1
	defer func() { recipients[0].Wrapped[0] ^= 1 }()
	static["cluster"] = "other"
	p.Recipients()[0].Wrapped[0] ^= 1
	p.Pairs().Map()["cluster"] = "other"
	clear(p.Pairs().Canonical())

	b := mustSeal(t, p, ik, nil, testPlaintext(32))
	e, err := envelope.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	id := e.IK().ID()
	clear(b)
	e.IK().Recipients()[0].Wrapped[0] ^= 1
	if err := e.IK().Verify(ik); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Open(ik, envelope.Pairs{}); err != nil || !bytes.Equal(got, testPlaintext(32)) {
		t.Fatalf("Open: %x, %v", got, err)
	}
	if e.IK().ID() != id || p.ID() != id {
		t.Fatal("ID changed")
	}
	if ik := testIK("a"); p.Verify(ik) != nil {
		t.Fatal("Verify changed the key")
	}
}

func TestEnvelopesOfOneIK(t *testing.T) {
	ik := testIK("a")
	p := mustIKPart(t, "tikv", nil, testRecipients(1), ik)
	first := mustSeal(t, p, ik, nil, testPlaintext(32))
	second := mustSeal(t, p, ik, nil, testPlaintext(32))
	a, _ := bookRead(first)
	b, _ := bookRead(second)
	if !bytes.Equal(a.ikPart(), b.ikPart()) {
		t.Error("the IK parts differ")
	}
	if bytes.Equal(a.salt, b.salt) {
		t.Error("two envelopes have one salt")
	}
	if bytes.Equal(a.bookKey(ik), b.bookKey(ik)) {
		t.Error("two envelopes have one key")
	}
	// A random source that repeats itself still leaves the nonce.
	zero := bytes.NewReader(make([]byte, 64))
	x, err := p.Seal(ik, zero, sealedAt, envelope.Pairs{}, testPlaintext(32))
	if err != nil {
		t.Fatal(err)
	}
	y, err := p.Seal(ik, zero, sealedAt, envelope.Pairs{}, testPlaintext(32))
	if err != nil {
		t.Fatal(err)
	}
	kx, _ := bookRead(x)
	ky, _ := bookRead(y)
	if !bytes.Equal(kx.header(), ky.header()) {
		t.Fatal("the salt is not what random gave")
	}
	if bytes.Equal(kx.sealed[:12], ky.sealed[:12]) {
		t.Error("two sealings have one nonce")
	}
}

func TestSealRefuses(t *testing.T) {
	ik := testIK("a")
	p := mustIKPart(t, "tikv", nil, testRecipients(1), ik)
	errRandom := errors.New("no randomness today")
	tests := []struct {
		name      string
		ik        []byte
		random    *failing
		now       time.Time
		plaintext []byte
		want      error
		text      string
	}{
		{name: "another IK", ik: testIK("b"), want: envelope.ErrCommitment},
		{name: "short IK", ik: ik[:31], want: envelope.ErrCommitment},
		{name: "long IK", ik: append(testIK("a"), 0), want: envelope.ErrCommitment},
		{name: "no IK", ik: []byte{}, want: envelope.ErrCommitment},
		{name: "no plaintext", plaintext: []byte{}, want: envelope.ErrPlaintextSize},
		{name: "plaintext too long", plaintext: make([]byte, 4097), want: envelope.ErrPlaintextSize, text: "4097 bytes, not 1 to the 4096"},
		{name: "random fails", random: &failing{after: 31, err: errRandom}, want: errRandom},
		{name: "before 1970", now: time.Unix(-1, 0), text: "1969-12-31T23:59:59Z"},
		{name: "after 9999", now: time.Unix(253402300800, 0), text: "set the host's clock"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key, now, plaintext, random := ik, sealedAt, testPlaintext(32), &failing{after: 1000}
			if test.ik != nil {
				key = test.ik
			}
			if !test.now.IsZero() {
				now = test.now
			}
			if test.plaintext != nil {
				plaintext = test.plaintext
			}
			if test.random != nil {
				random = test.random
			}
			b, err := p.Seal(key, random, now, envelope.Pairs{}, plaintext)
			if err == nil || b != nil {
				t.Fatalf("Seal: %x, %v", b, err)
			}
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("error %v is not %v", err, test.want)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %q does not say %q", err, test.text)
			}
		})
	}
}

// failing gives after bytes one at a time, then err.
type failing struct {
	after int
	err   error
}

func (f *failing) Read(b []byte) (int, error) {
	if f.after == 0 {
		return 0, f.err
	}
	f.after--
	b[0] = byte(f.after)
	return 1, nil
}

func TestNewIKPartRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*partArgs)
		text   string
	}{
		{"no key name", func(a *partArgs) { a.keyName = "" }, "key name"},
		{"key name in capitals", func(a *partArgs) { a.keyName = "TiKV" }, `"TiKV" is not a key name`},
		{"reserved static pair", func(a *partArgs) { a.static = map[string]string{"keybroker:key": "other"} }, `"keybroker:key"`},
		{"AWS's static pair", func(a *partArgs) { a.static = map[string]string{"aws:s3:arn": "x"} }, `begin with "aws:"`},
		{"no recipients", func(a *partArgs) { a.recipients = nil }, "0 recipients"},
		{"nine recipients", func(a *partArgs) { a.recipients = testRecipients(9) }, "9 recipients"},
		{"no provider", func(a *partArgs) { a.recipients[1].Provider = "" }, "recipient 2"},
		{"provider in capitals", func(a *partArgs) { a.recipients[1].Provider = "AWS" }, "[a-z0-9-]"},
		{"provider that would wrap round its length", func(a *partArgs) { a.recipients[1].Provider = strings.Repeat("a", 257) }, "provider"},
		{"no reference", func(a *partArgs) { a.recipients[0].Reference = "" }, "reference is 0 bytes"},
		{"reference too long", func(a *partArgs) { a.recipients[0].Reference = strings.Repeat("a", 513) }, "513"},
		{"reference not UTF-8", func(a *partArgs) { a.recipients[0].Reference = "a\xff" }, "UTF-8"},
		{"version too long", func(a *partArgs) { a.recipients[0].Version = strings.Repeat("1", 65) }, "65"},
		{"version not UTF-8", func(a *partArgs) { a.recipients[0].Version = "\xed\xa0\x80" }, "UTF-8"},
		{"no binding", func(a *partArgs) { a.recipients[0].Binding = 0 }, "binding 0"},
		{"unknown binding", func(a *partArgs) { a.recipients[0].Binding = 4 }, "binding 4"},
		{"nothing wrapped", func(a *partArgs) { a.recipients[0].Wrapped = nil }, "0 bytes"},
		{"wrapped too long", func(a *partArgs) { a.recipients[0].Wrapped = make([]byte, 1025) }, "1025"},
		{"short IK", func(a *partArgs) { a.ik = a.ik[:31] }, "31 bytes, want 32"},
		{"long IK", func(a *partArgs) { a.ik = append(a.ik, 0) }, "33 bytes, want 32"},
		{"no IK", func(a *partArgs) { a.ik = nil }, "0 bytes, want 32"},
		{"in all too long", func(a *partArgs) {
			a.recipients = testRecipients(6)
			for i := range a.recipients {
				a.recipients[i].Wrapped = make([]byte, 1024)
			}
		}, "at most 6010 are allowed: use fewer recipients"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := partArgs{keyName: "tikv", recipients: testRecipients(2), ik: testIK("a")}
			test.change(&args)
			p, err := envelope.NewIKPart(args.keyName, mustPairs(t, args.static), args.recipients, args.ik)
			if err == nil || p != nil {
				t.Fatalf("NewIKPart: %v, %v", p, err)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %q does not say %q", err, test.text)
			}
			// Nothing was unwrapped, so nothing may be said of a wrapped key.
			if strings.Contains(err.Error(), envelope.ErrInvalid.Error()) {
				t.Errorf("error %q speaks of a wrapped key", err)
			}
		})
	}
}

type partArgs struct {
	keyName    string
	static     map[string]string
	recipients []envelope.Recipient
	ik         []byte
}

func TestValidKeyName(t *testing.T) {
	for _, name := range []string{"a", "0", "tikv", "tikv-prod.eu_1", "a--", "a..", strings.Repeat("z", 64)} {
		if !envelope.ValidKeyName(name) {
			t.Errorf("%q is refused", name)
		}
	}
	for _, name := range []string{"", ".", "-a", "_a", ".a", "A", "tikV", "a b", "a/b", "a\n", "é", "a\x00", "aé", "*", strings.Repeat("z", 65)} {
		if envelope.ValidKeyName(name) {
			t.Errorf("%q is taken", name)
		}
	}
	// Byte by byte, against the pattern in the document.
	for c := range 256 {
		for _, name := range []string{string([]byte{byte(c)}), string([]byte{'a', byte(c)})} {
			if got, want := envelope.ValidKeyName(name), bookKeyName.MatchString(name); got != want {
				t.Errorf("%q: %t, want %t", name, got, want)
			}
		}
	}
}

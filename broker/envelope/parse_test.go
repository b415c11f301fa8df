package envelope_test

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/envelope"
)

// validBook is an envelope that Parse takes; nothing in it is sealed.
func validBook() book {
	return book{
		magic:   "KBWK",
		version: 1,
		keyName: "tikv",
		pairs:   []bookPair{{"cluster", "prod-1"}, {"zone", "a"}},
		recipients: []bookRecipient{
			{provider: "file", reference: "ring/tikv", version: "1", binding: 1, wrapped: make([]byte, 60)},
			{provider: "vault-transit", reference: "v/ns/transit/tikv", version: "", binding: 3, wrapped: make([]byte, 89)},
		},
		commitment: make([]byte, 32),
		createdAt:  1767323045,
		salt:       make([]byte, 32),
		size:       32,
		sealed:     make([]byte, 12+32+16),
	}
}

func manyPairs(n int) []bookPair {
	var pairs []bookPair
	for i := range n {
		pairs = append(pairs, bookPair{string(rune('a'+i/26)) + string(rune('a'+i%26)), ""})
	}
	return pairs
}

// sealedSize makes k's sealed part that of an n byte plaintext.
func (k *book) sealedSize(n int) {
	k.size = uint16(n)
	k.sealed = make([]byte, 12+n+16)
}

// padTo makes k's IK part n bytes long.
func (k *book) padTo(n int) {
	k.recipients = nil
	for n-len(k.ikPart()) > 1024+100 {
		k.recipients = append(k.recipients, bookRecipient{provider: "file", reference: "r", binding: 1, wrapped: make([]byte, 1024)})
	}
	k.recipients = append(k.recipients, bookRecipient{provider: "file", reference: "r", binding: 1})
	last := &k.recipients[len(k.recipients)-1]
	last.wrapped = make([]byte, min(1024, n-len(k.ikPart())))
	last.reference += strings.Repeat("r", n-len(k.ikPart()))
}

func TestParseHoldsEveryLimit(t *testing.T) {
	tests := []struct {
		name     string
		set      func(k *book, n int64)
		min, max int64
	}{
		{"key name", func(k *book, n int64) { k.keyName = strings.Repeat("k", int(n)) }, 1, 64},
		{"static pairs", func(k *book, n int64) { k.pairs = manyPairs(int(n)) }, 0, 63},
		{"recipients", func(k *book, n int64) {
			k.recipients = nil
			for range n {
				k.recipients = append(k.recipients, bookRecipient{provider: "file", reference: "r", binding: 2, wrapped: []byte{1}})
			}
		}, 1, 8},
		{"provider", func(k *book, n int64) { k.recipients[1].provider = strings.Repeat("p", int(n)) }, 1, 32},
		{"reference", func(k *book, n int64) { k.recipients[1].reference = strings.Repeat("r", int(n)) }, 1, 512},
		{"key version", func(k *book, n int64) { k.recipients[1].version = strings.Repeat("1", int(n)) }, 0, 64},
		{"binding", func(k *book, n int64) { k.recipients[1].binding = byte(n) }, 1, 3},
		{"wrapped IK", func(k *book, n int64) { k.recipients[1].wrapped = make([]byte, n) }, 1, 1024},
		{"creation time", func(k *book, n int64) { k.createdAt = uint64(n) }, 0, 253402300799},
		{"plaintext", func(k *book, n int64) { k.sealedSize(int(n)) }, 1, 4096},
		{"format version", func(k *book, n int64) { k.version = byte(n) }, 1, 1},
		{"IK part", func(k *book, n int64) { k.padTo(int(n)); k.sealedSize(1) }, 0, 6010},
		{"whole envelope", func(k *book, n int64) { k.padTo(6000); k.sealedSize(int(n) - 6000 - 70) }, 0, 6144},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			at := func(n int64) error {
				k := validBook()
				test.set(&k, n)
				_, err := envelope.Parse(k.bytes())
				return err
			}
			if err := at(test.max); err != nil {
				t.Errorf("%d: %v", test.max, err)
			}
			if err := at(test.max + 1); !errors.Is(err, envelope.ErrInvalid) {
				t.Errorf("%d: %v", test.max+1, err)
			}
			if test.min > 0 {
				if err := at(test.min); err != nil {
					t.Errorf("%d: %v", test.min, err)
				}
				if err := at(test.min - 1); !errors.Is(err, envelope.ErrInvalid) {
					t.Errorf("%d: %v", test.min-1, err)
				}
			}
		})
	}
}

// What is at every limit at once can be written, and read, too.
func TestWriteAtTheLimits(t *testing.T) {
	ik := testIK("a")
	recipients := testRecipients(5)
	for i := range recipients {
		recipients[i].Provider = strings.Repeat("p", envelope.MaxProvider)
		recipients[i].Version = strings.Repeat("v", envelope.MaxVersion)
		recipients[i].Wrapped = make([]byte, envelope.MaxWrappedIK)
		recipients[i].Reference = "r"
	}
	part := func(n int) (*envelope.IKPart, error) {
		recipients[0].Reference = strings.Repeat("r", n)
		return envelope.NewIKPart(strings.Repeat("k", envelope.MaxKeyName), envelope.Pairs{}, recipients, ik)
	}
	// 4 magic, 1 version, 65 name, 4 pairs, 1 count, 32 commitment; 1128 and a
	// reference each.
	room := envelope.MaxIKPart - (4 + 1 + 65 + 4 + 1 + 32) - 5*1127 - 4
	p, err := part(room)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part(room + 1); err == nil {
		t.Error("an IK part of one byte too many is written")
	}
	b := mustSeal(t, p, ik, nil, testPlaintext(64))
	if len(b) != envelope.MaxSize {
		t.Errorf("%d bytes, want %d", len(b), envelope.MaxSize)
	}
	if got, err := unwrap(b, ik, envelope.Pairs{}); err != nil || !bytes.Equal(got, testPlaintext(64)) {
		t.Errorf("unwrap: %x, %v", got, err)
	}
	if _, err := p.Seal(ik, &failing{after: 32}, sealedAt, envelope.Pairs{}, testPlaintext(65)); !errors.Is(err, envelope.ErrPlaintextSize) {
		t.Errorf("Seal over MaxSize: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(k *book)
		text   string
	}{
		{"an AWS blob", func(k *book) { k.magic = "\x01\x02\x02\x00" }, "keybroker did not make it"},
		{"key name in capitals", func(k *book) { k.keyName = "TIKV" }, "key name"},
		{"pairs not sorted", func(k *book) { k.pairs[0], k.pairs[1] = k.pairs[1], k.pairs[0] }, "sorted"},
		{"a pair twice", func(k *book) { k.pairs[1] = k.pairs[0] }, "each name once"},
		{"a name twice", func(k *book) { k.pairs[1].name = k.pairs[0].name }, "each name once"},
		{"name not UTF-8", func(k *book) { k.pairs[1].name = "\xff" }, "UTF-8"},
		{"value not UTF-8", func(k *book) { k.pairs[1].value = "\xc0\x80" }, "UTF-8"},
		{"key's own pair", func(k *book) { k.pairs = []bookPair{{"keybroker:key", "other"}} }, "reserved"},
		{"AWS's own pair", func(k *book) { k.pairs = []bookPair{{"aws:x", ""}} }, "reserved"},
		{"provider in capitals", func(k *book) { k.recipients[1].provider = "File" }, "recipient 2: the provider"},
		{"reference not UTF-8", func(k *book) { k.recipients[0].reference = "\x80" }, "recipient 1: the reference"},
		{"key version not UTF-8", func(k *book) { k.recipients[0].version = "\x80" }, "recipient 1: the key version"},
		{"sealed part too short", func(k *book) { k.sealed = k.sealed[1:] }, "cut short"},
		{"sealed part too long", func(k *book) { k.sealed = append(k.sealed, 0) }, "1 bytes follow"},
		{"greatest creation time", func(k *book) { k.createdAt = 1<<64 - 1 }, "9999"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			k := validBook()
			if _, err := envelope.Parse(k.bytes()); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			test.change(&k)
			e, err := envelope.Parse(k.bytes())
			if e != nil || !errors.Is(err, envelope.ErrInvalid) {
				t.Fatalf("Parse: %v, %v", e, err)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %q does not say %q", err, test.text)
			}
			if _, err := bookRead(k.bytes()); err == nil {
				t.Error("the document would take it")
			}
		})
	}
}

func TestUnknownVersionNamesWhatIsNeeded(t *testing.T) {
	k := validBook()
	k.version = 2
	_, err := envelope.Parse(k.bytes())
	var version *envelope.VersionError
	if !errors.As(err, &version) || version.Version != 2 || !errors.Is(err, envelope.ErrInvalid) {
		t.Fatalf("Parse: %v", err)
	}
	if want := "use a keybroker that reads version 2"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
}

// A length that an envelope claims must cost nothing.
func TestParseAllocatesByNoClaim(t *testing.T) {
	whole := validBook().bytes()
	claims := map[string][]byte{
		"nothing":         nil,
		"too long by far": make([]byte, 10<<20),
		"pairs":           append([]byte("KBWK\x01\x01k"), 0xff, 0xff, 0xff, 0xff),
		"a name":          append([]byte("KBWK\x01\x01k"), 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff),
		"a value":         append([]byte("KBWK\x01\x01k"), 0, 0, 0, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff),
		"recipients":      append([]byte("KBWK\x01\x01k"), 0, 0, 0, 0, 0xff),
		"a reference":     append([]byte("KBWK\x01\x01k"), 0, 0, 0, 0, 8, 1, 'p', 0xff, 0xff),
		"a valid one":     whole,
		"all but a byte":  whole[:len(whole)-1],
	}
	for name, b := range claims {
		t.Run(name, func(t *testing.T) {
			const runs = 100
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range runs {
				_, err := envelope.Parse(b)
				if (err == nil) != (name == "a valid one") {
					t.Fatal(err)
				}
			}
			runtime.ReadMemStats(&after)
			if each := (after.TotalAlloc - before.TotalAlloc) / runs; each > 2*envelope.MaxSize {
				t.Errorf("%d bytes allocated a call", each)
			}
		})
	}
}

func TestParseAllocatesTwice(t *testing.T) {
	for name, k := range map[string]book{"few": validBook(), "most": func() book {
		k := validBook()
		k.pairs = manyPairs(63)
		k.padTo(6010)
		return k
	}()} {
		b := k.bytes()
		if n := testing.AllocsPerRun(100, func() {
			if _, err := envelope.Parse(b); err != nil {
				t.Fatal(err)
			}
		}); n > 2 {
			t.Errorf("%s: %v allocations, want 2", name, n)
		}
	}
}

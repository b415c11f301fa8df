package tikv_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"testing"

	"github.com/keybroker/keybroker/internal/tikv"
)

// golden is a key.dict made with kvproto's Go code (commit 50b863799195): one data
// key of AES-256-CTR, encrypted with 32 times 0x42, the entries in another order
// than this package writes. It is never made anew.
const (
	golden = "01000000732ddbe100000000000000b9" +
		"0a110a0a6b6d735f76656e646f721203415753" +
		"0a140a066d6574686f64120a6165733235362d67636d" +
		"0a120a026976120ccafabd9672ca6c79a2fbdc22" +
		"0a250a126b6d735f636970686572746578745f6b6579120f00612077726170706564206b6579ff" +
		"0a1f0a0b6165735f67636d5f74616712100c938a1f17c7bd5e25a911a14e1e42ee" +
		"123210de8968182fcfa1e2bbde604f118c2c4883f37013fe54bba8cae2dc3fdd3d442ce3c9caa5e559bb06a4f49a3ba8c10ced44"
	goldenPlaintext = "0a2e0807122a0a20111111111111111111111111111111111111111111111111111111111111111110041880e2cfaa061007"
	// goldenFields are those of EncryptedContent that only log backups have:
	// master_key, iv, ciphertext_key.
	goldenFields = "1a071a050a03617773220c3031323334353637383961622a016b"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// file is content behind a header that fits it.
func file(content []byte) []byte {
	b := make([]byte, 16, 16+len(content))
	b[0] = 1
	binary.BigEndian.PutUint32(b[4:], crc32.ChecksumIEEE(content))
	binary.BigEndian.PutUint64(b[8:], uint64(len(content)))
	return append(b, content...)
}

func TestKeyDictOfTiKV(t *testing.T) {
	key := bytes.Repeat([]byte{0x42}, tikv.KeySize)
	b := unhex(t, golden)
	c, err := tikv.ParseKeyDict(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b) // nothing of it is kept
	vendor, blob, ok := c.KMS()
	if vendor != "AWS" || string(blob) != "\x00a wrapped key\xff" || !ok {
		t.Errorf("KMS() = %q, %q, %v", vendor, blob, ok)
	}
	plaintext, err := c.Open(key)
	if err != nil || hex.EncodeToString(plaintext) != goldenPlaintext {
		t.Errorf("Open() = %x, %v, want %s", plaintext, err, goldenPlaintext)
	}
	// Written again it is the same, with the entries in the order of their names.
	var want []byte
	for _, part := range []string{
		"0a1f0a0b6165735f67636d5f74616712100c938a1f17c7bd5e25a911a14e1e42ee",
		"0a120a026976120ccafabd9672ca6c79a2fbdc22",
		"0a250a126b6d735f636970686572746578745f6b6579120f00612077726170706564206b6579ff",
		"0a110a0a6b6d735f76656e646f721203415753",
		"0a140a066d6574686f64120a6165733235362d67636d",
		"123210de8968182fcfa1e2bbde604f118c2c4883f37013fe54bba8cae2dc3fdd3d442ce3c9caa5e559bb06a4f49a3ba8c10ced44",
	} {
		want = append(want, unhex(t, part)...)
	}
	if got := c.KeyDict(); !bytes.Equal(got, file(want)) {
		t.Errorf("KeyDict() = %x, want %x", got, file(want))
	}
	with, err := tikv.ParseKeyDict(file(append(unhex(t, goldenFields), want...)))
	if err != nil || !equal(c, with) {
		t.Errorf("with the fields of log backups before: %+v, %v", with, err)
	}
}

func equal(a, b tikv.Content) bool {
	return maps.EqualFunc(a.Metadata, b.Metadata, bytes.Equal) && bytes.Equal(a.Ciphertext, b.Ciphertext)
}

// TestOpenKnownAnswer has the vector of TiKV's own tests (master_key/mem.rs).
func TestOpenKnownAnswer(t *testing.T) {
	c := tikv.Content{
		Metadata: map[string][]byte{
			tikv.MetaMethod: []byte(tikv.MethodAES256GCM),
			tikv.MetaIV:     unhex(t, "cafabd9672ca6c79a2fbdc22"),
			tikv.MetaTag:    unhex(t, "79651c875f7941793d42bbd0af1cce7c"),
		},
		Ciphertext: unhex(t, "84e5f23f95648fa247cb28eef53abec947dbf05ac953734618111583840bd980"),
	}
	got, err := c.Open(unhex(t, "c3d99825f2181f4808acd2068eac7441a65bd428f14d2aab43fefc0129091139"))
	if want := "25431587e9ecffc7c37f8d6d52a9bc3310651d46fb0e3bad2726c8f2db653749"; err != nil || hex.EncodeToString(got) != want {
		t.Errorf("Open() = %x, %v, want %s", got, err, want)
	}
	if _, _, ok := c.KMS(); ok {
		t.Error("a content of no KMS has one")
	}
}

func TestSealAndOpen(t *testing.T) {
	key, blob := bytes.Repeat([]byte{7}, tikv.KeySize), []byte("blob")
	for _, size := range []int{0, 1, 1000} {
		plaintext := bytes.Repeat([]byte{9}, size)
		c, err := tikv.Seal(key, plaintext, blob)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Ciphertext) != size || len(c.Metadata) != 5 || len(c.Metadata[tikv.MetaIV]) != 12 || len(c.Metadata[tikv.MetaTag]) != 16 {
			t.Errorf("of %d bytes: %+v", size, c)
		}
		back, err := tikv.ParseKeyDict(c.KeyDict())
		if err != nil || !equal(back, c) {
			t.Fatalf("read back: %+v, %v", back, err)
		}
		if got, err := back.Open(key); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("Open() = %x, %v", got, err)
		}
	}
	if _, err := tikv.Seal(key, nil, nil); err == nil {
		t.Error("sealed without a wrapped key, without which nobody opens it")
	}
	if _, err := tikv.Seal(key[:31], nil, blob); err == nil {
		t.Error("sealed with a key of 31 bytes")
	}
}

func TestOpenRefuses(t *testing.T) {
	key := bytes.Repeat([]byte{7}, tikv.KeySize)
	change := func(name string, f func([]byte) []byte) func(*tikv.Content) {
		return func(c *tikv.Content) { c.Metadata[name] = f(c.Metadata[name]) }
	}
	for name, tt := range map[string]struct {
		change func(*tikv.Content)
		want   error
	}{
		"another tag":        {change(tikv.MetaTag, func(b []byte) []byte { b[0] ^= 1; return b }), tikv.ErrWrongKey},
		"another nonce":      {change(tikv.MetaIV, func(b []byte) []byte { b[0] ^= 1; return b }), tikv.ErrWrongKey},
		"another ciphertext": {func(c *tikv.Content) { c.Ciphertext[0] ^= 1 }, tikv.ErrWrongKey},
		"a nonce for CTR":    {change(tikv.MetaIV, func(b []byte) []byte { return append(b, 0, 0, 0, 0) }), tikv.ErrCorrupted},
		"no nonce":           {func(c *tikv.Content) { delete(c.Metadata, tikv.MetaIV) }, tikv.ErrCorrupted},
		"a tag cut short":    {change(tikv.MetaTag, func(b []byte) []byte { return b[:15] }), tikv.ErrCorrupted},
		"no tag":             {func(c *tikv.Content) { delete(c.Metadata, tikv.MetaTag) }, tikv.ErrCorrupted},
		"plaintext":          {change(tikv.MetaMethod, func([]byte) []byte { return []byte(tikv.MethodPlaintext) }), tikv.ErrCorrupted},
		"no method":          {func(c *tikv.Content) { delete(c.Metadata, tikv.MetaMethod) }, tikv.ErrCorrupted},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tikv.Seal(key, []byte("keys"), []byte("blob"))
			if err != nil {
				t.Fatal(err)
			}
			tt.change(&c)
			if got, err := c.Open(key); !errors.Is(err, tt.want) {
				t.Errorf("Open() = %x, %v, want %v", got, err, tt.want)
			}
		})
	}
	c, err := tikv.Seal(key, []byte("keys"), []byte("blob"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(bytes.Repeat([]byte{8}, tikv.KeySize)); !errors.Is(err, tikv.ErrWrongKey) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := c.Open(key[:16]); err == nil || errors.Is(err, tikv.ErrWrongKey) {
		t.Errorf("with a key of 16 bytes: %v", err)
	}
}

func TestParseKeyDictRefuses(t *testing.T) {
	good := unhex(t, golden)
	changed := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	entries := func(n int) []byte {
		var b []byte
		for i := range n {
			b = append(b, unhex(t, fmt.Sprintf("0a040a02%04x", 0x3030+i%10+i/10<<8))...)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":                  nil,
		"a header cut short":       good[:15],
		"the version of file.dict": changed(0, 2),
		"a changed checksum":       changed(4, 0),
		"a changed byte":           changed(40, 0),
		"a byte too few":           good[:len(good)-1],
		"a byte too many":          append(bytes.Clone(good), 0),
		"a length beyond":          changed(8, 0xff),
		"no protobuf":              file([]byte{0xff}),
		"a field cut short":        file(unhex(t, "12ff")),
		"content as a number":      file(unhex(t, "1001")),
		"an entry as a number":     file(unhex(t, "0801")),
		"a name that is not UTF-8": file(unhex(t, "0a030a01ff")),
		"too many entries":         file(entries(65)),
		"too long":                 make([]byte, tikv.MaxKeyDict+1),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tikv.ParseKeyDict(b)
			if !errors.Is(err, tikv.ErrCorrupted) {
				t.Errorf("ParseKeyDict() = %+v, %v, want an ErrCorrupted", c, err)
			}
		})
	}
	for name, b := range map[string][]byte{
		"nothing in it":     file(nil),
		"64 entries":        file(entries(64)),
		"an empty entry":    file(unhex(t, "0a00")),
		"an unknown number": file(unhex(t, "3001")),
		"reserved bytes":    changed(1, 9), // TiKV does not look at them
	} {
		if _, err := tikv.ParseKeyDict(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is there twice: the last one.
	c, err := tikv.ParseContent(unhex(t, "0a060a01611201310a060a0161120132"+"120131120132"))
	if err != nil || string(c.Metadata["a"]) != "2" || string(c.Ciphertext) != "2" {
		t.Errorf("twice: %+v, %v", c, err)
	}
}

// FuzzParseKeyDict holds that whatever is read is bounded by what there is, and is
// the same when it is written and read again.
func FuzzParseKeyDict(f *testing.F) {
	f.Add(unhex(f, golden))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := tikv.ParseKeyDict(b)
		if err != nil {
			if !errors.Is(err, tikv.ErrCorrupted) {
				t.Fatal(err)
			}
			// The checksum is in the way of most inputs.
			if len(b) <= 16 {
				return
			}
			if c, err = tikv.ParseContent(b[16:]); err != nil {
				return
			}
		}
		size := len(c.Ciphertext)
		for name, value := range c.Metadata {
			size += len(name) + len(value)
		}
		if size > len(b) {
			t.Fatalf("%d bytes of %d", size, len(b))
		}
		back, err := tikv.ParseKeyDict(c.KeyDict())
		if err != nil || !equal(back, c) {
			t.Fatalf("read back: %+v, %v, want %+v", back, err, c)
		}
		if plaintext, err := c.Open(make([]byte, tikv.KeySize)); err == nil && len(plaintext) != len(c.Ciphertext) {
			t.Fatalf("%d bytes opened to %d", len(c.Ciphertext), len(plaintext))
		}
	})
}

package file

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Whatever decode takes, encode gives back to the byte, and its checksum is that
// of its content, computed here anew. With mend, the checksum is put right before,
// so that the rules behind it are reached.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			b = mended(b)
		}
		before := bytes.Clone(b)
		k, err := decode(b)
		if !bytes.Equal(b, before) {
			t.Fatal("decode changed its argument")
		}
		if err != nil {
			if k != nil || !errors.Is(err, ErrDamaged) {
				t.Fatalf("%v, %v", k, err)
			}
			return
		}
		if again := k.encode(); !bytes.Equal(again, b) {
			t.Fatalf("encoded again:\n%s, was\n%s", again, b)
		}
		if !bytes.Equal(mended(b), b) {
			t.Fatal("its checksum is wrong")
		}
		// The standard library reads the same out of it.
		var d document
		if err := json.Unmarshal(b, &d); err != nil {
			t.Fatal(err)
		}
		if d.Keyring != k.id || d.Key != k.key || !ValidKey(k.key) || len(d.Versions) != len(k.versions) || len(k.versions) > MaxVersions {
			t.Fatalf("%v is read as %v", d, k)
		}
		for i, v := range d.Versions {
			got := k.versions[i]
			if got.number != i+1 || got.number != v.Version || got.state != v.State || !bytes.Equal(got.kek[:], v.KEK) || got.created.Format(time.RFC3339) != v.Created {
				t.Fatalf("version %d is read as %v", i+1, got)
			}
		}
		if newest := k.newest(); newest == nil || newest.state != Active {
			t.Fatal("no version wraps")
		}
	})
}

// mended is b with the checksum that it should have, if it has a place for it.
func mended(b []byte) []byte {
	const field, end = "\"sha256\": \"", "\"\n}\n"
	at := bytes.LastIndex(b, []byte(field))
	if at < 0 || !bytes.HasSuffix(b, []byte(end)) {
		return b
	}
	head := b[:at+len(field)]
	sum := sha256.Sum256(append(bytes.Clone(head), end...))
	return append([]byte(string(head)+hex.EncodeToString(sum[:])), end...)
}

func TestFuzzTargetHasSeeds(t *testing.T) {
	if seeds, err := os.ReadDir("testdata/fuzz/FuzzDecode"); err != nil || len(seeds) == 0 {
		t.Errorf("FuzzDecode has no seeds: %v", err)
	}
}

// testKeyring is a keyring of n versions.
func testKeyring(n int) *keyring {
	k := &keyring{id: strings.Repeat("0f", idSize), key: "main"}
	for i := range n {
		kek := [kekSize]byte(bytes.Repeat([]byte{byte(i + 200)}, kekSize))
		k.versions = append(k.versions, version{i + 1, time.Unix(1.8e9, 0).UTC(), Active, &kek})
	}
	return k
}

// The rules hold by themselves, also with the right checksum.
func TestDecodeRules(t *testing.T) {
	good := string(testKeyring(3).encode())
	if _, err := decode([]byte(good)); err != nil || string(mended([]byte(good))) != good {
		t.Fatalf("this is no test: %v", err)
	}
	kek := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for name, change := range map[string]struct{ old, new string }{
		"another format":        {"keybroker-keyring/1", "keybroker-keyring/2"},
		"a short id":            {strings.Repeat("0f", idSize), strings.Repeat("0f", idSize-1)},
		"an id in upper case":   {strings.Repeat("0f", idSize), strings.Repeat("0F", idSize)},
		"no id":                 {strings.Repeat("0f", idSize), ""},
		"no key name":           {`"main"`, `""`},
		"a path as key name":    {`"main"`, `"../main"`},
		"an escaped key name":   {`"main"`, `"m\u0061in"`},
		"a missing version":     {`"version": 2`, `"version": 3`},
		"version zero":          {`"version": 1,`, `"version": 0,`},
		"a number as text":      {`"version": 1,`, `"version": "1",`},
		"a number with a point": {`"version": 1,`, `"version": 1.0,`},
		"an unknown state":      {`"state": "active"`, `"state": "asleep"`},
		"no version active":     {`"state": "active"`, `"state": "retired"`},
		"a time in a zone":      {"Z\"", "+00:00\""},
		"a time with fractions": {"Z\"", ".5Z\""},
		"a day that is none":    {"2027-01-15", "2027-02-30"},
		"a short key":           {"yMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMg=", kek(31)},
		"a long key":            {"yMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMg=", kek(33)},
		"no key":                {"yMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMg=", ""},
		"a key with a tail bit": {"yMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMg=", "yMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMh="},
		"another field name":    {`"state"`, `"State"`},
		"a field twice":         {`"version": 1,`, "\"version\": 1,\n      \"version\": 1,"},
		"an unknown field":      {`"key": "main",`, "\"key\": \"main\",\n  \"more\": null,"},
		"other spacing":         {"\n  \"key\"", "\n   \"key\""},
		"a byte order mark":     {"{\n  \"format\"", "\ufeff{\n  \"format\""},
	} {
		b := mended([]byte(strings.ReplaceAll(good, change.old, change.new)))
		if string(b) == good {
			t.Errorf("%s: this is no test", name)
		}
		if _, err := decode(b); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decode((&keyring{id: strings.Repeat("0f", idSize), key: "main"}).encode()); !errors.Is(err, ErrDamaged) {
		t.Errorf("no versions: %v", err)
	}
	if _, err := decode(testKeyring(MaxVersions + 1).encode()); !errors.Is(err, ErrDamaged) {
		t.Errorf("too many versions: %v", err)
	}
}

// The greatest file there may be is far from the limit of what is read, and the
// encoder never moves its buffer, which would leave keys behind.
func TestVersionsAreBounded(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	content := testKeyring(MaxVersions - 1).encode()
	if _, err := Import(dir, content); err != nil {
		t.Fatal(err)
	}
	info, err := Rotate(dir, "main", rand.Reader, time.Now())
	if err != nil || len(info.Versions) != MaxVersions {
		t.Fatalf("%d versions, %v", len(info.Versions), err)
	}
	if _, err := Rotate(dir, "main", rand.Reader, time.Now()); err == nil {
		t.Error("one more version than there may be")
	}
	if stat, err := os.Stat(keyPath(dir, "main")); err != nil || stat.Size() > maxFile/2 {
		t.Errorf("%v, %v", stat, err)
	}
	k := testKeyring(MaxVersions)
	k.key = strings.Repeat("k", 64)
	for i := range k.versions {
		k.versions[i].state = Retired
	}
	if got, room := len(k.encode()), 512+256*MaxVersions; got > room {
		t.Errorf("%d bytes do not fit into %d", got, room)
	}
}

// If one of several files cannot be put into place, none is.
func TestAddTakesBack(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(keyPath(dir, "b"), []byte("there"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := add(dir, []keyFile{{"a", []byte("new")}, {"b", []byte("new")}, {"c", []byte("new")}})
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if b, err := os.ReadFile(keyPath(dir, "b")); err != nil || string(b) != "there" {
		t.Errorf("what was there is %q, %v", b, err)
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	k := testKeyring(1)
	secret := k.versions[0].kek[:]
	m := &masterKey{}
	for _, v := range []any{k, *k, k.versions, k.versions[0], m, *m} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			text := fmt.Sprintf(verb, v)
			for _, form := range []string{"200 200", "c8c8", "0xc8, ", string(secret)} {
				if strings.Contains(text, form) {
					t.Errorf("%T with %s prints its key", v, verb)
				}
			}
		}
	}
}

// Only what is said of the key may be a definite refusal: all else is an
// accident, and must not purge what is cached.
func TestClassOf(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want backends.Class
	}{
		"no such key":           {fmt.Errorf("/k: %w", errNoKey), backends.NotFound},
		"damaged":               {fmt.Errorf("/k: %w", ErrDamaged), backends.Internal},
		"not private":           {fmt.Errorf("x: %w", &PermissionError{"/k", "no"}), backends.Internal},
		"not allowed":           {&fs.PathError{Op: "open", Path: "/k", Err: syscall.EACCES}, backends.Internal},
		"no such system":        {errors.ErrUnsupported, backends.Internal},
		"no such directory":     {&fs.PathError{Op: "stat", Path: "/d", Err: syscall.ENOENT}, backends.Unavailable},
		"input/output error":    {&fs.PathError{Op: "read", Path: "/k", Err: syscall.EIO}, backends.Unavailable},
		"stale handle":          {&fs.PathError{Op: "read", Path: "/k", Err: syscall.ESTALE}, backends.Unavailable},
		"too many files":        {&fs.PathError{Op: "open", Path: "/k", Err: syscall.EMFILE}, backends.Unavailable},
		"something of the past": {errors.New("x"), backends.Unavailable},
	} {
		if got := classOf(test.err); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// What may not be used any more is not kept in memory either.
func TestKeysAreLetGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keyring")
	for _, key := range []string{"main", "other"} {
		if _, err := Create(dir, key, rand.Reader, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	k, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"main", "other"} {
		if err := k.Check(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(keyPath(dir, "main"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(t.Context(), "main"); err == nil {
		t.Fatal("others may read it")
	}
	if k.keys["main"] != nil || k.keys["other"] == nil {
		t.Errorf("it has %d keys", len(k.keys))
	}
	if err := k.Close(); err != nil || len(k.keys) != 0 {
		t.Errorf("closed, it has %d keys; %v", len(k.keys), err)
	}
}

// A disk that hangs holds no caller longer than he wants, and not more threads
// than there may be.
func TestHangingDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keyring")
	if _, err := Create(dir, "main", rand.Reader, time.Now()); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		k, err := New(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for range maxReaders {
			k.readers <- struct{}{} // a reader that does not come back
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = k.Check(ctx, "main")
		if backends.ClassOf(err) != backends.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while all hang: %v", err)
		}
		<-k.readers
		if err := k.Check(t.Context(), "main"); err != nil {
			t.Errorf("when one has come back: %v", err)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
}

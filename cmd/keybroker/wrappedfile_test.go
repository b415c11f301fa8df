package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

// aWrappedKey is well-formed; nothing opens it.
func aWrappedKey(t testing.TB) []byte {
	t.Helper()
	ik := bytes.Repeat([]byte{1}, envelope.IKSize)
	part, err := envelope.NewIKPart("tikv", envelope.Pairs{}, []envelope.Recipient{
		{Provider: "file", Reference: "0/tikv", Version: "1", Binding: backends.BindingAAD, Wrapped: []byte("w")},
	}, ik)
	if err != nil {
		t.Fatal(err)
	}
	b, err := part.Seal(ik, bytes.NewReader(bytes.Repeat([]byte{2}, 64)), time.Unix(0, 0), envelope.Pairs{}, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzWrappedFile: whatever is read as wrapped keys is written as the same ones,
// and, but for JSON, as the same bytes.
func FuzzWrappedFile(f *testing.F) {
	raw := aWrappedKey(f)
	text := []byte(base64.StdEncoding.EncodeToString(raw))
	object, err := json.Marshal(map[string]any{"wrapped_key": raw, "context": map[string]string{"a": "b"}, "more": []int{1}})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{raw, text, object, append(text, '\n'), bytes.Join([][]byte{text, object, text}, []byte("\n")), raw[:9], []byte("{}"), nil} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parseWrappedFile("f", bytes.Clone(text))
		if err != nil {
			return
		}
		var keys [][]byte
		plain := true
		for _, item := range file.items {
			keys = append(keys, item.wrapped)
			plain = plain && item.form != formJSON
		}
		if !couldBeWrapped(text) {
			t.Error("it would have been passed over")
		}
		again, err := file.text(keys)
		if err != nil {
			t.Fatal(err)
		}
		if plain && bytes.Equal(bytes.TrimSpace(text), text) && !bytes.ContainsAny(text, "\r\t ") && !bytes.Equal(again, text) {
			t.Errorf("%q is written as %q", text, again)
		}
		reread, err := parseWrappedFile("f", again)
		if err != nil || len(reread.items) != len(keys) {
			t.Fatalf("what was written is not read: %v", err)
		}
		for i, item := range reread.items {
			if !bytes.Equal(item.wrapped, keys[i]) {
				t.Errorf("item %d differs", i)
			}
		}
	})
}

func TestReplaceFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.key")
	if err := os.WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	was, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(path, []byte("new"), was); err != nil {
		t.Fatal(err)
	}
	now, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if now.Mode() != was.Mode() {
		t.Errorf("mode %v, want %v", now.Mode(), was.Mode())
	}
	if err := replaceFile(path, []byte("newer"), was); err == nil {
		t.Error("a file that is not what was read was replaced")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "new" {
		t.Errorf("%q, %v", text, err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*.key.*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
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
		file, err := parseWrappedFile(bytes.NewReader(text))
		if err != nil {
			return
		}
		var keys [][]byte
		plain := true
		for _, item := range file.items {
			keys = append(keys, item.wrapped)
			plain = plain && item.form != formJSON
		}
		if could, _ := couldBeWrapped(text); !could {
			t.Error("it would have been passed over")
		}
		again, err := file.text(keys)
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Count(bytes.TrimSpace(text), []byte("\n")) + 1 // or it is one key on several
		if plain && lines == len(keys) && bytes.Equal(bytes.TrimSpace(text), text) && !bytes.ContainsAny(text, "\r\t ") && !bytes.Equal(again, text) {
			t.Errorf("%q is written as %q", text, again)
		}
		reread, err := parseWrappedFile(bytes.NewReader(again))
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

// What holds wrapped keys must not pass for a file that holds none: whoever then
// deletes a master key loses them.
func TestParseWrappedFile(t *testing.T) {
	raw := aWrappedKey(t)
	text := base64.StdEncoding.EncodeToString(raw)
	cut := base64.StdEncoding.EncodeToString(raw[:len(raw)-1])
	object := func(member, value string) string { return `{"` + member + `": "` + value + `", "more": 1}` }
	for _, test := range []struct {
		name, text string
		items      int    // 0: it holds none
		damaged    string // what is said of a file that holds more
	}{
		{"one", text, 1, ""},
		{"one, as base64(1) writes it", text[:76] + "\n" + text[76:] + "\n", 1, ""},
		{"several", text + "\n" + object("wrapped_key", text) + "\n" + text, 3, ""},
		{"an object, as generate -o json writes it", "{\n  \"plaintext\": \"AA==\",\n  \"wrapped_key\": \"" + text + "\"\n}\n", 1, ""},
		{"an empty line at the end", text + "\n" + text + "\n\n", 0, "its line 3 is no wrapped key"},
		{"a comment in between", text + "\n# " + text + "\n", 0, "its line 2 is no wrapped key"},
		{"half a line at the end", text + "\n" + text[:50], 0, "its line 2 is no wrapped key"},
		{"a wrapped key that is cut", string(raw[:len(raw)-1]), 0, "it begins like a wrapped key and is none"},
		{"one in base64 that is cut", cut, 0, "its line 1 is no wrapped key"},
		{"one in an object that is cut", object("wrapped_key", cut), 0, "it begins like a wrapped key and is none"},
		{"one in an object on lines that is cut", "{\n\"wrapped_key\": \"" + cut + "\"}", 0, "it begins like a wrapped key and is none"},
		{"a line longer than any wrapped key", text + "\n" + strings.Repeat("A", maxWrappedText+1), 0, "its line 2 is no wrapped key"},
		{"data", "data", 0, ""},
		{"an object without one", object("wrapped", text), 0, ""},
		{"an object with another member of nearly that name", object("Wrapped_Key", text), 0, ""},
		{"an object longer than any with one", `{"wrapped_key": "` + text + `", "more": "` + strings.Repeat("A", maxWrappedText) + `"}`, 0, ""},
		{"nothing", "", 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			file, err := parseWrappedFile(strings.NewReader(test.text))
			var damaged *damagedError
			switch {
			case test.damaged != "":
				if !errors.As(err, &damaged) || errors.Is(err, errNoWrappedKey) || !strings.Contains(err.Error(), test.damaged) {
					t.Errorf("error %v, want %q", err, test.damaged)
				}
			case test.items == 0:
				if !errors.Is(err, errNoWrappedKey) {
					t.Errorf("error %v, want that it holds none", err)
				}
			case err != nil || len(file.items) != test.items:
				t.Errorf("%+v, %v, want %d wrapped keys", file, err, test.items)
			}
		})
	}
}

// A data file is not read into memory to find that it holds no wrapped key.
func TestParseWrappedFileLeavesDataAlone(t *testing.T) {
	data := &endless{line: []byte(`{"event": "something", "n": 1}` + "\n")}
	if _, err := parseWrappedFile(data); !errors.Is(err, errNoWrappedKey) {
		t.Fatal(err)
	}
	if data.read > 2*maxWrappedText {
		t.Errorf("%d bytes were read", data.read)
	}
}

// endless repeats a line up to a size that no test waits for.
type endless struct {
	line []byte
	read int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.read > 1<<28 {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) {
		n += copy(p[n:], e.line[(e.read+n)%len(e.line):])
	}
	e.read += n
	return n, nil
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

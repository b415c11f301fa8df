package file_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/file"
)

// A file that is not exactly what was written is refused by its path by
// everything that reads it, and is still there, unchanged, afterwards.
func TestDamagedFileIsRefusedAndLeft(t *testing.T) {
	dir := newKeyring(t, "main")
	rotate(t, dir, "main")
	rotate(t, dir, "main")
	if _, err := file.Retire(dir, "main", 1); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "main.keyring")
	good := readFile(t, path)
	k := newKMS(t, dir)
	w := wrap(t, k, []byte("plaintext"))

	readers := map[string]func() error{
		"List":             func() error { _, err := file.List(dir); return err },
		"Rotate":           func() error { _, err := file.Rotate(dir, "main", rand.Reader, time.Now()); return err },
		"Activate":         func() error { _, err := file.Activate(dir, "main", 1); return err },
		"Create another":   func() error { _, err := file.Create(dir, "new", rand.Reader, time.Now()); return err },
		"Import":           func() error { _, err := file.Import(dir, good); return err },
		"Export":           func() error { return file.Export(dir, func(string, []byte) error { return nil }) },
		"Check of a KMS":   func() error { return k.Check(t.Context(), "main") },
		"Check of another": func() error { return newKMS(t, dir).Check(t.Context(), "main") },
	}
	// refused holds that calls refuse content; there are too many damages for all
	// of them each time.
	refused := func(t *testing.T, what string, content []byte, calls ...string) {
		t.Helper()
		writeFile(t, path, content)
		for _, call := range calls {
			if err := readers[call](); !errors.Is(err, file.ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %s: %v", what, call, err)
			}
		}
		_, unwrapErr := unwrap(t, k, w)
		if got := backends.ClassOf(unwrapErr); got != backends.Internal {
			t.Errorf("%s: Unwrap: class %v", what, got)
		}
		if !bytes.Equal(readFile(t, path), content) {
			t.Errorf("%s: the file was changed", what)
		}
		if t.Failed() {
			t.FailNow()
		}
	}

	t.Run("every prefix", func(t *testing.T) {
		for n := range good {
			refused(t, "a prefix", good[:n], "List", "Rotate")
		}
	})
	t.Run("every flipped bit", func(t *testing.T) {
		for i := range good {
			for bit := range 8 {
				damaged := bytes.Clone(good)
				damaged[i] ^= 1 << bit
				refused(t, "a flipped bit", damaged, "List")
			}
		}
	})
	t.Run("every block of zeros", func(t *testing.T) {
		// What a file system may leave of a file that was not synced.
		for from := 0; from < len(good); from += 64 {
			damaged := bytes.Clone(good)
			clear(damaged[from:min(from+64, len(good))])
			refused(t, "zeros", damaged, slices.Collect(maps.Keys(readers))...)
		}
	})
	t.Run("others", func(t *testing.T) {
		for name, content := range map[string][]byte{
			"a byte behind":       append(bytes.Clone(good), '\n'),
			"twice":               bytes.Repeat(good, 2),
			"another key's":       bytes.Replace(good, []byte(`"key": "main"`), []byte(`"key": "mine"`), 1),
			"another line ending": bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")),
			"an unknown field":    bytes.Replace(good, []byte(`  "key"`), []byte("  \"x\": 1,\n  \"key\""), 1),
			"much too long":       append(bytes.Clone(good), bytes.Repeat([]byte(" "), 1<<20)...),
		} {
			refused(t, name, content, slices.Collect(maps.Keys(readers))...)
		}
	})

	writeFile(t, path, good)
	if got, err := unwrap(t, k, w); err != nil || string(got) != "plaintext" {
		t.Errorf("when it is whole again: %q, %v", got, err)
	}
}

// The name of a file says which key it is.
func TestFileOfAnotherKeyIsRefused(t *testing.T) {
	dir := newKeyring(t, "main", "other")
	path := filepath.Join(dir, "main.keyring")
	writeFile(t, path, readFile(t, filepath.Join(dir, "other.keyring")))
	if _, err := file.List(dir); !errors.Is(err, file.ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("List: %v", err)
	}
	if err := newKMS(t, dir).Check(t.Context(), "main"); backends.ClassOf(err) != backends.Internal {
		t.Errorf("Check: %v", err)
	}
}

// A change that was cut off leaves a file that nothing takes for a key, and that
// the next change removes.
func TestLeftoversAreRemoved(t *testing.T) {
	dir := newKeyring(t, "main")
	good := readFile(t, filepath.Join(dir, "main.keyring"))
	leftovers := []string{filepath.Join(dir, ".new-1"), filepath.Join(dir, ".new-22")}
	writeFile(t, leftovers[0], good)
	writeFile(t, leftovers[1], good[:17])
	foreign := filepath.Join(dir, "README")
	writeFile(t, foreign, []byte("not ours"))

	k := newKMS(t, dir)
	w := wrap(t, k, []byte("plaintext"))
	if infos, err := file.List(dir); err != nil || len(infos) != 1 {
		t.Errorf("List: %v, %v", infos, err)
	}
	for _, path := range leftovers {
		readFile(t, path) // reading removes nothing
	}
	rotate(t, dir, "main")
	for _, path := range leftovers {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	readFile(t, foreign)
	if got, err := unwrap(t, k, w); err != nil || string(got) != "plaintext" {
		t.Errorf("%q, %v", got, err)
	}
}

// What fails leaves the key as it was, and nothing else.
func TestFailedChangeChangesNothing(t *testing.T) {
	dir := newKeyring(t, "main")
	before, names := readFile(t, filepath.Join(dir, "main.keyring")), namesIn(t, dir)
	for name, f := range map[string]func() error{
		"Rotate without random bytes": func() error {
			_, err := file.Rotate(dir, "main", bytes.NewReader(make([]byte, 31)), time.Now())
			return err
		},
		"Rotate in a year that cannot be written": func() error {
			_, err := file.Rotate(dir, "main", rand.Reader, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))
			return err
		},
		"Create without random bytes": func() error {
			_, err := file.Create(dir, "new", bytes.NewReader(nil), time.Now())
			return err
		},
		"Create of a key that is there": func() error {
			_, err := file.Create(dir, "main", rand.Reader, time.Now())
			if !errors.Is(err, os.ErrExist) {
				t.Errorf("not ErrExist: %v", err)
			}
			return err
		},
		"Create of what is no key name": func() error {
			_, err := file.Create(dir, "../main", rand.Reader, time.Now())
			return err
		},
		"Rotate of what is no key name": func() error {
			_, err := file.Rotate(dir, "./main", rand.Reader, time.Now())
			return err
		},
		"Retire of the version that wraps": func() error {
			_, err := file.Retire(dir, "main", 1)
			return err
		},
	} {
		if err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if !bytes.Equal(readFile(t, filepath.Join(dir, "main.keyring")), before) {
			t.Errorf("%s has changed the key", name)
		}
		if got := namesIn(t, dir); strings.Join(got, " ") != strings.Join(names, " ") {
			t.Errorf("%s: the directory has %q, had %q", name, got, names)
		}
	}
}

func namesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

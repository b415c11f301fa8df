package file_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends/file"
)

// export returns copies of the files of keys in dir.
func export(t *testing.T, dir string) (names []string, contents [][]byte) {
	t.Helper()
	err := file.Export(dir, func(key string, content []byte) error {
		names, contents = append(names, key), append(contents, bytes.Clone(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, contents
}

func keyNames(infos []file.KeyInfo) string {
	var names []string
	for _, info := range infos {
		names = append(names, info.Name)
	}
	return strings.Join(names, " ")
}

func TestExportImport(t *testing.T) {
	dir := newKeyring(t, "main", "b", "a")
	rotate(t, dir, "main")
	w := wrap(t, newKMS(t, dir), []byte("plaintext"))
	names, contents := export(t, dir)
	if strings.Join(names, " ") != "a b main" {
		t.Errorf("exported %q", names)
	}
	for i, name := range names {
		if !bytes.Equal(contents[i], readFile(t, filepath.Join(dir, name+".keyring"))) {
			t.Errorf("%s is not what stands in its file", name)
		}
	}

	other := filepath.Join(t.TempDir(), "x", "keyring")
	infos, err := file.Import(other, contents...)
	if err != nil || keyNames(infos) != "a b main" || len(infos[2].Versions) != 2 {
		t.Fatalf("Import: %+v, %v", infos, err)
	}
	if got, err := unwrap(t, newKMS(t, other), w); err != nil || string(got) != "plaintext" {
		t.Errorf("%q, %v", got, err)
	}
	// Once more changes nothing and is no error: it may have been cut off.
	before := namesIn(t, other)
	if infos, err := file.Import(other, contents...); err != nil || len(infos) != 0 {
		t.Errorf("once more: %v, %v", infos, err)
	}
	if after := namesIn(t, other); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("the directory has %q, had %q", after, before)
	}
}

// What f was given is gone when it returns.
func TestExportWipes(t *testing.T) {
	dir := newKeyring(t, "main")
	var kept []byte
	boom := errors.New("boom")
	err := file.Export(dir, func(_ string, content []byte) error {
		kept = content
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("Export returns %v", err)
	}
	if len(kept) == 0 || len(bytes.Trim(kept, "\x00")) != 0 {
		t.Errorf("%d bytes were kept", len(kept))
	}
}

func TestImportIsAllOrNothing(t *testing.T) {
	dir := newKeyring(t, "a", "b")
	rotate(t, dir, "b")
	_, old := export(t, dir)
	rotate(t, dir, "a")
	_, present := export(t, dir)
	_, foreign := export(t, newKeyring(t, "c"))
	remove := func(t *testing.T, key string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, key+".keyring")); err != nil {
			t.Fatal(err)
		}
	}
	dirHas := func(t *testing.T, want map[string][]byte) {
		t.Helper()
		names := []string{".lock"}
		for name, content := range want {
			names = append(names, name+".keyring")
			if !bytes.Equal(readFile(t, filepath.Join(dir, name+".keyring")), content) {
				t.Errorf("%s is not what it was", name)
			}
		}
		if got := namesIn(t, dir); len(got) != len(names) {
			t.Errorf("the directory has %q, want %q", got, names)
		}
	}

	t.Run("a lost file comes back beside one that was rotated since", func(t *testing.T) {
		remove(t, "b")
		infos, err := file.Import(dir, old...)
		if err != nil || keyNames(infos) != "b" {
			t.Fatalf("%v, %v", infos, err)
		}
		dirHas(t, map[string][]byte{"a": present[0], "b": old[1]})
	})
	t.Run("a key with fewer versions is not replaced", func(t *testing.T) {
		remove(t, "a")
		if _, err := file.Import(dir, old[0]); err != nil {
			t.Fatal(err)
		}
		remove(t, "b")
		_, err := file.Import(dir, present[1], present[0]) // b would be new
		if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), filepath.Join(dir, "a.keyring")) {
			t.Errorf("%v", err)
		}
		dirHas(t, map[string][]byte{"a": old[0]})
	})
	t.Run("a key of the same name with other versions is not replaced", func(t *testing.T) {
		twin := filepath.Join(t.TempDir(), "twin")
		if _, err := file.Import(twin, old[0]); err != nil {
			t.Fatal(err)
		}
		rotate(t, twin, "a")
		_, contents := export(t, twin)
		if _, err := file.Import(dir, present[0], contents[0]); !errors.Is(err, file.ErrDamaged) {
			t.Errorf("the same key twice: %v", err)
		}
		remove(t, "a")
		if _, err := file.Import(dir, contents[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Import(dir, present[0]); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v", err)
		}
		dirHas(t, map[string][]byte{"a": contents[0]})
		remove(t, "a")
		if _, err := file.Import(dir, present...); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("another keyring's", func(t *testing.T) {
		if _, err := file.Import(dir, foreign[0]); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("into a keyring: %v", err)
		}
		if _, err := file.Import(filepath.Join(t.TempDir(), "new"), present[0], foreign[0]); !errors.Is(err, file.ErrDamaged) {
			t.Errorf("two keyrings into an empty directory: %v", err)
		}
		dirHas(t, map[string][]byte{"a": present[0], "b": present[1]})
	})
	t.Run("one of them damaged", func(t *testing.T) {
		empty := filepath.Join(t.TempDir(), "keyring")
		if _, err := file.Import(empty, present[0], present[1][:99]); !errors.Is(err, file.ErrDamaged) {
			t.Errorf("%v", err)
		}
		if _, err := os.Lstat(empty); err == nil {
			t.Error("the directory was made")
		}
	})
	t.Run("a place that is taken by something else", func(t *testing.T) {
		target := t.TempDir()
		if err := errors.Join(os.Chmod(target, 0o700), os.Mkdir(filepath.Join(target, "b.keyring"), 0o700)); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Import(target, present...); err == nil {
			t.Error("no error")
		}
		if _, err := os.Lstat(filepath.Join(target, "a.keyring")); err == nil {
			t.Error("half of it was imported")
		}
	})
	t.Run("a directory that is not private", func(t *testing.T) {
		target := t.TempDir()
		if err := os.Chmod(target, 0o750); err != nil {
			t.Fatal(err)
		}
		var private *file.PermissionError
		if _, err := file.Import(target, present...); !errors.As(err, &private) {
			t.Errorf("%v", err)
		}
		if got := namesIn(t, target); len(got) != 0 {
			t.Errorf("the directory has %q", got)
		}
	})
}

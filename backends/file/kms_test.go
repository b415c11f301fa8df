package file_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/file"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
		dir := newKeyring(t, "main", "other")
		number := func(t *testing.T, w backends.Wrapped) int {
			n, err := strconv.Atoi(w.Version)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		move := func(t *testing.T, from, to string) {
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
		k, err := file.New(file.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return backendtest.Fixture{
			KMS: k, Provider: file.Provider, Key: "main", Other: "other", Missing: "missing",
			Rotate: func(t *testing.T) { rotate(t, dir, "main") },
			Disable: func(t *testing.T, w backends.Wrapped) {
				rotate(t, dir, "main") // the version that wraps cannot be retired
				if _, err := file.Retire(dir, "main", number(t, w)); err != nil {
					t.Fatal(err)
				}
			},
			Enable: func(t *testing.T, w backends.Wrapped) {
				if _, err := file.Activate(dir, "main", number(t, w)); err != nil {
					t.Fatal(err)
				}
			},
			Down: func(t *testing.T) { move(t, dir, dir+".away") },
			Up:   func(t *testing.T) { move(t, dir+".away", dir) },
		}
	})
}

func TestNew(t *testing.T) {
	if k, err := file.New(file.Config{}); err == nil || k != nil {
		t.Errorf("without a directory: %v, %v", k, err)
	}
	// The directory is looked for by the first call, not before.
	k := newKMS(t, filepath.Join(t.TempDir(), "none"))
	if got := backends.ClassOf(k.Check(t.Context(), "main")); got != backends.Unavailable {
		t.Errorf("a directory that is not there is %v", got)
	}
}

// wrap wraps plaintext under "main", or ends the test.
func wrap(t *testing.T, k *file.KMS, plaintext []byte) backends.Wrapped {
	t.Helper()
	w, err := k.Wrap(t.Context(), backends.WrapRequest{Key: "main", Plaintext: plaintext, AssociatedData: []byte("pairs")})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func unwrap(t *testing.T, k *file.KMS, w backends.Wrapped) ([]byte, error) {
	t.Helper()
	return k.Unwrap(t.Context(), backends.UnwrapRequest{
		Key: "main", Reference: w.Reference, Version: w.Version, Binding: w.Binding, Ciphertext: w.Ciphertext,
		AssociatedData: []byte("pairs"),
	})
}

func TestWrapNamesKeyringAndVersion(t *testing.T) {
	dir := newKeyring(t, "main")
	k := newKMS(t, dir)
	plaintext := bytes.Repeat([]byte{7}, 32)
	w := wrap(t, k, plaintext)
	id, name, _ := strings.Cut(w.Reference, "/")
	if len(id) != 32 || name != "main" || w.Version != "1" || w.Binding != backends.BindingAAD || w.Provider != "file" || len(w.Ciphertext) != 12+32+16 {
		t.Errorf("%+v", w)
	}
	if again := wrap(t, k, plaintext); bytes.Equal(again.Ciphertext, w.Ciphertext) || bytes.Equal(again.Ciphertext[:12], w.Ciphertext[:12]) {
		t.Error("two wraps of the same are equal")
	}
	infos, err := file.List(dir)
	if err != nil || len(infos) != 1 || infos[0].Reference != w.Reference {
		t.Errorf("List: %v, %v; the wrap is by %s", infos, err, w.Reference)
	}
}

// A KMS that runs follows the command line, without a restart.
func TestVersions(t *testing.T) {
	dir := newKeyring(t, "main")
	k := newKMS(t, dir)
	one, two := []byte("plaintext of version one"), []byte("plaintext of version two")
	first := wrap(t, k, one)
	info := rotate(t, dir, "main")
	if len(info.Versions) != 2 || info.Reference != first.Reference {
		t.Fatalf("Rotate: %+v", info)
	}
	if infos, err := file.List(dir); err != nil || !reflect.DeepEqual(infos, []file.KeyInfo{info}) {
		t.Errorf("List: %+v, %v; Rotate has said %+v", infos, err, info)
	}
	second := wrap(t, k, two)
	if first.Version != "1" || second.Version != "2" {
		t.Fatalf("versions %s and %s", first.Version, second.Version)
	}
	opens := func(w backends.Wrapped, plaintext []byte) {
		t.Helper()
		if got, err := unwrap(t, k, w); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("version %s: %q, %v", w.Version, got, err)
		}
	}
	opens(first, one)
	opens(second, two)

	if _, err := file.Retire(dir, "main", 2); err == nil {
		t.Error("the version that wraps was retired")
	}
	info, err := file.Retire(dir, "main", 1)
	if err != nil || info.Versions[0].State != file.Retired || info.Versions[1].State != file.Active {
		t.Fatalf("Retire: %+v, %v", info, err)
	}
	if got, err := unwrap(t, k, first); backends.ClassOf(err) != backends.Disabled || got != nil {
		t.Errorf("retired: %q, %v", got, err)
	}
	opens(second, two)
	if err := k.Check(t.Context(), "main"); err != nil {
		t.Error(err)
	}
	if _, err := file.Activate(dir, "main", 1); err != nil {
		t.Fatal(err)
	}
	opens(first, one)
	if w := wrap(t, k, one); w.Version != "2" {
		t.Errorf("version %s wraps", w.Version)
	}

	for _, number := range []int{-1, 0, 3} {
		if _, err := file.Retire(dir, "main", number); err == nil {
			t.Errorf("version %d was retired", number)
		}
		if _, err := file.Activate(dir, "main", number); err == nil {
			t.Errorf("version %d was activated", number)
		}
	}
	if _, err := file.Rotate(dir, "none", nil, time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Rotate of a key that is not there: %v", err)
	}
}

func TestClasses(t *testing.T) {
	good := func(w backends.Wrapped) backends.UnwrapRequest {
		return backends.UnwrapRequest{
			Key: "main", Reference: w.Reference, Version: w.Version, Binding: w.Binding, Ciphertext: w.Ciphertext,
			AssociatedData: []byte("pairs"),
		}
	}
	for name, test := range map[string]struct {
		before func(t *testing.T, dir string)
		change func(req *backends.UnwrapRequest)
		want   backends.Class
	}{
		"no such key":                 {change: func(r *backends.UnwrapRequest) { r.Key = "none" }, want: backends.NotFound},
		"no key name":                 {change: func(r *backends.UnwrapRequest) { r.Key = "../main" }, want: backends.InvalidArgument},
		"another reference":           {change: func(r *backends.UnwrapRequest) { r.Reference = "00/main" }, want: backends.WrongKey},
		"a version it never had":      {change: func(r *backends.UnwrapRequest) { r.Version = "2" }, want: backends.InvalidCiphertext},
		"no version":                  {change: func(r *backends.UnwrapRequest) { r.Version = "" }, want: backends.InvalidCiphertext},
		"a version written otherwise": {change: func(r *backends.UnwrapRequest) { r.Version = "01" }, want: backends.InvalidCiphertext},
		"another binding":             {change: func(r *backends.UnwrapRequest) { r.Binding = backends.BindingHash }, want: backends.InvalidCiphertext},
		"only nonce and tag":          {change: func(r *backends.UnwrapRequest) { r.Ciphertext = r.Ciphertext[:28] }, want: backends.InvalidCiphertext},
		"the key is removed": {before: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "main.keyring")); err != nil {
				t.Fatal(err)
			}
		}, want: backends.NotFound},
		"the directory is removed": {before: func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, want: backends.Unavailable},
		// What an unmounted volume leaves is no keyring without keys.
		"the directory is empty": {before: func(t *testing.T, dir string) {
			if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, want: backends.Unavailable},
		"the directory is a file": {before: func(t *testing.T, dir string) {
			if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, want: backends.Internal},
		"the file is damaged": {before: func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "main.keyring"), []byte("{"))
		}, want: backends.Internal},
		"others may read the file": {before: func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "main.keyring"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, want: backends.Internal},
		"the keyring is another": {before: func(t *testing.T, dir string) {
			if err := errors.Join(os.RemoveAll(dir), os.Rename(newKeyring(t, "main"), dir)); err != nil {
				t.Fatal(err)
			}
		}, want: backends.WrongKey},
	} {
		for _, warm := range []string{"cold", "warm"} {
			t.Run(name+", "+warm, func(t *testing.T) {
				dir := newKeyring(t, "main", "other")
				maker, k := newKMS(t, dir), newKMS(t, dir)
				plaintext := []byte("sixteen bytes of")
				w := wrap(t, maker, plaintext)
				if warm == "warm" {
					settle(t, filepath.Join(dir, "main.keyring"))
					if got, err := unwrap(t, k, w); err != nil || !bytes.Equal(got, plaintext) {
						t.Fatalf("%q, %v", got, err)
					}
				}
				req := good(w)
				if test.change != nil {
					test.change(&req)
				}
				if test.before != nil {
					test.before(t, dir)
				}
				got, err := k.Unwrap(t.Context(), req)
				if got != nil || backends.ClassOf(err) != test.want {
					t.Errorf("%q, %v; want %v", got, err, test.want)
				}
				if test.before != nil && test.want != backends.WrongKey {
					if got := backends.ClassOf(k.Check(t.Context(), "main")); got != test.want {
						t.Errorf("Check: %v, want %v", got, test.want)
					}
				}
			})
		}
	}
}

// settle makes a file so old that a KMS knows it by its time.
func settle(t *testing.T, path string) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

func TestPlaintextSize(t *testing.T) {
	k := newKMS(t, newKeyring(t, "main"))
	for _, size := range []int{0, 65, 4096} {
		_, err := k.Wrap(t.Context(), backends.WrapRequest{Key: "main", Plaintext: make([]byte, size)})
		if backends.ClassOf(err) != backends.InvalidArgument {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// A file is read again after any change, however like it is to the former one.
func TestChangesAreSeen(t *testing.T) {
	for name, test := range map[string]struct {
		fresh  bool // it is known for less than a step of its file system's clock
		change func(path string, content []byte, was time.Time) error
	}{
		"another file of the same size and time": {change: func(path string, content []byte, was time.Time) error {
			other := path + ".other"
			return errors.Join(os.WriteFile(other, content, 0o600), os.Chtimes(other, was, was), os.Rename(other, path))
		}},
		"the same file, later": {change: func(path string, content []byte, _ time.Time) error {
			return os.WriteFile(path, content, 0o600)
		}},
		"the same file, within a step of its clock": {fresh: true, change: func(path string, content []byte, was time.Time) error {
			return errors.Join(os.WriteFile(path, content, 0o600), os.Chtimes(path, was, was))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, other := newKeyring(t, "main"), newKeyring(t, "main")
			path := filepath.Join(dir, "main.keyring")
			if !test.fresh {
				settle(t, path)
			}
			was, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			k := newKMS(t, dir)
			before := wrap(t, k, []byte("plaintext"))
			content := readFile(t, filepath.Join(other, "main.keyring"))
			if int64(len(content)) != was.Size() {
				t.Fatal("the sizes tell the files apart")
			}
			if err := test.change(path, content, was.ModTime()); err != nil {
				t.Fatal(err)
			}
			after := wrap(t, k, []byte("plaintext"))
			if want := wrap(t, newKMS(t, other), []byte("plaintext")); after.Reference != want.Reference || after.Reference == before.Reference {
				t.Errorf("it is %s, was %s, and should be %s", after.Reference, before.Reference, want.Reference)
			}
		})
	}
}

// Check does not believe the file's size and time.
func TestCheckReadsTheFile(t *testing.T) {
	dir := newKeyring(t, "main")
	path := filepath.Join(dir, "main.keyring")
	settle(t, path)
	was, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	k := newKMS(t, dir)
	if err := k.Check(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	damaged := readFile(t, path)
	damaged[len(damaged)/2] ^= 1
	writeFile(t, path, damaged)
	if err := os.Chtimes(path, was.ModTime(), was.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(t.Context(), "main"); !errors.Is(err, file.ErrDamaged) {
		t.Errorf("%v", err)
	}
}

// Match is asked of envelopes that nobody has vouched for, also in an outage.
func TestMatchWithoutTheDisk(t *testing.T) {
	dir := newKeyring(t, "main")
	k := newKMS(t, dir)
	reference := wrap(t, k, []byte("plaintext")).Reference
	cold := newKMS(t, dir)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	other := "0" + strings.Repeat("1", 31) + "/main"
	if ok, err := k.Match(t.Context(), "main", reference); !ok || err != nil {
		t.Errorf("known: %t, %v", ok, err)
	}
	if ok, err := k.Match(t.Context(), "main", other); ok || err != nil {
		t.Errorf("known to be another: %t, %v", ok, err)
	}
	if ok, err := cold.Match(t.Context(), "main", reference); ok || backends.ClassOf(err) != backends.Unavailable {
		t.Errorf("not known: %t, %v", ok, err)
	}
	if ok, err := cold.Match(t.Context(), "main", "x/elsewhere"); ok || err != nil {
		t.Errorf("another name: %t, %v", ok, err)
	}
	if ok, err := k.Match(t.Context(), "Main", reference); ok || backends.ClassOf(err) != backends.InvalidArgument {
		t.Errorf("no key name: %t, %v", ok, err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}

	// Another keyring in its place is what counts, not what was known.
	if err := errors.Join(os.RemoveAll(dir), os.Rename(newKeyring(t, "main"), dir)); err != nil {
		t.Fatal(err)
	}
	if ok, err := k.Match(t.Context(), "main", reference); ok || err != nil {
		t.Errorf("of the former keyring: %t, %v", ok, err)
	}
	if ok, err := k.Match(t.Context(), "main", wrap(t, k, []byte("plaintext")).Reference); !ok || err != nil {
		t.Errorf("of the present keyring: %t, %v", ok, err)
	}
}

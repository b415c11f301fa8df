package backup_test

import (
	"bytes"
	"crypto/fips140"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/file"
	"github.com/keybroker/keybroker/backends/file/backup"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// needAge skips what cannot be done where age is not allowed.
func needAge(t testing.TB) {
	t.Helper()
	if fips140.Enforced() {
		t.Skip("GODEBUG=fips140=only does not allow age")
	}
}

func newKeyring(t *testing.T, keys ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keyring")
	for _, key := range keys {
		if _, err := file.Create(dir, key, rand.Reader, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// write returns a backup of dir.
func write(t *testing.T, dir string, recipients ...age.Recipient) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := backup.Write(&b, dir, recipients...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// wrap wraps plaintext under key, and unwrap opens that.
func wrap(t *testing.T, dir, key string, plaintext []byte) backends.Wrapped {
	t.Helper()
	k, err := file.New(file.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	w, err := k.Wrap(t.Context(), backends.WrapRequest{Key: key, Plaintext: plaintext})
	if err := errors.Join(err, k.Close()); err != nil {
		t.Fatal(err)
	}
	return w
}

func unwrap(t *testing.T, dir, key string, w backends.Wrapped) []byte {
	t.Helper()
	k, err := file.New(file.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	plaintext, err := k.Unwrap(t.Context(), backends.UnwrapRequest{
		Key: key, Reference: w.Reference, Version: w.Version, Binding: w.Binding, Ciphertext: w.Ciphertext,
	})
	if err := errors.Join(err, k.Close()); err != nil {
		t.Errorf("%s, version %s: %v", key, w.Version, err)
	}
	return plaintext
}

func TestRestoredKeyringOpensWhatTheOriginalWrapped(t *testing.T) {
	needAge(t)
	dir := newKeyring(t, "tikv", "pitr")
	plaintext := []byte("an intermediate key of 32 bytes.")
	wraps := []backends.Wrapped{wrap(t, dir, "tikv", plaintext)}
	for range 2 {
		if _, err := file.Rotate(dir, "tikv", rand.Reader, time.Now()); err != nil {
			t.Fatal(err)
		}
		wraps = append(wraps, wrap(t, dir, "tikv", plaintext))
	}
	pitr := wrap(t, dir, "pitr", plaintext)
	want, err := file.List(dir)
	if err != nil {
		t.Fatal(err)
	}

	one, two := newIdentity(t), newIdentity(t)
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	classic, post := write(t, dir, one.Recipient(), two.Recipient()), write(t, dir, hybrid.Recipient())
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		backup     []byte
		identities []age.Identity
	}{
		"the first recipient":    {classic, []age.Identity{one}},
		"the second recipient":   {classic, []age.Identity{two}},
		"one of some identities": {classic, []age.Identity{newIdentity(t), hybrid, two}},
		"armored":                {armored(t, classic), []age.Identity{one}},
		"post-quantum":           {post, []age.Identity{hybrid}},
	} {
		t.Run(name, func(t *testing.T) {
			other := filepath.Join(t.TempDir(), "some", "where", "else")
			got, err := backup.Restore(other, bytes.NewReader(test.backup), test.identities...)
			if err != nil {
				t.Fatal(err)
			}
			listed, err := file.List(other)
			if err != nil {
				t.Fatal(err)
			}
			for _, infos := range [][]file.KeyInfo{got, listed} {
				if len(infos) != len(want) {
					t.Fatalf("restored %+v, want %+v", infos, want)
				}
				for i, info := range infos {
					if info.Name != want[i].Name || info.Reference != want[i].Reference || len(info.Versions) != len(want[i].Versions) {
						t.Errorf("restored %+v, want %+v", info, want[i])
					}
				}
			}
			for _, w := range wraps {
				if got := unwrap(t, other, "tikv", w); !bytes.Equal(got, plaintext) {
					t.Errorf("version %s opens to %q", w.Version, got)
				}
			}
			if got := unwrap(t, other, "pitr", pitr); !bytes.Equal(got, plaintext) {
				t.Errorf("pitr opens to %q", got)
			}
		})
	}
}

func armored(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := armor.NewWriter(&out)
	_, err := w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// tar and age alone made these; they are never made again.
func TestGolden(t *testing.T) {
	needAge(t)
	f, err := os.Open("testdata/golden/identity.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	identities, err := backup.ParseIdentities(f)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../testdata/golden/main.keyring")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"backup.age", "armored.age"} {
		b, err := os.ReadFile("testdata/golden/" + name)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "keyring")
		if _, err := backup.Restore(dir, bytes.NewReader(b), identities...); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := os.ReadFile(filepath.Join(dir, "main.keyring")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: restored %q, %v", name, got, err)
		}
	}
}

// notRestored fails the test unless b is refused by one of errs and nothing is
// made.
func notRestored(t *testing.T, what string, b []byte, identity age.Identity, errs ...error) {
	t.Helper()
	parent := t.TempDir()
	infos, err := backup.Restore(filepath.Join(parent, "keyring"), bytes.NewReader(b), identity)
	known := false
	for _, e := range errs {
		known = known || errors.Is(err, e)
	}
	if !known || infos != nil {
		t.Errorf("%s: %v, %v", what, infos, err)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
		t.Errorf("%s: there is %v, %v", what, entries, err)
	}
	if err := os.Remove(parent); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoBackupRestoresNothing(t *testing.T) {
	needAge(t)
	identity := newIdentity(t)
	good := write(t, newKeyring(t, "tikv"), identity.Recipient())
	text := armored(t, good)
	notRestored(t, "another identity", good, newIdentity(t), backup.ErrIdentity)
	notRestored(t, "another identity, armored", text, newIdentity(t), backup.ErrIdentity)
	for n := range spread(len(good)) {
		notRestored(t, "a prefix", good[:n], identity, backup.ErrDamaged, backup.ErrIdentity)
	}
	for i := range spread(len(good)) {
		// A changed recipient looks as if it were made for somebody else.
		damaged := bytes.Clone(good)
		damaged[i] ^= 1 << (i % 8)
		notRestored(t, "a flipped bit", damaged, identity, backup.ErrDamaged, backup.ErrIdentity)
	}
	for n := range spread(len(text) - 1) { // without its last line break it is whole
		notRestored(t, "a prefix, armored", text[:n], identity, backup.ErrDamaged, backup.ErrIdentity)
	}
	for name, b := range map[string][]byte{
		"a byte behind":          append(bytes.Clone(good), 0),
		"twice":                  append(bytes.Clone(good), good...),
		"a line behind, armored": append(bytes.Clone(text), "more\n"...),
		"random":                 []byte(rand.Text()),
		"a keyring file":         []byte("{\n  \"format\": \"keybroker-keyring/1\",\n"),
	} {
		notRestored(t, name, b, identity, backup.ErrDamaged)
	}
	if _, err := backup.Restore(newKeyring(t), bytes.NewReader(good)); err == nil {
		t.Error("restored without an identity")
	}
}

// spread yields the places of a backup of n bytes to damage: all of its header and
// its end, and some of what is one ciphertext, since each takes a key exchange.
func spread(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if (i < 300 || i > n-40 || i%23 == 0) && !yield(i) {
				return
			}
		}
	}
}

func TestRestoreNeverReplaces(t *testing.T) {
	needAge(t)
	identity := newIdentity(t)
	dir := newKeyring(t, "tikv", "pitr")
	old := write(t, dir, identity.Recipient())
	if _, err := file.Rotate(dir, "tikv", rand.Reader, time.Now()); err != nil {
		t.Fatal(err)
	}
	tikv, err := os.ReadFile(filepath.Join(dir, "tikv.keyring"))
	if err != nil {
		t.Fatal(err)
	}
	// pitr was lost; tikv has gone on.
	if err := os.Remove(filepath.Join(dir, "pitr.keyring")); err != nil {
		t.Fatal(err)
	}
	infos, err := backup.Restore(dir, bytes.NewReader(old), identity)
	if err != nil || len(infos) != 1 || infos[0].Name != "pitr" {
		t.Errorf("%+v, %v", infos, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "tikv.keyring")); err != nil || !bytes.Equal(got, tikv) {
		t.Errorf("tikv was changed: %v", err)
	}
	// What has a version that the directory lacks is not let in over it.
	if _, err := backup.Restore(dir, bytes.NewReader(old), identity); err != nil {
		t.Errorf("once more: %v", err)
	}
	now := write(t, dir, identity.Recipient())
	behind := filepath.Join(t.TempDir(), "behind")
	if _, err := backup.Restore(behind, bytes.NewReader(old), identity); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(behind, bytes.NewReader(now), identity); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
	if _, err := backup.Restore(newKeyring(t, "x"), bytes.NewReader(now), identity); err == nil {
		t.Error("restored into another keyring")
	}
}

// failing fails after n bytes.
type failing struct {
	n    int
	into bytes.Buffer
}

var errDisk = errors.New("the disk is full")

func (f *failing) Write(p []byte) (int, error) {
	n := min(len(p), f.n-f.into.Len())
	f.into.Write(p[:n])
	if n < len(p) {
		return n, errDisk
	}
	return n, nil
}

func TestWriteFails(t *testing.T) {
	needAge(t)
	identity := newIdentity(t)
	dir := newKeyring(t, "tikv")
	size := len(write(t, dir, identity.Recipient()))
	for n := 0; n < size; n += 97 {
		w := &failing{n: n}
		if err := backup.Write(w, dir, identity.Recipient()); !errors.Is(err, errDisk) {
			t.Errorf("full after %d of %d bytes: %v", n, size, err)
		}
		notRestored(t, "a part", w.into.Bytes(), identity, backup.ErrDamaged, backup.ErrIdentity)
	}

	nothing := func(what string, dir string, recipients ...age.Recipient) error {
		t.Helper()
		var b bytes.Buffer
		err := backup.Write(&b, dir, recipients...)
		if err == nil || b.Len() != 0 {
			t.Errorf("%s: %v, and %d bytes were written", what, err, b.Len())
		}
		return err
	}
	_ = nothing("no recipients", dir)
	_ = nothing("no keyring", filepath.Join(dir, "none"), identity.Recipient())
	empty := t.TempDir()
	if err := os.Chmod(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	_ = nothing("no keys", empty, identity.Recipient())
	path := filepath.Join(dir, "tikv.keyring")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := nothing("a damaged key", dir, identity.Recipient()); !errors.Is(err, file.ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged key: %v", err)
	}
}

func TestIdentityFiles(t *testing.T) {
	identity := "AGE-SECRET-KEY-1" + strings.Repeat("Q", 58)
	path := filepath.Join(t.TempDir(), "identity.txt")
	for name, test := range map[string]struct {
		content string
		mode    os.FileMode
		private bool
	}{
		"no identity":     {"# nothing\n", 0o600, false},
		"a broken one":    {identity + "\n", 0o600, false},
		"others may read": {identity + "\n", 0o644, true},
		"the group may":   {identity + "\n", 0o640, true},
		"not UTF-8":       {"\xff\xfe" + identity, 0o600, false},
	} {
		if err := errors.Join(os.WriteFile(path, []byte(test.content), 0o600), os.Chmod(path, test.mode)); err != nil {
			t.Fatal(err)
		}
		_, err := backup.ReadIdentities(path)
		var private *file.PermissionError
		if err == nil || errors.As(err, &private) != test.private || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "QQQ") {
			t.Errorf("%s: the error holds the identity: %v", name, err)
		}
	}
	if _, err := backup.ReadIdentities(path + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := backup.ParseRecipients(strings.NewReader(identity)); err == nil || strings.Contains(err.Error(), "QQQ") {
		t.Errorf("an identity given as recipient: %v", err)
	}
	if _, err := backup.ParseRecipients(strings.NewReader("# nobody\n\n")); err == nil {
		t.Error("no recipients are none")
	}
}

func TestIdentityAndRecipientFilesFit(t *testing.T) {
	needAge(t)
	identity := newIdentity(t)
	path := filepath.Join(t.TempDir(), "identity.txt")
	if err := os.WriteFile(path, []byte("# created\n"+identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	identities, err := backup.ReadIdentities(path)
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := backup.ParseRecipients(strings.NewReader("# ops\n" + identity.Recipient().String() + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	b := write(t, newKeyring(t, "tikv"), recipients...)
	if _, err := backup.Restore(newKeyring(t), bytes.NewReader(b), identities...); err != nil {
		t.Error(err)
	}
}

// The test runs itself where age is not allowed.
func TestFIPSOnlyIsRefused(t *testing.T) {
	if !fips140.Enforced() {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestFIPSOnlyIsRefused$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestFIPSOnlyIsRefused")) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	dir := newKeyring(t, "tikv")
	if err := backup.Write(io.Discard, dir); !errors.Is(err, backup.ErrFIPS140) {
		t.Errorf("Write: %v", err)
	}
	if _, err := backup.Restore(dir, strings.NewReader("")); !errors.Is(err, backup.ErrFIPS140) {
		t.Errorf("Restore: %v", err)
	}
	if !strings.Contains(backup.ErrFIPS140.Error(), "fips140=only") {
		t.Errorf("the error does not say why: %v", backup.ErrFIPS140)
	}
}

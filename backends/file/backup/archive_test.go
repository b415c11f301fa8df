package backup_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/keybroker/keybroker/backends/file"
	"github.com/keybroker/keybroker/backends/file/backup"
)

// plainEntry is an entry as Write makes it.
func plainEntry(name, content string) (tar.Header, string) {
	return tar.Header{
		Typeflag: tar.TypeReg, Format: tar.FormatUSTAR, Name: name, Size: int64(len(content)), Mode: 0o600, ModTime: time.Unix(0, 0),
	}, content
}

// tarball returns the archive that put makes.
func tarball(t *testing.T, put func(add func(tar.Header, string))) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put(func(h tar.Header, content string) {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Whoever knows the recipients can make an age file. There is one form of what is
// in it that is restored, and nothing in it leads out of the directory.
func TestOtherArchivesRestoreNothing(t *testing.T) {
	needAge(t)
	identity := newIdentity(t)
	sealed := func(t *testing.T, plain []byte) []byte {
		t.Helper()
		var b bytes.Buffer
		w, err := age.Encrypt(&b, identity.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(plain)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	dir := newKeyring(t, "a", "b")
	files := map[string]string{}
	err := file.Export(dir, func(key string, content []byte) error {
		files[key] = string(content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(newKeyring(t, "c") + "/c.keyring")
	if err != nil {
		t.Fatal(err)
	}
	const first = "keybroker-keyring-backup"

	// What all the others differ from is restored.
	good := tarball(t, func(add func(tar.Header, string)) {
		add(plainEntry(first, "1\n"))
		add(plainEntry("a.keyring", files["a"]))
		add(plainEntry("b.keyring", files["b"]))
	})
	restored := newKeyring(t)
	if infos, err := backup.Restore(restored, bytes.NewReader(sealed(t, good)), identity); err != nil || len(infos) != 2 {
		t.Fatalf("this is no test: %v, %v", infos, err)
	}

	for name, put := range map[string]func(add func(tar.Header, string)){
		"no entries": func(func(tar.Header, string)) {},
		"no key":     func(add func(tar.Header, string)) { add(plainEntry(first, "1\n")) },
		"no version": func(add func(tar.Header, string)) { add(plainEntry("a.keyring", files["a"])) },
		"another version": func(add func(tar.Header, string)) {
			add(plainEntry(first, "2\n"))
			add(plainEntry("a.keyring", files["a"]))
		},
		"another order": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(plainEntry("b.keyring", files["b"]))
			add(plainEntry("a.keyring", files["a"]))
		},
		"a key twice": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(plainEntry("a.keyring", files["a"]))
			add(plainEntry("a.keyring", files["a"]))
		},
		"another key's name": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(plainEntry("b.keyring", files["a"]))
		},
		"a way out": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(plainEntry("../a.keyring", files["a"]))
		},
		"no keyring file": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(plainEntry("a.keyring", files["a"]))
			add(plainEntry("notes", "hello"))
		},
		"a damaged key": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(plainEntry("a.keyring", files["a"][1:]))
		},
		"an empty key": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(plainEntry("a.keyring", ""))
		},
		"keys of two keyrings": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(plainEntry("a.keyring", files["a"]))
			add(plainEntry("c.keyring", string(foreign)))
		},
		"another mode": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			h, content := plainEntry("a.keyring", files["a"])
			h.Mode = 0o644
			add(h, content)
		},
		"an owner": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			h, content := plainEntry("a.keyring", files["a"])
			h.Uname = "root"
			add(h, content)
		},
		"another kind of header": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			h, content := plainEntry("a.keyring", files["a"])
			h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{"KEYBROKER.x": "y"}
			add(h, content)
		},
		"a symbolic link": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(plainEntry("a.keyring", files["a"]))
			add(tar.Header{Typeflag: tar.TypeSymlink, Format: tar.FormatUSTAR, Name: "b.keyring", Linkname: "/etc/passwd"}, "")
		},
		"a directory": func(add func(tar.Header, string)) {
			add(plainEntry(first, "1\n"))
			add(tar.Header{Typeflag: tar.TypeDir, Format: tar.FormatUSTAR, Name: "a.keyring/", Mode: 0o700}, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := backup.ErrDamaged
			if name == "keys of two keyrings" {
				want = file.ErrDamaged
			}
			notRestored(t, name, sealed(t, tarball(t, put)), identity, want)
		})
	}
	for name, plain := range map[string][]byte{
		"nothing":            nil,
		"text":               []byte("hello"),
		"a keyring file":     []byte(files["a"]),
		"no end":             good[:len(good)-1024],
		"half an end":        good[:len(good)-512],
		"more behind":        append(bytes.Clone(good), make([]byte, 512)...),
		"a byte behind":      append(bytes.Clone(good), 0),
		"a cut entry":        good[:2000],
		"padding that is no": flipped(good, 512+100),
		"a changed checksum": flipped(good, 150),
	} {
		t.Run(name, func(t *testing.T) { notRestored(t, name, sealed(t, plain), identity, backup.ErrDamaged) })
	}
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// The backup is all that is written, and nobody finds a key in it.
func TestBackupHidesKeys(t *testing.T) {
	needAge(t)
	dir := newKeyring(t, "tikv")
	content, err := os.ReadFile(dir + "/tikv.keyring")
	if err != nil {
		t.Fatal(err)
	}
	b := write(t, dir, newIdentity(t).Recipient())
	for from := 0; from+16 <= len(content); from++ {
		if bytes.Contains(b, content[from:from+16]) {
			t.Fatalf("the backup holds %d bytes of the key's file as they are", 16)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the keyring has %v, %v", entries, err)
	}
}

package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// The size of a file that seals the cache, in bytes, and how old what is restored may
// be by default.
const (
	MinPersistKey        = 32
	MaxPersistKey        = 1024
	DefaultPersistMaxAge = 24 * time.Hour
)

// Persist is a sealed file in which the cache outlives the process.
type Persist struct {
	// Path of the file.
	Path string
	// KeyFile holds what it is sealed by, MinPersistKey to MaxPersistKey bytes. TPM is the
	// device of the TPM that seals it. Exactly one of them is not empty.
	KeyFile, TPM string
	// MaxAge is how old an intermediate key may be that is restored. Default:
	// DefaultPersistMaxAge.
	MaxAge time.Duration
}

func (w *walker) persist(v value) *Persist {
	b := w.block(v, "cache.persist")
	p := &Persist{MaxAge: DefaultPersistMaxAge}
	b.made("path", &p.Path, 0o700)
	b.file("key_file", &p.KeyFile, sealKey)
	b.path("tpm", &p.TPM)
	b.duration("max_age", &p.MaxAge, time.Minute, maxTime)
	at, hasTPM := b.fields["tpm"]
	_, hasKey := b.fields["key_file"]
	switch {
	case hasKey && hasTPM:
		w.misnamed(at, "tpm beside key_file, and only one of them seals", "the block without the other one")
	case !hasKey && !hasTPM && w.isMapping(v):
		w.problem(v, "nothing that seals the file", "key_file with a systemd credential, or tpm with the TPM's device, such as /dev/tpmrm0")
	case hasTPM && p.TPM != "":
		w.files = append(w.files, neededFile{path: p.TPM, use: tpmDevice, at: w.at(at.node, at.path, "", "")})
	case hasKey && p.KeyFile != "" && p.Path != "":
		key := b.fields["key_file"]
		w.files = append(w.files, neededFile{path: p.KeyFile, use: apart, from: p.Path, at: w.at(key.node, key.path, "", "")})
	}
	return p
}

// wrongSealKey says what is wrong with the size of a file that seals, or nothing.
func wrongSealKey(path string, info fs.FileInfo) (found, want string) {
	if size := info.Size(); size < MinPersistKey || size > MaxPersistKey {
		return fmt.Sprintf("%s, of %d bytes", path, size), fmt.Sprintf("%d to %d random bytes, as `head -c 32 /dev/urandom` gives them", MinPersistKey, MaxPersistKey)
	}
	return "", ""
}

// checkTPM looks whether there is a TPM. Without one the broker starts all the same.
func (f neededFile) checkTPM() (found, want string) {
	const is = "a TPM's device, such as /dev/tpmrm0: as it is, the cache is kept in no file"
	switch info, err := os.Stat(f.path); {
	case err != nil:
		return f.path + ": " + reason(err), is
	case info.Mode()&(fs.ModeDevice|fs.ModeSocket) == 0:
		return fmt.Sprintf("%s, which is a %s", f.path, kind(info.Mode())), is
	}
	return "", ""
}

// checkApart looks whether a key is on the same file system as what it seals.
func (f neededFile) checkApart() (found, want string) {
	key, err := os.Stat(f.path)
	if err != nil {
		return "", "" // which is told where the file is looked at
	}
	dir, err := os.Stat(filepath.Dir(f.from))
	if err != nil || !sameDevice(key, dir) {
		return "", ""
	}
	return "a key on the file system of what it seals", "a systemd credential (LoadCredentialEncrypted=), a file in memory, or tpm in its place: whoever takes this disk has both"
}

package file

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// KeyInfo is a key of a keyring, without its bytes.
type KeyInfo struct {
	Name string
	// Reference is how envelopes name the key.
	Reference string
	Versions  []VersionInfo
}

// VersionInfo is one version of a key, without its bytes.
type VersionInfo struct {
	Number  int
	Created time.Time
	State   State
}

// Create makes a key with one version in dir, and dir with mode 0700 if it is
// not there. It never replaces a key: the error then satisfies errors.Is with
// fs.ErrExist.
func Create(dir, key string, random io.Reader, now time.Time) (KeyInfo, error) {
	if !ValidKey(key) {
		return KeyInfo{}, errKeyName(key)
	}
	if err := makeDir(dir); err != nil {
		return KeyInfo{}, err
	}
	var info KeyInfo
	err := locked(dir, func() error {
		if _, err := os.Lstat(keyPath(dir, key)); err == nil {
			return fmt.Errorf("%s: %w; `keybroker keyring rotate` gives a key a new version", keyPath(dir, key), fs.ErrExist)
		}
		id, err := idOf(dir)
		if err == nil && id == "" {
			id, err = newID(random)
		}
		if err != nil {
			return err
		}
		k := &keyring{id: id, key: key}
		defer k.wipe()
		if err := k.grow(random, now); err != nil {
			return err
		}
		content, err := k.sealed()
		if err != nil {
			return err
		}
		defer clear(content)
		info = k.info()
		return add(dir, []keyFile{{key, content}})
	})
	if err != nil {
		return KeyInfo{}, err
	}
	return info, nil
}

// Rotate gives a key a new version, which wraps from then on. The old ones go on
// unwrapping.
func Rotate(dir, key string, random io.Reader, now time.Time) (KeyInfo, error) {
	return edit(dir, key, func(k *keyring) error { return k.grow(random, now) })
}

// Retire ends the use of a version, until Activate: what it wrapped cannot be
// opened. The version that wraps cannot be retired; rotate first.
func Retire(dir, key string, number int) (KeyInfo, error) {
	return edit(dir, key, func(k *keyring) error {
		v := k.version(number)
		if v == nil {
			return fmt.Errorf("key %s has no version %d", key, number)
		}
		if v == k.newest() {
			return fmt.Errorf("version %d of key %s is the one that wraps; run: keybroker keyring rotate %s", number, key, key)
		}
		v.state = Retired
		return nil
	})
}

// Activate takes back Retire.
func Activate(dir, key string, number int) (KeyInfo, error) {
	return edit(dir, key, func(k *keyring) error {
		v := k.version(number)
		if v == nil {
			return fmt.Errorf("key %s has no version %d", key, number)
		}
		v.state = Active
		return nil
	})
}

// List returns the keys of dir, by name. One damaged file is an error for all:
// it says which.
func List(dir string) ([]KeyInfo, error) {
	var infos []KeyInfo
	err := each(dir, func(k *keyring) error {
		infos = append(infos, k.info())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// Export calls f with the bytes of each key's file, by name. They are what
// Import takes: keys in the clear, wiped when f returns. A key that is changed
// meanwhile comes as it was before or after. An error of f ends it and is
// returned.
func Export(dir string, f func(key string, content []byte) error) error {
	return each(dir, func(k *keyring) error {
		content, err := k.sealed()
		if err != nil {
			return err
		}
		defer clear(content)
		return f(k.key, content)
	})
}

// Inspect returns the key that a file holds whose bytes Export gave. What it
// refuses wraps ErrDamaged.
func Inspect(content []byte) (KeyInfo, error) {
	k, err := decode(content)
	if err != nil {
		return KeyInfo{}, err
	}
	defer k.wipe()
	return k.info(), nil
}

// Import puts the files of keys, as Export gave them, into dir, and makes dir
// with mode 0700 if it is not there. It returns the keys that it has put there.
//
// It imports all of them or none, unless it is killed, and never replaces a key.
// A key that is there with all the versions to import, and perhaps more, is left
// as it is: so an import that was cut off can be run again, and a lost file be
// had back beside others that have been rotated since. If it is there with other
// versions, the error satisfies errors.Is with fs.ErrExist.
//
// A directory is one keyring, whose id stands in the envelopes. So the keys must
// be of one keyring, and dir be empty or of the same. What Import refuses as
// damaged wraps ErrDamaged.
func Import(dir string, contents ...[]byte) ([]KeyInfo, error) {
	keys, err := decodeAll(contents)
	defer func() {
		for _, k := range keys {
			k.wipe()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	var made []KeyInfo
	err = locked(dir, func() error {
		id, err := idOf(dir)
		if err != nil {
			return err
		}
		var files []keyFile
		for i, k := range keys {
			if id != "" && k.id != id {
				return fmt.Errorf("%s is the keyring %s, and key %s is of the keyring %s; import it into a directory of its own", dir, id, k.key, k.id)
			}
			there, err := present(dir, k)
			if err != nil {
				return err
			}
			if !there {
				files = append(files, keyFile{k.key, contents[i]})
				made = append(made, k.info())
			}
		}
		return add(dir, files)
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// decodeAll decodes the files of keys of one keyring. The caller wipes the keys
// that it returns, also with an error.
func decodeAll(contents [][]byte) (keys []*keyring, err error) {
	seen := map[string]bool{}
	for i, content := range contents {
		k, err := decode(content)
		if err != nil {
			return keys, fmt.Errorf("key file %d of %d: %w", i+1, len(contents), err)
		}
		keys = append(keys, k)
		switch {
		case seen[k.key]:
			return keys, fmt.Errorf("%w: key %s comes twice", ErrDamaged, k.key)
		case k.id != keys[0].id:
			return keys, fmt.Errorf("%w: keys %s and %s are of different keyrings", ErrDamaged, keys[0].key, k.key)
		}
		seen[k.key] = true
	}
	return keys, nil
}

// present tells whether dir has all that k has. The error satisfies errors.Is
// with fs.ErrExist if it has the key, but not all of it.
func present(dir string, k *keyring) (bool, error) {
	there, _, err := read(dir, k.key)
	if errors.Is(err, errNoKey) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer there.wipe()
	if !there.holds(k) {
		return false, fmt.Errorf("%s: %w, and lacks versions of the one to import; move it away, or import into another directory", keyPath(dir, k.key), fs.ErrExist)
	}
	return true, nil
}

// each calls f with each key of dir, by name, and wipes it afterwards.
func each(dir string, f func(*keyring) error) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	keys, err := keysIn(dir)
	if err != nil {
		return err
	}
	for _, key := range keys {
		k, _, err := read(dir, key)
		if err != nil {
			return err
		}
		err = f(k)
		k.wipe()
		if err != nil {
			return err
		}
	}
	return nil
}

// edit changes a key that is there.
func edit(dir, key string, f func(*keyring) error) (KeyInfo, error) {
	if !ValidKey(key) {
		return KeyInfo{}, errKeyName(key)
	}
	// What cannot be changed is left without a trace: a lock file would make a
	// keyring of an empty directory.
	if _, err := stat(dir, key); err != nil {
		return KeyInfo{}, err
	}
	var info KeyInfo
	err := locked(dir, func() error {
		k, _, err := read(dir, key)
		if err != nil {
			return err
		}
		defer k.wipe()
		if err := f(k); err != nil {
			return err
		}
		content, err := k.sealed()
		if err != nil {
			return err
		}
		defer clear(content)
		info = k.info()
		return replace(dir, keyFile{key, content})
	})
	if err != nil {
		return KeyInfo{}, err
	}
	return info, nil
}

// locked runs f while all other changes of dir are kept out, and what is left of
// those that were cut off is gone.
func locked(dir string, f func() error) (err error) {
	if err := checkDir(dir); err != nil {
		return err
	}
	held, err := lock(dir)
	if err != nil {
		return mayNot(dir, err)
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	if err := removeLeftovers(dir); err != nil {
		return err
	}
	return f()
}

// sealed returns the bytes to write for k, which hold keys: the caller wipes
// them. What could not be read again is not written.
func (k *keyring) sealed() ([]byte, error) {
	content := k.encode()
	again, err := decode(content)
	if err != nil {
		clear(content)
		return nil, fmt.Errorf("key %s could not be read again (is the clock right?); nothing was changed", k.key)
	}
	again.wipe()
	return content, nil
}

// grow appends a version.
func (k *keyring) grow(random io.Reader, now time.Time) error {
	if len(k.versions) >= MaxVersions {
		return fmt.Errorf("key %s has %d versions, which is all it may have", k.key, MaxVersions)
	}
	kek := new([kekSize]byte)
	if _, err := io.ReadFull(random, kek[:]); err != nil {
		clear(kek[:])
		return fmt.Errorf("random bytes: %w", err)
	}
	k.versions = append(k.versions, version{len(k.versions) + 1, now.UTC().Truncate(time.Second), Active, kek})
	return nil
}

// idOf is the id of the keyring in dir, or "" if it has no key yet.
func idOf(dir string) (string, error) {
	keys, err := keysIn(dir)
	if err != nil || len(keys) == 0 {
		return "", err
	}
	k, _, err := read(dir, keys[0])
	if err != nil {
		return "", err
	}
	defer k.wipe()
	return k.id, nil
}

// newID returns a random id.
func newID(random io.Reader) (string, error) {
	id := make([]byte, idSize)
	if _, err := io.ReadFull(random, id); err != nil {
		return "", fmt.Errorf("random bytes: %w", err)
	}
	return hex.EncodeToString(id), nil
}

func (k *keyring) info() KeyInfo {
	info := KeyInfo{Name: k.key, Reference: k.reference()}
	for _, v := range k.versions {
		info.Versions = append(info.Versions, VersionInfo{v.number, v.created, v.state})
	}
	return info
}

func errKeyName(key string) error {
	return fmt.Errorf("%q cannot name a key; want [a-z0-9][a-z0-9._-]{0,63}", key)
}

package file

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Limits of a keyring file.
const (
	// MaxVersions is how many versions one key may have.
	MaxVersions = 1000
	// maxFile bounds what is read, in bytes: MaxVersions take a sixth of it.
	maxFile = 1 << 20
	// kekSize is the size of a master key, in bytes: AES-256.
	kekSize = 32
	// idSize is the size of a keyring's id, in bytes.
	idSize = 16
)

// State says what a version of a key is for.
type State string

const (
	// Active versions are in use: the newest one wraps, all of them unwrap.
	Active State = "active"
	// Retired versions do neither, until they are activated again.
	Retired State = "retired"
)

// ErrDamaged means that a keyring file is not what was written. It is left as it is.
var ErrDamaged = errors.New("the keyring file is damaged; move it away and restore it from a backup (keybroker keyring restore)")

// keyring is the content of one key's file.
type keyring struct {
	id       string // of the keyring, in hex
	key      string // its name
	versions []version
}

// version is one master key (KEK).
type version struct {
	number  int
	created time.Time
	state   State
	kek     *[kekSize]byte
}

// Format implements fmt.Formatter, so that a keyring never prints its keys.
func (k keyring) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "key %s, %d versions", k.key, len(k.versions))
}

// Format implements fmt.Formatter, so that a version never prints its key.
func (v version) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "version %d, %s", v.number, v.state)
}

// document is the file as JSON. The fields stand in this order, indented by two
// spaces, with a newline at the end: there is one encoding only.
type document struct {
	Format   string            `json:"format"`
	Keyring  string            `json:"keyring"`
	Key      string            `json:"key"`
	Versions []documentVersion `json:"versions"`
	// SHA256 is over the same document with this field empty. It finds damage,
	// not tampering: who may write the file may write any key into it.
	SHA256 string `json:"sha256"`
}

type documentVersion struct {
	Version int    `json:"version"`
	Created string `json:"created"`
	State   State  `json:"state"`
	KEK     []byte `json:"kek"`
}

const format = "keybroker-keyring/1"

// encode returns the file's bytes. They hold keys: the caller wipes them.
//
// It writes the document itself, since encoding/json would leave copies of the
// keys in buffers that it pools. Nothing in it needs to be escaped.
func (k *keyring) encode() []byte {
	// More than it takes, so that append moves it to no other place.
	b := make([]byte, 0, 512+256*len(k.versions))
	b = append(b, "{\n  \"format\": \""+format+"\",\n  \"keyring\": \""+k.id+"\",\n  \"key\": \""+k.key+"\",\n  \"versions\": ["...)
	for i, v := range k.versions {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, "\n    {\n      \"version\": "...)
		b = strconv.AppendInt(b, int64(v.number), 10)
		b = append(b, ",\n      \"created\": \""...)
		b = v.created.UTC().AppendFormat(b, time.RFC3339)
		b = append(b, "\",\n      \"state\": \""+string(v.state)+"\",\n      \"kek\": \""...)
		b = base64.StdEncoding.AppendEncode(b, v.kek[:])
		b = append(b, "\"\n    }"...)
	}
	b = append(b, "\n  ],\n  \"sha256\": \""...)
	const end = "\"\n}\n"
	sum := sha256.New()
	sum.Write(b)
	sum.Write([]byte(end))
	b = hex.AppendEncode(b, sum.Sum(nil))
	return append(b, end...)
}

// decode reads a file's bytes, of which it keeps nothing. Every error wraps
// ErrDamaged and quotes nothing of them.
func decode(b []byte) (*keyring, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrDamaged, maxFile)
	}
	var d document
	defer d.wipe()
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("%w: it is no keyring", ErrDamaged)
	}
	k, err := d.keyring()
	if err != nil {
		return nil, err
	}
	// One encoding only: what does not come out as it went in, to the last field
	// and space, was not written here. This also compares the checksum.
	again := k.encode()
	defer clear(again)
	if !bytes.Equal(again, b) {
		k.wipe()
		return nil, fmt.Errorf("%w: its checksum or form is wrong", ErrDamaged)
	}
	return k, nil
}

// keyring holds the document's rules and returns what it says, which shares
// nothing with it.
func (d *document) keyring() (*keyring, error) {
	switch id, err := hex.DecodeString(d.Keyring); {
	case d.Format != format:
		return nil, fmt.Errorf("%w: its format is not %s", ErrDamaged, format)
	case err != nil || len(id) != idSize || hex.EncodeToString(id) != d.Keyring:
		return nil, fmt.Errorf("%w: its id is not %d bytes in hex", ErrDamaged, idSize)
	case !ValidKey(d.Key):
		return nil, fmt.Errorf("%w: it has no key name", ErrDamaged)
	case len(d.Versions) < 1 || len(d.Versions) > MaxVersions:
		return nil, fmt.Errorf("%w: it has %d versions, not 1 to %d", ErrDamaged, len(d.Versions), MaxVersions)
	}
	k := &keyring{id: d.Keyring, key: d.Key}
	for i, v := range d.Versions {
		created, err := time.Parse(time.RFC3339, v.Created)
		switch {
		case v.Version != i+1:
			err = fmt.Errorf("%w: version %d is missing", ErrDamaged, i+1)
		case err != nil:
			err = fmt.Errorf("%w: version %d has no time", ErrDamaged, v.Version)
		case v.State != Active && v.State != Retired:
			err = fmt.Errorf("%w: version %d is neither active nor retired", ErrDamaged, v.Version)
		case len(v.KEK) != kekSize:
			err = fmt.Errorf("%w: version %d is not %d bytes", ErrDamaged, v.Version, kekSize)
		}
		if err != nil {
			k.wipe()
			return nil, err
		}
		kek := [kekSize]byte(v.KEK)
		k.versions = append(k.versions, version{v.Version, created, v.State, &kek})
	}
	if k.newest() == nil {
		k.wipe()
		return nil, fmt.Errorf("%w: no version is active", ErrDamaged)
	}
	return k, nil
}

// wipe overwrites the keys.
func (d *document) wipe() {
	for _, v := range d.Versions {
		clear(v.KEK)
	}
}

// newest is the version that wraps.
func (k *keyring) newest() *version {
	for i := len(k.versions) - 1; i >= 0; i-- {
		if k.versions[i].state == Active {
			return &k.versions[i]
		}
	}
	return nil
}

// version returns the version of that number, or nil.
func (k *keyring) version(number int) *version {
	if number < 1 || number > len(k.versions) {
		return nil
	}
	return &k.versions[number-1]
}

// reference is what the key physically is, wherever the directory stands.
func (k *keyring) reference() string { return k.id + "/" + k.key }

// holds tells whether k has every version of old, so that nothing is lost if old
// is. States may differ.
func (k *keyring) holds(old *keyring) bool {
	if k.reference() != old.reference() || len(k.versions) < len(old.versions) {
		return false
	}
	for i, v := range old.versions {
		if subtle.ConstantTimeCompare(k.versions[i].kek[:], v.kek[:]) != 1 {
			return false
		}
	}
	return true
}

// wipe overwrites the keys.
func (k *keyring) wipe() {
	for _, v := range k.versions {
		clear(v.kek[:])
	}
}

// keyName is what a key may be called: it is a file's name, too.
var keyName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// ValidKey tells whether name can name a key: [a-z0-9][a-z0-9._-]{0,63}.
func ValidKey(name string) bool { return keyName.MatchString(name) }

package handover

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Entry is an opened intermediate key and where it came from.
type Entry struct {
	// IK is its 32 bytes.
	IK []byte
	// LoadedAt is when it was opened or made, by CLOCK_BOOTTIME in the boot called
	// BootID.
	LoadedAt time.Time
	BootID   string
	// Part is the IK part of its envelopes.
	Part string
	// Backend and Key are the recipient that opened it, and KEK its master key as the
	// audit shows it.
	Backend, Key string
	KEK          string
}

// String says which key it is of, and nothing of the key.
func (e Entry) String() string { return "handover.Entry(" + e.Backend + ", " + e.KEK + ")" }

// Format implements fmt.Formatter: String, whatever the verb.
func (e Entry) Format(f fmt.State, _ rune) { fmt.Fprint(f, e.String()) }

// ErrDamaged is why an entry cannot be read.
var ErrDamaged = errors.New("handover: a damaged entry")

func (e Entry) texts() [texts]string { return [...]string{e.BootID, e.Part, e.Backend, e.Key, e.KEK} }

// Size is how many bytes Encode writes.
func (e Entry) Size() int {
	n := textAt
	for _, text := range e.texts() {
		n += 2 + len(text)
	}
	return n
}

// Encode writes the entry to slot, which has room for it, and returns its Size. Its
// IK is 32 bytes, and no text is longer than 64 KiB. The key is copied to no other
// place: whole blocks are hashed where they are, and it is in the first.
func (e Entry) Encode(slot []byte) int {
	copy(slot[keyAt:loadedAtAt], e.IK)
	binary.BigEndian.PutUint64(slot[loadedAtAt:], uint64(e.LoadedAt.UnixNano()))
	n := textAt
	for _, text := range e.texts() {
		binary.BigEndian.PutUint16(slot[n:], uint16(len(text))) //nolint:gosec // shorter than a slot
		n += 2
		n += copy(slot[n:], text)
	}
	sum := sha256.Sum256(slot[keyAt:n])
	copy(slot, sum[:])
	return n
}

// Decode reads an entry that fills b. Its IK aliases b; all else is copied. The error
// is ErrDamaged.
func Decode(b []byte) (Entry, error) {
	if len(b) < textAt+2*texts || len(b) > slotSize {
		return Entry{}, ErrDamaged
	}
	if sum := sha256.Sum256(b[keyAt:]); !bytes.Equal(sum[:], b[:keyAt]) {
		return Entry{}, ErrDamaged
	}
	e := Entry{
		IK:       b[keyAt:loadedAtAt:loadedAtAt],
		LoadedAt: time.Unix(0, int64(binary.BigEndian.Uint64(b[loadedAtAt:]))), //nolint:gosec // written so
	}
	rest := b[textAt:]
	for _, to := range []*string{&e.BootID, &e.Part, &e.Backend, &e.Key, &e.KEK} {
		if len(rest) < 2 {
			return Entry{}, ErrDamaged
		}
		n := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; n > len(rest) {
			return Entry{}, ErrDamaged
		}
		*to, rest = string(rest[:n]), rest[n:]
	}
	if len(rest) > 0 {
		return Entry{}, ErrDamaged
	}
	return e, nil
}

package persist

import (
	"encoding/binary"
	"time"

	"github.com/keybroker/keybroker/internal/handover"
)

// Entry is an opened intermediate key, where it came from, and when.
type Entry struct {
	handover.Entry
	// OpenedAt is Entry.LoadedAt by the wall clock.
	OpenedAt time.Time
}

// seal returns a slot with the entry, which fits. Nothing of the key is left where it
// was put together.
func (s slots) seal(slot int, e Entry) []byte {
	b := make([]byte, plainSize, slotSize)
	binary.BigEndian.PutUint64(b, uint64(e.OpenedAt.UnixNano()))
	binary.BigEndian.PutUint32(b[lengthAt:], uint32(e.Encode(b[entryAt:]))) //nolint:gosec // shorter than a slot
	return s.aead.Seal(b[:0], nil, b, s.associated(slot))
}

// open reads the entry of a slot that is not free, in place: the entry's IK aliases b.
func (s slots) open(slot int, b []byte) (Entry, error) {
	plain, err := s.aead.Open(b[:0], nil, b, s.associated(slot))
	if err != nil {
		return Entry{}, handover.ErrDamaged
	}
	n := binary.BigEndian.Uint32(plain[lengthAt:])
	if n > plainSize-entryAt {
		return Entry{}, handover.ErrDamaged
	}
	e, err := handover.Decode(plain[entryAt:][:n])
	if err != nil {
		return Entry{}, err
	}
	return Entry{Entry: e, OpenedAt: time.Unix(0, int64(binary.BigEndian.Uint64(plain)))}, nil //nolint:gosec // written so
}

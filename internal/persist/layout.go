// Package persist keeps a sealed copy of the cache in a file, so that a restart of
// the process or of the host does not lose it.
//
// A File is written while the broker runs: what is cached soon after it is, and what
// leaves the cache is overwritten there; Settle waits for that. A Left is what the
// former process left. Each start makes a new file, under a new key, in place of the
// old one. A file that cannot be kept as it should be is destroyed: there is either
// one that knows what was wiped, or none.
//
// The file has a header, which fills 4 KiB with zeros at its end, and slots of 8 KiB.
// Integers are in big-endian order.
//
//	header  magic, version, size of a slot, slots, length of the sealed key, the
//	        sealed key, SHA-256 of all before
//	slot    all zeros: free. Else 12 bytes of nonce and the AES-256-GCM sealing of the
//	        rest, under the file's key, with "keybroker/v1/sealed-cache", the header's
//	        SHA-256 and the slot's number (4 bytes) as associated data
//
// What is sealed in a slot fills it: when the intermediate key was opened (8 bytes,
// nanoseconds of the wall clock since 1970), the length of the entry (4 bytes), the
// entry as the hand-over memory has it (package handover), zeros.
//
// The key is random, of one file, and in the file only as a Sealer has sealed it: who
// has the file but not what the Sealer needs has nothing, and without the header
// nobody has. Who may write the file can put an earlier state of it in its place.
package persist

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
)

const (
	magic         = "KBSEALED"
	formatVersion = 1

	headerSize = 4096
	headerBody = len(magic) + 4 + 4 + 4 + 4
	// maxSealedKey is what the header has room for.
	maxSealedKey = headerSize - headerBody - sha256.Size

	slotSize = 8192
	maxSlots = 4096
	keySize  = 32

	// sealing is how much longer a sealed text is, by its nonce and its tag.
	sealing   = 12 + 16
	plainSize = slotSize - sealing
	lengthAt  = 8
	entryAt   = lengthAt + 4

	aadPrefix = "keybroker/v1/sealed-cache"
)

func sizeFor(slots int) int64 { return headerSize + int64(slots)*slotSize }

func slotAt(slot int) int64 { return sizeFor(slot) }

// header returns the first bytes of a file, without the zeros after them.
func header(slots int, sealedKey []byte) []byte {
	b := make([]byte, 0, headerBody+len(sealedKey)+sha256.Size)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, formatVersion)
	b = binary.BigEndian.AppendUint32(b, slotSize)
	b = binary.BigEndian.AppendUint32(b, uint32(slots))          //nolint:gosec // at most maxSlots
	b = binary.BigEndian.AppendUint32(b, uint32(len(sealedKey))) //nolint:gosec // at most maxSealedKey
	b = append(b, sealedKey...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// slots seals and opens the slots of one file. It is safe for concurrent use.
type slots struct {
	aead cipher.AEAD
	// prefix is what the associated data begins with.
	prefix []byte
}

// newSlots takes the file's key, which it neither keeps nor wipes, and its header.
func newSlots(key, header []byte) (slots, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return slots{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return slots{}, err
	}
	return slots{aead: aead, prefix: append([]byte(aadPrefix), header[len(header)-sha256.Size:]...)}, nil
}

func (s slots) associated(slot int) []byte {
	return binary.BigEndian.AppendUint32(append([]byte(nil), s.prefix...), uint32(slot)) //nolint:gosec // at most maxSlots
}

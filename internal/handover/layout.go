// Package handover hands cached intermediate keys to the next process, in memory
// that outlives this one because the service manager holds its file descriptor.
//
// A Memory is written while the broker runs: each entry when it is cached, and
// wiped when it leaves the cache, so that whatever ends the process leaves neither
// more nor less than was cached. A Received is what the former process left. It may
// be half written, damaged, or another's, and is read so.
//
// The memory has three parts, with integers in big-endian order but for the index:
//
//	header  magic, version, size of a slot, slots, 4 zero bytes, SHA-256 of that
//	index   a word for each slot, in the machine's own order: free, busy, or valid
//	        with the length of the entry
//	slots   SHA-256 of the rest of the entry, then the entry
//
// An entry is the intermediate key (32 bytes), when it was loaded (8 bytes,
// nanoseconds of CLOCK_BOOTTIME), and, each after its length (2 bytes), the boot
// id, the IK part, the backend and the master key that opened it, and that master
// key as the audit shows it.
//
// A slot is written while its word says busy, and the word is set after that; it is
// wiped in the other order. A crash at any step leaves a busy slot, which is not
// read, or a whole one.
package handover

import (
	"crypto/sha256"
	"encoding/binary"
)

const (
	magic         = "KBHANDOV"
	formatVersion = 1

	// slotSize has room for the largest IK part there is (6010 bytes), and for the
	// longest names.
	slotSize = 8192
	// maxSlots bounds the memory to 32 MiB and the index.
	maxSlots = 4096

	headerSize = sha256.Size + headerBody
	headerBody = len(magic) + 4 + 4 + 4 + 4
	indexAt    = 64
	wordSize   = 8

	// The states of a word. A valid one has the entry's length in its lower half.
	free  uint64 = 0
	busy  uint64 = 1
	valid uint64 = 0x4b424531 << 32 // "KBE1"

	keySize    = 32
	keyAt      = sha256.Size
	loadedAtAt = keyAt + keySize
	textAt     = loadedAtAt + 8
	texts      = 5
)

// slotsAt is where the slots begin, whole pages of any machine from the start.
func slotsAt(slots int) int {
	const page = 64 << 10
	return (indexAt + slots*wordSize + page - 1) / page * page
}

// sizeFor is the size of a memory with so many slots.
func sizeFor(slots int) int { return slotsAt(slots) + slots*slotSize }

// header returns the first bytes of a memory with so many slots.
func header(slots int) []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, formatVersion)
	b = binary.BigEndian.AppendUint32(b, slotSize)
	b = binary.BigEndian.AppendUint32(b, uint32(slots)) //nolint:gosec // at most maxSlots
	b = binary.BigEndian.AppendUint32(b, 0)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

package persist

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Left is what the former process left. It is not safe for concurrent use.
type Left struct {
	file  *os.File
	slots slots
	count int
	err   error
}

// Errors of Left.Err, beside those of the file system.
var (
	// ErrVersion: another version of keybroker made it, in a format of its own.
	ErrVersion = errors.New("another version of keybroker made it")
	// ErrForeign: it is no sealed file, or damaged beyond use.
	ErrForeign = errors.New("it is not what a keybroker left, or damaged")
	// ErrUnsealed: the Sealer does not open it: it is of another host or another key.
	ErrUnsealed = errors.New("its key cannot be unsealed")
)

// Open opens the file at path, which may be missing, half written, damaged or
// another's. It never fails: Err tells whether there is anything to be had. The
// caller closes it.
func Open(path string, sealer Sealer) *Left {
	l := &Left{}
	// A named pipe would else block until someone writes to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		l.err = err
	default:
		l.file = f
		l.err = l.read(sealer)
	}
	return l
}

func (l *Left) read(sealer Sealer) error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, headerSize)
	if !info.Mode().IsRegular() || info.Size() < headerSize {
		return ErrForeign
	}
	if _, err := l.file.ReadAt(head, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if !bytes.HasPrefix(head, []byte(magic)) {
		return ErrForeign
	}
	numbers := head[len(magic):]
	if v := binary.BigEndian.Uint32(numbers); v != formatVersion {
		return fmt.Errorf("%w: format %d, this is %d", ErrVersion, v, formatVersion)
	}
	count, n := int64(binary.BigEndian.Uint32(numbers[8:])), int64(binary.BigEndian.Uint32(numbers[12:]))
	if count < 1 || count > maxSlots || n > int64(maxSealedKey) || info.Size() != sizeFor(int(count)) {
		return ErrForeign
	}
	sealedKey := head[headerBody:][:n]
	whole := header(int(count), sealedKey)
	if !bytes.Equal(whole, head[:len(whole)]) || !isZero(head[len(whole):]) {
		return ErrForeign
	}
	key, err := sealer.Unseal(sealedKey)
	defer clear(key)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsealed, err)
	}
	if len(key) != keySize {
		return ErrForeign
	}
	if l.slots, err = newSlots(key, whole); err != nil {
		return err
	}
	l.count = int(count)
	return nil
}

// Err tells why nothing can be read: ErrVersion, ErrForeign, ErrUnsealed with the
// Sealer's reason, or the file system's. It is nil if entries can be read, or if
// nothing was left.
func (l *Left) Err() error { return l.err }

// Each calls f for every whole entry, in no order that means anything, and returns
// how many slots were damaged. Its IK is f's to use until it returns, and wiped then.
func (l *Left) Each(f func(Entry)) (damaged int) {
	b := make([]byte, slotSize)
	defer clear(b)
	for slot := range l.count {
		if _, err := l.file.ReadAt(b, slotAt(slot)); err != nil {
			damaged++
			continue
		}
		if isZero(b) {
			continue
		}
		e, err := l.slots.open(slot, b)
		if err != nil {
			damaged++
			continue
		}
		f(e)
		clear(b)
	}
	return damaged
}

// Close closes the file, and leaves it as it is. A nil Left has none.
func (l *Left) Close() error {
	if l == nil || l.file == nil {
		return nil
	}
	l.count = 0
	return l.file.Close()
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

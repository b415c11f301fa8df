package handover

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/keybroker/keybroker/internal/secret"
)

// Memory is what the next process will be handed. It is safe for concurrent use.
type Memory struct {
	mu     sync.Mutex
	shared *secret.Shared
	slots  int
	taken  map[[32]byte]int // slot by the id of its entry
	free   []int            // slots, the last is taken first
	closed bool
}

// Errors of Put.
var (
	// ErrFull: every slot is taken.
	ErrFull = errors.New("handover: the memory is full")
	// ErrSize: the entry is larger than a slot, or its key is not 32 bytes.
	ErrSize = errors.New("handover: the entry does not fit")
	// ErrClosed: the memory was closed.
	ErrClosed = errors.New("handover: closed")
)

// New returns memory for as many entries as a cache of this capacity has, but at
// most 4096. It takes 8 KiB of address space for each, which count against
// RLIMIT_MEMLOCK, and up to as much memory once it is in use.
//
// The error is that of secret.NewShared, and says what to do.
func New(capacity int) (*Memory, error) {
	slots := max(1, min(capacity, maxSlots))
	shared, err := secret.NewShared(sizeFor(slots))
	if err != nil {
		return nil, err
	}
	m := &Memory{shared: shared, slots: slots, taken: map[[32]byte]int{}}
	for slot := slots - 1; slot >= 0; slot-- {
		m.free = append(m.free, slot)
	}
	if err := touching(func() { copy(shared.Bytes(), header(slots)) }); err != nil {
		return nil, errors.Join(err, shared.Close())
	}
	return m, nil
}

// Kind says what memory it is.
func (m *Memory) Kind() secret.Kind { return m.shared.Kind() }

// Slots is how many entries it has room for.
func (m *Memory) Slots() int { return m.slots }

// File is the descriptor by which it is handed over. It stays the Memory's.
func (m *Memory) File() *os.File { return m.shared.File() }

// Put writes an entry in place of what there was for id. After an error there is
// none for id: ErrFull, ErrSize, ErrClosed, or that the kernel has no more memory.
func (m *Memory) Put(id [32]byte, e Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wipe(id)
	switch {
	case m.closed:
		return ErrClosed
	case len(e.IK) != keySize || e.Size() > slotSize:
		return ErrSize
	case len(m.free) == 0:
		return ErrFull
	}
	slot := m.free[len(m.free)-1]
	m.free = m.free[:len(m.free)-1]
	m.taken[id] = slot
	word := m.word(slot)
	word.Store(busy)
	if err := touching(func() { word.Store(valid | uint64(e.Encode(m.slot(slot)))) }); err != nil { //nolint:gosec // at most slotSize
		m.wipe(id)
		return err
	}
	return nil
}

// Wipe overwrites the entry for id, if there is one, before it returns. After Close
// it does nothing.
func (m *Memory) Wipe(id [32]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.wipe(id)
	}
}

// wipe is Wipe. m.mu is held.
func (m *Memory) wipe(id [32]byte) {
	slot, ok := m.taken[id]
	if !ok {
		return
	}
	word := m.word(slot)
	word.Store(busy)
	// A slot that could not be written for want of memory has nothing to be wiped.
	_ = touching(func() { clear(m.slot(slot)) })
	word.Store(free)
	delete(m.taken, id)
	m.free = append(m.free, slot)
}

// Close gives the memory back but wipes nothing: what is in it is for whoever has
// been handed it. It is idempotent.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	clear(m.taken)
	return m.shared.Close()
}

func (m *Memory) word(slot int) *atomic.Uint64 { return wordOf(m.shared.Bytes(), slot) }
func (m *Memory) slot(slot int) []byte         { return slotOf(m.shared.Bytes(), m.slots, slot) }

// wordOf is the word of a slot. Mappings begin with a page, so it is aligned.
func wordOf(b []byte, slot int) *atomic.Uint64 {
	word := b[indexAt+slot*wordSize:][:wordSize]
	return (*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(word))) //nolint:gosec // of this size
}

func slotOf(b []byte, slots, slot int) []byte {
	return b[slotsAt(slots)+slot*slotSize:][:slotSize]
}

// touching calls f, and returns it as an error if memory that f touches cannot be
// had.
func touching(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(interface {
				error
				Addr() uintptr
			})
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("handover: the memory cannot be used: %w", error(fault))
		}
	}()
	f()
	return nil
}

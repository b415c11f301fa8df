// Package secret keeps key bytes: cached ones in an arena of locked memory
// outside Go's heap, those on their way to a caller in values that do not print.
package secret

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// SlotSize is the size of what an Arena holds, in bytes: an intermediate key.
const SlotSize = 32

// Mode says what happens if memory cannot be locked.
type Mode uint8

const (
	// Require makes NewArena fail.
	Require Mode = iota
	// Prefer makes the arena ordinary memory; Warning says why.
	Prefer
)

// Kind is how an arena's memory is protected.
type Kind string

const (
	// MemfdSecret is memfd_secret(2), which is locked, in no core dump, and not
	// readable through /proc/PID/mem or by the kernel's other paths, root's
	// included.
	MemfdSecret Kind = "memfd_secret"
	// Mlock is locked by mlock(2) and kept out of core dumps and of children.
	Mlock Kind = "mlock"
	// Unlocked is ordinary memory. It may be swapped.
	Unlocked Kind = "unlocked"
)

// Errors of arenas.
var (
	// ErrFull: every slot is taken.
	ErrFull = errors.New("secret: the arena is full; raise memory.size")
	// ErrWiped: the key was wiped, or its arena closed.
	ErrWiped = errors.New("secret: the key was wiped")
	// ErrSize: what was given is not SlotSize bytes.
	ErrSize = fmt.Errorf("secret: a key is %d bytes", SlotSize)
)

// Config says how an Arena is made.
type Config struct {
	// Bytes is its size, rounded up to whole pages; at least one slot.
	Bytes  int
	Locked Mode
}

// Arena is memory for keys of SlotSize bytes, between two pages that no access
// survives. It is safe for concurrent use.
type Arena struct {
	mem     mapping
	kind    Kind
	warning string

	mu     sync.Mutex
	free   []uint32 // slots that are empty, and so all zero
	taken  map[*Key]uint32
	closed bool
	users  sync.WaitGroup // one for each Key whose slot is not free yet
}

// mapping is the memory of an arena.
type mapping struct {
	bytes   []byte       // whole slots
	release func() error // gives it back to the kernel
}

// Stats is how full an Arena is.
type Stats struct {
	Kind             Kind
	Bytes, UsedBytes int
	Slots, UsedSlots int
}

// NewArena returns an empty Arena. Its memory is mapped, locked and faulted in
// before it returns, so that no later access can fail.
//
// If the memory cannot be locked it fails under Require; the error names the
// limit and what to change.
func NewArena(cfg Config) (*Arena, error) {
	mem, kind, err := mapLocked(max(cfg.Bytes, SlotSize))
	var warning string
	if err != nil {
		if cfg.Locked == Require {
			return nil, fmt.Errorf("%w; or set memory: {locked: prefer} and read docs/memory.md", err)
		}
		warning = err.Error()
		kind = Unlocked
		if mem, err = mapUnlocked(max(cfg.Bytes, SlotSize)); err != nil {
			return nil, err
		}
	}
	a := &Arena{mem: mem, kind: kind, warning: warning, taken: map[*Key]uint32{}}
	for slot := len(mem.bytes)/SlotSize - 1; slot >= 0; slot-- {
		a.free = append(a.free, uint32(slot)) //nolint:gosec // an arena is far smaller than 256 GiB
	}
	return a, nil
}

// Warning says why the memory is not locked. It is empty if it is.
func (a *Arena) Warning() string { return a.warning }

// New moves b, SlotSize bytes, into the arena: b is wiped, also on an error.
//
// Errors: ErrSize, ErrFull, ErrWiped after Close.
func (a *Arena) New(b []byte) (*Key, error) {
	defer clear(b)
	if len(b) != SlotSize {
		return nil, ErrSize
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, ErrWiped
	}
	if len(a.free) == 0 {
		return nil, ErrFull
	}
	slot := a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	start := int(slot) * SlotSize
	k := &Key{arena: a, bytes: a.mem.bytes[start : start+SlotSize : start+SlotSize]}
	k.holders.Store(1)
	copy(k.bytes, b)
	a.taken[k] = slot
	a.users.Add(1)
	return k, nil
}

// recycle clears a key's slot and frees it. Nobody uses the key any more.
func (a *Arena) recycle(k *Key) {
	clear(k.bytes)
	a.mu.Lock()
	a.free = append(a.free, a.taken[k])
	delete(a.taken, k)
	a.mu.Unlock()
	a.users.Done()
}

// Stats returns how full the arena is.
func (a *Arena) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Stats{
		Kind: a.kind, Bytes: len(a.mem.bytes), UsedBytes: len(a.taken) * SlotSize,
		Slots: len(a.mem.bytes) / SlotSize, UsedSlots: len(a.taken),
	}
}

// Close wipes every key, waits until no Use is running, and gives the memory
// back. Use fails with ErrWiped from then on. It must not be called from within
// a Use. It is idempotent.
func (a *Arena) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	a.closed = true
	keys := make([]*Key, 0, len(a.taken))
	for k := range a.taken {
		keys = append(keys, k)
	}
	a.mu.Unlock()
	for _, k := range keys {
		k.Wipe()
	}
	a.users.Wait()
	return a.mem.release()
}

// String says how full the arena is, and nothing of what it holds.
func (a *Arena) String() string {
	s := a.Stats()
	return fmt.Sprintf("secret.Arena(%s, %d of %d slots)", s.Kind, s.UsedSlots, s.Slots)
}

// Format implements fmt.Formatter: String, whatever the verb.
func (a *Arena) Format(f fmt.State, _ rune) { fmt.Fprint(f, a.String()) }

// LogValue implements slog.LogValuer.
func (a *Arena) LogValue() slog.Value { return slog.StringValue(a.String()) }

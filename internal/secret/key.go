package secret

import "sync/atomic"

// Key is SlotSize bytes in an Arena. Its methods are safe for concurrent use.
type Key struct {
	redacted
	arena *Arena
	bytes []byte
	// holders counts the running Uses, and one for the key's owner until Wipe.
	// Who takes it to zero frees the slot; from zero it never rises.
	holders atomic.Int64
	wiped   atomic.Bool
}

// Use calls f with the key's bytes, which f must neither keep nor change. They
// stay what they are until f returns, also if the key is wiped meanwhile: a key
// that could turn to zeros under a sealing would seal under zeros.
//
// It returns f's error, or ErrWiped if the key was wiped before, without calling
// f.
func (k *Key) Use(f func(b []byte) error) error {
	for {
		n := k.holders.Load()
		if n == 0 || k.wiped.Load() {
			return ErrWiped
		}
		if k.holders.CompareAndSwap(n, n+1) {
			break
		}
	}
	defer k.leave()
	return f(k.bytes)
}

// Wipe ends the key: no Use begins any more, and its bytes are cleared once the
// last running Use has ended, at the latest. Wipe does not wait for that. It is
// idempotent.
func (k *Key) Wipe() {
	if k.wiped.CompareAndSwap(false, true) {
		k.leave()
	}
}

func (k *Key) leave() {
	if k.holders.Add(-1) == 0 {
		k.arena.recycle(k)
	}
}

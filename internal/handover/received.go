package handover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/keybroker/keybroker/internal/secret"
)

// Received is what the former process left. It is not safe for concurrent use.
type Received struct {
	shared []*secret.Shared
	slots  int
	err    error
}

// Errors of Received.Err.
var (
	// ErrVersion: another version of keybroker made it, in a format of its own.
	ErrVersion = errors.New("another version of keybroker made it")
	// ErrForeign: it is no hand-over memory, or damaged beyond use.
	ErrForeign = errors.New("it is not what a keybroker left, or damaged")
	// ErrSeveral: there are several, and no telling which is the last.
	ErrSeveral = errors.New("there are several")
)

// Take takes over what the service manager holds under the name of the hand-over
// memory: one file, as a rule. It owns the files from then on. It never fails: Err
// tells whether there is anything to be had.
func Take(files []*os.File) *Received {
	r := &Received{}
	for _, f := range files {
		s, err := secret.OpenShared(f, sizeFor(maxSlots))
		if err != nil {
			r.err = fmt.Errorf("%w: %w", ErrForeign, err)
			continue
		}
		r.shared = append(r.shared, s)
	}
	switch {
	case len(files) > 1:
		// A process stores its own after it has removed all others.
		r.err = ErrSeveral
	case r.err == nil && len(r.shared) == 1:
		r.err = r.readHeader()
	}
	return r
}

func (r *Received) readHeader() error {
	mem := r.shared[0].Bytes()
	if len(mem) < indexAt {
		return ErrForeign
	}
	head := make([]byte, headerSize)
	if err := touching(func() { copy(head, mem) }); err != nil {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if !bytes.HasPrefix(head, []byte(magic)) {
		return ErrForeign
	}
	numbers := head[len(magic):]
	if v := binary.BigEndian.Uint32(numbers); v != formatVersion {
		return fmt.Errorf("%w: format %d, this is %d", ErrVersion, v, formatVersion)
	}
	slots := binary.BigEndian.Uint32(numbers[8:])
	if slots < 1 || slots > maxSlots || !bytes.Equal(head, header(int(slots))) || len(mem) != sizeFor(int(slots)) {
		return ErrForeign
	}
	r.slots = int(slots)
	return nil
}

// Refuse has Err be why, and nothing be read.
func (r *Received) Refuse(why error) { r.slots, r.err = 0, why }

// Err tells why nothing can be read: ErrVersion, ErrForeign, ErrSeveral or what
// Refuse was given. It is nil if entries can be read, or if nothing was left.
func (r *Received) Err() error { return r.err }

// Each calls f for every whole entry, in no order that means anything, and returns
// how many slots were damaged. An entry that was being written or wiped when the
// process ended is none. Nothing of an entry but its digest has been verified. Its
// IK is f's to use until it returns, and wiped then.
func (r *Received) Each(f func(Entry)) (damaged int) {
	// Whoever else has the memory could change it meanwhile: what is verified is a
	// copy.
	scratch := make([]byte, slotSize)
	defer clear(scratch)
	for slot := range r.slots {
		mem := r.shared[0].Bytes()
		var word uint64
		length := 0
		err := touching(func() {
			if word = wordOf(mem, slot).Load(); word>>32 == valid>>32 {
				if length = int(uint32(word)); length <= slotSize {
					copy(scratch, slotOf(mem, r.slots, slot)[:length])
				}
			}
		})
		switch {
		case err == nil && (word == free || word == busy):
			continue
		case err != nil || length > slotSize:
			damaged++
			continue
		}
		e, err := Decode(scratch[:length])
		if err != nil {
			damaged++
			continue
		}
		f(e)
		clear(scratch)
	}
	return damaged
}

// Wipe overwrites what was left, and forgets it. Of what another version has left,
// or nobody knows who, all is overwritten.
func (r *Received) Wipe() {
	for _, s := range r.shared {
		mem := s.Bytes()
		if r.slots == 0 {
			_ = touching(func() { clear(mem) }) // its end is the kernel's to clear
			continue
		}
		_ = touching(func() {
			for slot := range r.slots {
				// Pages that nobody has written are not asked for now.
				if word := wordOf(mem, slot); word.Load() != free {
					word.Store(busy)
					clear(slotOf(mem, r.slots, slot))
					word.Store(free)
				}
			}
		})
	}
	r.slots = 0
}

// Close gives the memory back to whoever else has it.
func (r *Received) Close() error {
	var err error
	for _, s := range r.shared {
		err = errors.Join(err, s.Close())
	}
	r.shared, r.slots = nil, 0
	return err
}

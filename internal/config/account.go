package config

import (
	"fmt"
	"math"
)

// account reads a user or group that is given by name or by id, and returns its
// id; nil if neither is there or it is wrong.
func (b block) account(byName, byID string, lookup func(string) (uint32, error)) *uint32 {
	named, hasName := b.fields[byName]
	numbered, hasID := b.fields[byID]
	switch {
	case hasName && hasID:
		b.w.misnamed(numbered, fmt.Sprintf("both %s and %s", byName, byID), "one of them")
		return nil
	case hasName:
		return b.w.named(named, byName, byID, lookup)
	case hasID:
		return b.w.numbered(numbered)
	default:
		return nil
	}
}

func (w *walker) named(v value, byName, byID string, lookup func(string) (uint32, error)) *uint32 {
	want := fmt.Sprintf("the name of a %s of this host (a number stands under %s)", byName, byID)
	name, ok := w.text(v, want)
	if !ok {
		return nil
	}
	id, err := lookup(name)
	if err != nil {
		w.problem(v, fmt.Sprintf("%s, which could not be resolved (%v)", quote(name), err), want)
		return nil
	}
	if isOverflow(id) {
		w.problem(v, fmt.Sprintf("%s, which is %d", quote(name), id), overflowWant)
		return nil
	}
	return &id
}

func (w *walker) numbered(v value) *uint32 {
	n, ok := w.number(v, 0, math.MaxUint32)
	if !ok {
		return nil
	}
	id := uint32(n) //nolint:gosec // at most MaxUint32
	if isOverflow(id) {
		w.problem(v, describe(v.node), overflowWant)
		return nil
	}
	return &id
}

const overflowWant = "another id: the kernel reports 65534 for everyone it cannot name (user namespaces), and 4294967295 is none"

// isOverflow tells whether id can be nobody's: the kernel's default overflow id,
// or (uid_t)-1.
func isOverflow(id uint32) bool { return id == 65534 || id == math.MaxUint32 }

package secret

import (
	"errors"
	"os"
)

// Memfd is memfd_create(2), which is neither locked nor out of reach of
// /proc/PID/mem.
const Memfd Kind = "memfd"

// Shared is memory for secrets that another process can be handed: a mapping, and
// the file descriptor that it can be mapped by again. It lies between two pages
// that no access survives, is in no core dump, and no child of fork(2) gets it. It
// is gone, and cleared by the kernel, when its last descriptor and mapping are.
//
// Its pages are zero, and are had from the kernel when they are first touched. So
// an access may fault for want of memory: see runtime/debug.SetPanicOnFault.
//
// It does nothing about concurrent use of its bytes, here or in another process.
type Shared struct {
	mem  mapping
	file *os.File
	kind Kind
}

// Errors of shared memory.
var (
	// ErrSwap: there is only memory that could be swapped.
	ErrSwap = errors.New("this kernel has no memfd_secret(2) (Linux 5.14, before 6.5 with secretmem.enable=1), and other memory could be swapped: switch swap off, or set MemorySwapMax=0 in the unit")
	// ErrForeign: a file descriptor is of nothing that NewShared made.
	ErrForeign = errors.New("secret: it is not memory that a keybroker has made")
)

// Bytes returns the memory itself. It is not to be used after Close.
func (s *Shared) Bytes() []byte { return s.mem.bytes }

// File returns the descriptor, which stays the Shared's own.
func (s *Shared) File() *os.File { return s.file }

// Kind is MemfdSecret or Memfd.
func (s *Shared) Kind() Kind { return s.kind }

// Close unmaps the memory and closes the descriptor. Whoever else has one keeps
// what is in it. Close is not idempotent.
func (s *Shared) Close() error { return errors.Join(s.mem.release(), s.file.Close()) }

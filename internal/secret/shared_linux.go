package secret

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// NewShared returns memory of at least size bytes: memfd_secret(2) or, where the
// kernel does not have it, memfd_create(2) that cannot be swapped, because the
// machine has no swap or the process's control group may not use it. Where it
// could be, the error is ErrSwap.
func NewShared(size int) (*Shared, error) {
	size = pages(size)
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	kind := MemfdSecret
	if errors.Is(err, unix.ENOSYS) {
		if !unswappable() {
			return nil, ErrSwap
		}
		kind = Memfd
		fd, err = unix.MemfdCreate("keybroker", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	file := os.NewFile(uintptr(fd), string(kind))
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, errors.Join(fmt.Errorf("%s of %d bytes: %w", kind, size, err), file.Close())
	}
	if kind == Memfd {
		// Whoever maps it must be able to rely on its size. That of memfd_secret
		// can be set only once.
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, fixedSize|unix.F_SEAL_SEAL); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: seals: %w", kind, err), file.Close())
		}
	}
	return mapShared(file, kind, size)
}

const fixedSize = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

// OpenShared maps memory that NewShared made in another process, of at most limit
// bytes. It owns file from then on, also on an error. The error wraps ErrForeign if
// it is anything else, or of another size; nothing can be said of what is in it.
func OpenShared(file *os.File, limit int) (*Shared, error) {
	kind, size, err := inspect(int(file.Fd()), limit)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return mapShared(file, kind, size)
}

// secretmemMagic is SECRETMEM_MAGIC (linux/magic.h).
const secretmemMagic = 0x5345434d

// inspect returns what fd is, which is memory of a fixed size of which this
// process may map all.
func inspect(fd, limit int) (Kind, int, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return "", 0, fmt.Errorf("%w: statfs: %v", ErrForeign, err)
	}
	var kind Kind
	switch int64(fs.Type) { //nolint:unconvert,nolintlint // its type differs by architecture
	case secretmemMagic:
		kind = MemfdSecret
	case unix.TMPFS_MAGIC:
		kind = Memfd
		if seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil || seals&fixedSize != fixedSize {
			return "", 0, fmt.Errorf("%w: its size may change (seals %#x, %v)", ErrForeign, seals, err)
		}
	default:
		return "", 0, fmt.Errorf("%w: it is of a file system of type %#x", ErrForeign, fs.Type)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", 0, fmt.Errorf("%w: stat: %v", ErrForeign, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size <= 0 || st.Size > int64(min(limit, math.MaxInt32)) || int(st.Size) != pages(int(st.Size)) {
		return "", 0, fmt.Errorf("%w: mode %#o, %d bytes", ErrForeign, st.Mode, st.Size)
	}
	return kind, int(st.Size), nil
}

// mapShared maps size bytes of file, which it owns.
func mapShared(file *os.File, kind Kind, size int) (*Shared, error) {
	mem, err := mapGuarded(size, int(file.Fd()), func(b []byte) error {
		return errors.Join(unix.Madvise(b, unix.MADV_DONTFORK), unix.Madvise(b, unix.MADV_DONTDUMP))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mapping %d bytes of %s (RLIMIT_MEMLOCK is %s; raise LimitMEMLOCK in the unit, or lower cache.capacity): %w", size, kind, memlockLimit(), err), file.Close())
	}
	return &Shared{mem: mem, file: file, kind: kind}, nil
}

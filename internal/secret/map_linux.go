package secret

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapLocked maps locked memory for at least size bytes: memfd_secret where the
// kernel gives it, else mlock.
func mapLocked(size int) (mapping, Kind, error) {
	m, err := mapSecret(size)
	if err == nil {
		return m, MemfdSecret, nil
	}
	m, lockErr := mapMlock(size)
	if lockErr == nil {
		return m, Mlock, nil
	}
	return mapping{}, "", fmt.Errorf("locked memory for keys: memfd_secret: %v; mlock: %v (RLIMIT_MEMLOCK is %s, %d bytes are wanted): raise LimitMEMLOCK in the unit or lower memory.size",
		err, lockErr, memlockLimit(), pages(size))
}

// mapSecret maps memfd_secret(2). Its pages are locked and excluded from core
// dumps by themselves. A child of fork(2) does not get them: MADV_DONTFORK.
// (MADV_WIPEONFORK is for private mappings only; this one must be shared.)
func mapSecret(size int) (mapping, error) {
	// O_CLOEXEC, though memfd_secret(2) says FD_CLOEXEC: mm/secretmem.c takes no
	// other flag and answers EINVAL.
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return mapping{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Ftruncate(fd, int64(pages(size))); err != nil {
		return mapping{}, err
	}
	return mapWhole(size, fd, func(b []byte) error {
		return unix.Madvise(b, unix.MADV_DONTFORK)
	})
}

// mapMlock maps anonymous memory, locked, in no core dump and in no child: not
// mapped there, and were it, zero.
func mapMlock(size int) (mapping, error) {
	return mapWhole(size, -1, func(b []byte) error {
		return errors.Join(
			unix.Mlock(b),
			unix.Madvise(b, unix.MADV_DONTDUMP),
			unix.Madvise(b, unix.MADV_WIPEONFORK),
			unix.Madvise(b, unix.MADV_DONTFORK),
		)
	})
}

// mapUnlocked maps ordinary memory that is in no core dump and in no child.
func mapUnlocked(size int) (mapping, error) {
	return mapWhole(size, -1, func(b []byte) error {
		return errors.Join(unix.Madvise(b, unix.MADV_DONTDUMP), unix.Madvise(b, unix.MADV_DONTFORK))
	})
}

// mapWhole is mapGuarded, and touches every page: what cannot be had must fail now.
func mapWhole(size, fd int, protect func([]byte) error) (mapping, error) {
	return mapGuarded(size, fd, func(b []byte) error {
		if err := protect(b); err != nil {
			return err
		}
		return fault(b, os.Getpagesize())
	})
}

// mapGuarded maps size bytes of fd, or anonymous ones if fd is -1, between two
// pages without access, and has protect protect them.
func mapGuarded(size, fd int, protect func([]byte) error) (m mapping, err error) {
	page, inner := os.Getpagesize(), pages(size)
	whole, err := unix.Mmap(-1, 0, inner+2*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return mapping{}, err
	}
	m = mapping{bytes: whole[page : page+inner : page+inner], release: func() error { return unix.Munmap(whole) }}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.release())
			m = mapping{}
		}
	}()
	if err := mapOver(m.bytes, fd); err != nil {
		return m, err
	}
	return m, protect(m.bytes)
}

// pages rounds size up to whole pages.
func pages(size int) int {
	page := os.Getpagesize()
	return (size + page - 1) / page * page
}

func memlockLimit() string {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return "unknown"
	}
	if l.Cur == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return fmt.Sprintf("%d bytes", l.Cur)
}

// mapOver maps fd, or anonymous memory if fd is -1, in the place of b.
func mapOver(b []byte, fd int) error {
	flags := unix.MAP_FIXED | unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if fd >= 0 {
		flags = unix.MAP_FIXED | unix.MAP_SHARED
	}
	_, err := unix.MmapPtr(fd, 0, unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)), unix.PROT_READ|unix.PROT_WRITE, flags) //nolint:gosec // over b and no more
	return err
}

// fault writes to every page of b. Memory that the kernel cannot provide after
// all is an error and not a signal.
func fault(b []byte, page int) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the memory cannot be used: %v", p)
		}
	}()
	for i := 0; i < len(b); i += page {
		b[i] = 0
	}
	return nil
}

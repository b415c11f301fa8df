package secret_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/internal/secret"
)

// duplicate is another descriptor of f, as another process would have it.
func duplicate(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

func newShared(t *testing.T, size int) *secret.Shared {
	t.Helper()
	s, err := secret.NewShared(size)
	if errors.Is(err, secret.ErrSwap) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSharedOutlivesItsMaker(t *testing.T) {
	s := newShared(t, 3*os.Getpagesize()-1)
	if len(s.Bytes()) != 3*os.Getpagesize() || !bytes.Equal(s.Bytes(), make([]byte, len(s.Bytes()))) {
		t.Fatalf("%d bytes, or not zero", len(s.Bytes()))
	}
	copy(s.Bytes(), filled(0x77))
	f := duplicate(t, s.File())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := secret.OpenShared(f, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Kind() != s.Kind() || !bytes.HasPrefix(again.Bytes(), filled(0x77)) {
		t.Errorf("%s, want %s; or not what was in it", again.Kind(), s.Kind())
	}
}

// Where the kernel has memfd_secret, it is used, and out of /proc's reach.
func TestSharedIsMemfdSecret(t *testing.T) {
	fd, err := unix.MemfdSecret(0)
	if errors.Is(err, unix.ENOSYS) {
		t.Skip("this kernel has no memfd_secret(2)")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	s := newShared(t, 1)
	defer s.Close()
	if s.Kind() != secret.MemfdSecret {
		t.Fatalf("it is %s", s.Kind())
	}
	copy(s.Bytes(), filled(0x77))
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	got := make([]byte, secret.SlotSize)
	if _, err := mem.ReadAt(got, address(s.Bytes())); err == nil && bytes.Equal(got, filled(0x77)) {
		t.Error("it can be read through /proc/self/mem")
	}
}

func TestOpenSharedRefuses(t *testing.T) {
	page := os.Getpagesize()
	memfd := func(t *testing.T, size int, seals int) *os.File {
		t.Helper()
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "test")
		if err := f.Truncate(int64(size)); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
			t.Fatal(err)
		}
		return f
	}
	const sealed = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	for name, open := range map[string]func(t *testing.T) *os.File{
		"a file": func(t *testing.T) *os.File {
			f, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			return f
		},
		"a pipe": func(t *testing.T) *os.File {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			return r
		},
		"one that may shrink":       func(t *testing.T) *os.File { return memfd(t, page, unix.F_SEAL_GROW) },
		"one that may grow":         func(t *testing.T) *os.File { return memfd(t, page, unix.F_SEAL_SHRINK) },
		"an empty one":              func(t *testing.T) *os.File { return memfd(t, 0, sealed) },
		"one of half a page":        func(t *testing.T) *os.File { return memfd(t, page/2, sealed) },
		"one that is too large":     func(t *testing.T) *os.File { return memfd(t, 5*page, sealed) },
		"one that is not opened rw": func(t *testing.T) *os.File { return readOnly(t, memfd(t, page, sealed)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			s, err := secret.OpenShared(f, 4*page)
			if err == nil {
				s.Close()
				t.Fatal("it was mapped")
			}
			if _, err := f.Stat(); err == nil {
				t.Error("the descriptor is still open")
			}
		})
	}
	s, err := secret.OpenShared(memfd(t, 4*page, sealed), 4*page)
	if err != nil {
		t.Fatalf("as large as may be, and sealed: %v", err)
	}
	s.Close()
}

// readOnly opens f again for reading only.
func readOnly(t *testing.T, f *os.File) *os.File {
	t.Helper()
	defer f.Close()
	again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestNoSwapIn(t *testing.T) {
	root := t.TempDir()
	for group, limit := range map[string]string{
		"a.slice": "max\n", "a.slice/none.service": "0\n", "a.slice/some.service": "1048576\n",
		"b.slice": "0\n", "b.slice/any.service": "max\n", "c.slice/silent.service": "",
	} {
		dir := filepath.Join(root, group)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if limit != "" {
			if err := os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte(limit), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		groups string
		want   bool
	}{
		"of the unit":                {"0::/a.slice/none.service\n", true},
		"of the slice above":         {"0::/b.slice/any.service\n", true},
		"some swap":                  {"0::/a.slice/some.service\n", false},
		"no limit there":             {"0::/c.slice/silent.service\n", false},
		"the root":                   {"0::/\n", false},
		"beside the old hierarchies": {"4:memory:/b.slice\n0::/a.slice/none.service\n", true},
		"an old hierarchy":           {"4:memory:/b.slice\n", false},
		"a group that climbs":        {"0::/../../b.slice\n", true},
		"nothing":                    {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := secret.NoSwapIn(root, tc.groups); got != tc.want {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

package secret_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/internal/secret"
)

// TestArenaIsMemfdSecret holds that the strongest protection is used where the
// kernel has it, and that its bytes are out of /proc's reach.
func TestArenaIsMemfdSecret(t *testing.T) {
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
	a := newArena(t, 1<<16)
	if kind := a.Stats().Kind; kind != secret.MemfdSecret {
		t.Fatalf("the arena is %s", kind)
	}
	k, err := a.New(filled(0x77))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Use(func(b []byte) error {
		mem, err := os.Open("/proc/self/mem")
		if err != nil {
			return err
		}
		defer mem.Close()
		got := make([]byte, len(b))
		if _, err := mem.ReadAt(got, address(b)); err == nil && bytes.Equal(got, b) {
			t.Error("the key can be read through /proc/self/mem")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestArenaGuards holds that the arena lies between pages without access, is
// locked, and is in no core dump.
func TestArenaGuards(t *testing.T) {
	a := newArena(t, 1<<16)
	k, err := a.New(filled(1))
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_ = k.Use(func(b []byte) error {
		var before string
		inside := false
		for line := range strings.Lines(string(smaps)) {
			var from, to int64
			var mode string
			if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n == 3 {
				if inside {
					if mode[:3] != "---" {
						t.Errorf("behind the arena is no guard: %s", line)
					}
					return nil
				}
				if at := address(b); from <= at && at < to {
					inside = true
					if !strings.Contains(before, "---") {
						t.Errorf("before the arena is no guard: %s", before)
					}
				}
				before = line
			}
			if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
				for _, want := range []string{" dd ", " dc "} { // MADV_DONTDUMP, MADV_DONTFORK
					if !strings.Contains(flags, want) && (want != " dd " || a.Stats().Kind != secret.MemfdSecret) {
						t.Errorf("the flags of the arena's memory lack %q: %s", want, flags)
					}
				}
			}
		}
		t.Error("the arena is not in the list of mappings")
		return nil
	})
}

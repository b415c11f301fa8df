package persist_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/internal/persist"
)

// breakDisk has every further write to the open file at path fail, as that of a broken
// disk: its descriptor becomes one that cannot be written.
func breakDisk(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || to != path {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("nobody has %s open", path)
}

// A wipe that does not reach the disk costs the whole file, before Settle returns.
func TestBrokenDisk(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 4)
	put(t, f, 1, 2)
	commit(t, f)
	breakDisk(t, d.path)
	wipe(f, 1)
	settle(t, f)
	if _, err := os.Stat(d.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	id, e := entry(3)
	if err := f.Put(id, e); !errors.Is(err, persist.ErrGone) {
		t.Errorf("Put: %v", err)
	}
	wipe(f, 2)
	settle(t, f)
	if err := f.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(d.log.String(), "level=ERROR") || !strings.Contains(d.log.String(), "was removed") {
		t.Errorf("the log says %s", d.log)
	}
	// The next start has a file again.
	f = d.create(t, 4)
	put(t, f, 4)
	commit(t, f)
	d.holds(t, 0, 4)
}

func TestBrokenDiskBeforeCommit(t *testing.T) {
	d := newDisk(t)
	old := d.create(t, 4)
	put(t, old, 1)
	commit(t, old)
	f := d.create(t, 4)
	breakDisk(t, d.path+".new")
	put(t, f, 2)
	if err := f.Commit(t.Context()); err == nil {
		t.Error("it is committed")
	}
	// The old one would not know what is refused from now on.
	if names := listed(t, d.path); len(names) != 0 {
		t.Errorf("there is %v", names)
	}
}

// What can be neither written nor removed is told, and whoever waits is not kept.
func TestNotDestroyed(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 4)
	put(t, f, 1)
	commit(t, f)
	breakDisk(t, d.path)
	// A directory that is not empty is neither overwritten nor removed.
	if err := os.Remove(d.path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(d.path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	wipe(f, 1)
	if err := f.Settle(t.Context()); !errors.Is(err, persist.ErrNotDestroyed) {
		t.Errorf("Settle: %v", err)
	}
	if err := f.Close(t.Context()); !errors.Is(err, persist.ErrNotDestroyed) {
		t.Errorf("Close: %v", err)
	}
	if !strings.Contains(d.log.String(), "by hand") {
		t.Errorf("the log says %s", d.log)
	}
}

func TestCommitWhereNothingCanBe(t *testing.T) {
	d := newDisk(t)
	if err := os.MkdirAll(filepath.Join(d.path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := d.create(t, 4)
	put(t, f, 1)
	if err := f.Commit(t.Context()); err == nil {
		t.Error("it is committed")
	}
	if names := listed(t, d.path); len(names) != 1 {
		t.Errorf("there is %v", names)
	}
}

package persist_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/internal/handover"
	"github.com/keybroker/keybroker/internal/persist"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	headerSize = 4096
	slotSize   = 8192
)

// entry is an entry that differs from that of any other n.
func entry(n int) ([32]byte, persist.Entry) {
	ik := sha256.Sum256(fmt.Appendf(nil, "intermediate key %d", n))
	return sha256.Sum256(fmt.Appendf(nil, "part %d", n)), persist.Entry{
		Entry: handover.Entry{
			IK: ik[:], LoadedAt: time.Unix(int64(n), 5), BootID: "boot",
			Part: fmt.Sprintf("part %d", n), Backend: "vault-main", Key: "tikv", KEK: "id/transit/tikv#3",
		},
		OpenedAt: time.Unix(1800000000+int64(n), 7),
	}
}

// keyFile returns a key file of its own.
func keyFile(t *testing.T) persist.KeyFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	secret := sha256.Sum256([]byte(path))
	if err := os.WriteFile(path, secret[:], 0o600); err != nil {
		t.Fatal(err)
	}
	return persist.KeyFile{Path: path}
}

// disk is a place for a file, and what seals it.
type disk struct {
	path   string
	sealer persist.Sealer
	log    *bytes.Buffer // not to be read before the file's Close
}

func newDisk(t *testing.T) disk {
	t.Helper()
	return disk{path: filepath.Join(t.TempDir(), "cache.sealed"), sealer: keyFile(t), log: &bytes.Buffer{}}
}

func (d disk) create(t *testing.T, capacity int) *persist.File {
	t.Helper()
	f, err := persist.Create(persist.Config{Path: d.path, Capacity: capacity, Sealer: d.sealer, Logger: slog.New(slog.NewTextHandler(d.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close(context.Background()) })
	return f
}

func put(t *testing.T, f *persist.File, ns ...int) {
	t.Helper()
	for _, n := range ns {
		id, e := entry(n)
		if err := f.Put(id, e); err != nil {
			t.Fatal(err)
		}
	}
}

func wipe(f *persist.File, ns ...int) {
	for _, n := range ns {
		id, _ := entry(n)
		f.Wipe(id)
	}
}

func commit(t *testing.T, f *persist.File) {
	t.Helper()
	if err := f.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func settle(t *testing.T, f *persist.File) {
	t.Helper()
	if err := f.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// holds fails the test unless the file has the entries of ns, in any order, and so
// many damaged slots.
func (d disk) holds(t *testing.T, damaged int, ns ...int) {
	t.Helper()
	l := persist.Open(d.path, d.sealer)
	defer l.Close()
	if err := l.Err(); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	if n := l.Each(func(e persist.Entry) { got[fmt.Sprintf("%x %v %v %+v", e.IK, e.OpenedAt, e.LoadedAt, e.Part)] = true }); n != damaged {
		t.Errorf("%d slots are damaged, want %d", n, damaged)
	}
	want := map[string]bool{}
	for _, n := range ns {
		_, e := entry(n)
		want[fmt.Sprintf("%x %v %v %+v", e.IK, e.OpenedAt, e.LoadedAt, e.Part)] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("it has %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// Whatever ends the process leaves neither more nor less than was cached.
func TestWhatIsLeft(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 4)
	put(t, f, 1, 2, 3)
	wipe(f, 2)
	commit(t, f)
	d.holds(t, 0, 1, 3)

	put(t, f, 4, 5)
	wipe(f, 1, 9)
	put(t, f, 2)
	settle(t, f)
	d.holds(t, 0, 2, 3, 4, 5)

	// In place of the first.
	id, _ := entry(3)
	_, e := entry(6)
	if err := f.Put(id, e); err != nil {
		t.Fatal(err)
	}
	settle(t, f)
	d.holds(t, 0, 2, 4, 5, 6)
	if n := f.Len(); n != 4 {
		t.Errorf("%d entries, it says", n)
	}

	// What was put last is there after an orderly end.
	wipe(f, 2)
	put(t, f, 7)
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.holds(t, 0, 4, 5, 6, 7)
	id, e = entry(8)
	if err := f.Put(id, e); !errors.Is(err, persist.ErrGone) {
		t.Errorf("after Close: %v", err)
	}
	wipe(f, 4)
	d.holds(t, 0, 4, 5, 6, 7)
}

// A wiped entry leaves nothing behind, and none is written after it was wiped.
func TestWipedIsOverwritten(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 8)
	commit(t, f)
	for round := range 50 {
		for n := range 8 {
			put(t, f, n)
			if round%2 == 0 && n%2 == 0 {
				settle(t, f)
			}
			wipe(f, n)
		}
	}
	settle(t, f)
	d.holds(t, 0)
	if b := d.read(t); bytes.ContainsFunc(b[headerSize:], func(r rune) bool { return r != 0 }) {
		t.Error("something is left of what was wiped")
	}
}

func (d disk) read(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(d.path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (d disk) write(t *testing.T, b []byte) {
	t.Helper()
	if err := os.WriteFile(d.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsInTheClear(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 2)
	put(t, f, 1, 2)
	commit(t, f)
	b := d.read(t)
	for _, n := range []int{1, 2} {
		_, e := entry(n)
		for _, part := range []string{string(e.IK), string(e.IK[:8]), e.Part, e.Backend, e.KEK} {
			if bytes.Contains(b, []byte(part)) {
				t.Errorf("%q is in the file", part)
			}
		}
	}
	info, err := os.Stat(d.path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v", info.Mode())
	}
}

// The file of the former process stays until the new one is whole.
func TestCommitReplaces(t *testing.T) {
	d := newDisk(t)
	first := d.create(t, 2)
	put(t, first, 1)
	commit(t, first)
	old := d.read(t)

	second := d.create(t, 3)
	put(t, second, 2)
	settle(t, second)
	d.holds(t, 0, 1)
	commit(t, second)
	d.holds(t, 0, 2)
	if bytes.Contains(d.read(t), old[headerSize:][:slotSize]) {
		t.Error("the old entry is in the new file")
	}

	// Not even with the old slot put back: it was under another key.
	b := d.read(t)
	copy(b[headerSize+slotSize:], old[headerSize:][:slotSize])
	d.write(t, b)
	d.holds(t, 1, 2)
}

func TestNoCommit(t *testing.T) {
	d := newDisk(t)
	first := d.create(t, 2)
	put(t, first, 1)
	commit(t, first)
	for range 2 {
		f := d.create(t, 2)
		put(t, f, 2)
		if err := f.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.holds(t, 0, 1)
	}
	if names := listed(t, d.path); len(names) != 1 {
		t.Errorf("beside it there is %v", names)
	}
	// What a crash has left there is no obstacle.
	if err := os.WriteFile(d.path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := d.create(t, 2)
	put(t, f, 3)
	commit(t, f)
	d.holds(t, 0, 3)
}

// Who cannot wait for the disk has no file, and neither the former one.
func TestCommitThatIsNotWaitedFor(t *testing.T) {
	d := newDisk(t)
	ended, end := context.WithCancel(t.Context())
	end()
	for range 20 {
		old := d.create(t, 8)
		put(t, old, 1)
		commit(t, old)
		f := d.create(t, 8)
		put(t, f, 2, 3, 4, 5, 6)
		err := f.Commit(ended)
		if closed := f.Close(t.Context()); closed != nil {
			t.Fatal(closed)
		}
		if err == nil {
			d.holds(t, 0, 2, 3, 4, 5, 6) // the disk was faster
			continue
		}
		if names := listed(t, d.path); !errors.Is(err, context.Canceled) || len(names) != 0 {
			t.Fatalf("error %v, and there is %v", err, names)
		}
		return
	}
	t.Skip("the disk was always faster")
}

func listed(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestNoRoom(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 2)
	put(t, f, 1, 2)
	id, e := entry(3)
	if err := f.Put(id, e); !errors.Is(err, persist.ErrFull) {
		t.Errorf("beyond the capacity: %v", err)
	}
	// What does not fit is not kept, and neither is what it was to replace.
	id, e = entry(1)
	e.Part = strings.Repeat("x", slotSize)
	if err := f.Put(id, e); !errors.Is(err, persist.ErrSize) {
		t.Errorf("longer than a slot: %v", err)
	}
	id, e = entry(2)
	e.IK = e.IK[:31]
	if err := f.Put(id, e); !errors.Is(err, persist.ErrSize) {
		t.Errorf("a short key: %v", err)
	}
	put(t, f, 4)
	commit(t, f)
	d.holds(t, 0, 4)
}

// The largest IK part that there is fits, with the longest names.
func TestLargestEntry(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 1)
	id, e := entry(1)
	e.BootID, e.Part, e.Backend = strings.Repeat("b", 36), strings.Repeat("p", 6010), strings.Repeat("n", 64)
	e.Key, e.KEK = strings.Repeat("k", 640), strings.Repeat("k", 640)
	if err := f.Put(id, e); err != nil {
		t.Error(err)
	}
}

func TestUnusable(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 2)
	put(t, f, 1)
	commit(t, f)
	whole := d.read(t)
	other := keyFile(t)
	for name, tc := range map[string]struct {
		change func([]byte) []byte
		sealer persist.Sealer
		want   error
	}{
		"another key file":    {nil, other, persist.ErrAnotherKey},
		"no key file":         {nil, persist.KeyFile{Path: d.path + ".key"}, fs.ErrNotExist},
		"a short key file":    {nil, persist.KeyFile{Path: short(t)}, persist.ErrKeyFile},
		"a long key file":     {nil, persist.KeyFile{Path: d.path}, persist.ErrKeyFile},
		"empty":               {func([]byte) []byte { return nil }, nil, persist.ErrForeign},
		"a header alone":      {func(b []byte) []byte { return b[:headerSize] }, nil, persist.ErrForeign},
		"a slot less":         {func(b []byte) []byte { return b[:len(b)-slotSize] }, nil, persist.ErrForeign},
		"a byte more":         {func(b []byte) []byte { return append(b, 0) }, nil, persist.ErrForeign},
		"another format":      {func(b []byte) []byte { b[11]++; return b }, nil, persist.ErrVersion},
		"other text":          {func([]byte) []byte { return bytes.Repeat([]byte("text"), 2048) }, nil, persist.ErrForeign},
		"zeros":               {func(b []byte) []byte { clear(b); return b }, nil, persist.ErrForeign},
		"more slots":          {func(b []byte) []byte { return refit(append(b, make([]byte, slotSize)...), 3) }, nil, nil},
		"without end":         {func(b []byte) []byte { return refit(b, 1<<31) }, nil, persist.ErrForeign},
		"a sealed key so big": {func(b []byte) []byte { binary.BigEndian.PutUint32(b[20:], 1<<31); return b }, nil, persist.ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(whole)
			if tc.change != nil {
				b = tc.change(b)
			}
			is := disk{path: filepath.Join(t.TempDir(), "cache.sealed"), sealer: d.sealer}
			is.write(t, b)
			if tc.sealer != nil {
				is.sealer = tc.sealer
			}
			l := persist.Open(is.path, is.sealer)
			defer l.Close()
			if !errors.Is(l.Err(), tc.want) {
				t.Errorf("error %v, want %v", l.Err(), tc.want)
			}
			l.Each(func(e persist.Entry) { t.Errorf("an entry: %v", e) })
		})
	}
	t.Run("a link", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(d.path, link); err != nil {
			t.Fatal(err)
		}
		l := persist.Open(link, d.sealer)
		defer l.Close()
		if l.Err() == nil {
			t.Error("it is followed")
		}
	})
	t.Run("a directory", func(t *testing.T) {
		l := persist.Open(t.TempDir(), d.sealer)
		defer l.Close()
		if !errors.Is(l.Err(), persist.ErrForeign) {
			t.Errorf("error %v", l.Err())
		}
	})
	t.Run("none", func(t *testing.T) {
		l := persist.Open(filepath.Join(t.TempDir(), "none"), d.sealer)
		defer l.Close()
		if n := l.Each(func(persist.Entry) { t.Error("an entry") }); l.Err() != nil || n != 0 {
			t.Errorf("error %v, %d damaged", l.Err(), n)
		}
	})
}

func short(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(path, make([]byte, persist.MinKeyFile-1), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// refit says another number of slots in a header, whose digest then fits.
func refit(b []byte, slots uint32) []byte {
	binary.BigEndian.PutUint32(b[16:], slots)
	end := 24 + binary.BigEndian.Uint32(b[20:])
	sum := sha256.Sum256(b[:end])
	copy(b[end:], sum[:])
	return b
}

// Every changed byte costs what it is in, or everything, and never gives another key.
func TestEveryChangedByte(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 3)
	put(t, f, 1, 2)
	commit(t, f)
	whole := d.read(t)
	fd, err := os.OpenFile(d.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	keys := map[string]bool{}
	for _, n := range []int{1, 2} {
		_, e := entry(n)
		keys[string(e.IK)] = true
	}
	for at := range whole {
		if _, err := fd.WriteAt([]byte{whole[at] ^ 0x40}, int64(at)); err != nil {
			t.Fatal(err)
		}
		l := persist.Open(d.path, d.sealer)
		good := 0
		damaged := l.Each(func(e persist.Entry) {
			good++
			if !keys[string(e.IK)] {
				t.Fatalf("byte %d gives another key", at)
			}
		})
		want := [2]int{1, 1} // good, damaged
		switch {
		case at < headerSize:
			want = [2]int{0, 0}
			if l.Err() == nil {
				t.Fatalf("byte %d of the header makes no difference", at)
			}
		case at >= headerSize+2*slotSize:
			want = [2]int{2, 1} // a free slot that is not
		}
		if got := [2]int{good, damaged}; got != want {
			t.Fatalf("byte %d: %v good and damaged, want %v", at, got, want)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := fd.WriteAt(whole[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryTruncation(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 2)
	put(t, f, 1)
	commit(t, f)
	for n := len(d.read(t)) - 1; n >= 0; n -= 61 {
		if err := os.Truncate(d.path, int64(n)); err != nil {
			t.Fatal(err)
		}
		l := persist.Open(d.path, d.sealer)
		if l.Each(func(persist.Entry) { t.Errorf("an entry in the first %d bytes", n) }); l.Err() == nil {
			t.Errorf("the first %d bytes are a file", n)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A sealed entry opens in its own slot only.
func TestSlotsDoNotMove(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 2)
	put(t, f, 1, 2)
	commit(t, f)
	b := d.read(t)
	first := bytes.Clone(b[headerSize:][:slotSize])
	copy(b[headerSize:], b[headerSize+slotSize:])
	copy(b[headerSize+slotSize:], first)
	d.write(t, b)
	d.holds(t, 2)
}

func TestManyAtATime(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 32)
	commit(t, f)
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			id, e := entry(n)
			for range 20 {
				if err := f.Put(id, e); err != nil {
					t.Error(err)
				}
				f.Wipe(id)
				if err := f.Settle(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if n%2 == 0 {
				if err := f.Put(id, e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	settle(t, f)
	d.holds(t, 0, 0, 2, 4, 6, 8, 10, 12, 14)
}

func TestWhatCannotBeCreated(t *testing.T) {
	key := keyFile(t)
	for name, cfg := range map[string]persist.Config{
		"no directory": {Path: filepath.Join(t.TempDir(), "none", "cache.sealed"), Capacity: 1, Sealer: key},
		"no key":       {Path: filepath.Join(t.TempDir(), "cache.sealed"), Capacity: 1, Sealer: persist.KeyFile{Path: "/none"}},
		"a huge key":   {Path: filepath.Join(t.TempDir(), "cache.sealed"), Capacity: 1, Sealer: plain(headerSize)},
	} {
		t.Run(name, func(t *testing.T) {
			if f, err := persist.Create(cfg); err == nil {
				_ = f.Close(t.Context())
				t.Error("it is created")
			}
			if _, err := os.Stat(cfg.Path + ".new"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
		})
	}
}

// plain seals nothing, and adds so many bytes.
type plain int

func (p plain) Seal(key []byte) ([]byte, error) {
	return append(bytes.Clone(key), make([]byte, p)...), nil
}
func (p plain) Unseal(sealed []byte) ([]byte, error) {
	return bytes.Clone(sealed[:max(0, len(sealed)-int(p))]), nil
}

// Golden is a file that an earlier version has left: it opens in every later one of
// this format. It is never made anew.
func TestGolden(t *testing.T) {
	d := disk{path: "testdata/golden.sealed", sealer: persist.KeyFile{Path: "testdata/golden.key"}}
	d.holds(t, 0, 1, 2)
}

func TestDestroy(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, 2)
	put(t, f, 1)
	commit(t, f)
	link := d.path + ".link" // what else has its blocks
	if err := os.Link(d.path, link); err != nil {
		t.Fatal(err)
	}
	if err := persist.Destroy(d.path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	l := persist.Open(link, d.sealer)
	defer l.Close()
	if !errors.Is(l.Err(), persist.ErrForeign) {
		t.Errorf("it can still be read: %v", l.Err())
	}
	if err := persist.Destroy(d.path); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

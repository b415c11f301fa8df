package handover_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/internal/handover"
	"github.com/keybroker/keybroker/internal/secret"
)

// Of the layout, for memory with one slot.
const (
	wordAt   = 64
	slotAt   = 64 << 10
	slotSize = 8 << 10
	oneSize  = slotAt + slotSize
	valid    = 0x4b424531 << 32
)

func newMemory(t testing.TB, capacity int) *handover.Memory {
	t.Helper()
	m, err := handover.New(capacity)
	if errors.Is(err, secret.ErrSwap) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// duplicate is another descriptor of f, as the service manager would keep it.
func duplicate(t testing.TB, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// view is the bytes of m.
func view(t testing.TB, m *handover.Memory) []byte {
	t.Helper()
	s, err := secret.OpenShared(duplicate(t, m.File()), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.Bytes()
}

// take is what the next process is handed of m now.
func take(t testing.TB, m *handover.Memory) *handover.Received {
	t.Helper()
	r := handover.Take([]*os.File{duplicate(t, m.File())})
	t.Cleanup(func() { r.Close() })
	return r
}

// read returns the entries of r by their part, and how many were damaged.
func read(r *handover.Received) (map[string]handover.Entry, int) {
	got := map[string]handover.Entry{}
	damaged := r.Each(func(e handover.Entry) {
		e.IK = bytes.Clone(e.IK)
		got[e.Part] = e
	})
	return got, damaged
}

func entry(n int) (id [32]byte, e handover.Entry) {
	return [32]byte{byte(n), byte(n >> 8), 1}, handover.Entry{
		IK:       bytes.Repeat([]byte{byte(n) | 0x80}, 32),
		LoadedAt: time.Unix(1000, int64(n)), BootID: "e793dd09-428c-492f-8eba-ace390db34f2",
		Part: fmt.Sprint("part ", n), Backend: "vault-main", Key: "tikv", KEK: "id/transit/tikv#3",
	}
}

func put(t testing.TB, m *handover.Memory, n int) handover.Entry {
	t.Helper()
	id, e := entry(n)
	if err := m.Put(id, e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestHandedOver(t *testing.T) {
	m := newMemory(t, 4)
	want := map[string]handover.Entry{}
	for n := range 3 {
		e := put(t, m, n)
		want[e.Part] = e
	}
	// One is replaced, one wiped.
	id, e := entry(1)
	delete(want, e.Part)
	e.Part, e.KEK = "part 1 again", ""
	want[e.Part] = e
	if err := m.Put(id, e); err != nil {
		t.Fatal(err)
	}
	id, e = entry(2)
	m.Wipe(id)
	m.Wipe(id)
	delete(want, e.Part)
	r := take(t, m)
	if err := m.Close(); err != nil { // the process is gone
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	got, damaged := read(r)
	if damaged != 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("%d damaged, got %v, want %v", damaged, got, want)
	}
	for part, e := range want {
		if !bytes.Equal(got[part].IK, e.IK) {
			t.Errorf("%s has another key", part)
		}
	}
	r.Wipe()
	if got, damaged := read(r); len(got) != 0 || damaged != 0 {
		t.Errorf("after Wipe: %v, %d damaged", got, damaged)
	}
}

func TestTheKeyIsWipedWhenEachIsDone(t *testing.T) {
	m := newMemory(t, 1)
	put(t, m, 1)
	var kept []byte
	take(t, m).Each(func(e handover.Entry) { kept = e.IK })
	if !bytes.Equal(kept, make([]byte, 32)) {
		t.Error("a copy of the key is left")
	}
}

func TestWipeLeavesNothing(t *testing.T) {
	for name, wipe := range map[string]func(*handover.Memory){
		"of an entry":                 func(m *handover.Memory) { id, _ := entry(1); m.Wipe(id) },
		"of what is received":         func(m *handover.Memory) { take(t, m).Wipe() },
		"of what another version has": func(m *handover.Memory) { view(t, m)[11] = 9; take(t, m).Wipe() },
		"of what is refused": func(m *handover.Memory) {
			r := take(t, m)
			r.Refuse(errors.New("as the test asked"))
			r.Wipe()
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t, 1)
			mem := view(t, m)
			put(t, m, 1)
			if bytes.Equal(mem[slotAt:], make([]byte, slotSize)) {
				t.Fatal("nothing was written")
			}
			wipe(m)
			if !bytes.Equal(mem[wordAt:], make([]byte, oneSize-wordAt)) {
				t.Error("something is left")
			}
		})
	}
}

// Whatever the process was at when it was killed, an entry is there as a whole or
// not at all.
func TestCrashAtEveryStep(t *testing.T) {
	m := newMemory(t, 1)
	mem := view(t, m)
	e := put(t, m, 1)
	word := binary.NativeEndian.Uint64(mem[wordAt:])
	length := int(uint32(word))
	whole := bytes.Clone(mem[slotAt:])
	state := func(word uint64, slot []byte) {
		copy(mem[slotAt:], slot)
		binary.NativeEndian.PutUint64(mem[wordAt:], word)
	}
	const busy = 1
	for n := range length {
		half := make([]byte, slotSize)
		copy(half, whole[:n])
		for name, at := range map[string]struct {
			word    uint64
			slot    []byte
			damaged int
		}{
			"being written":                 {busy, half, 0},
			"being wiped":                   {busy, append(make([]byte, n), whole[n:]...), 0},
			"written, but not in order":     {word, half, 1},
			"wiped, but not in order":       {word, append(make([]byte, n+1), whole[n+1:]...), 1},
			"freed before it is all zeros":  {0, append(make([]byte, n), whole[n:]...), 0},
			"of another length":             {valid | uint64(n), whole, 1},
			"of a length beyond the slot":   {valid | uint64(slotSize+1+n), whole, 1},
			"with a word that is no state":  {uint64(2 + n), whole, 1},
			"with a word of another memory": {word ^ 1<<(32+n%32), whole, 1},
		} {
			if bytes.Equal(at.slot, whole) && at.damaged == 1 && at.word == word {
				continue // what is missing was zero anyway
			}
			state(at.word, at.slot)
			if got, damaged := read(take(t, m)); len(got) != 0 || damaged != at.damaged {
				t.Fatalf("%s, %d bytes: %v, %d damaged, want %d", name, n, got, damaged, at.damaged)
			}
		}
	}
	state(word, whole)
	if got, damaged := read(take(t, m)); damaged != 0 || !reflect.DeepEqual(got, map[string]handover.Entry{e.Part: e}) {
		t.Errorf("whole again: %v, %d damaged", got, damaged)
	}
}

func TestAnyChangedByteIsFound(t *testing.T) {
	m := newMemory(t, 1)
	mem := view(t, m)
	put(t, m, 1)
	length := int(binary.NativeEndian.Uint32(mem[wordAt:]))
	for i := range length {
		mem[slotAt+i] ^= 0x10
		if got, damaged := read(take(t, m)); len(got) != 0 || damaged != 1 {
			t.Fatalf("byte %d: %v, %d damaged", i, got, damaged)
		}
		mem[slotAt+i] ^= 0x10
	}
	for i := range 56 { // the header
		mem[i] ^= 0x10
		r := take(t, m)
		if got, _ := read(r); len(got) != 0 || r.Err() == nil {
			t.Fatalf("byte %d of the header: %v, %v", i, got, r.Err())
		}
		mem[i] ^= 0x10
	}
	if got, damaged := read(take(t, m)); len(got) != 1 || damaged != 0 {
		t.Errorf("unchanged again: %v, %d damaged", got, damaged)
	}
}

func TestOneDamagedEntryIsTheOnlyOneLost(t *testing.T) {
	m := newMemory(t, 2)
	mem := view(t, m)
	put(t, m, 1)
	e := put(t, m, 2)
	mem[slotAt] ^= 1
	got, damaged := read(take(t, m))
	if _, ok := got[e.Part]; !ok || len(got) != 1 || damaged != 1 {
		t.Errorf("%v, %d damaged", got, damaged)
	}
}

func TestPutRefuses(t *testing.T) {
	m := newMemory(t, 1)
	id, e := entry(1)
	large := e
	large.Part = strings.Repeat("x", slotSize)
	short := e
	short.IK = e.IK[:31]
	for name, tc := range map[string]struct {
		id   [32]byte
		e    handover.Entry
		want error
	}{
		"a large one":       {id, large, handover.ErrSize},
		"half a key":        {id, short, handover.ErrSize},
		"one beyond all":    {[32]byte{9}, e, handover.ErrFull},
		"a large one again": {[32]byte{9}, large, handover.ErrSize},
	} {
		t.Run(name, func(t *testing.T) {
			put(t, m, 1)
			if err := m.Put(tc.id, tc.e); !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			want := 1
			if tc.id == id {
				want = 0 // what was there for it must not outlive it
			}
			if got, _ := read(take(t, m)); len(got) != want {
				t.Errorf("%d entries, want %d", len(got), want)
			}
		})
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Put(id, e); !errors.Is(err, handover.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	m.Wipe(id) // must not touch memory that is gone
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// The largest entry that can be has room: an IK part of 6010 bytes, and names as
// long as the format of wrapped keys has them.
func TestTheLargestFits(t *testing.T) {
	m := newMemory(t, 1)
	id, e := entry(1)
	e.Part, e.Backend = strings.Repeat("p", 6010), strings.Repeat("b", 255)
	e.Key, e.KEK = strings.Repeat("k", 512), strings.Repeat("k", 512+1+64)
	if err := m.Put(id, e); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(take(t, m)); !reflect.DeepEqual(got[e.Part], e) {
		t.Error("it came back as another")
	}
}

func TestSlots(t *testing.T) {
	for capacity, want := range map[int]int{0: 1, 1: 1, 64: 64} {
		if got := newMemory(t, capacity).Slots(); got != want {
			t.Errorf("capacity %d: %d slots, want %d", capacity, got, want)
		}
	}
}

// memfd is ordinary memory of a fixed size, as another program could store it.
func memfd(t testing.TB, content []byte) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	if _, err := f.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW); err != nil {
		t.Fatal(err)
	}
	return f
}

// head is a header with its digest.
func head(version, slot, slots, rest uint32) []byte {
	b := []byte("KBHANDOV")
	for _, n := range []uint32{version, slot, slots, rest} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// whole is memory of size bytes that begins with header.
func whole(header []byte, size int) []byte {
	b := make([]byte, size)
	copy(b, header)
	return b
}

func TestTakeRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		content []byte
		want    error
	}{
		"as it should be":              {whole(head(1, slotSize, 1, 0), oneSize), nil},
		"zeros":                        {make([]byte, oneSize), handover.ErrForeign},
		"text":                         {bytes.Repeat([]byte("text"), oneSize/4), handover.ErrForeign},
		"a page":                       {whole(head(1, slotSize, 1, 0), 4096), handover.ErrForeign},
		"half a page":                  {whole(head(1, slotSize, 1, 0), 2048), handover.ErrForeign},
		"more than it says":            {whole(head(1, slotSize, 1, 0), oneSize+slotSize), handover.ErrForeign},
		"no slot":                      {whole(head(1, slotSize, 0, 0), slotAt), handover.ErrForeign},
		"all the slots there could be": {whole(head(1, slotSize, 1<<32-1, 0), oneSize), handover.ErrForeign},
		"another size of slot":         {whole(head(1, slotSize/2, 1, 0), oneSize), handover.ErrForeign},
		"something where zeros are":    {whole(head(1, slotSize, 1, 1), oneSize), handover.ErrForeign},
		"an older version":             {whole(head(0, slotSize, 1, 0), oneSize), handover.ErrVersion},
		"a newer version":              {whole(head(2, 1<<20, 7, 3), 3*oneSize), handover.ErrVersion},
	} {
		t.Run(name, func(t *testing.T) {
			r := handover.Take([]*os.File{memfd(t, tc.content)})
			defer r.Close()
			if err := r.Err(); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if got, damaged := read(r); len(got) != 0 || damaged != 0 {
				t.Errorf("%v, %d damaged", got, damaged)
			}
			r.Wipe()
		})
	}
	t.Run("no memory", func(t *testing.T) {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		r := handover.Take([]*os.File{f})
		if !errors.Is(r.Err(), handover.ErrForeign) || r.Each(func(handover.Entry) { t.Error("an entry") }) != 0 {
			t.Errorf("error %v", r.Err())
		}
		r.Wipe()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("two", func(t *testing.T) {
		a, b := newMemory(t, 1), newMemory(t, 1)
		put(t, a, 1)
		put(t, b, 2)
		r := handover.Take([]*os.File{duplicate(t, a.File()), duplicate(t, b.File())})
		defer r.Close()
		if got, _ := read(r); !errors.Is(r.Err(), handover.ErrSeveral) || len(got) != 0 {
			t.Errorf("error %v, entries %v", r.Err(), got)
		}
		r.Wipe()
		for _, m := range []*handover.Memory{a, b} {
			if got, _ := read(take(t, m)); len(got) != 0 {
				t.Error("it was not wiped")
			}
		}
	})
	t.Run("none", func(t *testing.T) {
		r := handover.Take(nil)
		if got, damaged := read(r); r.Err() != nil || len(got) != 0 || damaged != 0 {
			t.Errorf("error %v, %v, %d damaged", r.Err(), got, damaged)
		}
	})
}

func TestManyAtATime(t *testing.T) {
	m := newMemory(t, 32)
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			id, e := entry(n)
			for range 50 {
				if err := m.Put(id, e); err != nil {
					t.Error(err)
				}
				m.Wipe(id)
			}
			if n%2 == 0 {
				if err := m.Put(id, e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got, damaged := read(take(t, m)); len(got) != 8 || damaged != 0 {
		t.Errorf("%d entries, %d damaged", len(got), damaged)
	}
}

func TestNothingPrints(t *testing.T) {
	_, e := entry(1)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(verb, e); got != "handover.Entry(vault-main, id/transit/tikv#3)" {
			t.Errorf("%s: %s", verb, got)
		}
	}
}

// FuzzTake reads memory that anybody may have written. fit has the digest be right,
// so that what comes after it is reached.
func FuzzTake(f *testing.F) {
	f.Fuzz(func(t *testing.T, header []byte, word uint64, slot []byte, fit bool) {
		if len(slot) > slotSize {
			slot = slot[:slotSize]
		}
		mem := make([]byte, oneSize)
		copy(mem, head(1, slotSize, 1, 0))
		copy(mem[:wordAt], header)
		binary.NativeEndian.PutUint64(mem[wordAt:], word)
		copy(mem[slotAt:], slot)
		if fit && len(slot) > 32 {
			binary.NativeEndian.PutUint64(mem[wordAt:], valid|uint64(len(slot)))
			sum := sha256.Sum256(slot[32:])
			copy(mem[slotAt:], sum[:])
		}
		r := handover.Take([]*os.File{memfd(t, mem)})
		defer r.Close()
		got, damaged := read(r)
		if len(got)+damaged > 1 {
			t.Fatalf("%v and %d damaged in one slot", got, damaged)
		}
		for _, e := range got {
			// What is read is written again as the same bytes.
			m := newMemory(t, 1)
			if err := m.Put([32]byte{1}, e); err != nil {
				t.Fatal(err)
			}
			again, n := view(t, m), int(binary.NativeEndian.Uint32(mem[wordAt:]))
			if !bytes.Equal(again[wordAt:][:8], mem[wordAt:][:8]) || !bytes.Equal(again[slotAt:][:n], mem[slotAt:][:n]) {
				t.Fatal("it is written as other bytes")
			}
		}
		r.Wipe()
		if got, damaged := read(r); len(got)+damaged != 0 {
			t.Fatalf("after Wipe: %v, %d damaged", got, damaged)
		}
	})
}

package persist

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Errors of File.
var (
	// ErrFull: every slot is taken.
	ErrFull = errors.New("persist: the file is full")
	// ErrSize: the entry is larger than a slot, or its key is not 32 bytes.
	ErrSize = errors.New("persist: the entry does not fit")
	// ErrGone: the file was given up, which the log says, or closed.
	ErrGone = errors.New("persist: there is no file")
	// ErrNotDestroyed: the file could neither be written nor be removed. What it has
	// may come back with the next start.
	ErrNotDestroyed = errors.New("persist: the file could be neither overwritten nor removed")
)

// File is the file that the next process will find. It is safe for concurrent use.
//
// One goroutine of its own writes it: Put and Wipe only note what is to be written,
// and can be called where nobody may wait for a disk. An error of the disk, or a disk
// without room, ends the File: it is destroyed, which the log says, and what would be
// kept from then on is not. A disk that has lost one write may have lost others, and
// nobody is told which.
type File struct {
	path  string
	log   *slog.Logger
	slots slots
	file  *os.File

	// disk is held by who writes the file or decides what is at path.
	disk sync.Mutex

	mu    sync.Mutex
	taken map[[32]byte]int // slot by the id of its entry
	free  []int            // slots, the last is taken first
	// todo is what is to be written, by slot: what is sealed, or nil to overwrite it
	// with zeros. The last word on a slot replaces all that was not written yet.
	todo map[int][]byte
	// asked counts what was to be written, done what is on disk of it.
	asked, done uint64
	moved       chan struct{} // closed, and replaced, when done has changed
	gone        bool
	destroyed   error // how that went, once gone
	late        error // why Commit was given up while the disk was busy
	committed   bool
	closed      bool

	wake  chan struct{}
	ended chan struct{}
}

// Config says how a File is made. All fields are required.
type Config struct {
	// Path of the file. Its directory must not be writable by others.
	Path string
	// Capacity is how many entries it has room for; beyond 4096 it has room for 4096.
	// It takes 8 KiB of disk for each.
	Capacity int
	Sealer   Sealer
	Logger   *slog.Logger
}

// Create makes an empty file, under a new key, beside the one at Path, which stays
// until Commit. The caller ends it with Close.
func Create(cfg Config) (*File, error) {
	count := max(1, min(cfg.Capacity, maxSlots))
	key := make([]byte, keySize)
	defer clear(key)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	sealed, err := cfg.Sealer.Seal(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) > maxSealedKey {
		return nil, fmt.Errorf("persist: a sealed key of %d bytes", len(sealed))
	}
	head := header(count, sealed)
	f := &File{
		path: cfg.Path, log: cfg.Logger,
		taken: map[[32]byte]int{}, todo: map[int][]byte{},
		moved: make(chan struct{}), wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	if f.slots, err = newSlots(key, head); err != nil {
		return nil, err
	}
	for slot := count - 1; slot >= 0; slot-- {
		f.free = append(f.free, slot)
	}
	// One that was left by a start that did not get to Commit is of no use.
	if err := os.Remove(f.next()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if f.file, err = os.OpenFile(f.next(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	if err = allocate(f.file, sizeFor(count)); err == nil {
		_, err = f.file.WriteAt(head, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.file.Close(), os.Remove(f.next()))
	}
	go f.run()
	return f, nil
}

// next is where the file is until Commit.
func (f *File) next() string { return f.path + ".new" }

// Put keeps an entry in place of what there was for id. It is on disk soon after. The
// error is ErrFull, ErrSize or ErrGone; after one, nothing is kept for id.
func (f *File) Put(id [32]byte, e Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.gone {
		return ErrGone
	}
	if len(e.IK) != keySize || entryAt+e.Size() > plainSize {
		f.wipe(id)
		return ErrSize
	}
	slot, ok := f.taken[id]
	if !ok {
		if len(f.free) == 0 {
			return ErrFull
		}
		slot = f.free[len(f.free)-1]
		f.free = f.free[:len(f.free)-1]
		f.taken[id] = slot
	}
	f.write(slot, f.slots.seal(slot, e))
	return nil
}

// Wipe has the entry for id, if there is one, overwritten. Settle waits for it.
func (f *File) Wipe(id [32]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed && !f.gone {
		f.wipe(id)
	}
}

// wipe is Wipe. f.mu is held.
func (f *File) wipe(id [32]byte) {
	slot, ok := f.taken[id]
	if !ok {
		return
	}
	delete(f.taken, id)
	f.free = append(f.free, slot)
	f.write(slot, nil)
}

// write has the goroutine write a slot. f.mu is held.
func (f *File) write(slot int, b []byte) {
	f.todo[slot] = b
	f.asked++
	f.stir()
}

// stir has the goroutine look for what is to be done. f.mu is held, f is not closed.
func (f *File) stir() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Len is how many entries are kept.
func (f *File) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.taken)
}

// Gone tells whether the file was given up.
func (f *File) Gone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone
}

// Settle returns once all that was put and wiped before is on disk, or the file is
// destroyed. Its error says that nobody knows: ErrNotDestroyed, or that ctx has ended.
func (f *File) Settle(ctx context.Context) error {
	f.mu.Lock()
	until := f.asked
	for f.done < until && !f.gone {
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("persist: the disk has not taken it yet: %w", context.Cause(ctx))
		}
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	return f.destroyed
}

// Commit puts the file in place of the one at Path, with all that was put and wiped
// before, once that is on disk. If that fails, or ctx ends before, both are destroyed;
// a disk that does not answer, as soon as it does.
func (f *File) Commit(ctx context.Context) error {
	if err := f.Settle(ctx); err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.closed {
			f.late = err
			f.stir()
		}
		return err
	}
	f.disk.Lock()
	defer f.disk.Unlock()
	if f.Gone() {
		return ErrGone
	}
	err := f.file.Sync() // the header, if nothing was put
	if err == nil {
		err = os.Rename(f.next(), f.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	if err != nil {
		f.giveUp(err)
		return err
	}
	f.mu.Lock()
	f.committed = true
	f.mu.Unlock()
	return nil
}

// Close writes what is still to be written, unless ctx ends before, and closes the
// file, which stays for the next process; without Commit it is removed. It is
// idempotent.
func (f *File) Close(ctx context.Context) error {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.wake)
	}
	f.mu.Unlock()
	select {
	case <-f.ended:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.destroyed
	case <-ctx.Done():
		return fmt.Errorf("persist: the disk has not taken all: %w", context.Cause(ctx))
	}
}

// run writes until Close.
func (f *File) run() {
	defer close(f.ended)
	for range f.wake {
		f.flush()
	}
	f.flush()
	f.disk.Lock()
	defer f.disk.Unlock()
	f.mu.Lock()
	committed, gone := f.committed, f.gone
	f.mu.Unlock()
	_ = f.file.Close() // all that matters was synced
	if !committed && !gone {
		_ = os.Remove(f.next()) // it has nothing that is not in memory
	}
}

// flush writes what is to be written, and syncs it.
func (f *File) flush() {
	f.disk.Lock()
	defer f.disk.Unlock()
	f.mu.Lock()
	todo, until := f.todo, f.asked
	f.todo = map[int][]byte{}
	gone, err := f.gone, f.late
	f.mu.Unlock()
	if gone || len(todo) == 0 && err == nil {
		return
	}
	if err == nil {
		err = f.writeSlots(todo)
	}
	if err != nil {
		f.giveUp(err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = until
	f.told()
}

func (f *File) writeSlots(todo map[int][]byte) error {
	zeros := make([]byte, slotSize)
	for _, slot := range slices.Sorted(maps.Keys(todo)) {
		b := todo[slot]
		if b == nil {
			b = zeros
		}
		if _, err := f.file.WriteAt(b, slotAt(slot)); err != nil {
			return err
		}
	}
	return f.file.Sync()
}

// told wakes those who wait for the disk. f.mu is held.
func (f *File) told() {
	close(f.moved)
	f.moved = make(chan struct{})
}

// giveUp destroys the file, and whatever is at its path. f.disk is held.
func (f *File) giveUp(why error) {
	err := errors.Join(Destroy(f.next()), Destroy(f.path))
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNotDestroyed, err)
		f.log.Error("the sealed file of the cache cannot be written, and cannot be removed: what was refused since may come back with the next start; remove it by hand (docs/restart.md)", "path", f.path, "error", why, "removing", err)
	} else {
		f.log.Error("the sealed file of the cache cannot be written and was removed: until a restart the cache is kept in no file (docs/restart.md)", "path", f.path, "error", why)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone, f.destroyed = true, err
	f.todo, f.taken, f.free = map[int][]byte{}, map[[32]byte]int{}, nil
	f.told()
}

// Destroy makes a file useless for good: without its header nobody can unseal it. It
// returns nil if the header is overwritten or the file is gone, one of them for sure,
// also after a crash. A file that is missing is no error.
func Destroy(path string) error {
	overwritten := overwrite(path)
	removed := os.Remove(path)
	if removed == nil {
		removed = syncDir(filepath.Dir(path))
	}
	if overwritten == nil || removed == nil || errors.Is(removed, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(overwritten, removed)
}

func overwrite(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, headerSize), 0)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

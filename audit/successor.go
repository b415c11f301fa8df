package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Why a file begins: the reason in its repair record.
const (
	reasonTornTail     = "torn_tail"         // found at start
	reasonMissing      = "live_file_missing" // found at start, but former files are there
	reasonWriteFailed  = "write_failed"
	reasonSyncFailed   = "sync_failed"
	reasonFileRemoved  = "file_removed"
	reasonFileReplaced = "file_replaced"
	reasonFileChanged  = "file_changed"     // not by the broker
	reasonUnreachable  = "file_unreachable" // its path could not be looked up
)

// open finds where the log at l.path ends and makes w ready to go on there.
func (w *writer) open() error {
	l := w.l
	former, err := formerFiles(l.path)
	if err != nil {
		return err
	}
	file, err := l.sys.openLive(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return w.openWithoutLive(former)
	}
	if err != nil {
		return err
	}
	if err := w.openLive(file, former); err != nil {
		_ = file.Close()
		return err
	}
	return nil
}

func (w *writer) openLive(file *os.File, former []formerFile) error {
	l := w.l
	end, err := l.sys.readEnding(file, l.path)
	if err != nil {
		return err
	}
	if end.last.seq == 0 {
		return w.openHeadless(file, end, former)
	}
	begin, err := l.sys.readOpening(file, l.path)
	if err != nil {
		return err
	}
	// What a process that crashed had written may not be on disk yet, nor its renames,
	// after which the former signing key is wiped.
	if err := l.sys.sync(file); err != nil {
		return fmt.Errorf("sync %s: %w", l.path, err)
	}
	if err := l.sys.syncPath(filepath.Dir(l.path)); err != nil {
		return fmt.Errorf("sync %s: %w", filepath.Dir(l.path), err)
	}
	w.file, w.first, w.logID, w.began = file, begin.seq, begin.logID, begin.time
	w.head, w.synced, w.used = end.last, end.last.seq, true
	if err := w.findSigner(begin.signer); err != nil {
		return err
	}
	if end.tail == 0 {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		w.size = info.Size()
		return nil
	}
	l.log.Warn("the audit log ends in a torn record; it goes on in a new file", "file", l.path, "bytes", end.tail)
	return w.succeed(reasonTornTail, end)
}

// openHeadless begins a file after one that has no whole record.
func (w *writer) openHeadless(file *os.File, end ending, former []formerFile) error {
	l := w.l
	if end.tail == 0 {
		// An empty file, made by an installer perhaps. It has nothing to keep.
		if err := l.sys.remove(l.path); err != nil {
			return err
		}
		_ = file.Close()
		return w.openWithoutLive(former)
	}
	if _, err := w.chainFrom(former); err != nil {
		return err
	}
	// The repair record must not outlive what it accounts for.
	if err := l.sys.sync(file); err != nil {
		return fmt.Errorf("sync %s: %w", l.path, err)
	}
	w.file, w.first = file, w.head.seq+1
	l.log.Warn("the audit log's file has no whole record; it goes on in a new file", "file", l.path, "bytes", end.tail)
	return w.succeed(reasonTornTail, end)
}

func (w *writer) openWithoutLive(former []formerFile) error {
	if len(former) == 0 {
		return w.create()
	}
	end, err := w.chainFrom(former)
	if err != nil {
		return err
	}
	w.moved = former[len(former)-1].path
	w.l.log.Warn("the audit log's live file is missing, though former ones are there; a new one begins", "file", w.l.path)
	return w.succeed(reasonMissing, end)
}

// create begins a new log.
func (w *writer) create() error {
	id, err := newLogID(w.l.random)
	if err != nil {
		return err
	}
	w.logID, w.created = id, true
	h := header{event: EventCreate}
	if w.keys.path != "" {
		if w.lost, err = w.compare(false); err != nil {
			return err
		}
		if w.lost != nil && w.strict {
			return w.lost
		}
		if err := w.findSigner(""); err != nil {
			return err
		}
		h.vkey = w.vkey()
	}
	return w.begin(h, "")
}

// chainFrom sets where the chain stands by the newest of the former files that
// has a whole record, and returns what the newest ends in. If none has one, a new
// log begins.
func (w *writer) chainFrom(files []formerFile) (newest ending, err error) {
	for i, former := range slices.Backward(files) {
		end, begin, err := w.l.sys.readFormer(former.path)
		if err != nil {
			return ending{}, err
		}
		if i == len(files)-1 {
			newest = end
		}
		if end.last.seq > 0 {
			w.logID, w.head, w.synced = begin.logID, end.last, end.last.seq
			return newest, w.findSigner(begin.signer)
		}
	}
	if w.logID, err = newLogID(w.l.random); err != nil {
		return ending{}, err
	}
	return newest, w.findSigner("")
}

// readFormer reads the two ends of a file, and brings it to disk.
func (s system) readFormer(path string) (ending, opening, error) {
	f, err := s.openFormer(path)
	if err != nil {
		return ending{}, opening{}, err
	}
	defer func() { _ = f.Close() }()
	end, err := s.readEnding(f, path)
	if err != nil {
		return ending{}, opening{}, err
	}
	var begin opening
	if end.last.seq > 0 {
		if begin, err = s.readOpening(f, path); err != nil {
			return ending{}, opening{}, err
		}
	}
	if err := s.sync(f); err != nil {
		return ending{}, opening{}, fmt.Errorf("sync %s: %w", path, err)
	}
	return end, begin, nil
}

// replace follows up a file that must not be written any more.
func (w *writer) replace() error {
	dir, err := checkDir(filepath.Dir(w.l.path), "the audit log")
	if err != nil {
		return err
	}
	if !os.SameFile(dir, w.l.dir) {
		return fmt.Errorf("%s is no longer the directory that it was when the broker started: restore it, or restart the broker", filepath.Dir(w.l.path))
	}
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	var end ending
	if w.broken.reason == reasonFileChanged || info.Size() < w.size {
		end, err = w.l.sys.readChanged(w.file, w.head)
	} else {
		end, err = w.l.sys.readAfter(w.file, w.size, w.head)
	}
	if err != nil {
		return err
	}
	// Whole records of a batch that failed are part of the chain, though nobody
	// was answered for them.
	w.head, w.size = end.last, info.Size()-end.tail
	w.settle(end.tail)
	return w.succeed(w.broken.reason, end)
}

// settle brings to disk what a file holds that is not written any more: records
// that were answered for since the last sync, and the tail, which after a power
// loss must be what the repair record says. A file that a sync failed of is left
// alone.
func (w *writer) settle(tail int64) {
	if w.broken.reason == reasonSyncFailed || w.synced == w.head.seq && tail == 0 {
		return
	}
	if err := w.l.sys.sync(w.file); err != nil {
		w.l.log.Error("the end of the audit log's former file cannot be brought to disk", "file", w.l.path, "error", err)
		w.broken.reason = reasonSyncFailed
		return
	}
	w.synced = w.head.seq
}

// succeed begins the next file with a repair record, and gives w.file its
// rotated name before, unless it has one or is gone.
func (w *writer) succeed(reason string, end ending) error {
	account := former{TailBytes: end.tail, TailSHA256: end.tailSHA256, SyncedSeq: w.synced}
	rotateTo := ""
	if w.moved == "" {
		at, _, err := placeOf(w.file, w.l.path)
		if err != nil {
			return err
		}
		switch at {
		case inPlace:
			if rotateTo, err = rotatedName(w.l.path, w.first); err != nil {
				return err
			}
			account.File = filepath.Base(rotateTo)
		case replaced:
			return w.inTheWay()
		case gone:
		}
	} else {
		account.File = filepath.Base(w.moved)
	}
	return w.begin(header{event: EventRepair, reason: reason, former: &account, vkey: w.vkey()}, rotateTo)
}

// begin makes the next file, first record and all, under a hidden name; then the
// live file gets the name rotateTo, unless that is empty, and the new one takes
// its place. So the live path never holds a file without its first record, and
// what fails half-way can be tried again: until the new file is in its place,
// nothing but w.moved has changed.
func (w *writer) begin(h header, rotateTo string) error {
	l := w.l
	now := l.now()
	line, head := l.assemble.appendLine(nil, w.head, now, appendHeader(nil, w.logID, h))
	fresh := hidden(l.path, ".new")
	file, err := l.sys.create(fresh, line)
	if err != nil {
		return err
	}
	if rotateTo != "" {
		if err = l.sys.move(l.path, rotateTo); err == nil {
			w.moved = rotateTo
		}
	}
	if err == nil {
		err = l.sys.move(fresh, l.path)
	}
	if err != nil {
		_ = file.Close()
		return errors.Join(err, l.sys.remove(fresh))
	}
	if w.file != nil {
		_ = w.file.Close() // its content is on disk, or cannot be brought there
	}
	w.file, w.moved = file, ""
	w.first, w.size, w.head, w.began, w.used = head.seq, int64(len(line)), head, now, false
	if written := l.observe.Written; written != nil {
		written(h.event, OutcomeOK)
	}
	if err := l.sys.syncPath(filepath.Dir(l.path)); err != nil {
		return fmt.Errorf("sync %s: %w", filepath.Dir(l.path), err)
	}
	w.synced = head.seq
	return nil
}

// formerFile is a file of the log that has its rotated name.
type formerFile struct {
	path  string
	first uint64 // its first record, by its name
	again int    // tells files with equal first apart
	// compressed: its name ends in compressedSuffix.
	compressed bool
}

// seqDigits is the width of a record's number in a file name, so that names sort
// as the files do.
const seqDigits = 20

// formerFiles returns the files of the log at path that have a rotated name,
// oldest first.
func formerFiles(path string) ([]formerFile, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var files []formerFile
	for _, entry := range entries {
		suffix, ok := strings.CutPrefix(entry.Name(), filepath.Base(path)+".")
		if !ok || !entry.Type().IsRegular() {
			continue
		}
		suffix, compressed := strings.CutSuffix(suffix, compressedSuffix)
		digits, number, numbered := strings.Cut(suffix, "-")
		first, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || len(digits) != seqDigits {
			continue
		}
		again := 0
		if numbered {
			if again, err = strconv.Atoi(number); err != nil {
				continue
			}
		}
		files = append(files, formerFile{filepath.Join(filepath.Dir(path), entry.Name()), first, again, compressed})
	}
	slices.SortFunc(files, func(a, b formerFile) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.again, b.again), strings.Compare(a.path, b.path))
	})
	// Of a file and its compressed form, as an end in mid-compression leaves them, the
	// file counts: it comes first.
	return slices.CompactFunc(files, func(a, b formerFile) bool { return a.first == b.first && a.again == b.again }), nil
}

// openFormer opens a former file to be read. Of a compressed one it is a copy that
// nobody else sees, beside it.
func (s system) openFormer(path string) (*os.File, error) {
	f, err := s.open(path, os.O_RDONLY|noFollow, 0)
	if err != nil || !strings.HasSuffix(path, compressedSuffix) {
		return f, err
	}
	defer func() { _ = f.Close() }()
	whole, err := os.CreateTemp(filepath.Dir(path), ".audit-*")
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.Remove(whole.Name()), decompress(whole, f))
	if err != nil {
		_ = whole.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return whole, nil
}

// rotatedName returns a free name for the file at path whose first record is
// first. It is not free if the same place in the chain was reached twice: by a
// file that holds no whole record.
func rotatedName(path string, first uint64) (string, error) {
	name := fmt.Sprintf("%s.%0*d", path, seqDigits, first)
	to := name
	for again := 1; ; again++ {
		_, err := os.Lstat(to)
		if errors.Is(err, fs.ErrNotExist) {
			_, err = os.Lstat(to + compressedSuffix)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return to, nil
		}
		if err != nil {
			return "", err
		}
		to = fmt.Sprintf("%s-%d", name, again)
	}
}

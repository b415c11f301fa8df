package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Retention says which former files are kept. What is zero does not matter.
type Retention struct {
	// Files is how many, the youngest.
	Files int
	// Age is how long, from when a file was last written.
	Age time.Duration
	// Size is how many bytes all of them may take.
	Size int64
	// Anchored: a file is not removed for number or size before Log.Anchored has said
	// that a checkpoint after its last record is kept elsewhere; for its age it is.
	Anchored bool
	// Compress has all but the youngest compressed (RFC 8878): that one may still be
	// read by a shipper that follows names.
	Compress bool
}

const (
	// keepEvery is how often files are looked at that may have grown too old.
	keepEvery = 10 * time.Minute
	// compressedSuffix is what a compressed file's name ends in.
	compressedSuffix = ".zst"
	// expireTimeout bounds the wait for the record of a removal.
	expireTimeout = 5 * time.Second
)

// keeper does what must not hold up the writer: it remembers the last checkpoint, and
// compresses and removes former files.
type keeper struct {
	l *Log
	// lock is let go of last: another broker's keeper would take what this one makes
	// for its own.
	lock       *os.File
	retention  Retention
	checkpoint string // its path; empty: none is kept
	remembered uint64
}

func (k *keeper) run() {
	defer close(k.l.kept)
	defer func() { _ = k.lock.Close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-k.l.wake:
			k.remember()
			k.tidy()
		case <-timer.C:
			timer.Reset(keepEvery)
			k.tidy()
		case <-k.l.ended:
			k.remember()
			return
		}
	}
}

// remember keeps the last checkpoint for the next start.
func (k *keeper) remember() {
	c := k.l.Checkpoint()
	if k.checkpoint == "" || c.Seq == k.remembered {
		return
	}
	if err := k.l.sys.store(k.checkpoint, c.Note, 0o644); err != nil {
		k.l.log.Error("the audit log's last checkpoint is not remembered: a start would not notice that records are missing", "file", k.checkpoint, "error", err)
		return
	}
	k.remembered = c.Seq
}

// tidy compresses what is to be compressed, and removes what is not to be kept.
func (k *keeper) tidy() {
	live := k.l.stands().first
	files, err := formerFiles(k.l.path)
	if err != nil {
		k.l.log.Error("the audit log's former files cannot be listed", "file", k.l.path, "error", err)
		return
	}
	// Those from live on have got their names since, or get them just now: where they end
	// is not known yet.
	files = slices.DeleteFunc(files, func(f formerFile) bool { return f.first >= live })
	if len(files) == 0 {
		return
	}
	if files = k.expire(files, live); k.retention.Compress && len(files) > 0 {
		for _, f := range files[:len(files)-1] {
			if f.compressed || k.closing() {
				continue
			}
			err := k.l.sys.compress(f.path, hidden(k.l.path, compressedSuffix), k.l.closing)
			if err != nil && !errors.Is(err, errClosed) {
				k.l.log.Error("a former file of the audit log could not be compressed", "file", f.path, "error", err)
			}
		}
	}
}

func (k *keeper) closing() bool {
	select {
	case <-k.l.closing:
		return true
	default:
		return false
	}
}

// expire removes files that are not to be kept, the oldest first, and returns the
// others. A hole in the middle would be taken for tampering, so it ends at the first
// that stays. live is the first record after them.
func (k *keeper) expire(files []formerFile, live uint64) []formerFile {
	sizes := make([]int64, len(files))
	written := make([]time.Time, len(files))
	var total int64
	for i, f := range files {
		info, err := os.Lstat(f.path)
		if err != nil {
			return files
		}
		sizes[i], written[i] = info.Size(), info.ModTime()
		total += sizes[i]
	}
	r := k.retention
	for i, f := range files {
		old := r.Age > 0 && k.l.now().Sub(written[i]) > r.Age
		many := r.Files > 0 && len(files)-i > r.Files
		large := r.Size > 0 && total > r.Size
		last := live - 1 // the file's last record
		if i+1 < len(files) {
			last = files[i+1].first - 1
		}
		spare := !r.Anchored || last <= k.l.anchored.Load()
		why := ""
		switch {
		case k.closing():
		case old:
			why = fmt.Sprintf("it is older than %v", r.Age)
		case many && spare:
			why = fmt.Sprintf("%d former files are kept", r.Files)
		case large && spare:
			why = fmt.Sprintf("former files may take %d bytes", r.Size)
		}
		if why == "" || !k.remove(f, last, why) {
			return files[i:]
		}
		total -= sizes[i]
	}
	return nil
}

// remove removes a file, after that is on the record.
func (k *keeper) remove(f formerFile, last uint64, why string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), expireTimeout)
	defer cancel()
	name := filepath.Base(f.path)
	_, err := k.l.Append(ctx, Record{
		Event: EventExpire, Outcome: OutcomeOK,
		Detail: fmt.Sprintf("%s, with the records %d to %d, is removed: %s", name, f.first, last, why),
	})
	if err == nil {
		err = k.l.sys.remove(f.path)
	}
	if err != nil && !errors.Is(err, errClosed) {
		k.l.log.Error("a former file of the audit log could not be removed", "file", f.path, "error", err)
	}
	return err == nil
}

// compress replaces the file at path by a compressed one, path.zst, which is made
// under the name fresh and read back before. Readers find one of the two at any time.
// Once closing is closed it gives up with errClosed: files may be large.
func (s system) compress(path, fresh string, closing <-chan struct{}) error {
	from, err := s.open(path, os.O_RDONLY|noFollow, 0)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := s.remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	to, err := s.open(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL|noFollow, fileMode)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	if err := s.compressInto(to, from, info.ModTime(), closing); err != nil {
		return errors.Join(err, s.remove(fresh))
	}
	if err := s.rename(fresh, path+compressedSuffix); err != nil {
		return err
	}
	if err := s.syncPath(filepath.Dir(path)); err != nil {
		return err
	}
	return s.remove(path)
}

func (s system) compressInto(to, from *os.File, written time.Time, closing <-chan struct{}) error {
	was, is := sha256.New(), sha256.New()
	encoder, err := zstd.NewWriter(fileWriter{s, to}, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	_, err = io.Copy(encoder, io.TeeReader(untilClosed{from, closing}, was))
	if err = errors.Join(err, encoder.Close()); err != nil {
		return err
	}
	if err := s.sync(to); err != nil {
		return err
	}
	if _, err := to.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := decompress(is, untilClosed{to, closing}); err != nil {
		return err
	}
	if !slices.Equal(was.Sum(nil), is.Sum(nil)) {
		return errors.New("the compressed file does not hold what it was made of")
	}
	// Age counts from when it was last written.
	return errors.Join(to.Chmod(fileMode), os.Chtimes(to.Name(), written, written))
}

// untilClosed reads until closing is closed.
type untilClosed struct {
	from    io.Reader
	closing <-chan struct{}
}

func (r untilClosed) Read(b []byte) (int, error) {
	select {
	case <-r.closing:
		return 0, errClosed
	default:
		return r.from.Read(b)
	}
}

// fileWriter writes by the system's calls, so that tests can make them fail.
type fileWriter struct {
	s system
	f *os.File
}

func (w fileWriter) Write(b []byte) (int, error) { return w.s.write(w.f, b) }

func decompress(to io.Writer, from io.Reader) error {
	decoder, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer decoder.Close()
	_, err = io.Copy(to, decoder)
	return err
}

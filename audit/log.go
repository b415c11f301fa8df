package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// ErrUnavailable is wrapped by every error of Append: the record may not have
// been written, so what it is about must not be answered.
var ErrUnavailable = errors.New("the audit log cannot be written")

// errClosed is what Append says after Close.
var errClosed = fmt.Errorf("%w: it is closed", ErrUnavailable)

// Sync says what a record has survived when Append returns.
type Sync string

const (
	// SyncOS means that the kernel has it. A crash of the process loses nothing;
	// a crash of the machine at most what was written in the last
	// Config.SyncInterval and while the sync after that took place.
	SyncOS Sync = "os"
	// SyncAlways means that the disk has it. Records that wait at the same time
	// share one fsync.
	SyncAlways Sync = "always"
)

// Observer is told what happens, for metrics. Its functions are called by the
// goroutine that writes, so they must not block; WriteError by those that call the
// Log's methods too, and Free by that of Watch. Those that are nil are not called.
type Observer struct {
	// Written: a record was written, before its Append returns.
	Written func(Event, Outcome)
	// WriteError: a write or a sync failed, the file was gone, or the disk does not
	// answer.
	WriteError func()
	// Synced: records were brought to disk.
	Synced func(took time.Duration)
	// HeadSeq: the number of the last record.
	HeadSeq func(seq uint64)
	// Alarm: at Open, the log was not what the broker had left.
	Alarm func(Alarm)
	// Free: the disk has so many bytes left, or FreeUnknown.
	Free func(bytes int64)
}

// Config is what a Log is made of. The fields up to Logger are required.
type Config struct {
	// Path is the live file. Former ones stand beside it under its name, a dot
	// and the number of their first record in 20 digits. Hidden files beside it
	// (.NAME.lock, .NAME.new) are the log's own.
	Path string
	// Node names this broker in every record: 1 to 255 bytes of UTF-8.
	Node string
	Sync Sync
	// SyncInterval is how long after a write it is synced, with SyncOS.
	SyncInterval time.Duration
	// Now is the wall clock of the records. It may jump: seq is the order.
	Now func() time.Time
	// Random makes the id of a new log, and signing keys.
	Random io.Reader
	Logger *slog.Logger

	Observer  Observer
	Rotation  Rotation
	Retention Retention
	// SigningKey is the file of the key that signs checkpoints; it is made if it is
	// not there, and replaced at each rotation. Beside it, under its name with the
	// ending .checkpoint, the last checkpoint is remembered. Empty: nothing is signed.
	// Under its name with the ending .hmac is the key that Record.HideContext needs; it is
	// made once, and stays as long as the log (without SigningKey: .NAME.hmac).
	SigningKey string
	// CheckpointInterval is how often the log is signed while records come in; 0 is a
	// minute.
	CheckpointInterval time.Duration
	// StrictStart has Open refuse a log that is not what the broker had left, with a
	// *TamperedError. Without it, Open only says so: in an alarm record, and to
	// Observer and Logger.
	StrictStart bool
}

func (c *Config) check() error {
	switch {
	case c.Path == "":
		return errors.New("audit: no path is given")
	case c.Node == "" || len(c.Node) > maxNode || !utf8.ValidString(c.Node):
		return fmt.Errorf("audit: the node's name must be 1 to %d bytes of UTF-8", maxNode)
	case c.Sync != SyncOS && c.Sync != SyncAlways:
		return fmt.Errorf("audit: sync is %q; it must be os or always", string(c.Sync))
	case c.Sync == SyncOS && c.SyncInterval <= 0:
		return fmt.Errorf("audit: sync_interval is %v; it must be positive", c.SyncInterval)
	case c.CheckpointInterval < 0 || c.Rotation.MaxSize < 0 || c.Rotation.MaxAge < 0:
		return errors.New("audit: a negative interval, size or age")
	case c.Now == nil || c.Random == nil || c.Logger == nil:
		return errors.New("audit: Config lacks Now, Random or Logger")
	}
	return nil
}

// Log is an audit log open for writing. It is safe for concurrent use.
type Log struct {
	path     string
	dir      fs.FileInfo // the directory as it was found at Open
	sys      system
	mode     Sync
	interval time.Duration
	rotation Rotation
	node     string
	now      func() time.Time
	random   io.Reader
	log      *slog.Logger
	observe  Observer
	assemble assembler
	room     int // for the members of a record
	// hidingKey is for Record.HideContext; never changed.
	hidingKey []byte

	requests sync.Pool // of *request
	queue    chan *request
	commands chan func(*writer)
	wake     chan struct{} // for the keeper; of capacity 1
	kept     chan struct{} // closed once the keeper has ended
	closing  chan struct{} // closed by Close
	ended    chan struct{} // closed once nothing is written any more
	endErr   error         // of the last sync and close; read after ended
	close    sync.Once

	anchored atomic.Uint64 // the last record of which a checkpoint is kept elsewhere

	busy, syncing pending      // the writer, and a sync beside it
	saidHangs     atomic.Int64 // which pending.since was said to hang
	free          atomic.Int64 // bytes, as Watch saw them last

	mu         sync.Mutex
	checkpoint Checkpoint // the last one that is on disk
	publicKey  string
	head       Head
	first      uint64        // the number of the live file's first record
	moved      chan struct{} // closed at the next change of the above; nil if nobody waits
}

// queueLen is how many records wait to be written before Append itself waits to
// hand one over.
const queueLen = 1024

// Open opens the log at c.Path, or begins one. It checks the last records, and
// brings what is there to disk. If the file ends in a torn line, it goes on in a
// new file whose first record, of event repair, accounts for that.
//
// It refuses a path that another process writes, that is a symbolic link, that
// others may write or whose directory everybody may write, and a log whose last
// records were changed; the error names the file and the next step. The caller
// ends the Log with Close.
func Open(c Config) (*Log, error) {
	return open(c, operatingSystem())
}

func open(c Config, sys system) (*Log, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return nil, err
	}
	l := &Log{
		path:     path,
		sys:      sys,
		mode:     c.Sync,
		interval: c.SyncInterval,
		rotation: c.Rotation,
		node:     c.Node,
		now:      c.Now,
		random:   c.Random,
		log:      c.Logger,
		observe:  c.Observer,
		assemble: newAssembler(c.Node),
		queue:    make(chan *request, queueLen),
		commands: make(chan func(*writer)),
		wake:     make(chan struct{}, 1),
		kept:     make(chan struct{}),
		closing:  make(chan struct{}),
		ended:    make(chan struct{}),
	}
	l.busy.opened, l.busy.limit = time.Now(), hangsAfter
	l.syncing.opened, l.syncing.limit = time.Now(), syncHangsAfter
	l.free.Store(FreeUnknown)
	l.room = l.assemble.room()
	l.requests.New = func() any { return &request{done: make(chan answer, 1)} }
	if l.dir, err = checkDir(filepath.Dir(path), "the audit log"); err != nil {
		return nil, err
	}
	if c.SigningKey != "" {
		if _, err := checkDir(filepath.Dir(c.SigningKey), "the audit log's signing key"); err != nil {
			return nil, err
		}
	}
	lock, err := sys.lock(path)
	if err != nil {
		return nil, err
	}
	w := newWriter(l, c)
	if err = w.open(); err == nil {
		err = w.openSigning()
	}
	if err == nil {
		l.hidingKey, err = sys.hidingKey(hidingKeyPath(&c, path), c.Random)
	}
	if err != nil {
		if w.file != nil {
			_ = w.file.Close()
		}
		if w.signer != nil {
			w.signer.wipe()
		}
		_ = lock.Close()
		return nil, err
	}
	w.publish(nil)
	k := &keeper{l: l, lock: lock, retention: c.Retention, checkpoint: w.checkpointPath}
	go w.run()
	go k.run()
	return l, nil
}

// request is a record on its way to the file. The writer owns it from the moment
// it is queued until it has sent to done.
type request struct {
	members []byte
	event   Event
	outcome Outcome
	done    chan answer // of capacity 1
}

type answer struct {
	seq uint64
	err error
}

// Append writes r and returns its number. It returns nil only once the record is
// written as Config.Sync says. Any error wraps ErrUnavailable; if it also wraps
// ctx's, the record may still be written.
//
// A record is at most MaxLine bytes. Texts that do not fit are replaced by
// "sha256:", their SHA-256 in hex, a colon and their length in bytes: context
// values first, the longest first. Bytes that are not UTF-8 become U+FFFD. So a
// record is never refused for what a caller put into it. What Record.HideContext hides
// is hidden before.
func (l *Log) Append(ctx context.Context, r Record) (seq uint64, err error) {
	select {
	case <-l.closing:
		return 0, errClosed
	default:
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := l.hangs(); err != nil {
		return 0, err
	}
	if r.HideContext {
		r.Context = l.hide(r.Context)
	}
	req := l.requests.Get().(*request)
	req.members = appendRecord(req.members[:0], &r, l.room)
	req.event, req.outcome = r.Event, r.Outcome
	select {
	case l.queue <- req:
	default:
		select {
		case l.queue <- req:
		case <-ctx.Done():
			l.requests.Put(req)
			return 0, fmt.Errorf("%w: too many records wait: %w", ErrUnavailable, ctx.Err())
		case <-l.ended:
			return 0, errClosed
		}
	}
	var a answer
	select {
	case a = <-req.done:
	case <-ctx.Done():
		// The writer still owns req; it goes to the garbage collector after it.
		return 0, fmt.Errorf("%w in time: %w", ErrUnavailable, ctx.Err())
	case <-l.ended:
		select {
		case a = <-req.done:
		default: // queued after the writer had emptied the queue
			return 0, errClosed
		}
	}
	l.requests.Put(req)
	return a.seq, a.err
}

// Head is where a log stands.
type Head struct {
	// Seq and Hash are those of the last record that was written.
	Seq  uint64
	Hash [32]byte
	// Synced is the last record that is known to be on disk: what a power loss
	// leaves, at least. Never above Seq.
	Synced uint64
	// File is the live file's path.
	File string
	// Err is why records cannot be written now; nil if they can.
	Err error
	// Free is how many bytes the log's disk has left, as Watch saw them last;
	// FreeUnknown if it cannot tell.
	Free int64
}

// Head returns where the log stands. It does not wait.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	head := l.head
	head.Free = l.free.Load()
	if head.Err == nil {
		head.Err = l.hangs()
	}
	return head
}

// Checkpoint returns the last signed checkpoint whose record is on disk; the zero
// Checkpoint if there is none yet. Its Note must not be changed.
func (l *Log) Checkpoint() Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.checkpoint
}

// PublicKey returns the key that signs now, in the text form of
// golang.org/x/mod/sumdb/note; empty if nothing is signed.
func (l *Log) PublicKey() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.publicKey
}

// Anchored tells that a checkpoint of the record seq, or a later one, is kept where
// whoever can write the log cannot.
func (l *Log) Anchored(seq uint64) {
	for was := l.anchored.Load(); seq > was; was = l.anchored.Load() {
		if l.anchored.CompareAndSwap(was, seq) {
			l.wakeKeeper()
			return
		}
	}
}

// wakeKeeper has the keeper look at what there is to do.
func (l *Log) wakeKeeper() {
	select {
	case l.wake <- struct{}{}:
	default: // it is to wake already
	}
}

// Close writes what was handed to Append before, brings it to disk and closes
// the file. Append fails from then on. ctx bounds the wait; the file may then
// still be in use. Further calls wait and return the same.
func (l *Log) Close(ctx context.Context) error {
	l.close.Do(func() { close(l.closing) })
	for _, end := range []<-chan struct{}{l.ended, l.kept} {
		select {
		case <-end:
		case <-ctx.Done():
			return fmt.Errorf("the audit log is still being written: %w", ctx.Err())
		}
	}
	return l.endErr
}

// hidden returns the path of the log's own file called suffix.
func hidden(path, suffix string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+suffix)
}

// checkDir refuses a directory in which others could exchange what it holds.
func checkDir(dir, what string) (fs.FileInfo, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("the directory of %s: %w", what, err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("%s is writable by everybody (mode %04o), so anybody could exchange %s: chmod o-w %s", dir, info.Mode().Perm(), what, dir)
	}
	return info, nil
}

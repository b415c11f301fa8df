package audit

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// The limits of a batch: what one write(2) carries.
const (
	maxBatch      = 512
	maxBatchBytes = 256 << 10
)

// After a failure within calm of the one before, the next attempt to go on waits,
// from retryFirst on, twice as long each time, up to retryMax: each attempt may
// leave a file behind, and a disk with room for one record only would be filled
// with them.
const (
	calm       = time.Minute
	retryFirst = 100 * time.Millisecond
	retryMax   = 5 * time.Second
)

// writer is the state of the one goroutine that writes.
type writer struct {
	l     *Log
	logID string

	file  *os.File
	first uint64 // number of the file's first record
	head  link   // the last record that was answered for
	size  int64  // of the file up to and with head
	// synced is the last record known to be on disk.
	synced uint64
	// moved is the rotated name of file, once it has one.
	moved string

	began time.Time // when the file's first record was written, by the wall clock
	// used: the file has records that are not about the log itself.
	used bool

	// keys and signer are unset if nothing is signed.
	keys           keyStore
	signer         *signingKey
	uncommitted    bool // the file of signer is still the next one
	checkpointPath string
	strict         bool
	created        bool           // the log is new
	lost           *TamperedError // the log is new, and should not be
	replaced       *TamperedError // signer is not the key that the log names
	// signed is the last record that needs no checkpoint: one, or one before it.
	signed uint64
	// pending is the newest checkpoint, until what it is about is on disk.
	pending     *Checkpoint
	rotateAfter time.Time
	upkeepEvery time.Duration
	upkeepTimer *time.Timer

	// broken is why file must not be written or synced again; nil if it may.
	broken   *failure
	failedAt time.Time
	retry    time.Duration

	// timer is for the next sync, or, if broken, for the next attempt to go on.
	timer   *time.Timer
	armed   bool
	syncing bool // a sync is under way; its result comes through syncs
	syncs   chan syncResult

	batch []*request
	buf   []byte
}

// failure is why a file cannot be continued. reason stands in the repair record.
type failure struct {
	reason string
	err    error
}

type syncResult struct {
	upTo uint64
	took time.Duration
	err  error
}

func newWriter(l *Log, c Config) *writer {
	w := &writer{
		l: l, strict: c.StrictStart,
		upkeepEvery: min(cmp.Or(c.CheckpointInterval, upkeepEvery), upkeepEvery),
		timer:       time.NewTimer(time.Hour),
		syncs:       make(chan syncResult, 1),
		buf:         make([]byte, 0, maxBatchBytes+MaxLine),
	}
	w.timer.Stop()
	if c.SigningKey != "" {
		w.keys = keyStore{l.sys, c.SigningKey}
		w.checkpointPath = besideKey(c.SigningKey)
	}
	return w
}

func (w *writer) run() {
	defer close(w.l.ended)
	w.upkeepTimer = time.NewTimer(w.upkeepEvery)
	defer w.upkeepTimer.Stop()
	defer w.l.busy.end()
	for {
		if hung := w.l.answered(&w.l.busy); hung > 0 {
			w.l.busy.begin()
			w.noteGap(hung)
			continue
		}
		select {
		case r := <-w.l.queue:
			w.l.busy.begin()
			w.serve(r)
			w.rotateIfDue()
		case do := <-w.l.commands:
			w.l.busy.begin()
			do(w)
		case <-w.upkeepTimer.C:
			w.l.busy.begin()
			w.upkeep()
		case result := <-w.syncs:
			w.l.busy.begin()
			w.endSync(result)
		case <-w.timer.C:
			w.l.busy.begin()
			w.armed = false
			w.tick()
		case <-w.l.closing:
			w.l.busy.begin()
			w.end()
			return
		}
	}
}

// serve writes r and what else waits, as one batch.
func (w *writer) serve(r *request) {
	w.batch = append(w.batch[:0], r)
	for bytes := len(r.members); len(w.batch) < maxBatch && bytes < maxBatchBytes/2; {
		select {
		case r := <-w.l.queue:
			w.batch = append(w.batch, r)
			bytes += len(r.members)
			continue
		default:
		}
		break
	}
	if w.broken == nil {
		w.used = w.used || slices.ContainsFunc(w.batch, func(r *request) bool { return r.event != EventExpire })
		w.write()
	} else {
		w.refuse(w.broken.err)
	}
	clear(w.batch)
}

// write writes the batch by one write(2) and answers it.
func (w *writer) write() {
	w.buf = w.buf[:0]
	at := w.head
	for _, r := range w.batch {
		w.buf, at = w.l.assemble.appendLine(w.buf, at, w.l.now(), r.members)
	}
	if _, err := w.l.sys.write(w.file, w.buf); err != nil {
		w.refuse(err)
		w.fail(reasonWriteFailed, err)
		return
	}
	// Until the batch is answered for, head and size stay before it, so that a
	// successor finds its records in the file.
	size := w.size + int64(len(w.buf))
	if w.l.mode == SyncAlways {
		began := time.Now()
		err := w.l.sys.sync(w.file)
		if err != nil {
			w.refuse(err)
			w.fail(reasonSyncFailed, err)
			return
		}
		w.noteSynced(time.Since(began))
		if f := w.displaced(size); f != nil {
			w.refuse(f.err)
			w.fail(f.reason, f.err)
			return
		}
		w.synced = at.seq
		w.release()
	} else if !w.armed && !w.syncing {
		w.arm(w.l.interval)
	}
	seq := w.head.seq
	w.head, w.size = at, size
	w.publish(nil)
	if written := w.l.observe.Written; written != nil {
		for _, r := range w.batch {
			written(r.event, r.outcome)
		}
	}
	for _, r := range w.batch {
		seq++
		r.done <- answer{seq: seq}
	}
}

// refuse answers the batch with an error, which Head has by then.
func (w *writer) refuse(err error) {
	err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	w.publish(err)
	for _, r := range w.batch {
		r.done <- answer{err: err}
	}
}

func (w *writer) arm(d time.Duration) {
	w.timer.Reset(d)
	w.armed = true
}

// tick does what the timer was set for.
func (w *writer) tick() {
	switch {
	case w.broken != nil:
		w.recover()
	case w.syncing || w.synced == w.head.seq:
	default:
		w.beginSync()
	}
}

// beginSync syncs beside the writes that follow, so that these need not wait. The
// writer takes the result before it lets go of the file.
func (w *writer) beginSync() {
	w.syncing = true
	w.l.syncing.begin()
	file, upTo := w.file, w.head.seq
	go func() {
		began := time.Now()
		err := w.l.sys.sync(file)
		w.syncs <- syncResult{upTo, time.Since(began), err}
	}()
}

func (w *writer) endSync(result syncResult) {
	hung := w.takeSync(result)
	if w.broken != nil {
		return
	}
	if result.err != nil {
		w.fail(reasonSyncFailed, result.err)
		return
	}
	if f := w.displaced(w.size); f != nil {
		w.fail(f.reason, f.err)
		return
	}
	w.noteGap(hung)
	if w.synced < w.head.seq && w.broken == nil {
		w.arm(w.l.interval)
	}
}

// takeSync notes what came of a sync, and returns for how long it had kept records from
// being written.
func (w *writer) takeSync(result syncResult) (hung time.Duration) {
	w.syncing = false
	hung = w.l.answered(&w.l.syncing)
	if result.err == nil {
		w.synced = max(w.synced, result.upTo)
		w.l.mu.Lock()
		w.l.head.Synced = w.synced
		w.l.mu.Unlock()
		w.release()
		w.noteSynced(result.took)
	} else if w.broken != nil {
		w.broken.reason = reasonSyncFailed // the file must not be synced again
	}
	return hung
}

func (w *writer) noteSynced(took time.Duration) {
	if synced := w.l.observe.Synced; synced != nil {
		synced(took)
	}
}

// displaced tells whether the file is no longer the log that readers see, or not
// of the size that it was written to.
func (w *writer) displaced(written int64) *failure {
	at, size, err := placeOf(w.file, w.l.path)
	switch {
	case err != nil:
		return &failure{reasonUnreachable, err}
	case at == gone:
		return &failure{reasonFileRemoved, fmt.Errorf("%s was removed while the broker wrote it", w.l.path)}
	case at == replaced:
		return &failure{reasonFileReplaced, w.inTheWay()}
	case size != written:
		return &failure{reasonFileChanged, fmt.Errorf("%s was changed while the broker wrote it: it has %d bytes instead of %d", w.l.path, size, written)}
	}
	return nil
}

func (w *writer) inTheWay() error {
	return fmt.Errorf("%s is no longer the file that the broker wrote: move it away", w.l.path)
}

// fail gives the file up, and goes on in a new one if it can.
func (w *writer) fail(reason string, err error) {
	w.broken = &failure{reason, err}
	w.pending = nil // what it is about may not be on disk
	if w.l.observe.WriteError != nil {
		w.l.observe.WriteError()
	}
	w.l.log.Error("the audit log cannot be written", "file", w.l.path, "reason", reason, "error", err)
	w.publish(err)
	again := !w.failedAt.IsZero() && time.Since(w.failedAt) < calm
	w.failedAt = time.Now()
	if again {
		w.retryLater()
		return
	}
	w.retry = retryFirst
	w.recover()
}

func (w *writer) retryLater() {
	w.arm(w.retry)
	w.retry = min(2*w.retry, retryMax)
}

// recover goes on in a new file, or tries again later.
func (w *writer) recover() {
	if w.syncing { // the file is in use until its sync has ended
		w.takeSync(<-w.syncs)
	}
	began, reason := w.failedAt, w.broken.reason
	if err := w.replace(); err != nil {
		if w.broken.err.Error() != err.Error() {
			w.l.log.Error("the audit log still cannot be written", "file", w.l.path, "error", err)
		}
		w.broken.err = err
		w.publish(err)
		w.retryLater()
		return
	}
	w.broken = nil
	w.timer.Stop()
	w.armed = false
	w.publish(nil)
	w.l.log.Warn("the audit log goes on in a new file", "file", w.l.path, "reason", reason,
		"seq", w.head.seq, "after", time.Since(began))
}

// publish tells Head and the readers where the log stands.
func (w *writer) publish(err error) {
	l := w.l
	l.mu.Lock()
	l.head = Head{Seq: w.head.seq, Hash: w.head.hash, Synced: w.synced, File: l.path}
	if err != nil && !errors.Is(err, ErrUnavailable) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	l.head.Err = err
	l.first = w.first
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
	l.mu.Unlock()
	if l.observe.HeadSeq != nil {
		l.observe.HeadSeq(w.head.seq)
	}
}

// end writes what is queued, syncs and closes.
func (w *writer) end() {
	for more := true; more; {
		select {
		case r := <-w.l.queue:
			w.serve(r)
		default:
			more = false
		}
	}
	if w.syncing {
		w.endSync(<-w.syncs)
	}
	if w.broken == nil && w.head.seq != w.signed {
		w.checkpoint()
	}
	var err error
	if w.broken == nil && w.synced < w.head.seq {
		if err = w.l.sys.sync(w.file); err == nil {
			w.synced = w.head.seq
			w.release()
		}
	}
	if w.broken != nil {
		err = w.broken.err
	}
	if w.signer != nil {
		w.signer.wipe()
	}
	w.timer.Stop()
	if failed := w.file.Close(); err == nil {
		err = failed
	}
	if err != nil {
		w.l.endErr = fmt.Errorf("close the audit log: %w", err)
	}
	w.publish(errClosed)
}

package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Rotation says when the log goes on in a new file. What is zero is no reason to.
type Rotation struct {
	// MaxSize is in bytes; a file exceeds it by one batch of records at most.
	MaxSize int64
	// MaxAge counts from the file's first record, by the wall clock.
	MaxAge time.Duration
}

// Why a file follows another in the ordinary way: the reason in its rotate record.
const (
	reasonSize    = "size"
	reasonAge     = "age"
	reasonRequest = "request"
)

const (
	// upkeepEvery is how often a checkpoint, or a rotation by age, is looked for at
	// least.
	upkeepEvery = time.Minute
	// rotateAgain is how long after a rotation that failed the next is tried; the log
	// goes on in the file that it has.
	rotateAgain = time.Minute
)

// Rotate has the log go on in a new file now, and its signing key replaced. It returns
// when that is done.
func (l *Log) Rotate(ctx context.Context) error {
	return l.command(ctx, func(w *writer) error { return w.rotate(reasonRequest) })
}

// Reopen has the log look at once whether its file was moved or removed, and go on in
// a new one then, as it would at the next sync.
func (l *Log) Reopen(ctx context.Context) error {
	return l.command(ctx, (*writer).reopen)
}

// command has the writer do something between two batches.
func (l *Log) command(ctx context.Context, do func(*writer) error) error {
	done := make(chan error, 1)
	select {
	case l.commands <- func(w *writer) { done <- do(w) }:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ended:
		return errClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ended:
		return errClosed
	}
}

func (w *writer) reopen() error {
	if w.broken == nil {
		if f := w.displaced(w.size); f != nil {
			w.fail(f.reason, f.err)
		}
	}
	if w.broken != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, w.broken.err)
	}
	return nil
}

// upkeep rotates the log if it is time, and else signs where it stands.
func (w *writer) upkeep() {
	w.upkeepTimer.Reset(w.upkeepEvery)
	if w.broken != nil {
		return
	}
	if w.rotateIfDue(); w.broken == nil && w.head.seq != w.signed {
		w.checkpoint()
	}
}

// rotateIfDue goes on in a new file if the present one is large enough, and holds more
// than its first record, or is old enough, and holds more than the log's own: those that
// a rotation has the keeper write would have an idle log rotate its history away.
func (w *writer) rotateIfDue() {
	if w.broken != nil || w.head.seq == w.first || time.Now().Before(w.rotateAfter) {
		return
	}
	var reason string
	switch r := w.l.rotation; {
	case r.MaxSize > 0 && w.size >= r.MaxSize:
		reason = reasonSize
	case r.MaxAge > 0 && w.used && w.age() >= r.MaxAge:
		reason = reasonAge
	default:
		return
	}
	if err := w.rotate(reason); err != nil {
		w.rotateAfter = time.Now().Add(rotateAgain)
		w.l.log.Error("the audit log could not go on in a new file; it goes on in the one it has, and tries again", "file", w.l.path, "again_in", rotateAgain, "error", err)
	}
}

// age is that of the file. It begins anew if the first record is of a time to come: the
// clock was ahead then.
func (w *writer) age() time.Duration {
	now := w.l.now()
	if now.Before(w.began) {
		w.began = now
	}
	return now.Sub(w.began)
}

// rotate brings the file to disk, signs where it ends, and goes on in a new one, which
// another key signs: who takes the host later cannot sign this file anew.
func (w *writer) rotate(reason string) error {
	if w.broken != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, w.broken.err)
	}
	if w.syncing {
		w.endSync(<-w.syncs)
	}
	if w.broken == nil {
		w.syncNow()
	}
	if w.broken != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, w.broken.err)
	}
	if err := w.commitSigner(); err != nil {
		return err
	}
	h := header{event: EventRotate, reason: reason}
	next, err := w.signOver(&h)
	if err != nil {
		return err
	}
	rotateTo, err := rotatedName(w.l.path, w.first)
	if err != nil {
		return err
	}
	h.former = &former{File: filepath.Base(rotateTo), SyncedSeq: w.synced}
	was := w.file
	err = w.begin(h, rotateTo)
	if w.file != was && next != nil {
		w.replaceSigner(next, h.checkpoint)
	}
	switch {
	case err == nil:
		w.publish(nil)
		if err := w.commitSigner(); err != nil {
			w.l.log.Error("the audit log's former signing key is still on disk", "file", w.keys.path, "error", err)
		}
		w.l.wakeKeeper()
		return nil
	case w.file != was:
		w.fail(reasonSyncFailed, err)
	case w.moved != "":
		w.fail(reasonWriteFailed, err)
	}
	return err
}

// syncNow brings all that was written to disk, or gives the file up.
func (w *writer) syncNow() {
	began := time.Now()
	if err := w.l.sys.sync(w.file); err != nil {
		w.fail(reasonSyncFailed, err)
		return
	}
	w.noteSynced(time.Since(began))
	if f := w.displaced(w.size); f != nil {
		w.fail(f.reason, f.err)
		return
	}
	w.synced = w.head.seq
	w.release()
}

// signOver makes the key that is to sign what follows, and has the present one sign
// where it begins. It returns nil if the log is not signed.
func (w *writer) signOver(h *header) (*signingKey, error) {
	if w.signer == nil {
		return nil, nil
	}
	next, err := w.keys.create(w.keys.next(), w.l.random)
	if err != nil {
		return nil, err
	}
	h.checkpoint, err = w.signer.sign(w.logID, w.l.node, w.head, w.l.now(), next.vkey)
	h.vkey = w.signer.vkey
	return next, err
}

// replaceSigner takes the next key into use; the log names it already.
func (w *writer) replaceSigner(next *signingKey, last Checkpoint) {
	w.signer.wipe()
	w.setSigner(next)
	w.uncommitted = true
	w.signed = w.head.seq
	w.pending = &last
	w.release()
}

// commitSigner puts the key that signs in the place of its former one, on disk, once
// the file that names it is there for good. Until then both are kept, and the next
// start takes the one that the log names.
func (w *writer) commitSigner() error {
	if !w.uncommitted {
		return nil
	}
	err := w.l.sys.syncPath(filepath.Dir(w.l.path))
	if err == nil {
		err = w.keys.succeed()
	}
	w.uncommitted = err != nil
	return err
}

func (w *writer) setSigner(k *signingKey) {
	w.signer = k
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.l.publicKey = k.vkey
}

// checkpoint signs where the log stands, in a record of its own.
func (w *writer) checkpoint() {
	if w.signer == nil {
		return
	}
	c, err := w.signer.sign(w.logID, w.l.node, w.head, w.l.now(), "")
	if err != nil {
		w.l.log.Error("the audit log could not be signed", "file", w.l.path, "error", err)
		return
	}
	members := appendRecord(nil, &Record{Event: EventCheckpoint, Outcome: OutcomeOK}, w.l.room)
	if w.record(EventCheckpoint, appendSigned(members, c, w.signer.vkey)); w.broken == nil {
		w.signed = w.head.seq
		w.pending = &c
		w.release()
	}
}

// record writes a record of the log's own.
func (w *writer) record(event Event, members []byte) {
	w.batch = append(w.batch[:0], &request{members: members, event: event, outcome: OutcomeOK, done: make(chan answer, 1)})
	w.write()
	clear(w.batch)
}

// release gives the pending checkpoint out once what it is about is on disk: one that
// a power loss could belie must not be known to anybody.
func (w *writer) release() {
	if w.pending == nil || w.synced < w.pending.Seq {
		return
	}
	w.l.mu.Lock()
	w.l.checkpoint = *w.pending
	w.l.mu.Unlock()
	w.pending = nil
	w.l.wakeKeeper()
}

// openSigning holds the log against what the broker remembers of it. It is called
// once the live file is in its place.
func (w *writer) openSigning() error {
	if w.keys.path == "" {
		return nil
	}
	tampered := w.lost
	if !w.created {
		var err error
		if tampered, err = w.compare(true); err != nil {
			return err
		}
	}
	for _, t := range []*TamperedError{tampered, w.replaced} {
		switch {
		case t == nil:
		case w.strict:
			return t
		default:
			w.alarm(t)
			if w.broken == nil && w.head.seq != w.signed {
				w.checkpoint() // so that it is said once, also if this process is killed
			}
		}
	}
	return nil
}

// findSigner sets the key that signs the log, where named is the one that the last of
// its files says; empty: none.
func (w *writer) findSigner(named string) error {
	if w.keys.path == "" {
		return nil
	}
	k, created, err := w.keys.find(named, w.l.random)
	if err != nil {
		return err
	}
	w.setSigner(k)
	_, err = os.Lstat(w.checkpointPath)
	hadOne := named != "" || err == nil
	if !w.created && created && hadOne || named != "" && named != k.vkey {
		w.replaced = &TamperedError{AlarmKeyReplaced, fmt.Sprintf("the log was signed with a key that %s does not hold", w.keys.path)}
	}
	return nil
}

// vkey is the key that signs; empty if nothing is signed.
func (w *writer) vkey() string {
	if w.signer == nil {
		return ""
	}
	return w.signer.vkey
}

// alarm says on every channel that the log is not what it was.
func (w *writer) alarm(t *TamperedError) {
	w.l.log.Error("the audit log was changed while the broker was down", "file", w.l.path, "reason", t.Alarm, "detail", t.Detail)
	w.record(EventAlarm, appendRecord(nil, &Record{Event: EventAlarm, Outcome: OutcomeError, Reason: string(t.Alarm), Detail: t.Detail}, w.l.room))
	if w.l.observe.Alarm != nil {
		w.l.observe.Alarm(t.Alarm)
	}
	if t.Alarm == AlarmKeyReplaced && w.broken == nil {
		// The next file names a key that is there, so this is said once.
		if err := w.rotate(reasonRequest); err != nil {
			w.l.log.Error("the audit log could not go on in a new file", "file", w.l.path, "error", err)
		}
	}
}

package audit

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"
)

const (
	// hangsAfter is how long the disk may take for what records wait for. One that
	// takes longer is as good as none: records are refused until it answers.
	hangsAfter = 5 * time.Second
	// syncHangsAfter is the same of a sync that no record waits for. It bounds what
	// a power loss takes, and is long, since an fsync waits for what other
	// programs have written: as long as Linux by itself leaves data in memory
	// (vm.dirty_expire_centisecs).
	syncHangsAfter = 30 * time.Second
	// watchInterval is how often Watch looks.
	watchInterval = 5 * time.Second
)

// FreeUnknown is less than any number of bytes: nobody could tell it.
const FreeUnknown int64 = -1

// pending is since when something waits for the disk.
type pending struct {
	opened time.Time
	limit  time.Duration
	since  atomic.Int64 // nanoseconds after opened; 0: nothing waits
}

func (p *pending) begin() { p.since.Store(max(1, int64(time.Since(p.opened)))) }

func (p *pending) end() (since int64) { return p.since.Swap(0) }

// hangs returns an error if the disk has not answered for too long. The first who
// finds it so counts it and says it.
func (l *Log) hangs() error {
	for _, p := range []*pending{&l.busy, &l.syncing} {
		since := p.since.Load()
		if since == 0 {
			continue
		}
		took := time.Since(p.opened) - time.Duration(since)
		if took < p.limit {
			continue
		}
		err := fmt.Errorf("%w: the disk of %s has not answered for %v", ErrUnavailable, l.path, took.Round(time.Second))
		if l.saidHangs.Swap(since) != since {
			if l.observe.WriteError != nil {
				l.observe.WriteError()
			}
			l.log.Error("the audit log's disk does not answer; records are refused until it does", "file", l.path, "since", took)
		}
		return err
	}
	return nil
}

// answered ends p. If it was said to hang, it says so, and returns for how long it did.
func (l *Log) answered(p *pending) (hung time.Duration) {
	since := p.end()
	if since == 0 || !l.saidHangs.CompareAndSwap(since, 0) {
		return 0
	}
	hung = time.Since(p.opened) - time.Duration(since)
	l.log.Warn("the audit log's disk answers again", "file", l.path, "after", hung)
	return hung
}

// noteGap puts on the record for how long the disk did not answer. A file that was given
// up for it has a repair record that says so.
func (w *writer) noteGap(hung time.Duration) {
	if hung == 0 || w.broken != nil {
		return
	}
	w.record(EventAlarm, appendRecord(nil, &Record{
		Event: EventAlarm, Outcome: OutcomeError, Reason: string(AlarmDiskHung),
		Detail: fmt.Sprintf("the disk did not answer for %v; records were refused meanwhile", hung.Round(time.Millisecond)),
	}, w.l.room))
}

// Watch looks at the log's disk every few seconds until ctx ends: whether it
// answers, and how much is free there, which Head and Observer.Free then tell. It
// warns in the broker's log when less than minFree bytes are left, once, and again
// when there is more. A disk that does not answer delays neither it nor the log.
func (l *Log) Watch(ctx context.Context, minFree int64) { l.watch(ctx, minFree, freeBytes) }

func (l *Log) watch(ctx context.Context, minFree int64, free func(dir string) (int64, error)) {
	type answer struct {
		free int64
		err  error
	}
	answers, asked := make(chan answer, 1), false
	ask := func() {
		asked = true
		go func() { // it may hang, and ends when the disk answers
			n, err := free(filepath.Dir(l.path))
			answers <- answer{n, err}
		}()
	}
	var w watermark
	ask()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			asked = false
			if a.err != nil {
				a.free = FreeUnknown
			}
			l.noteFree(a.free)
			w.look(l, a.free, minFree, a.err)
		case <-tick.C:
			_ = l.hangs() // it says so
			if asked {
				l.noteFree(FreeUnknown)
				continue
			}
			ask()
		}
	}
}

func (l *Log) noteFree(n int64) {
	l.free.Store(n)
	if l.observe.Free != nil {
		l.observe.Free(n)
	}
}

// watermark is what was said last of the space that is left.
type watermark struct{ low, unknown bool }

func (w *watermark) look(l *Log, free, least int64, err error) {
	dir := filepath.Dir(l.path)
	switch {
	case err != nil:
		if !w.unknown {
			l.log.Warn("it cannot be told how much space the audit log has left", "directory", dir, "error", err)
		}
	case free < least && !w.low:
		l.log.Warn("the audit log's disk is almost full; requests are refused when it is: free space there",
			"directory", dir, "free_bytes", free, "min_free_bytes", least)
		w.low = true
	case free >= least+least/8 && w.low: // not at each byte around the mark
		l.log.Info("the audit log's disk has space again", "directory", dir, "free_bytes", free)
		w.low = false
	}
	w.unknown = err != nil
}

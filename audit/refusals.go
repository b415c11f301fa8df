package audit

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// The limits of Refusals.
const (
	// RefusalsInFull is how many refusals of one uid are written as they are, a
	// RefusalWindow.
	RefusalsInFull = 10
	RefusalWindow  = time.Minute
	// RefusalUIDs is how many uids are told apart. The others share what one
	// may: a user can have 65,536 uids by /etc/subuid.
	RefusalUIDs = 64
	// refusalReasons is how many reasons a sum tells apart.
	refusalReasons = 16
)

// Refusals writes the refusals of callers without a right: RefusalsInFull of one
// uid as they are, and those beyond, in the minute that began with the first, as
// one record with their number. So what is refused is accounted for, and nobody
// can fill the disk with it. It is safe for concurrent use.
//
// The owner calls Flush about once a second, and before the log is closed Close.
type Refusals struct {
	log *Log
	now func() time.Time

	flushing sync.Mutex // held while sums are written

	mu   sync.Mutex
	of   map[uint32]*refused
	rest *refused // uids beyond RefusalUIDs
	none *refused // callers without a uid
}

// refused is one uid's window.
type refused struct {
	began  time.Time
	inFull int
	sum    sum
}

// sum is what one record stands for.
type sum struct {
	record  Record // the first that it stands for
	count   uint64
	reasons map[string]uint64
}

// NewRefusals returns a Refusals that writes to log. now is a clock whose
// differences are ages.
func NewRefusals(log *Log, now func() time.Time) *Refusals {
	return &Refusals{log: log, now: now, of: map[uint32]*refused{}, rest: new(refused), none: new(refused)}
}

// Record writes r, or adds it to the sum of its uid; nil is a caller of whom no
// uid is known. A nil error means that it is written, or that it will be within
// RefusalWindow and the time to the next Flush. Every error wraps ErrUnavailable.
func (f *Refusals) Record(ctx context.Context, uid *uint32, r Record) error {
	if f.sums(uid, r) {
		return f.log.Head().Err
	}
	_, err := f.log.Append(ctx, r)
	return err
}

// sums adds r to a sum, unless it may be written in full.
func (f *Refusals) sums(uid *uint32, r Record) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	w := f.window(uid)
	if w.sum.count == 0 && now.Sub(w.began) >= RefusalWindow {
		w.began, w.inFull = now, 0
	}
	if w.inFull < RefusalsInFull {
		w.inFull++
		return false
	}
	w.sum.add(r)
	return true
}

func (f *Refusals) window(uid *uint32) *refused {
	if uid == nil {
		return f.none
	}
	w := f.of[*uid]
	if w == nil {
		if len(f.of) >= RefusalUIDs {
			return f.rest
		}
		w = &refused{}
		f.of[*uid] = w
	}
	return w
}

// Flush writes the sums whose minute has passed. Those that cannot be written
// are kept for the next Flush. Every error wraps ErrUnavailable.
func (f *Refusals) Flush(ctx context.Context) error { return f.flush(ctx, false) }

// Close writes all sums, whether their minute has passed or not. Nothing must be
// recorded after it.
func (f *Refusals) Close(ctx context.Context) error { return f.flush(ctx, true) }

func (f *Refusals) flush(ctx context.Context, all bool) error {
	f.flushing.Lock()
	defer f.flushing.Unlock()
	type taken struct {
		from *refused
		refused
	}
	var due []taken
	f.mu.Lock()
	now := f.now()
	take := func(w *refused) {
		if w.sum.count == 0 || !all && now.Sub(w.began) < RefusalWindow {
			return
		}
		due = append(due, taken{w, *w})
		*w = refused{began: now}
	}
	for _, uid := range slices.Sorted(maps.Keys(f.of)) {
		w := f.of[uid]
		if w.sum.count == 0 && now.Sub(w.began) >= RefusalWindow {
			delete(f.of, uid)
			continue
		}
		take(w)
	}
	take(f.none)
	take(f.rest)
	f.mu.Unlock()

	var failed error
	for _, t := range due {
		_, err := f.log.Append(ctx, t.sum.asRecord(t.from == f.rest))
		if err != nil {
			failed = err // the same for all, in all likelihood
			f.mu.Lock()
			t.sum.append(t.from.sum)
			*t.from = t.refused
			f.mu.Unlock()
		}
	}
	return failed
}

// append adds a younger sum.
func (s *sum) append(younger sum) {
	for reason, n := range younger.reasons {
		s.note(reason, n)
	}
	s.count += younger.count
}

func (s *sum) add(r Record) {
	if s.count == 0 {
		r.Context = nil // belongs to the caller
		s.record, s.reasons = r, map[string]uint64{}
	}
	s.count++
	s.note(r.Reason, 1)
}

func (s *sum) note(reason string, n uint64) {
	if _, known := s.reasons[reason]; !known && len(s.reasons) >= refusalReasons {
		reason = "others"
	}
	s.reasons[reason] += n
}

// asRecord is the first record that s stands for, with the number of all, and
// the reason that most of them have.
func (s *sum) asRecord(many bool) Record {
	reasons := slices.SortedFunc(maps.Keys(s.reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.reasons[b], s.reasons[a]), strings.Compare(a, b))
	})
	var counts []string
	for _, reason := range reasons {
		counts = append(counts, fmt.Sprintf("%s %d", cmp.Or(reason, "none"), s.reasons[reason]))
	}
	r := s.record
	r.Reason, r.Count, r.Latency = reasons[0], s.count, 0
	r.Detail = fmt.Sprintf("the first of %d refusals that were summed; by reason: %s", s.count, strings.Join(counts, ", "))
	if many {
		r.Detail += fmt.Sprintf("; they are of more uids than the %d that are told apart", RefusalUIDs)
	}
	return r
}

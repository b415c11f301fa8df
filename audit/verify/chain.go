package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
)

const (
	eventRepair      = "repair"
	reasonSyncFailed = "sync_failed"
	zeroHash         = "0000000000000000000000000000000000000000000000000000000000000000"
)

// link is a place in the chain. The zero link is none.
type link struct {
	seq  uint64
	hash digest
}

func (r *record) follows(at link) bool { return r.seq == at.seq+1 && r.prev == at.hash }

// checker is one run of Files.
type checker struct {
	expected []*known            // in the order in which they were given
	known    map[uint64][]*known // the same by number
	signers  signers
	progress func(done, total int64)
	told     int64 // what progress was told last
	total    int64
	result   Result

	parser parser
	record record // of the line that is read; kept for its memory alone
	logID  string
	file   *file // that is read
	begun  int64 // Result.Bytes when it was begun

	// Where the chain stands. A line that does not fit is reported, and those
	// after it are held against each place where the chain could go on, so that
	// they are not reported for its sake.
	high link // the record with the highest number
	last link // the record on the line before; zero if that is no record
	base link // the last one that fitted
	// reported is how many lines since base did not fit.
	reported uint64
	lastAt   Finding // where last stands
	lastTime []byte

	// pending is a run of lines that are no records, not reported yet.
	pending *run
	// lossBefore is the record before which some may be missing, since a repair
	// record says so; 0 if there is none.
	lossBefore uint64
	// tail is what the file before ends in after its last record, if the repair
	// record of this one accounts for it.
	tail int64

	unknown map[string]bool // members that were noted
}

// run is lines that are no records, one after the other.
type run struct {
	Finding // of the first
	cause   error
	lines   uint64
	bytes   int64
}

// torn tells whether the run can be what a power loss or a short write leaves at
// the end of a file.
func (r *run) torn() bool {
	return errors.Is(r.cause, errUnfinished) || errors.Is(r.cause, errNUL)
}

// check reads f. next is the first file that begins after f does, or nil.
func (c *checker) check(ctx context.Context, f, next *file) error {
	c.file, c.begun = f, c.result.Bytes
	var claim *account
	if next != nil && next.first != nil && next.first.repair && !next.accountsForOther {
		claim = &next.first.former
	}
	body, met := int64(math.MaxInt64), claim == nil || claim.tail == 0
	if !met {
		var err error
		if met, err = f.endsIn(ctx, claim.tail, *claim); err != nil {
			return err
		}
		if met {
			body = f.size - claim.tail
		}
	}
	whole := f.content(ctx)
	defer whole.close()
	in := newLines(io.LimitReader(whole, body))
	for {
		l, err := in.next()
		if errors.Is(err, io.EOF) {
			c.end(in.n, next, claim, met)
			break
		}
		if damage, ok := errors.AsType[*damageError](err); ok {
			c.damaged(damage, in.n, next)
			met = false
			break
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", f.path, err)
		}
		if l.unfinished && next == nil {
			l = f.await(ctx, l)
		}
		c.line(l, in.n)
		c.result.Bytes = c.begun + whole.stored.read.Load()
		c.tell(false)
	}
	c.result.Bytes = c.begun + f.stored
	c.tail = 0
	if claim != nil && met {
		c.tail = claim.tail
	}
	return nil
}

// damaged reports that what comes after the line before n cannot be read, and
// counts the records that must be there.
func (c *checker) damaged(damage error, n int, next *file) {
	c.flush()
	at := Finding{File: c.file.path, Line: n, What: "from here on, the file cannot be read: " + damage.Error()}
	if c.base.seq > 0 {
		at.Seq = c.base.seq + c.reported + 1
	}
	if next != nil && at.Seq > 0 && next.begins() > at.Seq {
		at.What += "; " + records(at.Seq, next.begins()-1, "should be there", "should be there")
		c.reported += next.begins() - at.Seq
	}
	c.problem(at)
	c.lossBefore = 0
}

// line checks the line n of the file.
func (c *checker) line(l line, n int) {
	r := &c.record
	if err := c.parser.record(l, r); err != nil {
		c.noRecord(l, n, err)
		return
	}
	c.flush()
	c.result.Records++
	at := Finding{File: c.file.path, Line: n, Seq: r.seq}
	fits := c.place(r, at)
	c.describe(r, at, fits)

	here := link{r.seq, r.hash}
	if fits {
		c.base, c.reported = here, 0
	} else {
		c.reported++
	}
	if r.seq > c.high.seq {
		c.high = here
	}
	c.last, c.lastAt = here, at
	c.lastTime = append(c.lastTime[:0], r.time...)
}

// place tells whether r fits where it stands, and reports it if not.
func (c *checker) place(r *record, at Finding) bool {
	if c.result.FirstSeq == 0 {
		c.result.FirstSeq = r.seq
		c.compare(r.seq-1, &r.prev, at)
		switch {
		case r.seq > 1:
			at.What = fmt.Sprintf("what is checked begins here: the records before %d were not given, so the hash that it names could not be compared", r.seq)
			c.note(at)
		case string(r.prev[:]) != zeroHash:
			at.What = "it is the first record of the log, and names another hash than 64 zeros as that of the line before it"
			c.problem(at)
			return false
		}
		return true
	}
	expected := c.base.seq + c.reported + 1
	switch {
	case r.follows(c.high), r.follows(c.last), r.follows(c.base):
		return true
	case c.reported > 0 && r.seq == expected:
		// It stands where it should by counting the lines that were reported;
		// its prev is the hash of one of them.
		return true
	case r.seq == c.lossBefore && at.Line == 1:
		lost := r.seq - c.high.seq - 1
		c.result.Lost += lost
		at.What = fmt.Sprintf("%s lost: a sync had failed, and this record says that those after %d were not known to be on disk",
			records(c.high.seq+1, r.seq-1, "is", "are"), c.file.first.former.syncedSeq)
		c.note(at)
		return true
	case r.seq > expected:
		at.What = records(expected, r.seq-1, "should stand before it, and does not", "should stand before it, and do not")
	case r.seq == expected:
		at.What = fmt.Sprintf("the hash that it names is not that of the line before it (%s:%d): one of the two was changed after it was written", c.lastAt.File, c.lastAt.Line)
	case at.Line == 1:
		at.What = fmt.Sprintf("the file begins with it, and the files before go up to record %d: it is a copy, or of a fork of the log", c.high.seq)
	default:
		at.What = fmt.Sprintf("record %d should stand here: this one is a copy, or stands in the wrong place", expected)
	}
	c.problem(at)
	return false
}

// records says of records what is so of them.
func records(first, last uint64, one, many string) string {
	if first == last {
		return fmt.Sprintf("record %d %s", first, one)
	}
	return fmt.Sprintf("records %d to %d %s", first, last, many)
}

// describe reports and notes what a record says, apart from its place.
func (c *checker) describe(r *record, at Finding, fits bool) {
	switch {
	case at.Line == 1 && r.logID == nil && fits:
		at.What = "the first record of a file names the log, and this one does not: lines before it are missing"
		c.problem(at)
	case r.logID != nil && c.logID == "":
		c.logID = string(r.logID)
		c.result.LogID = c.logID
	case r.logID != nil && string(r.logID) != c.logID:
		at.What = fmt.Sprintf("it is of another log: its id is %.64q, that of the others %.64q", r.logID, c.logID)
		c.problem(at)
	}
	if at.Line == 1 && string(r.event) == eventRepair {
		c.describeRepair(r, at)
	}
	if fits && r.seq <= c.last.seq {
		at.What = fmt.Sprintf("it stands after record %d: they are out of order", c.last.seq)
		c.note(at)
	} else if fits && bytes.Compare(r.time, c.lastTime) < 0 {
		at.What = fmt.Sprintf("its time, %s, is before that of the record before it, %s: the clock was set", r.time, c.lastTime)
		c.note(at)
	}
	if r.unknown != nil && !c.unknown[string(r.unknown)] && len(c.unknown) < MaxFindings {
		if c.unknown == nil {
			c.unknown = map[string]bool{}
		}
		c.unknown[string(r.unknown)] = true
		at.What = fmt.Sprintf("this program does not know its member %s, nor what that means; it is protected as all others are", r.unknown)
		c.note(at)
	}
	if string(r.event) == eventAlarm {
		at.What = fmt.Sprintf("the broker raised an alarm, %.64q; read its detail", r.reason)
		c.note(at)
	}
	if fits || r.seq > c.high.seq { // no copy
		c.signature(r, at)
	}
	c.compare(r.seq, &r.hash, at)
}

func (c *checker) describeRepair(r *record, at Finding) {
	at.What = fmt.Sprintf("the log goes on in a new file (reason %.64q)", r.reason)
	if c.tail > 0 {
		at.What += fmt.Sprintf("; the one before ends in %d bytes that are no whole record, as this one says", c.tail)
	}
	if from := r.former.syncedSeq + 1; from < r.seq && r.seq != c.lossBefore && r.follows(c.high) {
		at.What += "; " + records(from, r.seq-1, "was not known to be on disk then, and is there", "were not known to be on disk then, and are there")
	}
	c.note(at)
}

// noRecord adds a line that is no record to the run of those.
func (c *checker) noRecord(l line, n int, cause error) {
	c.reported++
	c.last = link{}
	if c.pending == nil {
		seq := hint(l.text)
		if seq == 0 && c.base.seq > 0 {
			seq = c.base.seq + c.reported
		}
		c.pending = &run{Finding: Finding{File: c.file.path, Line: n, Seq: seq, What: cause.Error()}, cause: cause}
	}
	c.pending.lines++
	c.pending.bytes += l.size
}

// flush reports a run that is over.
func (c *checker) flush() {
	p := c.pending
	if p == nil {
		return
	}
	c.pending = nil
	switch p.lines {
	case 1:
	case 2:
		p.What += "; the line after it is no record either"
	default:
		p.What += fmt.Sprintf("; nor are the %d lines after it records", p.lines-1)
	}
	c.problem(p.Finding)
}

// end judges what the file ends in. lines is how many it has; claim is what the
// repair record of the next file says of that, nil if there is none; met, whether
// it is so.
func (c *checker) end(lines int, next *file, claim *account, met bool) {
	p := c.pending
	torn := p != nil && p.torn()
	if torn {
		c.reported -= p.lines // it stands in no record's place
	}
	c.lossBefore = 0
	if claim != nil && next.first.reason == reasonSyncFailed && (p == nil || torn) && c.lossBy(next, met) {
		if torn || !met {
			at := Finding{File: c.file.path, Line: lines}
			at.What = fmt.Sprintf("the file does not end as record %d (%s:1) says; that one also says that a sync had failed, so this is what a power loss left", next.first.seq, next.path)
			c.note(at)
		}
		c.pending = nil
		return
	}
	switch {
	case !met && next.first.follows(c.last) || !met && torn && next.first.follows(c.base):
		at := Finding{File: c.file.path, Line: lines}
		if torn {
			at = p.Finding
			c.pending = nil
		}
		at.What = fmt.Sprintf("the file does not end in the %d bytes that record %d (%s:1) accounts for", claim.tail, next.first.seq, next.path)
		c.problem(at)
	case torn && next != nil:
		p.What = fmt.Sprintf("the file ends in %d bytes that are no whole record, and for which the first record of the next file does not account", p.bytes)
		p.lines = 1
	case torn:
		p.What = fmt.Sprintf("the file ends in %d bytes that are no whole record: if a broker is writing it, check again; after a crash, the broker accounts for them when it starts; if neither is so, the line was cut off", p.bytes)
		p.lines = 1
	}
	c.flush()
}

// lossBy tells whether records, or the tail, can be missing at the end of the
// file because a power loss followed the failed sync that the first record of
// next tells of; and if records are, sets lossBefore.
func (c *checker) lossBy(next *file, met bool) bool {
	o := next.first
	if c.reported > 0 || c.base != c.high || c.high.seq < o.former.syncedSeq {
		return false
	}
	if o.seq > c.high.seq+1 {
		c.lossBefore = o.seq
		return true
	}
	return !met && o.follows(c.high)
}

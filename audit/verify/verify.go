package verify

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// MaxFindings is how many problems, and how many notes, a Result holds.
const MaxFindings = 100

// Head is a place in a log: a record's number and its line's hash.
type Head struct {
	Seq  uint64
	Hash [32]byte
}

// Options are what Files can be told. The zero value is fine.
type Options struct {
	// ExpectHead is a place of the log that was kept where whoever can write the
	// log cannot write. Without one, nobody can tell that records are missing at
	// the log's end, or that all of it from some record on was written anew.
	ExpectHead *Head
	// Checkpoints were kept likewise, or come from the broker itself. The log must
	// have the record of each, and the key that signed the log then must have
	// signed it.
	Checkpoints []*Checkpoint
	// Anchors were kept likewise. The log must have the record of each that is of it,
	// and each of them must have one at least.
	Anchors []*Anchors
	// Key must have signed a checkpoint in the files. From there on, only it signs,
	// and the keys that it, and each of them in turn, announces when the log is
	// rotated. If it is nil, the first key in the files has its place: then
	// signatures show that the log is in itself consistent, but not whose it is.
	Key *Key
	// Progress is called, now and then and at the end, with how many bytes were
	// checked and how many there are. It must not block.
	Progress func(done, total int64)
}

// Result is what Files found.
type Result struct {
	// LogID is the log's random id; empty if no file names it.
	LogID string
	// Files and Bytes are what was read, as it is on disk; Records is how many
	// whole records it holds.
	Files   int
	Bytes   int64
	Records uint64
	// FirstSeq is the first record. If it is not 1, then what was before it, and
	// the hash that it names, could not be checked.
	FirstSeq uint64
	// Head is the record with the highest number; to be kept elsewhere, for the
	// next ExpectHead.
	Head Head
	// Lost is how many records are missing though a repair record says openly
	// that they were not known to be on disk: a sync had failed.
	Lost uint64
	// Signed is how far the checkpoints in the files vouch for it.
	Signed Signed
	// Anchored is what Options.Anchors have of it.
	Anchored Anchored

	// Problems are what must not be in a log, in the order of the chain: the
	// first MaxFindings of ProblemCount. One cause has one problem if possible,
	// whatever number of lines it makes unreadable.
	Problems     []Finding
	ProblemCount int
	// Notes are what an auditor should know of a log all the same: the first
	// MaxFindings of NoteCount.
	Notes     []Finding
	NoteCount int
}

// Signed is what the keys that Options.Key describes have signed.
type Signed struct {
	// Seq is the last record that a checkpoint covers, and with it all before; 0 if
	// there is none, and then all else is zero too. Time is when it was made, by
	// the clock of the host.
	Seq  uint64
	Time time.Time
	// Checkpoints is how many there are, and Keys how many keys signed them.
	Checkpoints uint64
	Keys        int
	// First and Last signed the first and the last of them. Current is the one to
	// sign the next: Last, or the key that Last announced.
	First, Last, Current *Key
	// Unsigned is how many records come after Seq.
	Unsigned uint64
}

// OK tells whether the log is whole, from FirstSeq to Head.
func (r *Result) OK() bool { return r.ProblemCount == 0 }

// Finding is something at one place of the log.
type Finding struct {
	// File is the path as it was given; of a checkpoint, what ParseCheckpoint was
	// told that it is from.
	File string
	// Line begins with 1; 0 if it is about the file as a whole.
	Line int
	// Seq is the record's number; for what is no record, that of the record that
	// should stand there. 0 if it is not known.
	Seq uint64
	// What is wrong, or notable: an English sentence without a full stop. It
	// quotes nothing from the file but names, numbers, times and hashes.
	What string
}

// String returns FILE:LINE: what, with the record's number.
func (f Finding) String() string {
	at := f.File
	if f.Line > 0 {
		at = fmt.Sprintf("%s:%d", at, f.Line)
	}
	if f.Seq > 0 {
		at = fmt.Sprintf("%s: record %d", at, f.Seq)
	}
	return at + ": " + f.What
}

// Files checks the files of one log, which may be given in any order. It needs
// memory for a few lines, however long the files and their lines are, and an open
// file for each of them. Files that end in .gz or .zst, or begin as such do, are
// decompressed as they are read, which needs up to some 100 MiB more if whoever
// compressed them wants that. Of FILE and FILE.zst, FILE alone is read.
//
// A file that a broker writes meanwhile is checked as far as it was when Files
// began. The line at its end, if it is being written just then, is waited for,
// for a fraction of a second; what is still unfinished then is a problem.
//
// The error says that the files could not be checked: one cannot be read, or ctx
// has ended. What is wrong with them is no error.
func Files(ctx context.Context, paths []string, o Options) (*Result, error) {
	if len(paths) == 0 {
		return nil, errors.New("no file of an audit log was given")
	}
	if o.ExpectHead != nil && o.ExpectHead.Seq == 0 {
		return nil, errors.New("the expected head has no record number; records are counted from 1")
	}
	c := &checker{progress: o.Progress, signers: signers{given: o.Key}, known: map[uint64][]*known{}}
	if o.ExpectHead != nil {
		c.expect(&known{Head: *o.ExpectHead, from: "known from elsewhere"})
	}
	files, err := c.openAll(ctx, paths)
	defer func() {
		for _, f := range files {
			_ = f.Close() // it was only read
		}
	}()
	if err != nil {
		return nil, err
	}
	ordered, err := c.order(ctx, files)
	if err != nil {
		return nil, err
	}
	for _, cp := range o.Checkpoints {
		if cp.logID != c.logID {
			c.problem(Finding{File: cp.from, Seq: cp.head.Seq, What: fmt.Sprintf(
				"the checkpoint is of another log: its id is %s, that of the files %.64q", cp.logID, c.logID)})
			continue
		}
		c.expect(&known{Head: cp.head, from: "known from the checkpoint " + cp.from, checkpoint: cp})
	}
	for _, a := range o.Anchors {
		c.anchor(a)
	}
	for i, f := range ordered {
		var next *file
		for _, g := range ordered[i+1:] {
			if g.begins() > f.begins() {
				next = g
				break
			}
		}
		if err := c.check(ctx, f, next); err != nil {
			return nil, err
		}
	}
	c.finish(paths)
	return &c.result, nil
}

func (c *checker) expect(k *known) {
	c.expected = append(c.expected, k)
	c.known[k.Seq] = append(c.known[k.Seq], k)
}

// finish holds what can only be told of the log as a whole.
func (c *checker) finish(paths []string) {
	r := &c.result
	r.Head.Seq = c.high.seq
	_, _ = hex.Decode(r.Head.Hash[:], c.high.hash[:]) // cannot fail: it is one
	last := paths[len(paths)-1]
	if c.file != nil {
		last = c.file.path
	}
	if r.Records == 0 {
		c.problem(Finding{File: last, What: "no record was found, and a log has at least one"})
	}
	for _, k := range c.expected {
		switch at := (Finding{File: last, Seq: k.Seq}); {
		case k.met:
		case k.Seq > r.Head.Seq:
			at.What = fmt.Sprintf("the log ends with record %d, and record %d is %s: records were removed at the end, or the newest file was not given", r.Head.Seq, k.Seq, k.from)
			c.problem(at)
		case k.Seq < r.FirstSeq && k.anchored:
			r.Anchored.Older++
		case k.Seq < r.FirstSeq:
			at.What = fmt.Sprintf("the files begin with record %d, so record %d, which is %s, cannot be compared: give the older files too", r.FirstSeq, k.Seq, k.from)
			c.problem(at)
		default:
			at.What = fmt.Sprintf("record %d, which is %s, is not in the files", k.Seq, k.from)
			c.problem(at)
		}
	}
	c.finishAnchored(last)
	c.finishSigned(last)
	if r.Signed.Seq > 0 {
		r.Signed.Unsigned = r.Head.Seq - r.Signed.Seq
	}
	c.tell(true)
}

func (c *checker) problem(f Finding) {
	if c.result.ProblemCount++; len(c.result.Problems) < MaxFindings {
		c.result.Problems = append(c.result.Problems, f)
	}
}

func (c *checker) note(f Finding) {
	if c.result.NoteCount++; len(c.result.Notes) < MaxFindings {
		c.result.Notes = append(c.result.Notes, f)
	}
}

// tell reports progress, about every MiB.
func (c *checker) tell(end bool) {
	const step = 1 << 20
	if c.progress != nil && (end || c.result.Bytes-c.told >= step) {
		c.told = c.result.Bytes
		c.progress(c.result.Bytes, c.total)
	}
}

package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint is a place of the log, signed.
type Checkpoint struct {
	// Seq and Hash are those of the record that it is about.
	Seq  uint64
	Hash [32]byte
	// Note is the signed text (https://c2sp.org/signed-note): who has it can hold the
	// log to it, also after its signing key was replaced.
	Note []byte
}

// sign returns a checkpoint of the log's place at. next is the vkey of the key that
// signs what comes after it; empty: the same.
func (k *signingKey) sign(logID, node string, at link, now time.Time, next string) (Checkpoint, error) {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s/%s\n%d\n%s\n", signerName, logID, at.seq, base64.StdEncoding.EncodeToString(at.hash[:]))
	fmt.Fprintf(&text, "time %s\nnode %s\n", now.UTC().Format(timeFormat), oneLine(node))
	if next != "" {
		fmt.Fprintf(&text, "next %s\n", next)
	}
	signed, err := note.Sign(&note.Note{Text: text.String()}, k)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign a checkpoint: %w", err)
	}
	return Checkpoint{at.seq, at.hash, signed}, nil
}

// oneLine keeps what is put into a line of a note from ending it: note.Sign takes no
// control characters but newlines.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(s, "_"))
}

// appendSigned appends the members of a signed checkpoint.
func appendSigned(dst []byte, c Checkpoint, vkey string) []byte {
	dst = appendMember(dst, `,"checkpoint":`, string(c.Note), math.MaxInt)
	return appendMember(dst, `,"public_key":`, vkey, math.MaxInt)
}

// place is what the log needs to know of a note's text. Whoever can write where it was
// kept can write what he likes into it.
type notePlace struct {
	logID string
	link
}

// maxNote is more than a note of ours takes, with some signatures of others.
const maxNote = 8 << 10

var errNoCheckpoint = errors.New("it is no checkpoint of an audit log")

func parseNote(text []byte) (notePlace, error) {
	origin, rest, _ := strings.Cut(string(text), "\n")
	number, rest, _ := strings.Cut(rest, "\n")
	hash, _, _ := strings.Cut(rest, "\n")
	id, ok := strings.CutPrefix(origin, signerName+"/")
	seq, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || seq == 0 {
		return notePlace{}, errNoCheckpoint
	}
	sum, err := base64.StdEncoding.Strict().DecodeString(hash)
	p := notePlace{logID: id}
	if err != nil || len(sum) != len(p.hash) {
		return notePlace{}, errNoCheckpoint
	}
	p.seq, p.hash = seq, [32]byte(sum)
	return p, nil
}

// nextSigner is the key that a note names for what comes after it, or empty.
func nextSigner(text string) string {
	body, _, _ := strings.Cut(text, "\n\n")
	for line := range strings.Lines(body + "\n") {
		if next, ok := strings.CutPrefix(line, "next "); ok {
			return strings.TrimSuffix(next, "\n")
		}
	}
	return ""
}

// readNote reads a checkpoint that was kept at path; fs.ErrNotExist if there is none.
func (s system) readNote(path string) ([]byte, error) {
	f, err := s.openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxNote))
}

// Alarm is the reason of an alarm record: the log is not what the broker remembers, or
// something else befell it that its reader should know.
type Alarm string

const (
	// AlarmShortened says that records that the broker had written are not there any more.
	AlarmShortened Alarm = "log_shortened"
	// AlarmExchanged says that other records, or another log, stand in their place.
	AlarmExchanged Alarm = "log_exchanged"
	// AlarmDiskHung says that the disk did not answer for a while, and that records were
	// refused meanwhile. It is no sign of tampering, and Observer is not told.
	AlarmDiskHung Alarm = "disk_hung"
	// AlarmKeyReplaced says that the key that signs is not the one that the log names.
	AlarmKeyReplaced Alarm = "signing_key_replaced"
)

// TamperedError says that the log was changed while the broker was down. Open returns
// it with Config.StrictStart.
type TamperedError struct {
	Alarm Alarm
	// Detail is for people: what was remembered and what was found.
	Detail string
}

// Error implements error.
func (e *TamperedError) Error() string {
	return fmt.Sprintf("the audit log was changed while the broker was down (%s): %s; find out who did it, and keep the files as evidence; to go on, start once with audit.strict_start: false, which puts this on the record", e.Alarm, e.Detail)
}

// compare holds the log against the checkpoint that the broker remembers. It returns
// nil if the log has that record, or if nothing is remembered.
func (w *writer) compare(existed bool) (*TamperedError, error) {
	text, err := w.l.sys.readNote(w.checkpointPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	tampered := func(alarm Alarm, format string, args ...any) (*TamperedError, error) {
		return &TamperedError{alarm, fmt.Sprintf(format, args...)}, nil
	}
	known, err := parseNote(text)
	switch {
	case err != nil:
		return tampered(AlarmExchanged, "what %s should remember of it cannot be read: %v", w.checkpointPath, err)
	case !existed:
		return tampered(AlarmShortened, "it had record %d, and no file of it is there", known.seq)
	case known.logID != w.logID:
		return tampered(AlarmExchanged, "it was log %.64q, and the files are of log %s", known.logID, w.logID)
	case known.seq > w.head.seq:
		return tampered(AlarmShortened, "it had record %d, and ends with record %d", known.seq, w.head.seq)
	}
	found, err := w.hashOf(known.seq)
	switch {
	case err != nil:
		return tampered(AlarmExchanged, "record %d is not to be found: %v", known.seq, err)
	case found != known.hash:
		return tampered(AlarmExchanged, "record %d had the hash %x, and has the hash %x", known.seq, known.hash, found)
	}
	return nil, nil
}

// hashOf reads the hash of an older record back.
func (w *writer) hashOf(seq uint64) (hash [32]byte, err error) {
	if seq == w.head.seq {
		return w.head.hash, nil
	}
	w.publish(nil) // the reader asks where the live file begins
	r := reader{l: w.l, next: seq}
	defer r.close()
	line, err := r.read()
	if err != nil {
		return hash, err
	}
	p, err := parseLine(append(line, '\n'))
	if err == nil && p.seq != seq {
		err = fmt.Errorf("record %d stands in its place", p.seq)
	}
	return p.hash, err
}

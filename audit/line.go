package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
)

// MaxLine is the longest a line can be, in bytes, newline included.
const MaxLine = 8 << 10

const (
	formatVersion = 1
	// timeFormat is RFC 3339 in UTC, always with nine decimals.
	timeFormat = "2006-01-02T15:04:05.000000000Z"
	hashLen    = 2 * sha256.Size
	hashField  = `,"hash":"`
	lineEnd    = "\"}\n"
	// trailer is what a line has after its body.
	trailer = len(hashField) + hashLen + len(lineEnd)
	// maxNode keeps the members that the log adds well under what a Record may
	// need: MaxLine - recordFloor.
	maxNode = 255
)

// link is a place in the chain: a record's number and its line's hash. The zero
// link is the place before the first record.
type link struct {
	seq  uint64
	hash [sha256.Size]byte
}

// assembler turns the members of a record into a line.
type assembler struct {
	node []byte // `","node":` and the node's name
}

func newAssembler(node string) assembler {
	return assembler{node: appendString([]byte(`","node":`), node)}
}

// room is how many bytes the members of a record may take.
func (a assembler) room() int {
	return MaxLine - len(`{"v":1,"seq":`) - len("18446744073709551615") - len(`,"time":"`) - len(timeFormat) -
		len(a.node) - len(`,`) - len(`,"prev":"`) - hashLen - len(`"`) - trailer
}

// appendLine appends the line that follows at, and returns its place.
func (a assembler) appendLine(dst []byte, at link, now time.Time, members []byte) ([]byte, link) {
	start := len(dst)
	dst = append(dst, `{"v":1,"seq":`...)
	dst = strconv.AppendUint(dst, at.seq+1, 10)
	dst = append(dst, `,"time":"`...)
	dst = now.UTC().AppendFormat(dst, timeFormat)
	dst = append(dst, a.node...)
	dst = append(dst, ',')
	dst = append(dst, members...)
	dst = append(dst, `,"prev":"`...)
	dst = hex.AppendEncode(dst, at.hash[:])
	dst = append(dst, '"')
	next := link{seq: at.seq + 1, hash: sha256.Sum256(dst[start:])}
	dst = append(dst, hashField...)
	dst = hex.AppendEncode(dst, next.hash[:])
	return append(dst, lineEnd...), next
}

// former is how the first record of a file accounts for the file before it.
type former struct {
	// File is its name, without the directory; empty if it was gone.
	File string `json:"file,omitempty"`
	// TailBytes and TailSHA256 are what it holds after its last whole record.
	TailBytes  int64  `json:"tail_bytes,omitempty"`
	TailSHA256 string `json:"tail_sha256,omitempty"`
	// SyncedSeq is the last record known to be on disk.
	SyncedSeq uint64 `json:"synced_seq"`
}

// header is what a file's first record says.
type header struct {
	event  Event
	reason string
	former *former // nil if no file comes before
	// checkpoint is about the record before it, and vkey the key that signed it; without
	// a checkpoint, the key that signs what follows.
	checkpoint Checkpoint
	vkey       string
}

// appendHeader appends the members of a file's first record.
func appendHeader(dst []byte, logID string, h header) []byte {
	dst = append(dst, `"event":`...)
	dst = appendString(dst, string(h.event))
	dst = append(dst, `,"outcome":"ok"`...)
	dst = appendMember(dst, `,"reason":`, h.reason, math.MaxInt)
	dst = append(dst, `,"log":`...)
	dst = appendString(dst, logID)
	dst = appendFormer(dst, h.former)
	return appendSigned(dst, h.checkpoint, h.vkey)
}

func appendFormer(dst []byte, f *former) []byte {
	if f == nil {
		return dst
	}
	dst = append(dst, `,"former":{`...)
	if f.File != "" {
		dst = append(dst, `"file":`...)
		dst = appendString(dst, f.File)
		dst = append(dst, ',')
	}
	if f.TailBytes > 0 {
		dst = append(dst, `"tail_bytes":`...)
		dst = strconv.AppendInt(dst, f.TailBytes, 10)
		dst = append(dst, `,"tail_sha256":"`...)
		dst = append(dst, f.TailSHA256...)
		dst = append(dst, `",`...)
	}
	dst = append(dst, `"synced_seq":`...)
	dst = strconv.AppendUint(dst, f.SyncedSeq, 10)
	return append(dst, '}')
}

// parsedLine is what the log needs to know of a line it finds in a file.
type parsedLine struct {
	link
	prev  [sha256.Size]byte
	time  time.Time
	event Event
	logID string
	// checkpoint and vkey are as in header.
	checkpoint, vkey string
}

// follows tells whether p is the record after the one at at.
func (p *parsedLine) follows(at link) bool {
	return p.seq == at.seq+1 && p.prev == at.hash
}

var errNotChained = errors.New("it does not name the hash of the line before it")

// parseLine checks a line by itself, newline included, and says what is wrong
// with it.
func parseLine(line []byte) (parsedLine, error) {
	var p parsedLine
	if len(line) > MaxLine {
		return p, fmt.Errorf("it is %d bytes long, and no record is longer than %d", len(line), MaxLine)
	}
	body, hash, ok := splitLine(line)
	if !ok {
		return p, errors.New("it does not end as a record does")
	}
	p.hash = sha256.Sum256(body)
	if !bytes.Equal(hex.AppendEncode(nil, p.hash[:]), hash) {
		return p, errors.New("its hash does not fit its text")
	}
	var fields struct {
		V    int    `json:"v"`
		Seq  uint64 `json:"seq"`
		Prev string `json:"prev"`
		Log  string `json:"log"`

		Time       time.Time
		Event      Event
		Checkpoint string
		PublicKey  string `json:"public_key"`
	}
	if err := json.Unmarshal(line, &fields); err != nil {
		return p, fmt.Errorf("it is not a record: %w", err)
	}
	if fields.V != formatVersion {
		return p, fmt.Errorf("it is of format version %d, and this program knows version %d only", fields.V, formatVersion)
	}
	prev, err := hex.DecodeString(fields.Prev)
	if err != nil || len(prev) != len(p.prev) {
		return p, errors.New("its field prev is not a hash")
	}
	p.prev = [sha256.Size]byte(prev)
	p.seq, p.logID = fields.Seq, fields.Log
	p.time, p.event, p.checkpoint, p.vkey = fields.Time, fields.Event, fields.Checkpoint, fields.PublicKey
	return p, nil
}

// splitLine finds the body and the hash by their place; nobody searches for the
// field, since a context may contain its text.
func splitLine(line []byte) (body, hash []byte, ok bool) {
	at := len(line) - trailer
	if at < 0 || !bytes.HasPrefix(line[at:], []byte(hashField)) || !bytes.HasSuffix(line, []byte(lineEnd)) {
		return nil, nil, false
	}
	return line[:at], line[at+len(hashField) : len(line)-len(lineEnd)], true
}

// seqOf reads a line's number where the log writes it. It checks nothing else.
func seqOf(line []byte) (uint64, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"v":1,"seq":`))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest, []byte{','})
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	return seq, err == nil
}

// newLogID returns the random id of a new log: 128 bits, in hex.
func newLogID(random io.Reader) (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return "", fmt.Errorf("a random id for the new log: %w", err)
	}
	return hex.EncodeToString(id[:]), nil
}

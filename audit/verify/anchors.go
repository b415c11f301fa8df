package verify

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// The names of the pairs that a KMS was told, and what a canonical encoding of them
// begins with in base64.
const (
	pairPrefix = "keybroker:audit-"
	pairLog    = pairPrefix + "log"
	pairSeq    = pairPrefix + "seq"
	pairHead   = pairPrefix + "head"

	// maxNesting is how deep JSON text may stand in JSON text.
	maxNesting = 4
	// hiddenPrefix is what Vault writes for a value that it does not tell.
	hiddenPrefix = "hmac-sha256:"
)

// Anchors are heads of logs, kept where whoever can write the logs cannot.
type Anchors struct {
	from    string // names it in findings
	heads   []anchored
	damaged []Finding
	hidden  int // calls of which the audit trail does not tell the associated data
}

type anchored struct {
	Head
	logID      string
	checkpoint *Checkpoint // nil if a KMS was told the head
}

// ReadAnchors reads what a place outside the host has kept, compressed or not: signed
// notes one after the other, or JSON in which such notes are strings, AWS CloudTrail
// events of Encrypt, or the lines of a Vault audit device. All else in it is passed
// over. Of a KMS's audit trail only calls that succeeded count: others everybody can
// make. Findings name it by from.
//
// The error says that it could not be read, or is no JSON though it begins as such.
func ReadAnchors(ctx context.Context, from string, r io.Reader) (*Anchors, error) {
	a := &Anchors{from: from}
	in := bufio.NewReaderSize(cancelled{ctx, r}, bufferSize)
	begin, _ := in.Peek(len("\x28\xb5\x2f\xfd"))
	text, done := decompress(compressionOf(from, begin), in)
	defer done()
	in = bufio.NewReaderSize(text, bufferSize)
	begin, err := in.Peek(bufferSize / 2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if begin = bytes.TrimLeft(begin, " \t\r\n"); len(begin) > 0 && strings.ContainsRune(`{["`, rune(begin[0])) {
		return a, a.readJSON(in)
	}
	return a, a.readNotes(in)
}

// cancelled ends with ctx.
type cancelled struct {
	ctx context.Context //nolint:containedctx // a Reader has no other place for it
	in  io.Reader
}

func (c cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.in.Read(p)
}

// readNotes reads text in which notes stand by themselves.
func (a *Anchors) readNotes(in *bufio.Reader) error {
	var text []byte
	signed := false
	end := func() {
		if text != nil {
			a.note(text)
		}
		text, signed = nil, false
	}
	for {
		line, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		signature := bytes.HasPrefix(line, []byte("— "))
		if begins := bytes.HasPrefix(line, []byte(keyName+"/")); begins || signed && !signature {
			end()
			if begins {
				text = []byte{}
			}
		}
		if text != nil && len(text) <= MaxCheckpoint {
			text, signed = append(text, line...), signature
		}
		if errors.Is(err, io.EOF) {
			end()
			return nil
		}
	}
}

// note takes a note that stands alone.
func (a *Anchors) note(text []byte) {
	cp, err := ParseCheckpoint(a.from, text)
	if err != nil {
		a.damage("it has a checkpoint that cannot be read: %v", err)
		return
	}
	a.heads = append(a.heads, anchored{cp.head, cp.logID, cp})
}

func (a *Anchors) damage(format string, args ...any) {
	if len(a.damaged) < MaxFindings {
		a.damaged = append(a.damaged, Finding{File: a.from, What: fmt.Sprintf(format, args...)})
	}
}

// readJSON reads values one after the other, whether they are lines or not.
func (a *Anchors) readJSON(in io.Reader) error {
	decoder := json.NewDecoder(in)
	var raw json.RawMessage
	for {
		err := decoder.Decode(&raw)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			a.damage("it ends within a JSON value: what it was about cannot be told")
			return nil
		case err != nil:
			return fmt.Errorf("at byte %d: %w", decoder.InputOffset(), err)
		}
		// Most of an audit trail is about something else.
		if bytes.Contains(raw, []byte("keybroker")) || bytes.Contains(raw, []byte(`"associated_data"`)) {
			var v any
			if err := json.Unmarshal(raw, &v); err != nil {
				return fmt.Errorf("at byte %d: %w", decoder.InputOffset(), err)
			}
			a.value(v, 0)
		}
	}
}

// value looks for heads in a JSON value.
func (a *Anchors) value(v any, nesting int) {
	switch v := v.(type) {
	case map[string]any:
		request, isRequest := v["request"].(map[string]any)
		kind, _ := v["type"].(string)
		switch {
		case text(v["eventSource"]) == "kms.amazonaws.com":
			a.cloudTrail(v)
		case isRequest && (kind == "request" || kind == "response"):
			a.vault(v, request)
		default:
			for _, member := range v {
				a.value(member, nesting)
			}
		}
	case []any:
		for _, item := range v {
			a.value(item, nesting)
		}
	case string:
		switch {
		case strings.HasPrefix(v, keyName+"/"):
			a.note([]byte(v))
		case nesting < maxNesting && strings.HasPrefix(strings.TrimLeft(v, " \t\r\n"), "{") && strings.Contains(v, "keybroker"):
			var inner any
			if json.Unmarshal([]byte(v), &inner) == nil {
				a.value(inner, nesting+1)
			}
		}
	}
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// cloudTrail reads an event of AWS KMS.
func (a *Anchors) cloudTrail(event map[string]any) {
	parameters, _ := event["requestParameters"].(map[string]any)
	context, _ := parameters["encryptionContext"].(map[string]any)
	if text(event["eventName"]) != "Encrypt" || text(event["errorCode"]) != "" || context == nil {
		return
	}
	pairs := make(map[string]string, len(context))
	for name, value := range context {
		pairs[name] = text(value)
	}
	a.pairs(pairs)
}

// vault reads an entry of an audit device. That of the response says whether there was
// an error.
func (a *Anchors) vault(entry, request map[string]any) {
	data, _ := request["data"].(map[string]any)
	encoded := text(data["associated_data"])
	switch {
	case text(entry["type"]) != "response" || text(entry["error"]) != "" || !strings.Contains(text(request["path"]), "/encrypt/"):
	case strings.HasPrefix(encoded, hiddenPrefix):
		a.hidden++
	default:
		if canonical, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			a.pairs(decodePairs(canonical))
		}
	}
}

// decodePairs reads names and values: their number, then each after its length, all
// lengths in four bytes, big endian. It returns nil if b is something else.
func decodePairs(b []byte) map[string]string {
	const size = 4
	next := func(n uint32) ([]byte, bool) {
		if uint64(n) > uint64(len(b)) {
			return nil, false
		}
		var head []byte
		head, b = b[:n], b[n:]
		return head, true
	}
	number := func() (uint32, bool) {
		head, ok := next(size)
		if !ok {
			return 0, false
		}
		return binary.BigEndian.Uint32(head), true
	}
	count, ok := number()
	pairs := map[string]string{}
	for range count {
		var both [2]string
		for i := range both {
			n, fits := number()
			part, whole := next(n)
			if ok = fits && whole; !ok {
				return nil
			}
			both[i] = string(part)
		}
		pairs[both[0]] = both[1]
	}
	if !ok || len(b) > 0 {
		return nil
	}
	return pairs
}

// pairs takes what a KMS was told.
func (a *Anchors) pairs(pairs map[string]string) {
	logID, ours := pairs[pairLog]
	if !ours {
		return
	}
	seq, err := strconv.ParseUint(pairs[pairSeq], 10, 64)
	hash, hashErr := hex.DecodeString(pairs[pairHead])
	h := anchored{logID: logID, Head: Head{Seq: seq}}
	if err != nil || hashErr != nil || seq == 0 || len(hash) != len(h.Hash) || !isLogID(logID) {
		a.damage("it has a call with the pairs of a log's head that name none: log %.64q, record %.24q, hash %.72q", logID, pairs[pairSeq], pairs[pairHead])
		return
	}
	h.Hash = [32]byte(hash)
	a.heads = append(a.heads, h)
}

// Anchored is what Options.Anchors have of the log.
type Anchored struct {
	// Heads is how many they have, of which Older are of records before
	// Result.FirstSeq, and so could not be compared.
	Heads, Older int
	// Latest is the one with the highest number.
	Latest Head
}

// anchor has the log held to what a has of it.
func (c *checker) anchor(a *Anchors) {
	for _, f := range a.damaged {
		c.problem(f)
	}
	found := 0
	for _, h := range a.heads {
		if h.logID != c.logID {
			continue
		}
		found++
		if r := &c.result.Anchored; h.Seq >= r.Latest.Seq {
			r.Latest = h.Head
		}
		c.expect(&known{Head: h.Head, from: "anchored in " + a.from, checkpoint: h.checkpoint, anchored: true})
	}
	c.result.Anchored.Heads += found
	if found > 0 {
		return
	}
	at := Finding{File: a.from, What: fmt.Sprintf("it has no head of this log, whose id is %.64q", c.logID)}
	if others := len(a.heads); others > 0 {
		at.What += fmt.Sprintf(", and %d of others", others)
	}
	if a.hidden > 0 {
		at.What += fmt.Sprintf("; of %d calls it hides the associated data: vault secrets tune -audit-non-hmac-request-keys=associated_data has it told for those to come", a.hidden)
	}
	c.problem(at)
}

// finishAnchored says what could not be compared: files may have been removed since, as
// the configuration says.
func (c *checker) finishAnchored(last string) {
	r := &c.result
	switch a := r.Anchored; a.Older {
	case 0:
	case a.Heads:
		c.problem(Finding{File: last, What: fmt.Sprintf("the files begin with record %d, and all heads that are anchored are of older ones, the latest of record %d: nothing could be compared", r.FirstSeq, a.Latest.Seq)})
	default:
		c.note(Finding{File: last, What: fmt.Sprintf("the files begin with record %d, so %d of %d heads that are anchored could not be compared", r.FirstSeq, a.Older, a.Heads)})
	}
}

package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"
)

// The format of a line, as docs/audit.md says it.
const (
	maxLine    = 8192 // with its newline
	version    = 1
	versionKey = `{"v":`
	hashKey    = `,"hash":"`
	lineEnd    = "\"}\n"
	hexLen     = 2 * sha256.Size
	trailerLen = len(hashKey) + hexLen + len(lineEnd)
	timeLayout = "2006-01-02T15:04:05.000000000Z"
	minuteLen  = len("2006-01-02T15:04:")
	// hintSize is enough of a line for versionKey and the number.
	hintSize = 64
)

// digest is a SHA-256 in hex, as it stands in a line.
type digest [hexLen]byte

// record is what the checker needs of a line. Its slices are part of the line.
type record struct {
	seq    uint64
	prev   digest
	hash   digest
	time   []byte
	event  []byte
	reason []byte // escaped as in the line
	logID  []byte // escaped as in the line; nil if there is none
	former account
	// checkpoint and publicKey are escaped as in the line; nil if there are none.
	checkpoint []byte
	publicKey  []byte
	// unknown is the first member that this program does not know; nil if there
	// is none.
	unknown []byte
}

// account is what a repair record says of the file before it.
type account struct {
	tail      int64
	sum       []byte // of the tail, in hex
	syncedSeq uint64
}

// parser reads lines. It is kept from line to line for its memory alone.
type parser struct {
	b      []byte // the line's body
	at     int
	others [][]byte // unknown names of the object that is read
	names  [][]byte // of the context
	// minute is what the last time that was read begins with: it need not be read
	// again.
	minute [minuteLen]byte
}

// The texts of what is wrong with a line, where it is no JSON.
var (
	errBlank      = errors.New("it is blank")
	errCRLF       = errors.New("it ends in a carriage return and a newline: something that takes it for text has rewritten it")
	errNUL        = errors.New("it holds NUL bytes")
	errUnfinished = errors.New("it is not finished")
	errTooLong    = errors.New("it is longer than 8192 bytes, and no record is")
	errTrailer    = errors.New("it does not end as a record does")
	errHash       = errors.New("its hash does not fit its text: it was changed after it was written")
	errUTF8       = errors.New("it is not valid UTF-8")
	errSyntax     = errors.New("it is not JSON as a record is written")
	errString     = errors.New("it holds a string that is not JSON as a record is written")
	errNumber     = errors.New("it holds a number that no record can")
)

// record checks a line by itself and sets r. The error says what is wrong, as
// what follows the line's place.
func (p *parser) record(l line, r *record) error {
	text := l.text
	if l.size > maxLine {
		return l.damage()
	}
	at := len(text) - trailerLen
	if at < 0 || string(text[at:at+len(hashKey)]) != hashKey || string(text[len(text)-len(lineEnd):]) != lineEnd {
		return l.damage()
	}
	body := text[:at]
	sum := sha256.Sum256(body)
	hex.Encode(r.hash[:], sum[:])
	if !bytes.Equal(text[at+len(hashKey):len(text)-len(lineEnd)], r.hash[:]) {
		return l.damage()
	}
	if !utf8.Valid(body) {
		return errUTF8
	}
	p.b, p.at = body, 0
	return p.body(r)
}

// damage says what is wrong with a line that is not as it was written.
func (l line) damage() error {
	switch text := l.text; {
	case l.holdsNUL || bytes.IndexByte(text, 0) >= 0:
		return errNUL
	case l.unfinished:
		return errUnfinished
	case len(text) == 1, len(text) == 2 && text[0] == '\r':
		return errBlank
	case l.size > maxLine:
		return errTooLong
	case bytes.HasSuffix(text, []byte("\r\n")):
		return errCRLF
	case len(text) < trailerLen || string(text[len(text)-trailerLen:][:len(hashKey)]) != hashKey:
		return errTrailer
	}
	return errHash
}

// hint returns the number that a line gives itself, if it begins as a record
// does; else 0. It proves nothing.
func hint(text []byte) uint64 {
	p := parser{b: text}
	if !p.skip(`{"v":1,"seq":`) {
		return 0
	}
	n, err := p.number(math.MaxUint64)
	if err != nil || p.at == len(p.b) {
		return 0
	}
	return n
}

// member is a known member of one of the objects in a record, as a bit.
type member uint32

const (
	mV member = 1 << iota
	mSeq
	mTime
	mNode
	mEvent
	mOutcome
	mPrev
	mHash
	mCode
	mReason
	mClient
	mKey
	mEnvelope
	mContext
	mSource
	mBackend
	mKEK
	mRequestID
	mLatency
	mCount
	mBootID
	mDetail
	mLog
	mFormer
	mCheckpoint
	mPublicKey

	required = mV | mSeq | mTime | mNode | mEvent | mOutcome | mPrev
)

// topMember returns 0 for a name that it does not know.
func topMember(name []byte) member {
	switch string(name) {
	case "v":
		return mV
	case "seq":
		return mSeq
	case "time":
		return mTime
	case "node":
		return mNode
	case "event":
		return mEvent
	case "outcome":
		return mOutcome
	case "prev":
		return mPrev
	case "hash":
		return mHash
	case "code":
		return mCode
	case "reason":
		return mReason
	case "client":
		return mClient
	case "key":
		return mKey
	case "envelope":
		return mEnvelope
	case "context":
		return mContext
	case "source":
		return mSource
	case "backend":
		return mBackend
	case "kek":
		return mKEK
	case "request_id":
		return mRequestID
	case "latency_us":
		return mLatency
	case "count":
		return mCount
	case "boot_id":
		return mBootID
	case "detail":
		return mDetail
	case "log":
		return mLog
	case "former":
		return mFormer
	case "checkpoint":
		return mCheckpoint
	case "public_key":
		return mPublicKey
	}
	return 0
}

// body reads the line's body: an object, without its last member, the hash, and
// without its closing brace.
func (p *parser) body(r *record) error {
	hash := r.hash
	*r = record{hash: hash}
	if !p.skip(versionKey) {
		return errSyntax
	}
	if v, err := p.number(math.MaxUint32); err != nil {
		return err
	} else if v != version {
		return fmt.Errorf("it is of format version %d, and this program knows version %d only: use a newer one", v, version)
	}
	p.others = p.others[:0]
	seen := mV | mHash
	for p.at < len(p.b) {
		if !p.skip(",") {
			return errSyntax
		}
		name, err := p.name()
		if err != nil {
			return err
		}
		m := topMember(name)
		if seen&m != 0 {
			return twice(name)
		}
		seen |= m
		switch m {
		case mSeq:
			if r.seq, err = p.number(math.MaxUint64); err == nil && r.seq == 0 {
				err = errors.New("its number is 0, and records are counted from 1")
			}
		case mPrev:
			err = p.digest(&r.prev)
		case mTime:
			r.time, err = p.time()
		case mEvent:
			r.event, err = p.text()
		case mReason:
			r.reason, err = p.text()
		case mLog:
			r.logID, err = p.someText(name)
		case mCheckpoint:
			r.checkpoint, err = p.someText(name)
		case mPublicKey:
			r.publicKey, err = p.someText(name)
		case mLatency, mCount:
			_, err = p.number(math.MaxUint64)
		case mClient:
			err = p.client(r)
		case mContext:
			err = p.context()
		case mFormer:
			err = p.former(r)
		case 0:
			err = p.other(r, name, 0)
		default:
			_, err = p.text()
		}
		if err != nil {
			return err
		}
	}
	if seen&required != required {
		return errors.New("it lacks one of the members v, seq, time, node, event, outcome and prev")
	}
	return nil
}

func (p *parser) client(r *record) error {
	return p.object(r, func(name []byte) (m member, err error) {
		switch string(name) {
		case "name":
			m = 1 << 0
		case "method":
			m = 1 << 1
		case "exe":
			m = 1 << 2
		case "spiffe_id":
			m = 1 << 3
		case "access_key_id":
			m = 1 << 4
		case "addr":
			m = 1 << 5
		case "uid":
			_, err = p.number(math.MaxUint32)
			return 1 << 6, err
		case "gid":
			_, err = p.number(math.MaxUint32)
			return 1 << 7, err
		case "pid":
			limit := uint64(math.MaxInt32)
			if p.skip("-") {
				limit++
			}
			_, err = p.number(limit)
			return 1 << 8, err
		default:
			return 0, nil
		}
		_, err = p.text()
		return m, err
	})
}

func (p *parser) former(r *record) error {
	return p.object(r, func(name []byte) (member, error) {
		var err error
		switch string(name) {
		case "file":
			_, err = p.text()
			return 1 << 0, err
		case "tail_bytes":
			n, err := p.number(math.MaxInt64)
			r.former.tail = int64(n) //nolint:gosec // at most MaxInt64
			return 1 << 1, err
		case "tail_sha256":
			var sum digest
			from := p.at + 1
			err = p.digest(&sum)
			r.former.sum = p.b[from:max(from, p.at-1)]
			return 1 << 2, err
		case "synced_seq":
			r.former.syncedSeq, err = p.number(math.MaxUint64)
			return 1 << 3, err
		}
		return 0, nil
	})
}

// object reads an object whose members known reads; known returns 0, and reads
// nothing, for a name that it does not know.
func (p *parser) object(r *record, known func(name []byte) (member, error)) error {
	others := len(p.others)
	var seen member
	err := p.members(func() error {
		name, err := p.name()
		if err != nil {
			return err
		}
		m, err := known(name)
		switch {
		case err != nil:
			return err
		case m == 0:
			return p.other(r, name, others)
		case seen&m != 0:
			return twice(name)
		}
		seen |= m
		return nil
	})
	p.others = p.others[:others]
	return err
}

// members reads an object; one reads a member.
func (p *parser) members(one func() error) error {
	if !p.skip("{") {
		return errSyntax
	}
	if p.skip("}") {
		return nil
	}
	for {
		if err := one(); err != nil {
			return err
		}
		if p.skip("}") {
			return nil
		}
		if !p.skip(",") {
			return errSyntax
		}
	}
}

// context reads an object of any names and of strings.
func (p *parser) context() error {
	p.names = p.names[:0]
	err := p.members(func() error {
		name, err := p.text()
		if err != nil {
			return err
		}
		if !p.skip(":") {
			return errSyntax
		}
		p.names = append(p.names, name)
		_, err = p.text()
		return err
	})
	if err != nil {
		return err
	}
	// A string can be written in one way only, so equal names are equal bytes.
	slices.SortFunc(p.names, bytes.Compare)
	for i := 1; i < len(p.names); i++ {
		if bytes.Equal(p.names[i-1], p.names[i]) {
			return errors.New("two pairs of its context have the same name")
		}
	}
	return nil
}

// other reads the value of a member that is not known: one that a later version
// writes, perhaps; it is protected as all others are. The unknown names of its
// object before it are p.others[from:].
func (p *parser) other(r *record, name []byte, from int) error {
	for _, n := range p.others[from:] {
		if bytes.Equal(n, name) {
			return twice(name)
		}
	}
	p.others = append(p.others, name)
	if r.unknown == nil {
		r.unknown = name
	}
	const depth = 8
	return p.value(depth)
}

// value reads any value.
func (p *parser) value(depth int) error {
	if depth == 0 || p.at == len(p.b) {
		return errSyntax
	}
	switch p.b[p.at] {
	case '"':
		_, err := p.text()
		return err
	case '{':
		others := len(p.others)
		err := p.members(func() error {
			name, err := p.name()
			if err != nil {
				return err
			}
			for _, n := range p.others[others:] {
				if bytes.Equal(n, name) {
					return twice(name)
				}
			}
			p.others = append(p.others, name)
			return p.value(depth - 1)
		})
		p.others = p.others[:others]
		return err
	case '[':
		p.at++
		if p.skip("]") {
			return nil
		}
		for {
			if err := p.value(depth - 1); err != nil {
				return err
			}
			if p.skip("]") {
				return nil
			}
			if !p.skip(",") {
				return errSyntax
			}
		}
	case 't', 'f', 'n':
		if p.skip("true") || p.skip("false") || p.skip("null") {
			return nil
		}
		return errSyntax
	default:
		p.skip("-")
		_, err := p.number(math.MaxUint64)
		return err
	}
}

func (p *parser) skip(text string) bool {
	if len(p.b)-p.at < len(text) || string(p.b[p.at:p.at+len(text)]) != text {
		return false
	}
	p.at += len(text)
	return true
}

// name reads a member's name and the colon. It is of lower-case letters, digits
// and underscores: some readers take "Seq" for "seq".
func (p *parser) name() ([]byte, error) {
	if !p.skip(`"`) {
		return nil, errSyntax
	}
	from := p.at
	for ; p.at < len(p.b); p.at++ {
		c := p.b[p.at]
		if c >= 'a' && c <= 'z' || c == '_' || c >= '0' && c <= '9' {
			continue
		}
		break
	}
	name := p.b[from:p.at]
	if len(name) == 0 || len(name) > 64 || !p.skip(`":`) {
		return nil, errors.New("the name of one of its members is not of 1 to 64 lower-case letters, digits and underscores")
	}
	return name, nil
}

// text reads a string and returns what stands between the quotes, in which the
// escapes are as the log writes them, and no others: so one string is written in
// one way only.
func (p *parser) text() ([]byte, error) {
	if !p.skip(`"`) {
		return nil, errString
	}
	from := p.at
	for i, c := range p.b[from:] { // most strings have no escape
		if c == '"' {
			p.at = from + i + 1
			return p.b[from : p.at-1], nil
		}
		if c == '\\' || c < ' ' {
			p.at = from + i
			return p.escaped(from)
		}
	}
	return nil, errString
}

// escaped reads the rest of a string that begins at from.
func (p *parser) escaped(from int) ([]byte, error) {
	for p.at < len(p.b) {
		switch c := p.b[p.at]; {
		case c == '"':
			p.at++
			return p.b[from : p.at-1], nil
		case c == '\\':
			if !p.escape() {
				return nil, errString
			}
		case c < ' ':
			return nil, errString
		default:
			p.at++
		}
	}
	return nil, errString
}

// someText reads a string that is not empty, of the member name.
func (p *parser) someText(name []byte) ([]byte, error) {
	text, err := p.text()
	if err == nil && len(text) == 0 {
		err = fmt.Errorf("its member %s is empty", name)
	}
	return text, err
}

// escape reads \" \\ \n \r \t, or \u00 and two lower-case digits for another
// control character.
func (p *parser) escape() bool {
	for _, short := range [...]string{`\"`, `\\`, `\n`, `\r`, `\t`} {
		if p.skip(short) {
			return true
		}
	}
	if !p.skip(`\u00`) || len(p.b)-p.at < 2 {
		return false
	}
	high, low := p.b[p.at], p.b[p.at+1]
	p.at += 2
	if high != '0' && high != '1' || !isHex(low) {
		return false
	}
	return high == '1' || low != '9' && low != 'a' && low != 'd' // tab, newline, return
}

func isHex(c byte) bool { return c-'0' < 10 || c-'a' < 6 }

// digest reads a string that is a SHA-256.
func (p *parser) digest(d *digest) error {
	text, err := p.text()
	if err != nil {
		return err
	}
	if len(text) != len(d) {
		return errors.New("one of its hashes is not of 64 hex digits")
	}
	for _, c := range text {
		if !isHex(c) {
			return errors.New("one of its hashes is not of 64 lower-case hex digits")
		}
	}
	copy(d[:], text)
	return nil
}

// time reads a string that is a time.
func (p *parser) time() ([]byte, error) {
	text, err := p.text()
	if err != nil {
		return nil, err
	}
	if isTimeForm(text) {
		if string(text[:len(p.minute)]) == string(p.minute[:]) && text[len(p.minute)] < '6' {
			return text, nil
		}
		if _, err := time.Parse(timeLayout, string(text)); err == nil {
			p.minute = [minuteLen]byte(text)
			return text, nil
		}
	}
	return nil, errors.New("its time is not in RFC 3339, in UTC and with nine decimals")
}

// isTimeForm tells whether text has digits where timeLayout has, and else is the
// same. time.Parse takes more: a comma for the point, a sign before decimals.
func isTimeForm(text []byte) bool {
	if len(text) != len(timeLayout) {
		return false
	}
	for i, c := range text {
		if want := timeLayout[i]; isDigit(c) != isDigit(want) || !isDigit(c) && c != want {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return c-'0' < 10 }

// number reads an unsigned integer of at most limit, without leading zeros.
func (p *parser) number(limit uint64) (uint64, error) {
	from, n := p.at, uint64(0)
	for ; p.at < len(p.b); p.at++ {
		d := uint64(p.b[p.at] - '0')
		if d > 9 {
			break
		}
		if n > (limit-d)/10 {
			return 0, errNumber
		}
		n = n*10 + d
	}
	if p.at == from || p.at > from+1 && p.b[from] == '0' {
		return 0, errNumber
	}
	return n, nil
}

func twice(name []byte) error {
	return fmt.Errorf("its member %s stands twice", name)
}

package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// A line is taken if, and only if, encoding/json reads from it what the document
// allows and would be written as the same bytes; and what was read of it is what
// encoding/json reads. The input is a line, and the body of one.
func FuzzLine(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		testLine(t, b)
		sum := sha256.Sum256(b)
		testLine(t, fmt.Appendf(bytes.Clone(b), ",\"hash\":\"%x\"}\n", sum))
	})
}

func testLine(t *testing.T, b []byte) {
	var r record
	var p parser
	l := line{text: bytes.Clone(b), size: int64(len(b))}
	if i := bytes.IndexByte(b, '\n'); i != len(b)-1 {
		return // not one line
	}
	p.minute = [minuteLen]byte([]byte("2026-01-02T03:04:")) // that of many seeds
	err := p.record(l, &r)
	if !bytes.Equal(l.text, b) {
		t.Fatal("the line was changed")
	}
	fields, oracle := readByDocument(b)
	if (err == nil) != (oracle == nil) {
		t.Fatalf("%q: %v; by the document: %v", b, err, oracle)
	}
	if err != nil {
		return
	}
	want := struct {
		Seq                       uint64
		Time, Event, Reason, Prev string
		Hash                      string
		Log, Checkpoint           string
		PublicKey                 string `json:"public_key"`
		Former                    struct {
			Tail   int64  `json:"tail_bytes"`
			Sum    string `json:"tail_sha256"`
			Synced uint64 `json:"synced_seq"`
		}
	}{}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	text := func(raw []byte) (s string) {
		if err := json.Unmarshal(fmt.Appendf(nil, `"%s"`, raw), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if r.seq != want.Seq || string(r.prev[:]) != want.Prev || string(r.hash[:]) != want.Hash ||
		text(r.time) != want.Time || text(r.event) != want.Event || text(r.reason) != want.Reason || text(r.logID) != want.Log ||
		unescape(r.checkpoint) != want.Checkpoint || unescape(r.publicKey) != want.PublicKey ||
		r.former.tail != want.Former.Tail || string(r.former.sum) != want.Former.Sum || r.former.syncedSeq != want.Former.Synced {
		t.Fatalf("read %+v, want %+v", r, want)
	}
	if strings.HasPrefix(string(b), `{"v":1,"seq":`) && hint(b) != want.Seq {
		t.Fatalf("the hint is %d, want %d", hint(b), want.Seq)
	}
	unknown := ""
	for _, name := range fields {
		if kindOf(name) == "" {
			unknown = name[strings.LastIndexByte(name, '.')+1:]
			break
		}
	}
	if string(r.unknown) != unknown {
		t.Fatalf("the first unknown member is %q, want %q", r.unknown, unknown)
	}
}

// kindOf is what docs/audit.md says of each member: of which kind it is.
func kindOf(name string) string {
	switch name {
	case "v", "seq", "latency_us", "count", "former.synced_seq":
		return "uint64"
	case "former.tail_bytes":
		return "positive int64"
	case "client.uid", "client.gid":
		return "uint32"
	case "client.pid":
		return "int32"
	case "time":
		return "time"
	case "prev", "hash", "former.tail_sha256":
		return "hash"
	case "client", "context", "former":
		return "object"
	case "log", "checkpoint", "public_key":
		return "some text"
	case "node", "event", "outcome", "code", "reason", "key", "envelope", "source", "backend", "kek", "request_id",
		"boot_id", "detail", "former.file",
		"client.name", "client.method", "client.exe", "client.spiffe_id", "client.access_key_id", "client.addr":
		return "string"
	}
	return ""
}

// readByDocument reads a line with encoding/json, as docs/audit.md says, and
// returns the names of its members, of objects in it as outer.inner.
func readByDocument(b []byte) (names []string, err error) {
	if len(b) > 8192 || len(b) < 76 || !utf8.Valid(b) {
		return nil, errors.New("no line")
	}
	body := b[:len(b)-76]
	sum := sha256.Sum256(body)
	if string(b[len(body):]) != `,"hash":"`+hex.EncodeToString(sum[:])+"\"}\n" {
		return nil, errors.New("hash")
	}
	if !json.Valid(b) {
		return nil, errors.New("not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	doc := &documentReader{d: d}
	out := doc.object("")
	if doc.err == nil && out != strings.TrimSuffix(string(b), "\n") {
		doc.fail("it would be written otherwise")
	}
	if _, err := d.Token(); doc.err == nil && err != io.EOF {
		doc.fail("more than one value")
	}
	if doc.err != nil {
		return nil, doc.err
	}
	if doc.names[0] != "v" || doc.names[len(doc.names)-1] != "hash" {
		return nil, errors.New("order")
	}
	for _, name := range []string{"seq", "time", "node", "event", "outcome", "prev"} {
		if !slices.Contains(doc.names, name) {
			return nil, errors.New("lacks " + name)
		}
	}
	return doc.names, nil
}

// documentReader reads values and returns them as they are to be written. After
// an error it returns anything.
type documentReader struct {
	d     *json.Decoder
	names []string
	err   error
}

func (r *documentReader) fail(format string, args ...any) string {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	return ""
}

func (r *documentReader) token() json.Token {
	t, err := r.d.Token()
	if err != nil {
		r.fail("%v", err)
	}
	return t
}

var (
	memberName = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)
	integer    = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	sha256Hex  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// object reads the record, or one of the objects in it that are documented.
func (r *documentReader) object(prefix string) string {
	if r.token() != json.Delim('{') {
		return r.fail("no object")
	}
	return r.members(func(key string) string {
		if !memberName.MatchString(key) {
			return r.fail("the name %q", key)
		}
		name := prefix + key
		r.names = append(r.names, name)
		switch kind := kindOf(name); {
		case kind == "":
			return r.any(1)
		case name == "context":
			if r.token() != json.Delim('{') {
				return r.fail("no object")
			}
			return r.members(func(string) string { return r.scalar("string") })
		case kind == "object":
			return r.object(key + ".")
		default:
			return r.scalar(kind)
		}
	})
}

// members reads an object from its first member on.
func (r *documentReader) members(value func(key string) string) string {
	var members []string
	seen := map[string]bool{}
	for r.err == nil && r.d.More() {
		key, _ := r.token().(string)
		if seen[key] {
			return r.fail("%s twice", key)
		}
		seen[key] = true
		members = append(members, quote(key)+":"+value(key))
	}
	r.token()
	return "{" + strings.Join(members, ",") + "}"
}

// any reads a value of which nothing is documented.
func (r *documentReader) any(depth int) string {
	if depth > 8 {
		return r.fail("too deep")
	}
	switch v := r.token().(type) {
	case json.Delim:
		if v == '{' {
			return r.members(func(key string) string {
				if !memberName.MatchString(key) {
					return r.fail("the name %q", key)
				}
				return r.any(depth + 1)
			})
		}
		var items []string
		for r.err == nil && r.d.More() {
			items = append(items, r.any(depth+1))
		}
		r.token()
		return "[" + strings.Join(items, ",") + "]"
	case json.Number:
		if _, err := strconv.ParseUint(strings.TrimPrefix(v.String(), "-"), 10, 64); err != nil || !integer.MatchString(v.String()) {
			return r.fail("the number %s", v)
		}
		return v.String()
	case string:
		return quote(v)
	case bool:
		return strconv.FormatBool(v)
	default:
		return "null"
	}
}

// scalar reads a value of a kind that is documented.
func (r *documentReader) scalar(kind string) string {
	switch v := r.token().(type) {
	case json.Number:
		text, bits := v.String(), 64
		if !integer.MatchString(text) {
			return r.fail("the number %s", v)
		}
		var err error
		switch kind {
		case "uint32":
			bits = 32
			fallthrough
		case "uint64":
			_, err = strconv.ParseUint(text, 10, bits)
		case "int32":
			_, err = strconv.ParseInt(text, 10, 32)
		case "positive int64":
			_, err = strconv.ParseUint(text, 10, 63)
		default:
			err = errors.New("it should be none")
		}
		if err != nil {
			return r.fail("the number %s: %v", v, err)
		}
		switch name := r.names[len(r.names)-1]; {
		case name == "v" && text != "1", name == "seq" && text == "0":
			return r.fail("%s is %s", name, text)
		}
		return text
	case string:
		ok := false
		switch kind {
		case "string":
			ok = true
		case "some text":
			ok = v != ""
		case "hash":
			ok = sha256Hex.MatchString(v)
		case "time":
			at, err := time.Parse(time.RFC3339Nano, v)
			ok = err == nil && at.Format("2006-01-02T15:04:05.000000000Z") == v
		}
		if !ok {
			return r.fail("the string %q is no %s", v, kind)
		}
		return quote(v)
	}
	return r.fail("no %s", kind)
}

// quote writes a string as the document says.
func quote(s string) string {
	out := []byte{'"'}
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c < ' ':
			out = fmt.Appendf(out, `\u%04x`, c)
		default:
			out = append(out, c)
		}
	}
	return string(append(out, '"'))
}

func TestFuzzTargetsHaveSeeds(t *testing.T) {
	for _, name := range []string{"FuzzLine", "FuzzCheckpoint", "FuzzCompressed", "FuzzSignedRecords"} {
		seeds, err := os.ReadDir("testdata/fuzz/" + name)
		if err != nil || len(seeds) == 0 {
			t.Errorf("%s has no seeds: %v", name, err)
		}
	}
}

package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// digestPrefix begins every text that was replaced by its hash and length. A
// text that begins so by itself is replaced too, so nobody can pass off a text
// of his own as a replacement.
const digestPrefix = "sha256:"

// digestMax is the longest a digest can be: prefix, hash, colon, length.
const digestMax = len(digestPrefix) + 2*sha256.Size + 1 + 20

// recordFloor is what every Record fits in once its texts are digests: 18 texts
// and a context with their names, and the numbers.
const recordFloor = 19*(digestMax+24) + 256

// digest is what a text is replaced by: "sha256:", its SHA-256 in hex, ":", its
// length in bytes.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return digestPrefix + hex.EncodeToString(sum[:]) + ":" + strconv.Itoa(len(s))
}

// cut says which texts of a record are replaced by their digest for want of
// room. Lengths are those of the text as JSON, without the quotes.
type cut struct {
	value int  // context values longer than this
	whole bool // the context, whose one name is then the digest of its JSON text
	text  int  // other texts longer than this
}

// appendRecord appends r's members, from `"event":` on, without a comma before
// the first or after the last. They take at most limit bytes, if limit is at
// least recordFloor: what does not fit is replaced, in this order, until the
// rest does:
//
//  1. values of the context, the longest first, equally long ones together;
//  2. the context as a whole;
//  3. all other texts, the longest first, equally long ones together.
//
// A text that is no longer than a digest can be (digestMax) is left.
func appendRecord(dst []byte, r *Record, limit int) []byte {
	start := len(dst)
	c := cut{value: math.MaxInt, text: math.MaxInt}
	dst = appendMembers(dst, r, c)
	fits := func() bool {
		dst = appendMembers(dst[:start], r, c)
		return len(dst)-start <= limit
	}
	if len(dst)-start <= limit {
		return dst
	}
	if len(r.Context) > 0 {
		var lengths []int
		for _, value := range r.Context {
			lengths = append(lengths, jsonLen(value))
		}
		for c.value = range below(lengths) {
			if fits() {
				return dst
			}
		}
		if c.whole = true; fits() {
			return dst
		}
	}
	for c.text = range below(textLengths(r)) {
		if fits() {
			break
		}
	}
	return dst
}

// below yields, from the longest of lengths down, the limit that each just
// exceeds, as long as it is at least digestMax.
func below(lengths []int) func(yield func(int) bool) {
	slices.SortFunc(lengths, func(a, b int) int { return b - a })
	return func(yield func(int) bool) {
		for _, n := range slices.Compact(lengths) {
			if n <= digestMax || !yield(n-1) {
				return
			}
		}
	}
}

func textLengths(r *Record) []int {
	c := &r.Client
	texts := [...]string{
		string(r.Event), string(r.Outcome), r.Code, r.Reason,
		c.Name, c.Method, c.Exe, c.SPIFFEID, c.AccessKeyID, c.Addr,
		r.Key, r.Envelope, r.Source, r.Backend, r.KEK, r.RequestID, r.BootID, r.Detail,
	}
	lengths := make([]int, len(texts))
	for i, s := range texts {
		lengths[i] = jsonLen(s)
	}
	return lengths
}

// appendMembers appends r's members, cut as c says.
func appendMembers(dst []byte, r *Record, c cut) []byte {
	dst = append(dst, `"event":`...)
	dst = appendText(dst, string(r.Event), c.text)
	dst = append(dst, `,"outcome":`...)
	dst = appendText(dst, string(r.Outcome), c.text)
	dst = appendMember(dst, `,"code":`, r.Code, c.text)
	dst = appendMember(dst, `,"reason":`, r.Reason, c.text)
	dst = appendClient(dst, &r.Client, c.text)
	dst = appendMember(dst, `,"key":`, r.Key, c.text)
	dst = appendMember(dst, `,"envelope":`, r.Envelope, c.text)
	if len(r.Context) > 0 {
		dst = append(dst, `,"context":`...)
		from := len(dst)
		dst = appendContext(dst, r, c.value)
		if c.whole {
			sum := digest(string(dst[from:]))
			dst = append(dst[:from], `{"`...)
			dst = append(dst, sum...)
			dst = append(dst, `":""}`...)
		}
	}
	dst = appendMember(dst, `,"source":`, r.Source, c.text)
	dst = appendMember(dst, `,"backend":`, r.Backend, c.text)
	dst = appendMember(dst, `,"kek":`, r.KEK, c.text)
	dst = appendMember(dst, `,"request_id":`, r.RequestID, c.text)
	if us := r.Latency.Microseconds(); us > 0 {
		dst = append(dst, `,"latency_us":`...)
		dst = strconv.AppendInt(dst, us, 10)
	}
	if r.Count > 0 {
		dst = append(dst, `,"count":`...)
		dst = strconv.AppendUint(dst, r.Count, 10)
	}
	dst = appendMember(dst, `,"boot_id":`, r.BootID, c.text)
	return appendMember(dst, `,"detail":`, r.Detail, c.text)
}

func appendClient(dst []byte, client *Client, longest int) []byte {
	if *client == (Client{}) {
		return dst
	}
	dst = append(dst, `,"client":`...)
	brace := len(dst) // the first member's comma, to become the brace
	dst = appendMember(dst, `,"name":`, client.Name, longest)
	dst = appendMember(dst, `,"method":`, client.Method, longest)
	if client.UID != nil {
		dst = append(dst, `,"uid":`...)
		dst = strconv.AppendUint(dst, uint64(*client.UID), 10)
	}
	if client.GID != nil {
		dst = append(dst, `,"gid":`...)
		dst = strconv.AppendUint(dst, uint64(*client.GID), 10)
	}
	if client.PID != 0 {
		dst = append(dst, `,"pid":`...)
		dst = strconv.AppendInt(dst, int64(client.PID), 10)
	}
	dst = appendMember(dst, `,"exe":`, client.Exe, longest)
	dst = appendMember(dst, `,"spiffe_id":`, client.SPIFFEID, longest)
	dst = appendMember(dst, `,"access_key_id":`, client.AccessKeyID, longest)
	dst = appendMember(dst, `,"addr":`, client.Addr, longest)
	dst[brace] = '{'
	return append(dst, '}')
}

// appendContext appends r's context in the order of the names' bytes. A name
// that is not UTF-8 is replaced by its digest, since two of them could
// otherwise become one; so is a value that only looks as if it were hidden.
func appendContext(dst []byte, r *Record, longest int) []byte {
	var few [8]string // enough for most; then nothing is allocated
	names := few[:0]
	for name := range r.Context {
		names = append(names, name)
	}
	slices.Sort(names)
	dst = append(dst, '{')
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		if utf8.ValidString(name) {
			dst = appendText(dst, name, math.MaxInt)
		} else {
			dst = appendString(dst, digest(name))
		}
		dst = append(dst, ':')
		value := r.Context[name]
		if !r.HideContext && strings.HasPrefix(value, hiddenPrefix) {
			dst = appendString(dst, digest(value))
			continue
		}
		dst = appendText(dst, value, longest)
	}
	return append(dst, '}')
}

// appendMember appends a member whose text is not empty.
func appendMember(dst []byte, name, text string, longest int) []byte {
	if text == "" {
		return dst
	}
	return appendText(append(dst, name...), text, longest)
}

// appendText appends a text that was made elsewhere, or its digest.
func appendText(dst []byte, s string, longest int) []byte {
	if strings.HasPrefix(s, digestPrefix) || longest != math.MaxInt && jsonLen(s) > longest {
		s = digest(s)
	}
	return appendString(dst, s)
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. Only what RFC 8259 §7 wants escaped
// is: a reader gets s back, with U+FFFD for each byte that is not UTF-8.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(dst, s[start:i]...)
				dst = append(dst, "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		if b >= ' ' && b != '"' && b != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch b {
		case '"', '\\':
			dst = append(dst, '\\', b)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, `\u00`...)
			dst = append(dst, hexDigits[b>>4], hexDigits[b&0xf])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// jsonLen is how many bytes appendString makes of s, without the quotes.
func jsonLen(s string) int {
	n := 0
	for i := 0; i < len(s); {
		b := s[i]
		switch {
		case b >= utf8.RuneSelf:
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				n += len("\ufffd")
			} else {
				n += size
			}
			i += size
			continue
		case b == '"', b == '\\', b == '\n', b == '\r', b == '\t':
			n += 2
		case b < ' ':
			n += 6
		default:
			n++
		}
		i++
	}
	return n
}

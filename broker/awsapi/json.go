package awsapi

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep values may be nested. What KMS takes is two deep.
const maxDepth = 32

// scanner reads one JSON text (RFC 8259), strictly: what two readers could take in two
// ways is an error, such as a name that an object has twice, invalid UTF-8 or half a
// surrogate pair. encoding/json takes all of these, and would leave copies of key
// bytes in strings that nobody can wipe.
//
// No error shows anything of the text.
type scanner struct {
	text  []byte
	at    int
	depth int
}

// badJSON is why a body cannot be read.
type badJSON struct {
	at   int
	what string
}

func (e *badJSON) Error() string {
	return fmt.Sprintf("the body is not what this operation takes: byte %d: %s", e.at, e.what)
}

func (s *scanner) bad(what string) error { return &badJSON{s.at, what} }

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for s.at < len(s.text) {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// take skips white space and then c, if it is next.
func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.at == len(s.text) {
		return false
	}
	s.at++
	return true
}

// end is nil if nothing but white space is left.
func (s *scanner) end() error {
	if s.peek(); s.at < len(s.text) {
		return s.bad("something follows the object")
	}
	return nil
}

func (s *scanner) deeper() error {
	if s.depth++; s.depth > maxDepth {
		return s.bad("it is nested too deep")
	}
	return nil
}

// object reads an object, and has member read each value.
func (s *scanner) object(member func(name string) error) error {
	if !s.take('{') {
		return s.bad("want an object")
	}
	if err := s.deeper(); err != nil {
		return err
	}
	defer func() { s.depth-- }()
	if s.take('}') {
		return nil
	}
	seen := map[string]struct{}{}
	for {
		name, err := s.string()
		if err != nil {
			return err
		}
		if _, twice := seen[name]; twice {
			return s.bad("the object has this name twice")
		}
		seen[name] = struct{}{}
		if !s.take(':') {
			return s.bad("want a colon")
		}
		if err := member(name); err != nil {
			return err
		}
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return s.bad("want a comma or the object's end")
		}
	}
}

// array reads an array, and has item read each value.
func (s *scanner) array(item func() error) error {
	if !s.take('[') {
		return s.bad("want an array")
	}
	if err := s.deeper(); err != nil {
		return err
	}
	defer func() { s.depth-- }()
	if s.take(']') {
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return s.bad("want a comma or the array's end")
		}
	}
}

// literal reads word, if it is next.
func (s *scanner) literal(word string) bool {
	s.peek()
	if rest := s.text[s.at:]; len(rest) < len(word) || string(rest[:len(word)]) != word {
		return false
	}
	s.at += len(word)
	return true
}

func (s *scanner) boolean() (bool, error) {
	switch {
	case s.literal("true"):
		return true, nil
	case s.literal("false"):
		return false, nil
	}
	return false, s.bad("want true or false")
}

// number reads a number and returns its text, and whether it has neither a fraction
// nor an exponent.
func (s *scanner) number() (text string, whole bool, err error) {
	s.peek()
	start := s.at
	next := func(set string) bool {
		for i := range len(set) {
			if s.at < len(s.text) && s.text[s.at] == set[i] {
				s.at++
				return true
			}
		}
		return false
	}
	digits := func() bool {
		n := 0
		for next("0123456789") {
			n++
		}
		return n > 0
	}
	next("-")
	if !next("0") && !digits() {
		return "", false, s.bad("want a number")
	}
	whole = true
	if next(".") {
		if whole = false; !digits() {
			return "", false, s.bad("want a digit")
		}
	}
	if next("eE") {
		whole = false
		if next("+-"); !digits() {
			return "", false, s.bad("want a digit")
		}
	}
	return string(s.text[start:s.at]), whole, nil
}

// integer reads a 32-bit integer, as the service's model has them.
func (s *scanner) integer() (int, error) {
	text, whole, err := s.number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || !whole || n < math.MinInt32 || n > math.MaxInt32 {
		return 0, s.bad("want a whole number of 32 bits")
	}
	return int(n), nil
}

func (s *scanner) string() (string, error) {
	b, err := s.unescaped()
	return string(b), err
}

// unescaped reads a string into a buffer of its own.
func (s *scanner) unescaped() ([]byte, error) {
	if !s.take('"') {
		return nil, s.bad("want a string")
	}
	end := s.at
	for end < len(s.text) && s.text[end] != '"' {
		if s.text[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(s.text) {
		return nil, s.bad("the string has no end")
	}
	out := make([]byte, 0, end-s.at) // never grows: no escape is shorter than its text
	for {
		c := s.text[s.at]
		switch {
		case c == '"':
			s.at++
			return out, nil
		case c < ' ':
			clear(out)
			return nil, s.bad("a control character in a string")
		case c == '\\':
			r, err := s.escape()
			if err != nil {
				clear(out)
				return nil, err
			}
			out = utf8.AppendRune(out, r)
		case c < utf8.RuneSelf:
			out = append(out, c)
			s.at++
		default:
			r, size := utf8.DecodeRune(s.text[s.at:])
			if r == utf8.RuneError && size == 1 {
				clear(out)
				return nil, s.bad("a string that is not UTF-8")
			}
			out = append(out, s.text[s.at:s.at+size]...)
			s.at += size
		}
	}
}

// escape reads a backslash and what it stands for. The string has an end, so there
// is a byte behind the backslash.
func (s *scanner) escape() (rune, error) {
	c := s.text[s.at+1]
	if c == 'u' {
		return s.escapedRune()
	}
	s.at += 2
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	}
	return 0, s.bad("an escape that JSON does not have")
}

func (s *scanner) escapedRune() (rune, error) {
	r, ok := s.hex()
	if !ok {
		return 0, s.bad("want four hex digits")
	}
	if !utf16.IsSurrogate(r) {
		return r, nil
	}
	low, ok := s.hex()
	if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
		return pair, nil
	}
	return 0, s.bad("half a surrogate pair")
}

// hex reads \uXXXX.
func (s *scanner) hex() (rune, bool) {
	const size = len(`\uXXXX`)
	if len(s.text)-s.at < size || s.text[s.at] != '\\' || s.text[s.at+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range s.text[s.at+2 : s.at+size] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	s.at += size
	return r, true
}

// blob reads a string of base64: the standard alphabet, padded, in its one spelling.
// What it returns is not nil, also if it is empty.
func (s *scanner) blob() ([]byte, error) {
	encoded, err := s.unescaped()
	if err != nil {
		return nil, err
	}
	defer clear(encoded)
	for _, c := range encoded {
		if c == '\r' || c == '\n' { // which package base64 skips
			return nil, s.bad("want base64")
		}
	}
	strict := base64.StdEncoding.Strict()
	out := make([]byte, strict.DecodedLen(len(encoded)))
	n, err := strict.Decode(out, encoded)
	if err != nil {
		clear(out)
		return nil, s.bad("want base64") // the cause would show a byte
	}
	return out[:n], nil
}

// skip reads any value.
func (s *scanner) skip() error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(func(string) error { return s.skip() })
	case c == '[':
		return s.array(s.skip)
	case c == '"':
		b, err := s.unescaped()
		clear(b)
		return err
	case c == '-' || '0' <= c && c <= '9':
		_, _, err := s.number()
		return err
	case s.literal("true"), s.literal("false"), s.literal("null"):
		return nil
	}
	return s.bad("want a value")
}

package config

import (
	"fmt"
	"io/fs"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// text reads a string that is not empty and of which all can be seen. Its errors
// do not repeat it.
func (w *walker) text(v value, want string) (string, bool) {
	if w.told[v.node] {
		return "", false
	}
	switch s := v.node.Value; {
	case !v.isText():
		if v.node.Kind == yaml.ScalarNode && v.node.ShortTag() != "!!null" {
			want += ", in quotes"
		}
		w.mismatch(v, want)
	case s == "":
		w.problem(v, "an empty string", want)
	case len(s) > maxText:
		w.problem(v, fmt.Sprintf("%d bytes of text", len(s)), want+fmt.Sprintf(" of at most %d bytes", maxText))
	case strings.ContainsFunc(s, hidden):
		// The rest of the text may be a secret, such as one with a newline at its
		// end, so it is not repeated.
		at := strings.IndexFunc(s, hidden)
		r, _ := utf8.DecodeRuneInString(s[at:])
		w.problem(v, fmt.Sprintf("text with the character %U, which is not allowed here", r), want)
	default:
		return s, true
	}
	return "", false
}

func hidden(r rune) bool { return !unicode.IsGraphic(r) || r == unicode.ReplacementChar }

// maxText is the longest string that is not a static context pair. The longest
// that is needed is a path (4096).
const maxText = 4096

// text sets dst if the key is there.
func (b block) text(name string, dst *string, want string) {
	if v, ok := b.fields[name]; ok {
		if s, ok := b.w.text(v, want); ok {
			*dst = s
		}
	}
}

// pattern is text of a fixed form.
func (b block) pattern(name string, dst *string, form *regexp.Regexp, want string) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	switch s, ok := b.w.text(v, want); {
	case !ok:
	case !form.MatchString(s):
		b.w.problem(v, quote(s), want)
	default:
		*dst = s
	}
}

// oneOf reads a key that has one of a few values.
func (b block) oneOf(name string, dst *string) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	choices := b.choices(name)
	want := "one of " + strings.Join(choices, ", ")
	switch s, ok := b.w.text(v, want); {
	case !ok:
	case !slices.Contains(choices, s):
		b.w.problem(v, quote(s), want+suggest(s, choices))
	default:
		*dst = s
	}
}

func (b block) boolean(name string, dst *bool) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	// YAML has more ways to say true, which are easily taken for words.
	if v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!bool" && (v.node.Value == "true" || v.node.Value == "false") {
		*dst = v.node.Value == "true"
		return
	}
	b.w.mismatch(v, "true or false")
}

// number reads a whole number in decimal digits.
func (w *walker) number(v value, least, most uint64) (uint64, bool) {
	return w.numberFor(v, least, most, "")
}

// numberFor is number where what is wanted has a reason, which begins with a
// comma.
func (w *walker) numberFor(v value, least, most uint64, reason string) (uint64, bool) {
	want := fmt.Sprintf("a whole number from %d to %d, in decimal digits", least, most)
	if least == most {
		want = fmt.Sprintf("%d", least)
	}
	want += reason
	if w.told[v.node] || v.node.Kind != yaml.ScalarNode || v.node.ShortTag() != "!!int" {
		w.mismatch(v, want)
		return 0, false
	}
	n, ok := decimal(v.node.Value)
	if !ok || n < least || n > most {
		w.problem(v, describe(v.node), want)
		return 0, false
	}
	return n, true
}

func (b block) number(name string, dst *uint64, least, most uint64) {
	if v, ok := b.fields[name]; ok {
		if n, ok := b.w.number(v, least, most); ok {
			*dst = n
		}
	}
}

// decimal reads digits; a leading zero could mean octal, so it is none.
func decimal(s string) (uint64, bool) {
	if s == "" || len(s) > 1 && s[0] == '0' || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// rate reads a positive number, which need not be whole.
func (b block) rate(name string, dst *float64, most float64) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	want := fmt.Sprintf("a number above 0 and up to %.0f, in decimal digits: how many a second", most)
	if b.w.told[v.node] || v.node.Kind != yaml.ScalarNode || !rateForm.MatchString(v.node.Value) || v.isText() {
		b.w.mismatch(v, want)
		return
	}
	f, err := strconv.ParseFloat(v.node.Value, 64)
	if err != nil || f <= 0 || f > most {
		b.w.problem(v, describe(v.node), want)
		return
	}
	*dst = f
}

var rateForm = regexp.MustCompile(`^(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?$`)

// duration reads whole numbers with units, greatest first: 100ms, 5m, 1h30m, 7d.
// A day is 24 hours.
func (w *walker) duration(v value, least, most time.Duration) (time.Duration, bool) {
	want := fmt.Sprintf("a time from %s to %s, in d, h, m, s and ms, such as 30s or 1h30m", units(least), units(most))
	if w.told[v.node] || !v.isText() {
		w.mismatch(v, want)
		return 0, false
	}
	d, ok := parseDuration(v.node.Value)
	if !ok || d < least || d > most {
		w.problem(v, quote(v.node.Value), want)
		return 0, false
	}
	return d, true
}

func (b block) duration(name string, dst *time.Duration, least, most time.Duration) {
	if v, ok := b.fields[name]; ok {
		if d, ok := b.w.duration(v, least, most); ok {
			*dst = d
		}
	}
}

var durationForm = regexp.MustCompile(`^(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?(?:([0-9]{1,6})ms)?$`)

// parseDuration sums milliseconds, which cannot overflow, and refuses what does
// not fit a Duration.
func parseDuration(s string) (time.Duration, bool) {
	m := durationForm.FindStringSubmatch(s)
	if m == nil || s == "" {
		return 0, false
	}
	var ms int64
	for i, unit := range []int64{86_400_000, 3_600_000, 60_000, 1000, 1} {
		if m[i+1] != "" {
			n, _ := strconv.ParseInt(m[i+1], 10, 64) // at most six digits
			ms += n * unit
		}
	}
	if ms > math.MaxInt64/int64(time.Millisecond) {
		return 0, false
	}
	return time.Duration(ms) * time.Millisecond, true
}

// units writes d as it would stand in a file.
func units(d time.Duration) string {
	switch {
	case d == 0:
		return "0s"
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	default:
		return fmt.Sprintf("%dms", d/time.Millisecond)
	}
}

var sizeForm = regexp.MustCompile(`^([1-9][0-9]{0,9})(KiB|MiB|GiB)$`)

// size reads a number of bytes: 64KiB, 1MiB, 1GiB.
func (b block) size(name string, dst *int, least, most int64) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	want := fmt.Sprintf("a size from %s to %s, in KiB, MiB or GiB", binary(least), binary(most))
	if b.w.told[v.node] || !v.isText() {
		b.w.mismatch(v, want)
		return
	}
	m := sizeForm.FindStringSubmatch(v.node.Value)
	if m == nil {
		b.w.problem(v, quote(v.node.Value), want)
		return
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // at most ten digits
	n <<= map[string]int{"KiB": 10, "MiB": 20, "GiB": 30}[m[2]]
	if n < least || n > most {
		b.w.problem(v, quote(v.node.Value), want)
		return
	}
	*dst = int(n)
}

// binary writes n as it would stand in a file.
func binary(n int64) string {
	for _, unit := range []struct {
		shift int
		name  string
	}{{30, "GiB"}, {20, "MiB"}} {
		if n%(1<<unit.shift) == 0 {
			return fmt.Sprintf("%d%s", n>>unit.shift, unit.name)
		}
	}
	return fmt.Sprintf("%dKiB", n>>10)
}

var modeForm = regexp.MustCompile(`^0[0-7]{3}$`)

// mode reads permission bits with which the owner can use the file.
func (b block) mode(name string, dst *fs.FileMode) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	want := `four octal digits in quotes that let the owner read and write, such as "0660"`
	if b.w.told[v.node] || !v.isText() {
		b.w.mismatch(v, want)
		return
	}
	n, err := strconv.ParseUint(v.node.Value, 8, 32)
	if err != nil || !modeForm.MatchString(v.node.Value) || n&0o600 != 0o600 {
		b.w.problem(v, quote(v.node.Value), want)
		return
	}
	*dst = fs.FileMode(n)
}

// nameForm is what keys, backends and clients may be called. It is a key's name
// in an envelope, and safe in file names, metrics and terminals.
var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

const nameWant = "1 to 64 of a-z, 0-9, dot, underscore and hyphen, beginning with a letter or digit"

// isName reports the key before v if it cannot be a name.
func (w *walker) isName(v value) bool {
	if nameForm.MatchString(v.name.Value) {
		return true
	}
	w.misnamed(v, quote(v.name.Value)+" as a name", nameWant)
	return false
}

// looksSecret tells whether there is a token or a private key in s, which must
// neither stand in a configuration nor be repeated in a message.
func looksSecret(s string) bool { return secretForm.MatchString(s) }

package envelope_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/envelope"
)

func TestCanonical(t *testing.T) {
	tests := []struct {
		name  string
		pairs map[string]string
		want  string
	}{
		{"none", nil, "\x00\x00\x00\x00"},
		{"empty", map[string]string{}, "\x00\x00\x00\x00"},
		{"one", map[string]string{"a": "bc"}, "\x00\x00\x00\x01" + "\x00\x00\x00\x01a" + "\x00\x00\x00\x02bc"},
		{"empty name and value", map[string]string{"": ""}, "\x00\x00\x00\x01" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"},
		{"sorted by bytes, not by letters", map[string]string{"b": "1", "A": "2", "é": "3", "aa": "4", "": "5"},
			"\x00\x00\x00\x05" + "\x00\x00\x00\x00\x00\x00\x00\x015" + "\x00\x00\x00\x01A\x00\x00\x00\x012" + "\x00\x00\x00\x02aa\x00\x00\x00\x014" +
				"\x00\x00\x00\x01b\x00\x00\x00\x011" + "\x00\x00\x00\x02\xc3\xa9\x00\x00\x00\x013"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := mustPairs(t, test.pairs)
			if got := string(p.Canonical()); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			if p.Len() != len(test.pairs) || !maps.Equal(p.Map(), test.pairs) {
				t.Errorf("%d pairs, %v", p.Len(), p.Map())
			}
		})
	}
	var zero envelope.Pairs
	if zero != mustPairs(t, nil) || !zero.Equal(mustPairs(t, map[string]string{})) || zero.Len() != 0 || zero.Map() == nil {
		t.Error("none, empty and the zero value are not the same")
	}
}

// randomPairs draws few names and values from few letters, so that what could be
// mixed up often meets.
func randomPairs(r *rand.Rand) map[string]string {
	word := func() string {
		var b strings.Builder
		for range r.IntN(4) {
			b.WriteString([]string{"a", "b", "\x00", "\x01", "é"}[r.IntN(5)])
		}
		return b.String()
	}
	m := map[string]string{}
	for range r.IntN(4) {
		m[word()] = word()
	}
	return m
}

func TestCanonicalIsOneToOne(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[string]map[string]string{}
	for range 20000 {
		m := randomPairs(r)
		p := mustPairs(t, m)
		canonical := string(p.Canonical())
		if want := string(bookCanonical(bookPairs(m))); canonical != want {
			t.Fatalf("%q: %q, by the document %q", m, canonical, want)
		}
		if before, ok := seen[canonical]; ok && !maps.Equal(before, m) {
			t.Fatalf("%q and %q have one encoding", before, m)
		}
		seen[canonical] = m
		if !maps.Equal(p.Map(), m) || p.Len() != len(m) {
			t.Fatalf("%q became %q", m, p.Map())
		}
		// The same pairs from a map that was filled in another order.
		again := map[string]string{"to be deleted": ""}
		for _, pair := range bookPairs(m) {
			again[pair.name] = pair.value
		}
		delete(again, "to be deleted")
		if q := mustPairs(t, again); q != p || !q.Equal(p) {
			t.Fatalf("%q depends on the map's order", m)
		}
	}
}

func TestNewPairsRefuses(t *testing.T) {
	many := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint(i)] = ""
		}
		return m
	}
	tests := []struct {
		name  string
		pairs map[string]string
		ok    bool
	}{
		{"64 pairs", many(64), true},
		{"65 pairs", many(65), false},
		{"8192 bytes", map[string]string{"name": strings.Repeat("v", 8192-16)}, true},
		{"8193 bytes", map[string]string{"name": strings.Repeat("v", 8192-15)}, false},
		{"8192 bytes in two", map[string]string{"a": strings.Repeat("v", 4000), "b": strings.Repeat("v", 8192-22-4000)}, true},
		{"8193 bytes in two", map[string]string{"a": strings.Repeat("v", 4000), "b": strings.Repeat("v", 8192-21-4000)}, false},
		{"NUL and the last code point", map[string]string{"\x00": "\U0010ffff"}, true},
		{"name not UTF-8", map[string]string{"\xff": ""}, false},
		{"value not UTF-8", map[string]string{"a": "\xff"}, false},
		{"overlong", map[string]string{"a": "\xc0\x80"}, false},
		{"surrogate", map[string]string{"a": "\xed\xa0\x80"}, false},
		{"cut rune", map[string]string{"a": "\xc3"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := envelope.NewPairs(test.pairs)
			if test.ok {
				if err != nil || !maps.Equal(p.Map(), test.pairs) {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, envelope.ErrPairs) || p != (envelope.Pairs{}) {
				t.Fatalf("%v, %v", p.Map(), err)
			}
			if len(err.Error()) > 500 {
				t.Errorf("the error repeats what it was given: %d bytes", len(err.Error()))
			}
		})
	}
}

func TestAssociatedPairs(t *testing.T) {
	static := mustPairs(t, map[string]string{"cluster": "prod-1", "z": "", "Keybroker:x": "y", "aws": "y"})
	got, err := envelope.AssociatedPairs("tikv", static)
	want := static.Map()
	want["keybroker:key"] = "tikv"
	if err != nil || !maps.Equal(got.Map(), want) || !bytes.Equal(got.Canonical(), bookCanonical(bookPairs(want))) {
		t.Fatalf("%v, %v", got.Map(), err)
	}
	if got, err := envelope.AssociatedPairs("a", envelope.Pairs{}); err != nil || !maps.Equal(got.Map(), map[string]string{"keybroker:key": "a"}) {
		t.Fatalf("%v, %v", got.Map(), err)
	}

	full := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint(i)] = ""
		}
		return m
	}
	tests := []struct {
		name    string
		keyName string
		static  map[string]string
		ok      bool
	}{
		{"63 static pairs", "tikv", full(63), true},
		{"64 static pairs", "tikv", full(64), false},
		// 4, 8 a pair, "keybroker:key" and "tikv".
		{"8192 bytes", "tikv", map[string]string{"a": strings.Repeat("v", 8192-4-8-1-8-13-4)}, true},
		{"8193 bytes", "tikv", map[string]string{"a": strings.Repeat("v", 8193-4-8-1-8-13-4)}, false},
		{"bad key name", "TIKV", nil, false},
		{"no key name", "", nil, false},
		{"the key's own pair", "tikv", map[string]string{"keybroker:key": "tikv"}, false},
		{"another reserved name", "tikv", map[string]string{"keybroker:": ""}, false},
		{"AWS's", "tikv", map[string]string{"aws:arn": ""}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := envelope.AssociatedPairs(test.keyName, mustPairs(t, test.static))
			if test.ok {
				if err != nil || p.Len() != len(test.static)+1 {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, envelope.ErrPairs) || p.Len() != 0 {
				t.Fatalf("%v, %v", p.Map(), err)
			}
		})
	}
}

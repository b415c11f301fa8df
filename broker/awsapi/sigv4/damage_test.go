package sigv4_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

// TestEveryByteCounts changes, drops and adds every byte of what is signed, and of the
// Authorization header, one at a time.
func TestEveryByteCounts(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			original := s.request(t)
			if err := verify(original); err != nil {
				t.Fatal(err)
			}
			tried := 0
			// Each part of the request as text, and how to put a changed one back.
			damage := func(part, text string, same func(damaged string) bool, put func(r *sigv4.Request, damaged string)) {
				for damaged := range damages(text) {
					if same(damaged) {
						continue
					}
					r := clone(original)
					put(&r, damaged)
					tried++
					if verify(r) == nil {
						t.Errorf("%s: %q passes for %q", part, damaged, text)
					}
				}
			}
			never := func(string) bool { return false }
			damage("method", original.Method, never, func(r *sigv4.Request, d string) { r.Method = d })
			damage("target", original.RequestURI, never, func(r *sigv4.Request, d string) { r.RequestURI = d })
			damage("query", original.RequestURI+"?", never, func(r *sigv4.Request, d string) {
				r.RequestURI = original.RequestURI + "?" + d
			})
			damage("host", original.Host, never, func(r *sigv4.Request, d string) { r.Host = d })
			damage("body", string(original.Body), never, func(r *sigv4.Request, d string) { r.Body = []byte(d) })
			// Spaces behind the algorithm and the commas are the one freedom of the header.
			loose := regexp.MustCompile(`(AWS4-HMAC-SHA256|,) *`)
			authorization := original.Header["Authorization"][0]
			damage("Authorization", authorization,
				func(d string) bool { return loose.ReplaceAllString(d, "$1 ") == authorization },
				func(r *sigv4.Request, d string) { r.Header["Authorization"][0] = d })
			// So is a space beside another one, or at an end, of a signed value.
			runs := regexp.MustCompile(` +`)
			for name := range strings.SplitSeq(s.signed, ";") {
				if name == "host" {
					continue
				}
				key := http.CanonicalHeaderKey(name)
				value := original.Header[key][0]
				damage(name, value,
					func(d string) bool { return runs.ReplaceAllString(strings.Trim(d, " "), " ") == value },
					func(r *sigv4.Request, d string) { r.Header[key][0] = d })
				r := clone(original)
				delete(r.Header, key)
				if verify(r) == nil {
					t.Errorf("passes without %s", name)
				}
				r = clone(original)
				r.Header[key] = append(r.Header[key], "")
				if verify(r) == nil {
					t.Errorf("passes with one %s more", name)
				}
			}
			if tried < 4000 {
				t.Errorf("only %d changes tried", tried)
			}
		})
	}
}

// damages yields text with each bit flipped, each byte dropped, and a byte added at each
// place, a space and a line feed among them.
func damages(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := range len(text) {
			for bit := range 8 {
				flipped := []byte(text)
				flipped[i] ^= 1 << bit
				if !yield(string(flipped)) {
					return
				}
			}
			if !yield(text[:i] + text[i+1:]) {
				return
			}
		}
		for i := range len(text) + 1 {
			for _, added := range []string{"a", "0", " ", "\n", ","} {
				if !yield(text[:i] + added + text[i:]) {
					return
				}
			}
		}
	}
}

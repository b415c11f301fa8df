package backendtest

import (
	"bytes"
	"maps"
	"regexp"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
)

func testRoundTrip(s *subject) {
	for name, pairs := range map[string]map[string]string{
		"no pairs":    nil,
		"some pairs":  somePairs(),
		"63 pairs":    manyPairs(63),
		"UTF-8 pairs": utf8Pairs(),
	} {
		for _, size := range []int{1, 16, 32, 64} {
			plaintext := random(size)
			w := s.wrap(s.Key, plaintext, pairs)
			s.opens(name, s.Key, w, plaintext, pairs)
		}
	}
	plaintext := random(32)
	w := s.wrap(s.Key, plaintext, nil)
	s.opens("none and empty are the same", s.Key, w, plaintext, map[string]string{})
}

// provider is what can stand in an envelope.
var provider = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

func testReply(s *subject) {
	if !provider.MatchString(s.Provider) {
		s.Errorf("provider %q", s.Provider)
	}
	var first backends.Wrapped
	for _, size := range []int{1, 32, 64} {
		w := s.wrap(s.Key, random(size), manyPairs(63))
		switch {
		case w.Provider != s.Provider:
			s.Errorf("provider %q, want %q", w.Provider, s.Provider)
		case len(w.Reference) < 1 || len(w.Reference) > 512 || !utf8.ValidString(w.Reference):
			s.Errorf("the reference is %q", w.Reference)
		case len(w.Version) > 64 || !utf8.ValidString(w.Version):
			s.Errorf("the version is %q", w.Version)
		case w.Binding != backends.BindingAAD && w.Binding != backends.BindingDerived && w.Binding != backends.BindingHash:
			s.Errorf("the binding is %v", w.Binding)
		case len(w.Ciphertext) < 1 || len(w.Ciphertext) > 1024:
			s.Errorf("the ciphertext is %d bytes", len(w.Ciphertext))
		}
		if first.Reference == "" {
			first = w
		}
		if w.Reference != first.Reference || w.Version != first.Version || w.Binding != first.Binding {
			s.Errorf("two wraps of one key name it %q %q %v and %q %q %v",
				first.Reference, first.Version, first.Binding, w.Reference, w.Version, w.Binding)
		}
	}
}

// roomy returns b with room behind it, and a function that tells whether any of
// it was changed.
func roomy(b []byte) (in []byte, changed func() bool) {
	all := append(bytes.Clone(b), bytes.Repeat([]byte{0xa5}, 64)...)
	before := bytes.Clone(all)
	return all[:len(b)], func() bool { return !bytes.Equal(all, before) }
}

func testRequests(s *subject) {
	pairs := somePairs()
	plaintext, plaintextChanged := roomy(random(32))
	associated, associatedChanged := roomy(canonical(pairs))
	w, err := s.KMS.Wrap(s.ctx(), backends.WrapRequest{Key: s.Key, Plaintext: plaintext, Pairs: pairs, AssociatedData: associated})
	if err != nil {
		s.Fatal(err)
	}
	if plaintextChanged() || associatedChanged() || !maps.Equal(pairs, somePairs()) {
		s.Error("Wrap changed its request")
	}

	for _, good := range []bool{true, false} {
		ciphertext, ciphertextChanged := roomy(w.Ciphertext)
		req := unwrapRequest(s.Key, w, pairs)
		req.Ciphertext, req.AssociatedData = ciphertext, associated
		if !good {
			req.Binding = 0
		}
		if _, err := s.KMS.Unwrap(s.ctx(), req); (err == nil) != good {
			s.Errorf("Unwrap: %v", err)
		}
		if ciphertextChanged() || associatedChanged() || !maps.Equal(pairs, somePairs()) {
			s.Error("Unwrap changed its request")
		}
	}
}

func testReplies(s *subject) {
	pairs := somePairs()
	plaintext := random(32)
	request := bytes.Clone(plaintext)
	w := s.wrap(s.Key, request, pairs)
	kept := w
	kept.Ciphertext = bytes.Clone(w.Ciphertext)

	// What was asked and what was answered is overwritten, as a caller does.
	clear(request)
	clear(w.Ciphertext[:cap(w.Ciphertext)])
	req := unwrapRequest(s.Key, kept, pairs)
	first, err := s.KMS.Unwrap(s.ctx(), req)
	if err != nil || !bytes.Equal(first, plaintext) {
		s.Fatalf("Unwrap gives %d bytes, %v", len(first), err)
	}
	second, err := s.KMS.Unwrap(s.ctx(), req)
	if err != nil || !bytes.Equal(second, plaintext) {
		s.Fatalf("Unwrap gives %d bytes, %v", len(second), err)
	}
	clear(first[:cap(first)])
	if !bytes.Equal(second, plaintext) {
		s.Error("two replies share their bytes")
	}
	s.opens("after the replies were wiped", s.Key, kept, plaintext, pairs)
	again := s.wrap(s.Key, plaintext, pairs)
	s.opens("another wrap", s.Key, again, plaintext, pairs)
}

package backendtest

import (
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// otherReferences are not reference, but look like it.
func otherReferences(reference string) map[string]string {
	last := len(reference) - 1
	return map[string]string{
		"empty":              "",
		"longer":             reference + "x",
		"shorter":            reference[:last],
		"another last":       reference[:last] + string(reference[last]^1),
		"another first":      string(reference[0]^1) + reference[1:],
		"with a space":       reference + " ",
		"with a slash":       reference + "/",
		"with a zero":        reference + "\x00",
		"after a dot":        "./" + reference,
		"the longest":        strings.Repeat("x", 512),
		"not UTF-8":          "\xff\xfe",
		"only a slash":       "/",
		"a path":             "../../" + reference,
		"twice":              reference + reference,
		"with a line behind": reference + "\nx",
	}
}

func testReference(s *subject) {
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	s.opens("its own reference", s.Key, w, plaintext, pairs)
	for name, reference := range otherReferences(w.Reference) {
		before := s.requests()
		req := unwrapRequest(s.Key, w, pairs)
		req.Reference = reference
		s.shut("a reference: "+name, req, plaintext, backends.WrongKey)
		if s.requests() != before {
			s.Errorf("a reference: %s: something was sent to the KMS", name)
		}
	}
	if s.Requests == nil {
		s.Log("the fixture does not count requests, so what was sent was not looked at")
	}
}

// requests is how many there were, or 0 if nobody counts.
func (s *subject) requests() int {
	if s.Requests == nil {
		return 0
	}
	return s.Requests()
}

func testOther(s *subject) {
	if s.Other == "" {
		s.Skip("the fixture has no Other: a second master key is needed")
	}
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	other := s.wrap(s.Other, plaintext, pairs)
	if w.Reference == other.Reference {
		s.Fatalf("two keys are both %s", w.Reference)
	}
	s.opens("the other's", s.Other, other, plaintext, pairs)
	s.shut("the other's wrap", unwrapRequest(s.Key, other, pairs), plaintext, backends.WrongKey)
	renamed := other
	renamed.Reference = w.Reference
	s.shut("the other's wrap under this one's name", unwrapRequest(s.Key, renamed, pairs), plaintext,
		backends.InvalidCiphertext, backends.WrongKey)
	s.shut("this one's wrap for the other", unwrapRequest(s.Other, w, pairs), plaintext, backends.WrongKey)
}

func testMissing(s *subject) {
	plaintext, pairs := random(32), somePairs()
	_, err := s.KMS.Wrap(s.ctx(), wrapRequest(s.Missing, plaintext, pairs))
	s.refused("Wrap", err, s.Missing, plaintext, backends.NotFound)

	w := s.wrap(s.Key, plaintext, pairs)
	if w.Reference = s.MissingReference; w.Reference == "" {
		w = s.wrap(s.Key, plaintext, pairs)
		before, ok := strings.CutSuffix(w.Reference, s.Key)
		if !ok {
			s.Fatalf("the reference %s does not end in %s: set the fixture's MissingReference", w.Reference, s.Key)
		}
		w.Reference = before + s.Missing
	}
	s.shut("Unwrap", unwrapRequest(s.Missing, w, pairs), plaintext, backends.NotFound)
	s.refused("Check", s.KMS.Check(s.ctx(), s.Missing), s.Missing, nil, backends.NotFound)
	s.opens("the key that is there", s.Key, s.wrap(s.Key, plaintext, pairs), plaintext, pairs)
}

func testMatch(s *subject) {
	// Nobody has asked this KMS anything yet.
	w := s.wrap(s.Key, random(32), nil)
	s.matches(s.Key, w.Reference, true)
	for _, reference := range otherReferences(w.Reference) {
		s.matches(s.Key, reference, false)
	}
	if s.Other != "" {
		s.matches(s.Other, w.Reference, false)
		s.matches(s.Other, s.wrap(s.Other, random(32), nil).Reference, true)
	}
	if ok, err := s.KMS.Match(s.ctx(), s.Missing, w.Reference); ok {
		s.Errorf("Match(%q, %q) is true", s.Missing, w.Reference)
	} else if err != nil {
		s.refused("Match of a missing key", err, s.Missing, nil, backends.NotFound, backends.Unavailable)
	}
}

func (s *subject) matches(key, reference string, want bool) {
	s.Helper()
	if got, err := s.KMS.Match(s.ctx(), key, reference); got != want || err != nil {
		s.Errorf("Match(%q, %q) = %t, %v", key, reference, got, err)
	}
}

func testCheck(s *subject) {
	for range 2 {
		if err := s.KMS.Check(s.ctx(), s.Key); err != nil {
			s.Errorf("Check: %v", err)
		}
	}
}

func testRotate(s *subject) {
	if s.Rotate == nil {
		s.Skip("the fixture has no Rotate: the KMS cannot give a key a new version")
	}
	pairs := somePairs()
	plaintexts := [][]byte{random(32), random(32), random(32)}
	wraps := []backends.Wrapped{s.wrap(s.Key, plaintexts[0], pairs)}
	for _, plaintext := range plaintexts[1:] {
		s.Rotate(s.T)
		w := s.wrap(s.Key, plaintext, pairs)
		last := wraps[len(wraps)-1]
		if w.Version != "" && w.Version == last.Version {
			s.Errorf("after the rotation, the version is still %s", w.Version)
		}
		if w.Reference != last.Reference {
			s.Errorf("the rotation has changed the reference from %s to %s", last.Reference, w.Reference)
		}
		wraps = append(wraps, w)
	}
	for i, w := range wraps {
		s.opens("a version", s.Key, w, plaintexts[i], pairs)
		s.matches(s.Key, w.Reference, true)
	}
	if err := s.KMS.Check(s.ctx(), s.Key); err != nil {
		s.Errorf("Check: %v", err)
	}
}

func testDisable(s *subject) {
	if s.Disable == nil {
		s.Skip("the fixture has no Disable and Enable: the KMS cannot disable a version")
	}
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	for range 2 {
		s.opens("before", s.Key, w, plaintext, pairs)
		s.Disable(s.T, w)
		s.shut("disabled", unwrapRequest(s.Key, w, pairs), plaintext, backends.Disabled)
		s.Enable(s.T, w)
	}
	s.opens("enabled again", s.Key, w, plaintext, pairs)
}

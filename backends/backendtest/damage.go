package backendtest

import (
	"bytes"
	"slices"

	"github.com/keybroker/keybroker/backends"
)

func testPairs(s *subject) {
	plaintext := random(32)
	pairs := map[string]string{"a": "bc", "d": "e\u0301"}
	w := s.wrap(s.Key, plaintext, pairs)
	s.opens("its own pairs", s.Key, w, plaintext, pairs)
	for name, other := range map[string]map[string]string{
		"none":                nil,
		"one less":            {"a": "bc"},
		"one more":            {"a": "bc", "d": "e\u0301", "f": "g"},
		"another value":       {"a": "bd", "d": "e\u0301"},
		"another name":        {"b": "bc", "d": "e\u0301"},
		"values exchanged":    {"a": "e\u0301", "d": "bc"},
		"a letter moved":      {"ab": "c", "d": "e\u0301"},
		"upper case":          {"A": "bc", "d": "e\u0301"},
		"a space":             {"a": "bc ", "d": "e\u0301"},
		"another normal form": {"a": "bc", "d": "\u00e9"},
	} {
		s.shut(name, unwrapRequest(s.Key, w, other), plaintext, backends.InvalidCiphertext)
	}

	bare := s.wrap(s.Key, plaintext, nil)
	s.shut("pairs for what has none", unwrapRequest(s.Key, bare, pairs), plaintext, backends.InvalidCiphertext)
}

// A flipped bit may be in what names the version or the key, for KMSs whose
// ciphertexts do.
func testFlips(s *subject) {
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	bits := 8 * len(w.Ciphertext)
	flips := bits
	if s.MaxFlips > 0 {
		flips = min(bits, s.MaxFlips)
	}
	for i := range flips {
		bit := i * bits / flips
		req := unwrapRequest(s.Key, w, pairs)
		req.Ciphertext = bytes.Clone(w.Ciphertext)
		req.Ciphertext[bit/8] ^= 1 << (bit % 8)
		s.shut("a flipped bit", req, plaintext, backends.InvalidCiphertext, backends.WrongKey, backends.Disabled)
		if s.Failed() {
			s.Fatalf("that was bit %d of byte %d of %d", bit%8, bit/8, len(w.Ciphertext))
		}
	}
}

func testForeign(s *subject) {
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	n := len(w.Ciphertext)
	tests := map[string][]byte{
		"nil":                 nil,
		"empty":               {},
		"one byte":            {0},
		"random of its size":  random(n),
		"zeros of its size":   make([]byte, n),
		"random of 1024":      random(1024),
		"1025 bytes":          random(1025),
		"64 KiB":              random(64 << 10),
		"half":                w.Ciphertext[:n/2],
		"all but the first":   w.Ciphertext[1:],
		"all but the last":    w.Ciphertext[:n-1],
		"twice":               slices.Concat(w.Ciphertext, w.Ciphertext),
		"with a zero behind":  append(bytes.Clone(w.Ciphertext), 0),
		"with a zero before":  append([]byte{0}, w.Ciphertext...),
		"with a line break":   append(bytes.Clone(w.Ciphertext), '\n'),
		"with random behind":  append(bytes.Clone(w.Ciphertext), random(1024)...),
		"the plaintext":       plaintext,
		"an invalid sequence": {0xff, 0xfe, 0xfd},
	}
	for name, ciphertext := range tests {
		req := unwrapRequest(s.Key, w, pairs)
		req.Ciphertext = ciphertext
		s.shut(name, req, plaintext, backends.InvalidCiphertext)
	}
}

func testBinding(s *subject) {
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	for _, b := range []backends.Binding{0, backends.BindingAAD, backends.BindingDerived, backends.BindingHash, 4, 255} {
		if b == w.Binding {
			continue
		}
		req := unwrapRequest(s.Key, w, pairs)
		req.Binding = b
		s.shut("binding "+b.String(), req, plaintext, backends.InvalidCiphertext, backends.InvalidArgument)
	}
}

// A KMS whose ciphertexts tell their version may take no notice of what the
// envelope says.
func testVersion(s *subject) {
	plaintext, pairs := random(32), somePairs()
	w := s.wrap(s.Key, plaintext, pairs)
	for _, version := range []string{"", "0", "-1", "2", "999999999999999999999999", "1 ", "01", "+1", "v1", "latest", "\xff", "../1"} {
		req := unwrapRequest(s.Key, w, pairs)
		req.Version = version
		got, err := s.KMS.Unwrap(s.ctx(), req)
		switch {
		case err == nil && !bytes.Equal(got, plaintext):
			s.Errorf("version %q opens it to something else", version)
		case err != nil && got != nil:
			s.Errorf("version %q gives bytes and an error", version)
		case err != nil:
			s.refused("version "+version, err, s.Key, plaintext,
				backends.InvalidCiphertext, backends.WrongKey, backends.Disabled, backends.InvalidArgument)
		}
	}
}

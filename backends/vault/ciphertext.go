package vault

import (
	"bytes"
	"encoding/base64"
	"strconv"
)

const (
	// maxCiphertext is the greatest size of a ciphertext, in bytes.
	maxCiphertext = 1024
	// overhead is how much longer than its plaintext a ciphertext is at least,
	// before base64: nonce and tag of 96 and 128 bits.
	overhead = 12 + 16
)

// ciphertext is what Transit makes: "vault:v", the key version, ":", and base64
// with padding. Nothing else is taken, and each value has one form only.
type ciphertext struct {
	text    []byte
	version int
	size    int // before base64, in bytes
}

// versionText is a version as Vault writes it.
func versionText(n int) string { return strconv.Itoa(n) }

// parseCiphertext returns the parts of b, which it keeps, if that is what
// Transit makes of at least one byte.
func parseCiphertext(b []byte) (c ciphertext, ok bool) {
	rest, ok := bytes.CutPrefix(b, []byte("vault:v"))
	if !ok || len(b) > maxCiphertext {
		return ciphertext{}, false
	}
	number, encoded, ok := bytes.Cut(rest, []byte(":"))
	if !ok {
		return ciphertext{}, false
	}
	version, err := strconv.ParseInt(string(number), 10, 32)
	if err != nil || version < 1 || versionText(int(version)) != string(number) {
		return ciphertext{}, false
	}
	raw, err := base64.StdEncoding.Strict().AppendDecode(nil, encoded)
	// The decoder passes over line ends.
	if err != nil || len(raw) <= overhead || bytes.ContainsAny(encoded, "\r\n") {
		return ciphertext{}, false
	}
	return ciphertext{text: b, version: int(version), size: len(raw)}, true
}

package gcptest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"strings"

	"cloud.google.com/go/kms/apiv1/kmspb"
)

// Key returns the resource name of a key called id, in the project, location and
// ring that the tests have.
func Key(id string) string {
	return "projects/gcptest/locations/europe-west3/keyRings/keybroker/cryptoKeys/" + id
}

// The permissions that Deny takes.
const (
	UseToEncrypt = "cloudkms.cryptoKeyVersions.useToEncrypt"
	UseToDecrypt = "cloudkms.cryptoKeyVersions.useToDecrypt"
)

type cryptoKey struct {
	purpose  kmspb.CryptoKey_CryptoKeyPurpose
	versions []*keyVersion // version N is at N-1
	primary  int           // a version's number; 0 for none
}

type keyVersion struct {
	// id stands before what the version encrypts.
	id    []byte
	aead  cipher.AEAD
	state kmspb.CryptoKeyVersion_CryptoKeyVersionState
}

func newVersion() *keyVersion {
	random := make([]byte, 16+32)
	_, _ = rand.Read(random) // never fails
	block, err := aes.NewCipher(random[16:])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	// Google's ciphertexts begin with these two bytes.
	return &keyVersion{id: append([]byte{0x0a, 0x24}, random[:16]...), aead: aead, state: kmspb.CryptoKeyVersion_ENABLED}
}

// find returns the version of k that has made ciphertext, and its number.
func (k *cryptoKey) find(ciphertext []byte) (*keyVersion, int) {
	for i, v := range k.versions {
		if bytes.HasPrefix(ciphertext, v.id) {
			return v, i + 1
		}
	}
	return nil, 0
}

// AddKey adds a key for ENCRYPT_DECRYPT with a primary version 1.
func (s *Server) AddKey(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name] = &cryptoKey{purpose: kmspb.CryptoKey_ENCRYPT_DECRYPT, versions: []*keyVersion{newVersion()}, primary: 1}
}

// SetPurpose changes what a key is for, which Google's cannot be.
func (s *Server) SetPurpose(name string, purpose kmspb.CryptoKey_CryptoKeyPurpose) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].purpose = purpose
}

// Rotate gives a key a new version, makes it primary, and returns its number.
func (s *Server) Rotate(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[name]
	k.versions = append(k.versions, newVersion())
	k.primary = len(k.versions)
	return k.primary
}

// SetPrimary makes a version primary; none for 0.
func (s *Server) SetPrimary(name string, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].primary = number
}

// SetState sets the state of a version.
func (s *Server) SetState(name string, number int, state kmspb.CryptoKeyVersion_CryptoKeyVersionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].versions[number-1].state = state
}

// Deny takes permissions on a key from everybody.
func (s *Server) Deny(name string, permissions ...string) { s.permit(name, false, permissions) }

// Allow takes Deny back.
func (s *Server) Allow(name string, permissions ...string) { s.permit(name, true, permissions) }

func (s *Server) permit(name string, allowed bool, permissions []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, permission := range permissions {
		s.denied[permission+" "+name] = !allowed
	}
}

// keyOf splits the name of a version from that of its key.
func keyOf(name string) (key, version string) {
	key, version, _ = strings.Cut(name, "/cryptoKeyVersions/")
	return key, version
}

// Package backendtest holds what every backends.KMS must pass, against a real
// server or the best emulator there is. It is imported from tests only.
//
// It holds the sentences of the KMS interface that can be seen from outside. That
// a KMS keeps no copy of key bytes cannot, nor what its errors' classes are for a
// refusal that the Fixture cannot bring about (Denied, Throttled,
// Unauthenticated): those are for each backend's own tests.
package backendtest

import (
	"testing"

	"github.com/keybroker/keybroker/backends"
)

// Fixture is a backend under test. What a nil function would do is skipped, and
// the skip says so.
type Fixture struct {
	// KMS is the backend, as new. Run closes it.
	KMS backends.KMS
	// Provider is what Wrap must name.
	Provider string
	// Key is a master key that may be used, as the config writes it.
	Key string
	// Other is another one of the same KMS that may be used, or "".
	Other string
	// Missing names no master key, but could.
	Missing string
	// MissingReference is what Missing's reference would be. Empty: Key's, with
	// Missing in place of Key at its end.
	MissingReference string
	// MaxFlips is how many bits of a ciphertext are flipped, one at a time, evenly
	// spread, for a KMS that is slow. 0: all of them.
	MaxFlips int

	// Rotate gives Key a new version.
	Rotate func(t *testing.T)
	// Disable makes the version that made w unusable, and Enable takes it back.
	// Both return when the KMS follows.
	Disable, Enable func(t *testing.T, w backends.Wrapped)
	// Down makes the KMS unreachable, and Up takes it back. Both return when
	// it is so.
	Down, Up func(t *testing.T)
	// Requests counts what was sent to the KMS so far, by anyone.
	Requests func() int
}

// Run holds a backend against the KMS interface. It calls open for each of its
// tests. What open makes it also removes, by t.Cleanup; the KMS is closed before
// that.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	for _, test := range []struct {
		name string
		run  func(s *subject)
	}{
		{"what is wrapped is unwrapped", testRoundTrip},
		{"a reply can stand in an envelope", testReply},
		{"requests are not changed", testRequests},
		{"replies are the caller's own", testReplies},
		{"other pairs do not open it", testPairs},
		{"a flipped bit does not open", testFlips},
		{"what was not wrapped does not open", testForeign},
		{"another binding does not open it", testBinding},
		{"another version is no other plaintext", testVersion},
		{"another reference is refused unasked", testReference},
		{"another key's wrap does not open", testOther},
		{"a missing key is not found", testMissing},
		{"match knows the key's own reference", testMatch},
		{"check takes a key that works", testCheck},
		{"a rotated key opens what it wrapped", testRotate},
		{"a disabled version does not open", testDisable},
		{"a ctx that ended is unavailable", testEnded},
		{"64 callers at once", testConcurrent},
		{"closed is unavailable", testClose},
		{"closed while it is used", testCloseInUse},
		{"down is unavailable until it is up", testDown},
		{"down before the first call", testDownFirst},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := open(t)
			switch {
			case f.KMS == nil || f.Provider == "" || f.Key == "" || f.Missing == "":
				t.Fatal("a Fixture needs KMS, Provider, Key and Missing")
			case (f.Disable == nil) != (f.Enable == nil) || (f.Down == nil) != (f.Up == nil):
				t.Fatal("a Fixture has both of Disable and Enable, and of Down and Up, or none")
			}
			t.Cleanup(func() {
				if err := f.KMS.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.run(&subject{f, t})
		})
	}
}

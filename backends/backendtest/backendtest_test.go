package backendtest_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// faultVariable names the fault that the KMS of TestMemory has.
const faultVariable = "KEYBROKER_TEST_FAULT"

// A KMS without a fault passes, with all that a Fixture can do.
func TestMemory(t *testing.T) {
	backendtest.Run(t, func(*testing.T) backendtest.Fixture {
		k := newMemory(fault(os.Getenv(faultVariable)))
		return backendtest.Fixture{
			KMS: k, Provider: "memory", Key: "one", Other: "two", Missing: "three",
			Rotate:   func(*testing.T) { k.rotate("one") },
			Disable:  func(_ *testing.T, w backends.Wrapped) { k.able("one", w.Version, false) },
			Enable:   func(_ *testing.T, w backends.Wrapped) { k.able("one", w.Version, true) },
			Down:     func(*testing.T) { k.reach(false) },
			Up:       func(*testing.T) { k.reach(true) },
			Requests: k.sent,
		}
	})
}

// Every fault is found, by the test that is about it.
func TestFaultsAreFound(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for f, by := range map[fault]string{
		ignoresPairs:       "other pairs do not open it",
		ignoresAFlip:       "a flipped bit does not open",
		ignoresTheRest:     "what was not wrapped does not open",
		ignoresBinding:     "another binding does not open it",
		ignoresReference:   "another reference is refused unasked",
		asksBeforeItLooks:  "another reference is refused unasked",
		ignoresVersion:     "another version is no other plaintext",
		oneKeyForAll:       "another key's wrap does not open",
		changesRequests:    "requests are not changed",
		sharesReplies:      "replies are the caller's own",
		keepsRequests:      "replies are the caller's own",
		longVersion:        "a reply can stand in an envelope",
		anotherProvider:    "a reply can stand in an envelope",
		missingIsDenied:    "a missing key is not found",
		bareErrors:         "a missing key is not found",
		namesNoKey:         "a missing key is not found",
		tellsPlaintext:     "a missing key is not found",
		matchesAll:         "match knows the key's own reference",
		failsCheck:         "check takes a key that works",
		forgetsVersions:    "a rotated key opens what it wrapped",
		keepsItsVersion:    "a rotated key opens what it wrapped",
		opensDisabled:      "a disabled version does not open",
		staysDisabled:      "a disabled version does not open",
		ignoresContext:     "a ctx that ended is unavailable",
		hidesContext:       "a ctx that ended is unavailable",
		oneAtATime:         "64 callers at once",
		worksWhenClosed:    "closed is unavailable",
		closesOnce:         "closed is unavailable",
		internalWhenClosed: "closed while it is used",
		staysDown:          "down is unavailable until it is up",
		internalWhenDown:   "down before the first call",
		emptyPlaintext:     "what is wrapped is unwrapped",
	} {
		t.Run(string(f), func(t *testing.T) {
			cmd := exec.Command(self, "-test.run=^TestMemory$", "-test.timeout=2m")
			cmd.Env = append(os.Environ(), faultVariable+"="+string(f))
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("nobody noticed:\n%s", out)
			}
			if want := "--- FAIL: TestMemory/" + strings.ReplaceAll(by, " ", "_") + " "; !strings.Contains(string(out), want) {
				t.Errorf("no %q in:\n%.8000s", want, out)
			}
		})
	}
}

package gcpkms_test

import (
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
)

// costs runs a check, and fails the test unless it makes so many calls.
func (b *bench) costs(what string, encrypts, decrypts int) error {
	b.Helper()
	e, d := b.cloud.Requests("Encrypt"), b.cloud.Requests("Decrypt")
	err := b.kms.Check(b.Context(), tikv)
	e, d = b.cloud.Requests("Encrypt")-e, b.cloud.Requests("Decrypt")-d
	if e != encrypts || d != decrypts {
		b.Errorf("%s: %d Encrypts and %d Decrypts, want %d and %d", what, e, d, encrypts, decrypts)
	}
	return err
}

func (b *bench) isFine(what string, err error) {
	b.Helper()
	if err != nil {
		b.Errorf("%s: %v", what, err)
	}
}

func TestCheckCosts(t *testing.T) {
	b := newBench(t, nil)
	b.isFine("the first", b.costs("the first", 1, 1))
	b.isFine("the second", b.costs("the second", 0, 1))
	b.cloud.Rotate(tikv)
	b.isFine("after a rotation", b.costs("after a rotation", 1, 2))
	b.isFine("and then", b.costs("and then", 0, 1))
	if n := b.cloud.Requests("") - b.cloud.Requests("Encrypt") - b.cloud.Requests("Decrypt"); n != 0 {
		t.Errorf("%d calls of other quotas", n)
	}
}

// A check is never fine when unwraps are not.
func TestCheckTellsTheTruth(t *testing.T) {
	b := newBench(t, nil)
	b.cloud.SetState(tikv, 1, kmspb.CryptoKeyVersion_DISABLED)
	b.fails("disabled from the start", b.kms.Check(t.Context(), tikv), backends.Disabled)
	b.cloud.SetState(tikv, 1, kmspb.CryptoKeyVersion_ENABLED)
	b.isFine("enabled", b.kms.Check(t.Context(), tikv))
	b.cloud.SetState(tikv, 1, kmspb.CryptoKeyVersion_DESTROY_SCHEDULED)
	b.fails("to be destroyed", b.kms.Check(t.Context(), tikv), backends.Disabled, "DESTROY_SCHEDULED")
	b.cloud.SetState(tikv, 1, kmspb.CryptoKeyVersion_ENABLED)

	b.cloud.Deny(tikv, gcptest.UseToDecrypt)
	b.fails("decrypt denied", b.kms.Check(t.Context(), tikv), backends.Denied, "useToDecrypt")
	b.open()
	b.fails("decrypt denied, a new backend", b.kms.Check(t.Context(), tikv), backends.Denied)
	b.fails("decrypt denied, again", b.kms.Check(t.Context(), tikv), backends.Denied)
	b.cloud.Allow(tikv, gcptest.UseToDecrypt)
	b.isFine("allowed", b.costs("allowed", 1, 1))

	// An old version that was retired is no trouble, a new one is.
	b.cloud.Rotate(tikv)
	b.cloud.SetState(tikv, 1, kmspb.CryptoKeyVersion_DISABLED)
	b.isFine("the old version is disabled", b.kms.Check(t.Context(), tikv))
	b.cloud.Rotate(tikv)
	b.cloud.SetState(tikv, 3, kmspb.CryptoKeyVersion_DISABLED)
	b.fails("the new primary is disabled", b.kms.Check(t.Context(), tikv), backends.Disabled, "cryptoKeyVersions/3")
	b.cloud.SetPrimary(tikv, 2)
	b.isFine("version 2 is primary again", b.costs("version 2 is primary again", 0, 1))
}

// A broker that may only decrypt.
func TestCheckWithoutEncrypt(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap()
	b.cloud.Deny(tikv, gcptest.UseToEncrypt)
	b.isFine("nothing opened yet", b.costs("nothing opened yet", 1, 1))
	b.isFine("again", b.costs("again", 0, 1))
	b.opens(w, plaintext)
	b.isFine("something opened", b.costs("something opened", 0, 1))
	b.cloud.SetState(tikv, 1, kmspb.CryptoKeyVersion_DISABLED)
	b.fails("what it opened is disabled", b.costs("disabled", 0, 1), backends.Disabled)
	b.cloud.SetState(tikv, 1, kmspb.CryptoKeyVersion_ENABLED)
	b.cloud.Deny(tikv, gcptest.UseToDecrypt)
	b.fails("decrypt denied too", b.costs("decrypt denied too", 0, 1), backends.Denied)
	b.cloud.Allow(tikv, gcptest.UseToDecrypt, gcptest.UseToEncrypt)
	b.works()
	b.isFine("encrypt allowed", b.costs("encrypt allowed", 1, 1))

	b.cloud.Deny(tikv, gcptest.UseToEncrypt)
	b.isFine("encrypt taken away later", b.costs("encrypt taken away later", 0, 1))
	b.cloud.Rotate(tikv)
	b.isFine("and a rotation", b.costs("and a rotation", 1, 1))
	b.cloud.SetState(tikv, 1, kmspb.CryptoKeyVersion_DISABLED)
	b.fails("and a disabled version", b.kms.Check(t.Context(), tikv), backends.Disabled)
}

// What is wrong with Google's project is not taken for a missing permission to
// encrypt for long.
func TestCheckAfterABroadDenial(t *testing.T) {
	b := newBench(t, nil)
	b.cloud.Fail("", gcptest.Refuse(codes.PermissionDenied, "Cloud KMS API is disabled.", "SERVICE_DISABLED"))
	b.fails("the API is off", b.kms.Check(t.Context(), tikv), backends.Denied, "SERVICE_DISABLED")
	b.cloud.Fail("", nil)
	b.isFine("on", b.costs("on", 1, 1))
}

// A key that was made anew under the old name opens nothing of before.
func TestCheckOfAnotherKey(t *testing.T) {
	b := newBench(t, nil)
	b.isFine("before", b.kms.Check(t.Context(), tikv))
	b.cloud.AddKey(tikv)
	b.fails("another key", b.kms.Check(t.Context(), tikv), backends.InvalidCiphertext, "another key")
	b.isFine("which is checked then", b.kms.Check(t.Context(), tikv))
}

func TestCheckPassesOnWhatFails(t *testing.T) {
	b := newBench(t, nil)
	b.isFine("before", b.kms.Check(t.Context(), tikv))
	for code, want := range map[codes.Code]backends.Class{
		codes.Unavailable: backends.Unavailable, codes.ResourceExhausted: backends.Throttled, codes.NotFound: backends.NotFound,
		codes.Unauthenticated: backends.Unauthenticated, codes.Internal: backends.Internal, codes.PermissionDenied: backends.Denied,
	} {
		b.cloud.Fail("Decrypt", gcptest.Refuse(code, "no", ""))
		b.fails(code.String(), b.costs(code.String(), 0, 1), want)
	}
	b.cloud.Fail("Decrypt", gcptest.Alter(func(r *kmspb.DecryptResponse) {
		r.Plaintext[0] ^= 1
		r.PlaintextCrc32C = gcptest.Checksum(r.Plaintext)
	}))
	b.fails("another plaintext", b.costs("another plaintext", 0, 1), backends.Internal)
	b.cloud.Fail("Decrypt", nil)
	b.isFine("afterwards", b.costs("afterwards", 0, 1))
}

package gcpkms_test

import (
	"bytes"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
)

// A reply to Encrypt that is not what it should be is no wrap. What may have been
// damaged on its way is asked once more.
func TestEncryptReplies(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*kmspb.EncryptResponse)
		again  bool
	}{
		{"empty", func(r *kmspb.EncryptResponse) { *r = kmspb.EncryptResponse{} }, false},
		{"no ciphertext", func(r *kmspb.EncryptResponse) { r.Ciphertext = nil }, false},
		{"a bit of the ciphertext", func(r *kmspb.EncryptResponse) { r.Ciphertext[5] ^= 1 }, true},
		{"a bit of the CRC", func(r *kmspb.EncryptResponse) { r.CiphertextCrc32C.Value ^= 1 }, true},
		{"a CRC beyond 32 bits", func(r *kmspb.EncryptResponse) { r.CiphertextCrc32C.Value |= 1 << 32 }, true},
		{"no CRC", func(r *kmspb.EncryptResponse) { r.CiphertextCrc32C = nil }, true},
		{"plaintext not verified", func(r *kmspb.EncryptResponse) { r.VerifiedPlaintextCrc32C = false }, true},
		{"associated data not verified", func(r *kmspb.EncryptResponse) { r.VerifiedAdditionalAuthenticatedDataCrc32C = false }, true},
		{"no name", func(r *kmspb.EncryptResponse) { r.Name = "" }, false},
		{"the key's name", func(r *kmspb.EncryptResponse) { r.Name = tikv }, false},
		{"another key's name", func(r *kmspb.EncryptResponse) { r.Name = other + "/cryptoKeyVersions/1" }, false},
		{"a longer key's name", func(r *kmspb.EncryptResponse) { r.Name = tikv + "2/cryptoKeyVersions/1" }, false},
		{"version 0", func(r *kmspb.EncryptResponse) { r.Name = tikv + "/cryptoKeyVersions/0" }, false},
		{"version 01", func(r *kmspb.EncryptResponse) { r.Name = tikv + "/cryptoKeyVersions/01" }, false},
		{"version x", func(r *kmspb.EncryptResponse) { r.Name = tikv + "/cryptoKeyVersions/x" }, false},
		{"a path behind", func(r *kmspb.EncryptResponse) { r.Name = tikv + "/cryptoKeyVersions/1/2" }, false},
		{"1025 bytes", func(r *kmspb.EncryptResponse) {
			r.Ciphertext = make([]byte, 1025)
			r.CiphertextCrc32C = gcptest.Checksum(r.Ciphertext)
		}, false},
		{"1 MiB", func(r *kmspb.EncryptResponse) { r.Ciphertext = make([]byte, 1<<20) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.cloud.Fail("Encrypt", gcptest.Alter(test.change))
			w, _, err := b.wrapErr()
			b.fails("Wrap", err, backends.Internal)
			if w.Ciphertext != nil {
				t.Errorf("%d bytes", len(w.Ciphertext))
			}
			b.asked("Encrypt", test.again)
			b.cloud.Fail("Encrypt", gcptest.Times(1, gcptest.Alter(test.change)))
			if _, _, err = b.wrapErr(); (err == nil) != test.again {
				t.Errorf("once only: %v", err)
			}
			b.works()
		})
	}
}

// A reply to Decrypt that is not what it should be is no key.
func TestDecryptReplies(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*kmspb.DecryptResponse)
		again  bool
	}{
		{"empty", func(r *kmspb.DecryptResponse) { *r = kmspb.DecryptResponse{} }, false},
		{"no plaintext", func(r *kmspb.DecryptResponse) { r.Plaintext = nil; r.PlaintextCrc32C = gcptest.Checksum(nil) }, false},
		{"a bit of the plaintext", func(r *kmspb.DecryptResponse) { r.Plaintext[5] ^= 1 }, true},
		{"a bit of the CRC", func(r *kmspb.DecryptResponse) { r.PlaintextCrc32C.Value ^= 1 }, true},
		{"no CRC", func(r *kmspb.DecryptResponse) { r.PlaintextCrc32C = nil }, true},
		{"65 bytes", func(r *kmspb.DecryptResponse) {
			r.Plaintext = make([]byte, 65)
			r.PlaintextCrc32C = gcptest.Checksum(r.Plaintext)
		}, false},
		{"1 MiB", func(r *kmspb.DecryptResponse) { r.Plaintext = make([]byte, 1<<20) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			w, plaintext := b.wrap()
			b.cloud.Fail("Decrypt", gcptest.Alter(test.change))
			got, err := b.unwrap(t.Context(), w)
			b.fails("Unwrap", err, backends.Internal)
			if got != nil {
				t.Errorf("%d bytes", len(got))
			}
			b.asked("Decrypt", test.again)
			b.fails("Check", b.kms.Check(t.Context(), tikv), backends.Internal)
			b.cloud.Fail("Decrypt", gcptest.Times(1, gcptest.Alter(test.change)))
			if got, err = b.unwrap(t.Context(), w); (err == nil) != test.again || err == nil && !bytes.Equal(got, plaintext) {
				t.Errorf("once only: %v", err)
			}
			b.opens(w, plaintext)
		})
	}
}

// asked fails the test unless a method was called once, or once more.
func (b *bench) asked(method string, again bool) {
	b.Helper()
	want := 1
	if again {
		want = 2
	}
	if n := b.cloud.Requests(method); n != want {
		b.Errorf("%s was called %d times, want %d", method, n, want)
	}
}

// A request that Cloud KMS found damaged is sent once more.
func TestDamagedRequest(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap()
	damaged := gcptest.Refuse(codes.InvalidArgument, "The checksum in field ciphertext_crc32c did not match the data in field ciphertext.", "")
	b.cloud.Fail("Decrypt", gcptest.Times(1, damaged))
	b.opens(w, plaintext)
	b.cloud.Fail("Decrypt", damaged)
	_, err := b.unwrap(t.Context(), w)
	b.fails("Unwrap", err, backends.Internal, "did not match")
	if n := b.cloud.Requests("Decrypt"); n != 4 {
		t.Errorf("it was asked %d times", n)
	}
}

// What an envelope may not have is not sent.
func TestNothingIsSent(t *testing.T) {
	b := newBench(t, nil)
	for name, n := range map[string]int{"none": 0, "65": 65} {
		_, err := b.kms.Wrap(t.Context(), backends.WrapRequest{Key: tikv, Plaintext: make([]byte, n)})
		b.fails("a plaintext of "+name, err, backends.InvalidArgument)
	}
	for name, n := range map[string]int{"none": 0, "1025": 1025} {
		_, err := b.unwrap(t.Context(), backends.Wrapped{Reference: tikv, Binding: backends.BindingAAD, Ciphertext: make([]byte, n)})
		b.fails("a ciphertext of "+name, err, backends.InvalidCiphertext)
	}
	for _, key := range []string{tikv + "/", tikv + "/cryptoKeyVersions/1", "tikv"} {
		_, err := b.kms.Wrap(t.Context(), backends.WrapRequest{Key: key, Plaintext: make([]byte, 32)})
		b.fails(key, err, backends.InvalidArgument, "write")
		_, err = b.kms.Unwrap(t.Context(), backends.UnwrapRequest{Key: key, Reference: key, Binding: backends.BindingAAD, Ciphertext: make([]byte, 100)})
		b.fails(key, err, backends.InvalidArgument)
		b.fails(key, b.kms.Check(t.Context(), key), backends.InvalidArgument)
		ok, err := b.kms.Match(t.Context(), key, key)
		b.fails(key, err, backends.InvalidArgument)
		if ok {
			t.Errorf("%s matches", key)
		}
	}
	if n := b.cloud.Requests(""); n > 0 {
		t.Errorf("%d calls were made", n)
	}
}

// A key for something else cannot serve.
func TestPurpose(t *testing.T) {
	b := newBench(t, nil)
	w, _ := b.wrap()
	b.cloud.SetPurpose(tikv, kmspb.CryptoKey_RAW_ENCRYPT_DECRYPT)
	_, _, err := b.wrapErr()
	b.fails("Wrap", err, backends.InvalidArgument, "RAW_ENCRYPT_DECRYPT")
	_, err = b.unwrap(t.Context(), w)
	b.fails("Unwrap", err, backends.InvalidArgument)
	b.fails("Check", b.kms.Check(t.Context(), tikv), backends.InvalidArgument)
}

// The version is the one that Encrypt says, and without associated data there is
// nothing to verify of it.
func TestWrapped(t *testing.T) {
	b := newBench(t, nil)
	for _, want := range []string{"1", "2"} {
		w, plaintext := b.wrap()
		if w.Provider != "gcp-kms" || w.Reference != tikv || w.Version != want || w.Binding != backends.BindingAAD {
			t.Errorf("%+v", w)
		}
		b.opens(w, plaintext)
		b.cloud.Rotate(tikv)
	}
	w, err := b.kms.Wrap(t.Context(), backends.WrapRequest{Key: tikv, Plaintext: []byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.kms.Unwrap(t.Context(), backends.UnwrapRequest{Key: tikv, Reference: tikv, Binding: backends.BindingAAD, Ciphertext: w.Ciphertext})
	if err != nil || !bytes.Equal(got, []byte{1}) {
		t.Errorf("%v, %v", got, err)
	}
}

package vault_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// Each kind of key is bound in its own way, and what does not bind is not sent.
func TestBinding(t *testing.T) {
	sum := sha256.Sum256(someAD)
	context, associated := base64.StdEncoding.EncodeToString(sum[:]), base64.StdEncoding.EncodeToString(someAD)
	for _, test := range []struct {
		name, version string
		key           fakeKey
		want          backends.Binding
		fields        map[string]string // besides plaintext and ciphertext
	}{
		{"aes256-gcm96", "1.21.0", fakeKey{kind: "aes256-gcm96"}, backends.BindingAAD, map[string]string{"associated_data": associated}},
		{"aes128-gcm96", "1.21.0", fakeKey{kind: "aes128-gcm96"}, backends.BindingAAD, map[string]string{"associated_data": associated}},
		{"chacha20-poly1305", "1.21.0", fakeKey{kind: "chacha20-poly1305"}, backends.BindingAAD, map[string]string{"associated_data": associated}},
		{"xchacha20-poly1305 of OpenBao", "2.5.0", fakeKey{kind: "xchacha20-poly1305"}, backends.BindingAAD, map[string]string{"associated_data": associated}},
		{"derived, with a cipher that takes associated data", "1.21.0", fakeKey{kind: "aes256-gcm96", derived: true}, backends.BindingDerived, map[string]string{"context": context}},
		{"derived, on an old Vault", "1.9.0", fakeKey{kind: "aes256-gcm96", derived: true}, backends.BindingDerived, map[string]string{"context": context}},
		{"the first Vault with associated data", "1.13.0", fakeKey{kind: "aes256-gcm96"}, backends.BindingAAD, map[string]string{"associated_data": associated}},
		{"the last Vault without", "1.12.11", fakeKey{kind: "aes256-gcm96"}, backends.BindingHash, nil},
		{"a Vault that hides its version", "", fakeKey{kind: "aes256-gcm96"}, backends.BindingAAD, map[string]string{"associated_data": associated}},
		{"a version that nobody knows", "eternal", fakeKey{kind: "aes256-gcm96"}, backends.BindingHash, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(v *fakeVault, _ *vault.Config) {
				test.key.versions, test.key.minDecryption = [][]byte{randomBytes(32)}, 1
				v.version, v.keys["tikv"] = test.version, &test.key
			})
			w, plaintext := b.wrap("tikv")
			if w.Binding != test.want {
				t.Errorf("binding %v, want %v", w.Binding, test.want)
			}
			b.opens("tikv", w, plaintext)
			for _, path := range []string{"transit/encrypt/", "transit/decrypt/"} {
				for _, r := range b.vault.received(path) {
					delete(r.body, "plaintext")
					delete(r.body, "ciphertext")
					if len(r.body) != len(test.fields) {
						t.Errorf("%s: %v", path, r.body)
					}
					for name, want := range test.fields {
						if r.body[name] != want {
							t.Errorf("%s: %s is %v, want %s", path, name, r.body[name], want)
						}
					}
				}
			}
		})
	}
}

// A binding that the key does not have is refused, and nothing is sent to be
// ignored: an old Vault drops associated data, every Vault a needless context.
func TestBindingOfTheEnvelope(t *testing.T) {
	for _, test := range []struct {
		name, version string
		derived       bool
		refused       []backends.Binding
	}{
		{"associated data", "1.21.0", false, []backends.Binding{0, backends.BindingDerived, 4}},
		{"derived", "1.21.0", true, []backends.Binding{0, backends.BindingAAD, backends.BindingHash, 4}},
		{"hash", "1.10.0", false, []backends.Binding{0, backends.BindingAAD, backends.BindingDerived, 4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(v *fakeVault, _ *vault.Config) {
				v.version, v.keys["tikv"].derived = test.version, test.derived
			})
			w, _ := b.wrap("tikv")
			for _, binding := range test.refused {
				req := request("tikv", w)
				req.Binding = binding
				_, err := b.kms.Unwrap(t.Context(), req)
				b.fails(binding.String(), err, backends.InvalidCiphertext)
			}
			if n := b.vault.count("transit/decrypt/"); n > 0 {
				t.Errorf("%d were sent", n)
			}
		})
	}
}

// What was wrapped by an old Vault opens when it has been upgraded.
func TestHashAfterUpgrade(t *testing.T) {
	b := newBench(t, func(v *fakeVault, _ *vault.Config) { v.version = "1.12.3" })
	w, plaintext := b.wrap("tikv")
	b.vault.set(func() { b.vault.version = "1.21.0" })
	b.open()
	b.opens("tikv", w, plaintext)
	if w, _ := b.wrap("tikv"); w.Binding != backends.BindingAAD {
		t.Errorf("it goes on with %v", w.Binding)
	}
}

// Keys that cannot serve are refused for a reason, and nothing is encrypted or
// decrypted with them.
func TestUnsuitableKeys(t *testing.T) {
	for _, test := range []struct {
		key fakeKey
		why string
	}{
		{fakeKey{kind: "aes256-gcm96", derived: true, convergent: true}, "convergent"},
		{fakeKey{kind: "rsa-2048"}, "public key"},
		{fakeKey{kind: "rsa-4096"}, "public key"},
		{fakeKey{kind: "ecdsa-p256"}, "not a symmetric"},
		{fakeKey{kind: "ed25519", derived: true}, "not a symmetric"},
		{fakeKey{kind: "hmac"}, "not a symmetric"},
		{fakeKey{kind: "aes256-cmac"}, "not a symmetric"},
		{fakeKey{kind: "aes256-cbc"}, "authenticate"},
		{fakeKey{kind: "aes256-cbc", derived: true}, "authenticate"},
		{fakeKey{kind: "managed_key"}, "does not tell"},
		{fakeKey{kind: "of-the-future"}, "not a symmetric"},
	} {
		t.Run(test.key.kind, func(t *testing.T) {
			b := newBench(t, nil)
			w, _ := b.wrap("tikv")
			b.open() // which knows nothing of the key
			encrypted := b.vault.count("transit/encrypt/")
			b.vault.set(func() {
				test.key.versions, test.key.minDecryption = b.vault.keys["tikv"].versions, 1
				b.vault.keys["tikv"] = &test.key
			})
			_, _, wrapErr := b.wrapErr("tikv")
			_, unwrapErr := b.unwrap(t.Context(), "tikv", w)
			for what, err := range map[string]error{"Wrap": wrapErr, "Unwrap": unwrapErr, "Check": b.kms.Check(t.Context(), "tikv")} {
				b.fails(what, err, backends.InvalidArgument)
				if err != nil && !strings.Contains(err.Error(), test.why) {
					t.Errorf("%s does not say why: %v", what, err)
				}
			}
			if b.vault.count("transit/encrypt/") > encrypted || b.vault.count("transit/decrypt/") > 0 {
				t.Error("it was used")
			}
		})
	}
}

// A description of a key that is none is not believed.
func TestKeyDescriptions(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":     "",
		"a page":      "<html>",
		"no data":     `{"data":null}`,
		"another key": `{"data":{"name":"other","type":"aes256-gcm96","latest_version":1}}`,
		"no type":     `{"data":{"name":"tikv","latest_version":1}}`,
		"no version":  `{"data":{"name":"tikv","type":"aes256-gcm96"}}`,
		"impossible":  `{"data":{"name":"tikv","type":"aes256-gcm96","latest_version":1,"min_decryption_version":2}}`,
		"endless":     `{"data":{"name":"tikv","type":"` + strings.Repeat("x", 2<<20),
	} {
		b := newBench(t, nil)
		b.vault.answerWith("transit/keys/", answerText(200, "application/json", body))
		_, _, err := b.wrapErr("tikv")
		b.fails(name, err, backends.Internal)
		if b.vault.count("transit/encrypt/") > 0 {
			t.Errorf("%s: it was used", name)
		}
	}
}

// A key that is not there is not made, though the token may make it.
func TestMissingKeyIsNotMade(t *testing.T) {
	b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
		cfg.Auth = appRoleAuth(t, v, fakeRole{policies: []string{"tikv"}})
	})
	_, _, err := b.wrapErr("gone")
	b.fails("Wrap", err, backends.NotFound)
	b.fails("Check", b.kms.Check(t.Context(), "gone"), backends.NotFound)
	if b.vault.count("transit/encrypt/") > 0 || b.vault.keys["gone"] != nil {
		t.Error("it was made")
	}
	if err == nil || !strings.Contains(err.Error(), "vault write -f transit/keys/gone") {
		t.Errorf("it does not say how to make it: %v", err)
	}
}

// A key that is deleted while it is in use is noticed within seconds by wraps,
// and at once by unwraps.
func TestDeletedKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, nil)
		w, _ := b.wrap("tikv")
		b.opens("tikv", w, mustOpen(b, w))
		time.Sleep(10 * time.Second)
		b.vault.set(func() { delete(b.vault.keys, "tikv") })
		_, _, err := b.wrapErr("tikv")
		b.fails("Wrap", err, backends.NotFound)
		_, err = b.unwrap(t.Context(), "tikv", w)
		b.fails("Unwrap", err, backends.NotFound)
		if b.vault.count("transit/encrypt/tikv") > 1 {
			t.Error("it was made anew")
		}
	})
}

func mustOpen(b *bench, w backends.Wrapped) []byte {
	b.Helper()
	got, err := b.unwrap(b.Context(), "tikv", w)
	if err != nil {
		b.Fatal(err)
	}
	return got
}

// The key is read again as it gets old, and after a refusal; not for each call.
func TestKeyReads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, nil)
		reads := func(what string, want int) {
			t.Helper()
			if n := b.vault.count("transit/keys/"); n != want {
				t.Errorf("%s: %d reads, want %d", what, n, want)
			}
		}
		w, _ := b.wrap("tikv")
		b.wrap("tikv")
		reads("two wraps at once", 1)
		time.Sleep(10 * time.Second)
		b.wrap("tikv")
		reads("a later wrap", 2)
		time.Sleep(5*time.Minute - time.Second)
		mustOpen(b, w)
		reads("an unwrap minutes later", 2)
		time.Sleep(time.Second)
		mustOpen(b, w)
		mustOpen(b, w)
		reads("an unwrap later still", 3)

		b.vault.answerWith("transit/decrypt/", answerJSON(http.StatusBadRequest, "encryption key not found"))
		_, err := b.unwrap(t.Context(), "tikv", w)
		b.fails("refused", err, backends.NotFound)
		b.vault.answerWith("", nil)
		mustOpen(b, w)
		reads("after a refusal", 4)

		// An envelope that somebody made up does not cost a read each.
		forged := w
		forged.Ciphertext = []byte("vault:v1:" + base64.StdEncoding.EncodeToString(randomBytes(60)))
		_, err = b.unwrap(t.Context(), "tikv", forged)
		b.fails("forged", err, backends.InvalidCiphertext)
		mustOpen(b, w)
		reads("after a forged one", 4)
	})
}

// A key that was made anew under its name, and binds in another way, is not used
// as the old one.
func TestKeyOfAnotherKind(t *testing.T) {
	b := newBench(t, nil)
	w, _ := b.wrap("tikv")
	b.vault.set(func() {
		b.vault.keys["tikv"] = &fakeKey{kind: "aes256-gcm96", derived: true, versions: [][]byte{randomBytes(32)}, minDecryption: 1}
	})
	_, _, err := b.wrapErr("tikv")
	b.fails("Wrap", err, backends.InvalidArgument)
	w2, plaintext := b.wrap("tikv")
	if w2.Binding != backends.BindingDerived {
		t.Errorf("binding %v", w2.Binding)
	}
	b.opens("tikv", w2, plaintext)
	_, err = b.unwrap(t.Context(), "tikv", w)
	b.fails("what the old one made", err, backends.InvalidCiphertext)
}

func TestWrapSizes(t *testing.T) {
	b := newBench(t, nil)
	for _, n := range []int{0, 65} {
		_, err := b.kms.Wrap(t.Context(), backends.WrapRequest{Key: "tikv", Plaintext: make([]byte, n), AssociatedData: someAD})
		b.fails("Wrap", err, backends.InvalidArgument)
	}
	if n := b.vault.count(""); n > 0 {
		t.Errorf("%d requests", n)
	}
}

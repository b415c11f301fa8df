package vault_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// A check of a key that was checked before is one decrypt, whatever time passes.
func TestCheckIsOneRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, tikvRole()))
		check := func() {
			t.Helper()
			if err := b.kms.Check(t.Context(), "tikv"); err != nil {
				t.Error(err)
			}
		}
		check()
		before, decrypts := b.vault.count(""), b.vault.count("transit/decrypt/tikv")
		for range 4 {
			time.Sleep(time.Minute)
			check()
		}
		if n, m := b.vault.count("")-before, b.vault.count("transit/decrypt/tikv")-decrypts; n != 4 || m != 4 {
			t.Errorf("4 checks are %d requests, %d of them decrypts", n, m)
		}
	})
}

// Permission to wrap proves nothing: what counts is decrypt.
func TestCheckOfPermissions(t *testing.T) {
	for _, test := range []struct {
		name, keys, encrypt, decrypt string
		want                         backends.Class
		ok                           bool
	}{
		{"all", "read", "update", "update", 0, true},
		{"only to unwrap", "read", "", "update", 0, true},
		{"only to wrap", "read", "update", "", backends.Denied, false},
		{"only to read", "read", "", "", backends.Denied, false},
		{"not to read", "", "update", "update", backends.Denied, false},
		{"nothing", "", "", "", backends.Denied, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
				cfg.Auth = appRoleAuth(t, v, tikvRole())
				v.policies["tikv"] = map[string]string{
					"transit/keys/tikv": test.keys, "transit/encrypt/tikv": test.encrypt, "transit/decrypt/tikv": test.decrypt,
				}
			})
			for range 2 {
				err := b.kms.Check(t.Context(), "tikv")
				if test.ok {
					if err != nil {
						t.Error(err)
					}
					continue
				}
				b.fails("Check", err, test.want)
			}
		})
	}
}

// A check follows what happens to the key.
func TestCheckFollowsTheKey(t *testing.T) {
	for _, derived := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			b := newQuietBench(t, withAppRole(t, fakeRole{policies: []string{"root"}}))
			key := b.vault.keys["tikv"]
			key.derived = derived
			works := func(what string) {
				t.Helper()
				if err := b.kms.Check(t.Context(), "tikv"); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			fails := func(what string, class backends.Class) {
				t.Helper()
				b.fails(what, b.kms.Check(t.Context(), "tikv"), class)
				time.Sleep(time.Minute)
			}
			works("a good key")
			// The newest version can always be used; that an older one cannot is no
			// fault of the key.
			b.vault.set(func() {
				key.versions = append(key.versions, randomBytes(32))
				key.minDecryption = 2
			})
			works("rotated, and the first version given up")
			works("and again")

			b.vault.answerWith("transit/decrypt/", answerJSON(400, "refusing to use soft-deleted key"))
			fails("soft-deleted", backends.Disabled)
			b.vault.answerWith("", nil)
			works("restored")

			b.vault.set(func() { delete(b.vault.keys, "tikv") })
			fails("deleted", backends.NotFound)
			fails("still deleted", backends.NotFound)
			if b.vault.keys["tikv"] != nil {
				t.Fatal("the check has made the key")
			}
			b.vault.set(func() { b.vault.keys["tikv"] = key })
			works("there again")

			b.vault.set(func() {
				b.vault.keys["tikv"] = &fakeKey{kind: "aes256-gcm96", derived: derived, versions: [][]byte{randomBytes(32), randomBytes(32)}, minDecryption: 1}
			})
			fails("another key under this name", backends.InvalidCiphertext)
			works("which serves from then on")

			b.vault.set(func() { b.vault.sealed = true })
			fails("sealed", backends.Unavailable)
			b.vault.set(func() { b.vault.sealed = false })
			works("unsealed")

			b.vault.answerWith("transit/decrypt/", answerText(200, "application/json", `{"data":{"plaintext":"AAAA"}}`))
			fails("another plaintext", backends.Internal)
			b.vault.answerWith("", nil)
			works("the right one")
		})
	}
}

// A key that was made anew in another way fails one check only.
func TestCheckOfAKeyOfAnotherKind(t *testing.T) {
	b := newBench(t, nil)
	if err := b.kms.Check(t.Context(), "tikv"); err != nil {
		t.Fatal(err)
	}
	b.vault.set(func() { b.vault.keys["tikv"] = b.vault.keys["derived"] })
	b.fails("Check", b.kms.Check(t.Context(), "tikv"), backends.InvalidArgument)
	if err := b.kms.Check(t.Context(), "tikv"); err != nil {
		t.Error(err)
	}
}

// Without the right to encrypt, what Vault "opens" nobody has sealed.
func TestCheckOfAnOpener(t *testing.T) {
	b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
		cfg.Auth = appRoleAuth(t, v, tikvRole())
		delete(v.policies["tikv"], "transit/encrypt/tikv")
	})
	b.vault.answerWith("transit/decrypt/", answerText(200, "application/json", `{"data":{"plaintext":"AAAA"}}`))
	b.fails("Check", b.kms.Check(t.Context(), "tikv"), backends.Internal)
}

// A probe cannot be taken for what was wrapped.
func TestProbeIsNoWrap(t *testing.T) {
	b := newBench(t, nil)
	if err := b.kms.Check(t.Context(), "tikv"); err != nil {
		t.Fatal(err)
	}
	w, _ := b.wrap("tikv")
	probe := w
	probe.Ciphertext = []byte(text(b.vault.received("transit/decrypt/tikv")[0].body, "ciphertext"))
	_, err := b.unwrap(t.Context(), "tikv", probe)
	b.fails("Unwrap", err, backends.InvalidCiphertext)
}

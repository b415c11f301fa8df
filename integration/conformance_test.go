package integration_test

import (
	"strconv"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/vault"
)

// TestVaultConformance runs the suite of all backends against a real Vault, with
// each way to bind and each way to log in that this server has.
func TestVaultConformance(t *testing.T) {
	for name, test := range map[string]struct {
		options map[string]any
		binding backends.Binding
		auth    func(*vaultServer) vault.Auth
	}{
		"associated data, AppRole": {map[string]any{"type": "aes256-gcm96"}, backends.BindingAAD, func(v *vaultServer) vault.Auth {
			roleID, secretID := v.appRole()
			return vault.Auth{Method: vault.MethodAppRole, RoleIDFile: roleID, SecretIDFile: secretID}
		}},
		"derived, token": {map[string]any{"type": "chacha20-poly1305", "derived": true}, backends.BindingDerived, func(v *vaultServer) vault.Auth {
			path, _ := v.token("token", "1h")
			return vault.Auth{Method: vault.MethodToken, TokenFile: path}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			v := startVault(t)
			n := 0
			backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
				n++ // keys of its own for each part of the suite
				key, other := "key"+strconv.Itoa(n), "other"+strconv.Itoa(n)
				v.newKey(key, test.options)
				v.newKey(other, test.options)
				k, err := vault.New(vault.Config{Address: v.Address, Auth: test.auth(v)})
				if err != nil {
					t.Fatal(err)
				}
				return backendtest.Fixture{
					KMS: k, Provider: vault.Provider, Key: key, Other: other, Missing: "missing", MaxFlips: 200,
					Rotate: func(*testing.T) { v.rotate(key) },
					Disable: func(t *testing.T, w backends.Wrapped) {
						if w.Binding != test.binding {
							t.Errorf("binding %s, want %s", w.Binding, test.binding)
						}
						version, err := strconv.Atoi(w.Version)
						if err != nil {
							t.Fatal(err)
						}
						v.rotate(key)
						v.minDecryption(key, version+1)
					},
					Enable: func(*testing.T, backends.Wrapped) { v.minDecryption(key, 1) },
					Down:   func(*testing.T) { v.seal() },
					Up:     func(*testing.T) { v.unseal() },
				}
			})
		})
	}
}

// TestVaultWrappedSecretID: the secret ID comes wrapped in a token that works once.
func TestVaultWrappedSecretID(t *testing.T) {
	v := startVault(t)
	v.newKey("tikv", nil)
	roleID, _ := v.appRole()
	v.root.SetWrappingLookupFunc(func(_, path string) string {
		if path == "auth/approle/role/keybroker/secret-id" {
			return "5m"
		}
		return ""
	})
	s, err := v.root.Logical().Write("auth/approle/role/keybroker/secret-id", nil)
	v.must(err)
	k, err := vault.New(vault.Config{Address: v.Address, Auth: vault.Auth{
		Method: vault.MethodAppRole, RoleIDFile: roleID, SecretIDFile: v.file("wrapped", s.WrapInfo.Token), SecretIDWrapped: true,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for range 2 { // the second login has the secret ID already
		if _, err := k.Wrap(t.Context(), backends.WrapRequest{Key: "tikv", Plaintext: make([]byte, 32)}); err != nil {
			t.Fatal(err)
		}
		v.revokeBrokerTokens()
	}
}

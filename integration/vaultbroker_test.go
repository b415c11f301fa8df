package integration_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// newVaultBroker starts a broker whose key "tikv" is the Transit key of that name.
func newVaultBroker(t *testing.T, v *vaultServer, options map[string]any) *broker {
	t.Helper()
	v.newKey("tikv", options)
	b := newBroker(t, v.backend("vault-main"), "  tikv: {recipients: [{backend: vault-main, key: tikv}], cache: {ttl: 1h, max_stale: 3h}}")
	b.start()
	return b
}

const (
	fromCache   = keybrokerv1.Source_SOURCE_CACHE
	fromBackend = keybrokerv1.Source_SOURCE_BACKEND
)

// TestVaultEveryKeyType goes the main way with each kind of Transit key that can
// serve, by the command line and by a gRPC client.
func TestVaultEveryKeyType(t *testing.T) {
	v := startVault(t)
	for name, options := range map[string]map[string]any{
		"aes128-gcm96":      {"type": "aes128-gcm96"},
		"aes256-gcm96":      {"type": "aes256-gcm96"},
		"chacha20-poly1305": {"type": "chacha20-poly1305"},
		"derived":           {"type": "aes256-gcm96", "derived": true},
	} {
		t.Run(name, func(t *testing.T) {
			key := strings.ReplaceAll(name, "-", "_")
			v.newKey(key, options)
			b := newBroker(t, v.backend("vault-main"), fmt.Sprintf("  main: {recipients: [{backend: vault-main, key: %s}], context: {cluster: prod-1}}", key))
			b.start()
			k := b.generate("main")
			b.purge()
			b.mustUnwrap(k, fromBackend)
			b.mustUnwrap(k, fromCache)

			out, err := b.cli(k.wrapped, "unwrap", "--raw", "--context", "test="+t.Name())
			if err != nil || !bytes.Equal([]byte(out), k.plaintext) {
				t.Errorf("the command line opens it to something else: %v", err)
			}
			if out := b.mustCLI("keys"); !strings.Contains(out, "ready") || !strings.Contains(out, "vault-transit") {
				t.Errorf("keys: %s", out)
			}
		})
	}
}

func TestVaultKeyTypesThatCannotServe(t *testing.T) {
	v := startVault(t)
	for name, options := range map[string]map[string]any{
		"rsa-2048":   {"type": "rsa-2048"},
		"convergent": {"type": "aes256-gcm96", "derived": true, "convergent_encryption": true},
		"ed25519":    {"type": "ed25519"},
	} {
		t.Run(name, func(t *testing.T) {
			v.newKey(name, options)
			b := newBroker(t, v.backend("vault-main"), fmt.Sprintf("  main: {recipients: [{backend: vault-main, key: %s}]}", name))
			b.start()
			_, err := b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "main"})
			wantReason(t, err, "KEK_DISABLED", false)
		})
	}
}

// TestVaultMissingKeyIsNotMade: encrypting with a key that is not there would make
// it, if the policy let it.
func TestVaultMissingKeyIsNotMade(t *testing.T) {
	v := startVault(t)
	v.must(v.root.Sys().PutPolicy("keybroker", `path "transit/*" { capabilities = ["create", "read", "update"] }`))
	b := newBroker(t, v.backend("vault-main"), "  main: {recipients: [{backend: vault-main, key: nowhere}]}")
	b.start()
	_, err := b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "main"})
	wantReason(t, err, "KEK_DISABLED", false)
	if s, err := v.root.Logical().Read("transit/keys/nowhere"); err != nil || s != nil {
		t.Errorf("the key was made: %v, %v", s, err)
	}
}

func TestVaultKeyRotated(t *testing.T) {
	v := startVault(t)
	b := newVaultBroker(t, v, nil)
	old := b.generate("tikv")
	v.rotate("tikv")
	b.purge()
	b.mustUnwrap(old, fromBackend)
	fresh := b.generate("tikv")
	for wrapped, want := range map[string]string{string(old.wrapped): "1", string(fresh.wrapped): "2"} {
		r, err := b.keys().InspectKey(t.Context(), &keybrokerv1.InspectKeyRequest{WrappedKey: []byte(wrapped)})
		if err != nil || r.GetRecipients()[0].GetKeyVersion() != want {
			t.Errorf("version %v, want %s: %v", r.GetRecipients(), want, err)
		}
	}
}

// TestVaultTokenRevoked: the broker logs in again without a failed call.
func TestVaultTokenRevoked(t *testing.T) {
	v := startVault(t)
	b := newVaultBroker(t, v, nil)
	k := b.generate("tikv")
	for range 3 {
		v.revokeBrokerTokens()
		b.purge()
		b.mustUnwrap(k, fromBackend)
	}
	v.revokeBrokerTokens()
	b.purge()
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := b.unwrap(k); err != nil {
				t.Errorf("a call failed while the broker logged in again: %v", err)
			}
		})
	}
	wg.Wait()
}

// TestVaultTokenFile: a token that somebody else renews and replaces.
func TestVaultTokenFile(t *testing.T) {
	v := startVault(t)
	v.newKey("tikv", nil)
	path, first := v.token("token", "1h")
	b := newBroker(t, fmt.Sprintf("  vault-main: {type: vault, address: %q, timeout: 2s, auth: {method: token, token_file: %s}}", v.Address, path),
		"  tikv: {recipients: [{backend: vault-main, key: tikv}]}")
	b.start()
	k := b.generate("tikv")
	_, second := v.token("token", "1h")
	v.must(v.root.Auth().Token().RevokeTree(first))
	b.purge()
	b.mustUnwrap(k, fromBackend)

	v.must(v.root.Auth().Token().RevokeTree(second))
	if _, err := b.admin().PurgeCache(t.Context(), &keybrokerv1.PurgeCacheRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	_, err := b.unwrap(k)
	wantReason(t, err, "BACKEND_UNAVAILABLE", true)
	if s := b.mustCLI("status"); !strings.Contains(s, "unauthenticated") {
		t.Errorf("status does not say that Vault refuses the broker's token:\n%s", s)
	}
	for _, token := range []string{first, second} {
		if strings.Contains(b.stderr.String(), token) {
			t.Error("the log holds a token")
		}
	}
	v.token("token", "1h")
	b.mustUnwrap(k, fromBackend)
}

// TestVaultSealed: what is cached is served, the rest is refused with the right
// reason, and works again when Vault does.
func TestVaultSealed(t *testing.T) {
	v := startVault(t)
	v.newKey("other", nil)
	v.newKey("tikv", nil)
	b := newBroker(t, v.backend("vault-main"), `  tikv: {recipients: [{backend: vault-main, key: tikv}]}
  other: {recipients: [{backend: vault-main, key: other}]}`)
	b.start()
	cached := b.generate("tikv")
	uncached := b.generate("other")
	b.mustCLI("purge", "other")
	for name, outage := range map[string]struct{ begin, end func() }{
		"sealed": {v.seal, v.unseal},
		"killed": {v.stop, v.start},
	} {
		t.Run(name, func(t *testing.T) {
			outage.begin()
			b.mustUnwrap(cached, fromCache)
			_, err := b.unwrap(uncached)
			wantReason(t, err, "BACKEND_UNAVAILABLE", true)
			_, err = b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "other"})
			wantReason(t, err, "BACKEND_UNAVAILABLE", true)
			out, err := b.cli(uncached.wrapped, "unwrap", "--raw", "--context", "test="+b.t.Name())
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 4 {
				t.Errorf("the command line: %q, %v; want exit code 4", out, err)
			}
			outage.end()
			b.mustUnwrap(uncached, fromBackend)
			b.generate("other")
			b.mustCLI("purge", "other")
		})
	}
}

// TestVaultDownAtStart: the broker starts, says so, and serves when Vault does.
func TestVaultDownAtStart(t *testing.T) {
	v := startVault(t)
	v.newKey("tikv", nil)
	backends := v.backend("vault-main")
	v.stop()
	b := newBroker(t, backends, "  tikv: {recipients: [{backend: vault-main, key: tikv}]}")
	b.start()
	_, err := b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
	wantReason(t, err, "BACKEND_UNAVAILABLE", true)
	v.start()
	k := b.generate("tikv")
	b.mustUnwrap(k, fromCache)
}

func TestVaultMinDecryptionVersionRaised(t *testing.T) {
	v := startVault(t)
	b := newVaultBroker(t, v, nil)
	k := b.generate("tikv")
	v.rotate("tikv")
	v.minDecryption("tikv", 2)
	b.purge()
	_, err := b.unwrap(k)
	wantReason(t, err, "KEK_DISABLED", false)
	b.mustUnwrap(b.generate("tikv"), fromCache)
	v.minDecryption("tikv", 1)
	waitFor(t, "the refusal is not remembered any more", func() bool { // cache.negative_ttl
		_, err := b.unwrap(k)
		return err == nil
	})
	b.mustUnwrap(k, fromCache)
}

func TestVaultPolicyTakenAway(t *testing.T) {
	v := startVault(t)
	b := newVaultBroker(t, v, nil)
	k := b.generate("tikv")
	v.must(v.root.Sys().PutPolicy("keybroker", `
path "transit/encrypt/*" { capabilities = ["update"] }
path "transit/keys/*"    { capabilities = ["read"] }`))
	if _, err := b.admin().PurgeCache(t.Context(), &keybrokerv1.PurgeCacheRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	_, err := b.unwrap(k)
	wantReason(t, err, "KEK_DENIED", false)
	// A role that may encrypt but not decrypt must not make keys.
	_, err = b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
	wantReason(t, err, "KEK_DENIED", false)
	v.must(v.root.Sys().PutPolicy("keybroker", brokerPolicy))
	b.purge() // it forgets the refusal, too
	b.mustUnwrap(k, fromBackend)
}

// TestVaultLogsHoldNoSecret searches the broker's log and audit log for every
// secret of a run with failures.
func TestVaultLogsHoldNoSecret(t *testing.T) {
	v := startVault(t)
	b := newVaultBroker(t, v, nil)
	var all []dataKey
	for range 20 {
		all = append(all, b.generate("tikv"))
	}
	b.purge()
	for _, k := range all {
		b.mustUnwrap(k, fromAny)
		bad := dataKey{k.plaintext, bytes.Clone(k.wrapped)}
		bad.wrapped[len(bad.wrapped)-1] ^= 1
		if _, err := b.unwrap(bad); err == nil {
			t.Fatal("a changed envelope opens")
		}
		out, err := b.cli(k.plaintext, "wrap", "tikv", "--raw")
		if err != nil || len(out) == 0 {
			t.Fatal(err)
		}
	}
	v.seal()
	_, _ = b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
	b.stop()
	audit, err := os.ReadFile(b.audit)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"the log": []byte(b.stderr.String()), "the audit log": audit} {
		for _, k := range all {
			if contains(text, k.plaintext) {
				t.Fatalf("%s holds a data key", name)
			}
		}
		for _, secret := range []string{strings.TrimSpace(v.content("secret-id")), "hvs."} {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s holds a credential", name)
			}
		}
	}
}

// content is the content of a file of appRole or token.
func (v *vaultServer) content(name string) string {
	v.t.Helper()
	text, err := os.ReadFile(v.dir + "/" + name)
	v.must(err)
	return string(text)
}

// TestVaultRenewal: a token that lives for seconds is renewed or replaced before
// it ends, and no call fails.
func TestVaultRenewal(t *testing.T) {
	v := startVault(t)
	v.write("auth/approle/role/keybroker", map[string]any{"token_policies": "keybroker", "token_ttl": "2s", "token_max_ttl": "6s"})
	b := newVaultBroker(t, v, nil)
	k := b.generate("tikv")
	for end := time.Now().Add(9 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		b.purge()
		b.mustUnwrap(k, fromBackend)
	}
	if strings.Contains(b.stderr.String(), "unauthenticated") {
		t.Errorf("a call was refused before the token was replaced:\n%s", b.stderr)
	}
}

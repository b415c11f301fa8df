package integration_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/envelope"
)

// anchorPolicy is all that the anchor needs (docs/audit.md).
const anchorPolicy = `
path "transit/encrypt/audit" { capabilities = ["update"] }
path "transit/keys/audit"    { capabilities = ["read"] }
`

// anchorBackend is the configuration of a Vault by a token that may encrypt with the
// key audit, and nothing else.
func (v *vaultServer) anchorBackend(name string) string {
	v.t.Helper()
	v.must(v.root.Sys().PutPolicy("keybroker-anchor", anchorPolicy))
	s, err := v.root.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"keybroker-anchor"}, TTL: "1h", NoParent: true})
	v.must(err)
	return fmt.Sprintf("  %s: {type: vault, address: %q, timeout: 2s, auth: {method: token, token_file: %s}}", name, v.Address, v.file("anchor-token", s.Auth.ClientToken))
}

// auditDevice has Vault keep an audit trail, and tell the associated data of Transit's
// calls in it, if clear.
func (v *vaultServer) auditDevice(clear bool) (path string) {
	v.t.Helper()
	path = filepath.Join(v.dir, "vault-audit.log")
	v.must(v.root.Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": path}}))
	if clear {
		v.must(v.root.Sys().TuneMountAllowNil("transit", api.TuneMountConfigInput{AuditNonHMACRequestKeys: &[]string{"associated_data"}}))
	}
	return path
}

// waitForAnchor waits until a record says that a head is kept.
func (b *broker) waitForAnchor() {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		text, err := os.ReadFile(b.audit)
		if err != nil {
			b.t.Fatal(err)
		}
		if bytes.Contains(text, []byte(`"event":"anchor","outcome":"ok"`)) {
			return
		}
	}
	b.t.Fatalf("no head is anchored:\n%s", b.stderr)
}

// TestVaultAuditDeviceKeepsTheHead: what Vault's audit device has written shows that the
// log is the one that was written then, and that one that was written anew is not, though
// it is whole and signed by the broker's own key.
func TestVaultAuditDeviceKeepsTheHead(t *testing.T) {
	v := startVault(t)
	trail := v.auditDevice(true)
	v.newKey("audit", map[string]any{"type": "aes256-gcm96"})
	v.newKey("tikv", nil)
	b := newBroker(t, "", "")
	b.auditOptions = ", checkpoint_interval: 1s, anchor: {interval: 1s, kms: {backend: vault-anchor, key: audit}}"
	b.configure(v.backend("vault-main")+"\n"+v.anchorBackend("vault-anchor"), "  tikv: {recipients: [{backend: vault-main, key: tikv}]}")
	b.start()
	for range 20 {
		b.generate("tikv")
	}
	b.waitForAnchor()
	b.stop()
	v.refusedHead(b.audit)

	out, err := b.cli(nil, "audit", "verify", "--anchor", trail, b.audit)
	if err != nil || !strings.Contains(out, "anchored: ") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
	// Nobody opens what was wrapped.
	if text, err := os.ReadFile(trail); err != nil || bytes.Contains(text, []byte(`"path":"transit/decrypt/audit"`)) {
		t.Errorf("what was wrapped for the anchor was opened: %v", err)
	}

	forge(t, b.audit, 60)
	if out, err := b.cli(nil, "audit", "verify", b.audit); err != nil {
		t.Fatalf("the log that was written anew is not whole, and should be for this test: %v\n%s", err, out)
	}
	out, err = b.cli(nil, "audit", "verify", "--anchor", trail, b.audit)
	if err == nil || !strings.Contains(out, "anchored in "+trail) {
		t.Errorf("a log that was written anew passes: %v\n%s", err, out)
	}
}

// refusedHead asks Vault, without the right to, for a wrap bound to a head that the log
// has not: the audit device records that, too.
func (v *vaultServer) refusedHead(log string) {
	v.t.Helper()
	text, err := os.ReadFile(log)
	v.must(err)
	var first struct{ Log string }
	v.must(json.Unmarshal(text[:bytes.IndexByte(text, '\n')], &first))
	pairs, err := envelope.NewPairs(map[string]string{
		"keybroker:audit-log": first.Log, "keybroker:audit-seq": "2", "keybroker:audit-head": strings.Repeat("0", 64), "keybroker:audit-node": "test",
	})
	v.must(err)
	s, err := v.root.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"default"}, TTL: "1m", NoParent: true})
	v.must(err)
	stranger, err := v.root.Clone()
	v.must(err)
	stranger.SetToken(s.Auth.ClientToken)
	if _, err = stranger.Logical().Write("transit/encrypt/audit", map[string]any{
		"plaintext": "AAAA", "associated_data": base64.StdEncoding.EncodeToString(pairs.Canonical()),
	}); err == nil {
		v.t.Fatal("a stranger may encrypt")
	}
	if text, err := os.ReadFile(filepath.Join(v.dir, "vault-audit.log")); err != nil || !bytes.Contains(text, []byte(base64.StdEncoding.EncodeToString(pairs.Canonical()))) {
		v.t.Errorf("the audit device does not have what was refused: %v", err)
	}
}

// forge writes a log of the same id anew, as somebody can who has the host and with it
// the key that signs.
func forge(t *testing.T, path string, records int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var first struct{ Log, Node string }
	if err := json.Unmarshal(text[:bytes.IndexByte(text, '\n')], &first); err != nil {
		t.Fatal(err)
	}
	id, err := hex.DecodeString(first.Log)
	if err != nil {
		t.Fatal(err)
	}
	hidden := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	for _, old := range []string{path, hidden + ".checkpoint"} {
		if err := os.Remove(old); err != nil {
			t.Fatal(err)
		}
	}
	l, err := audit.Open(audit.Config{
		Path: path, Node: first.Node, Sync: audit.SyncAlways, Now: time.Now, Random: bytes.NewReader(id),
		Logger: slog.New(slog.DiscardHandler), SigningKey: hidden + ".key",
	})
	if err != nil {
		t.Fatal(err)
	}
	for range records {
		if _, err := l.Append(t.Context(), audit.Record{Event: audit.EventList, Outcome: audit.OutcomeOK}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestVaultAuditDeviceHidesTheHead: as Vault comes, it tells only an HMAC of what a call
// was bound to, and verify says what is to be done.
func TestVaultAuditDeviceHidesTheHead(t *testing.T) {
	v := startVault(t)
	trail := v.auditDevice(false)
	v.newKey("audit", nil)
	b := newBroker(t, "", "")
	b.auditOptions = ", checkpoint_interval: 1s, anchor: {interval: 1s, kms: {backend: vault-anchor, key: audit}}"
	b.configure(v.anchorBackend("vault-anchor"), "  tikv: {recipients: [{backend: vault-anchor, key: tikv}]}")
	b.start()
	b.waitForAnchor()
	b.stop()
	out, err := b.cli(nil, "audit", "verify", "--anchor", trail, b.audit)
	if err == nil || !strings.Contains(out, "-audit-non-hmac-request-keys=associated_data") {
		t.Errorf("%v\n%s", err, out)
	}
}

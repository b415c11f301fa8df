package integration_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"

	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

const (
	usable  = keybrokerv1.RecipientState_RECIPIENT_STATE_USABLE
	refused = keybrokerv1.RecipientState_RECIPIENT_STATE_REFUSED
)

// newWatched starts a broker that checks its recipients each second, and returns
// the address of its metrics. The first recipient is waited for, so that it is who
// opens a key.
func newWatched(t *testing.T, rs ...*remote) (b *broker, admin string) {
	t.Helper()
	b = newRemoteBroker(t, "  tikv: {recipients: "+listOf(rs...)+", check_interval: 1s, hedge_after: 1m}", rs...)
	admin = freePort(t)
	b.listenAdmin(admin)
	b.start()
	return b, admin
}

// metric returns the line of a metric with these labels, in this order; empty if
// there is none.
func metric(t *testing.T, admin, name string, labels ...string) string {
	t.Helper()
	r, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+"{"+strings.Join(labels, ",")+"} "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func kekUsable(t *testing.T, admin string, r *remote) string {
	t.Helper()
	return metric(t, admin, "keybroker_kek_usable", fmt.Sprintf("backend=%q", r.backend), fmt.Sprintf("kek=%q", r.key), `key="tikv"`)
}

// refusals are the records of r's master key being refused, by reason.
func (b *broker) refusals(r *remote) (reasons []string) {
	b.t.Helper()
	for line := range strings.Lines(b.mustCLI("audit", "tail", "-n", "1000", "-o", "json")) {
		var rec struct{ Event, Outcome, Reason, Key, Backend, KEK string }
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			b.t.Fatalf("%v: %s", err, line)
		}
		if rec.Event == "backend" && rec.Outcome == "error" && rec.Key == "tikv" && rec.Backend == r.backend && rec.KEK == r.key {
			reasons = append(reasons, rec.Reason)
		}
	}
	return reasons
}

// TestMasterKeyDeleted: a master key that is gone is found by the check, is on the
// record, and the other recipient serves.
func TestMasterKeyDeleted(t *testing.T) {
	t.Parallel()
	v, m := startVault(t), startMoto(t)
	vault, aws := newVault(t, v, "tikv"), newAWS(t, m)
	b, admin := newWatched(t, vault, aws)
	k := b.generate("tikv")
	b.purge()
	b.mustUnwrap(k, fromBackend)
	states := func() [2]keybrokerv1.RecipientState {
		of := b.inspect(k)
		return [2]keybrokerv1.RecipientState{of["vault-transit"].GetState(), of["aws-kms"].GetState()}
	}
	waitFor(t, "both are known to be usable", func() bool {
		return states() == [2]keybrokerv1.RecipientState{usable, usable} && kekUsable(t, admin, vault) == "1" && kekUsable(t, admin, aws) == "1"
	})
	if got := b.refusals(vault); len(got) > 0 {
		t.Errorf("records of refusals before there was one: %v", got)
	}

	v.write("transit/keys/tikv/config", map[string]any{"deletion_allowed": true})
	_, err := v.root.Logical().Delete("transit/keys/tikv")
	v.must(err)
	waitFor(t, "Vault is known to refuse", func() bool { return states() == [2]keybrokerv1.RecipientState{refused, usable} })
	waitFor(t, "the metric says so", func() bool { return kekUsable(t, admin, vault) == "0" })
	if got := kekUsable(t, admin, aws); got != "1" {
		t.Errorf("keybroker_kek_usable of AWS is %q", got)
	}
	waitFor(t, "it is on the record", func() bool { return len(b.refusals(vault)) > 0 })
	if got := b.refusals(vault); len(got) != 1 || got[0] != "KEK_DISABLED" {
		t.Errorf("the reasons on the record are %v, want KEK_DISABLED once", got)
	}
	out, err := b.cli(k.wrapped, "inspect")
	if err != nil || !strings.Contains(out, "refused") || !strings.Contains(out, "usable") {
		t.Errorf("inspect: %v\n%s", err, out)
	}
	b.mustUnwrap(k, fromAny)
	b.purgeByForce("tikv")
	b.mustUnwrap(k, fromBackend)
	if s := b.mustCLI("keys"); !strings.Contains(s, "degraded") {
		t.Errorf("keys does not say that one of two is gone:\n%s", s)
	}
}

// TestMasterKeyVersionRetired: a version of a master key that is retired in the KMS
// is found by the check. What it had opened is wiped though nobody purges, and the
// other recipient opens it.
func TestMasterKeyVersionRetired(t *testing.T) {
	t.Parallel()
	for name, retire := range map[string]func(t *testing.T) (first, second *remote, retire, restore func()){
		"Vault min_decryption_version": func(t *testing.T) (*remote, *remote, func(), func()) {
			v := startVault(t)
			return newVault(t, v, "tikv"), newGoogle(t, gcptest.New(t)),
				func() { v.rotate("tikv"); v.minDecryption("tikv", 2) }, func() { v.minDecryption("tikv", 1) }
		},
		"Google disabled after a rotation": func(t *testing.T) (*remote, *remote, func(), func()) {
			s := gcptest.New(t)
			r := newGoogle(t, s)
			return r, newVault(t, startVault(t), "tikv"), func() {
				s.Rotate(r.key)
				s.SetState(r.key, 1, kmspb.CryptoKeyVersion_DISABLED)
			}, func() { s.SetState(r.key, 1, kmspb.CryptoKeyVersion_ENABLED) }
		},
		"Google disabled primary": func(t *testing.T) (*remote, *remote, func(), func()) {
			s := gcptest.New(t)
			r := newGoogle(t, s)
			return r, newVault(t, startVault(t), "tikv"),
				func() { s.SetState(r.key, 1, kmspb.CryptoKeyVersion_DISABLED) }, func() { s.SetState(r.key, 1, kmspb.CryptoKeyVersion_ENABLED) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			first, second, retire, restore := retire(t)
			b, admin := newWatched(t, first, second)
			k := b.generate("tikv")
			b.purge()
			b.mustUnwrap(k, fromBackend)
			b.mustUnwrap(k, fromCache)
			waitFor(t, "the first recipient was checked", func() bool { return kekUsable(t, admin, first) == "1" })

			retire()
			waitFor(t, "what it opened is wiped, and opened by another", func() bool {
				r, err := b.unwrap(k)
				if err != nil || string(r.GetPlaintext()) != string(k.plaintext) {
					t.Fatalf("it is not served: %v\n%s", err, b.stderr)
				}
				return r.GetSource() == fromBackend
			})
			if !strings.Contains(b.stderr.String(), "a master key is refused; what it had opened is wiped from the cache") {
				t.Errorf("the log does not say why:\n%s", b.stderr)
			}
			b.mustUnwrap(k, fromCache)

			restore()
			second.link.refuse()
			b.purgeByForce("tikv")
			b.mustUnwrap(k, fromBackend)
		})
	}
}

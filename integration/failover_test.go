package integration_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// purgeByForce purges a key as an operator does.
func (b *broker) purgeByForce(key string) {
	b.t.Helper()
	b.mustCLI("purge", "--force", key)
}

// TestKMSsGone cuts the KMSs off, one after the other and then all.
func TestKMSsGone(t *testing.T) {
	t.Parallel()
	vault, aws, google := newRemotes(t)
	all := []*remote{vault, aws, google}
	b := newRemoteBroker(t, "  tikv: {recipients: "+listOf(all...)+"}", all...)
	b.start()
	k := b.generate("tikv")
	b.purgeByForce("tikv")
	b.mustUnwrap(k, fromBackend)

	for i := range all {
		left := all[i]
		for _, r := range all {
			if r != left {
				r.link.refuse()
			}
		}
		b.purgeByForce("tikv")
		waitFor(t, left.backend+" alone serves", func() bool { // its breaker may still be open
			_, err := b.unwrap(k)
			return err == nil
		})
		b.mustUnwrap(k, fromCache)
		for _, r := range all {
			if r != left {
				r.link.accept()
			}
		}
	}

	for _, r := range all {
		r.link.refuse()
	}
	b.mustUnwrap(k, fromCache)
	if _, err := b.cli(nil, "purge", "tikv"); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a purge that ends the key's service is made without --force: %v", err)
	}
	b.mustUnwrap(k, fromCache)
	b.purgeByForce("tikv")
	_, err := b.unwrap(k)
	wantReason(t, err, "BACKEND_UNAVAILABLE", true)
	for _, r := range all {
		if !strings.Contains(err.Error(), fmt.Sprintf("backend %s, master key %s: unavailable", r.backend, r.key)) {
			t.Errorf("the error does not say what became of %s: %v", r.backend, err)
		}
	}
	_, err = b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
	wantReason(t, err, "BACKEND_UNAVAILABLE", true)

	for _, r := range all {
		r.link.accept()
	}
	waitFor(t, "the key is served again", func() bool {
		_, err := b.unwrap(k)
		if err != nil && status.Code(err).String() != "Unavailable" {
			t.Fatal(err)
		}
		return err == nil
	})
	b.mustUnwrap(k, fromAny)
	waitFor(t, "keys are made again, which takes all three", func() bool {
		_, err := b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
		return err == nil
	})
	waitFor(t, "every KMS is up", func() bool { return strings.Count(b.mustCLI("status", "-o", "json"), `"up": true`) == len(all) })
}

// servedBy is the backend that opened what the last unwrap asked for.
func (b *broker) servedBy() string {
	b.t.Helper()
	served := ""
	for line := range strings.Lines(b.mustCLI("audit", "tail", "-n", "100", "-o", "json")) {
		var rec struct{ Event, Outcome, Backend string }
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			b.t.Fatalf("%v: %s", err, line)
		}
		if rec.Event == "unwrap" && rec.Outcome == "ok" {
			served = rec.Backend
		}
	}
	return served
}

// TestFirstServesAgain: a KMS that hung, and is asked last for that, is asked first
// again when it has recovered, though no caller has tried it.
func TestFirstServesAgain(t *testing.T) {
	t.Parallel()
	for i, name := range []string{"vault", "aws", "google"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault, aws, google := newRemotes(t)
			rs := []*remote{vault, aws, google, vault}[i : i+2]
			b := newRemoteBroker(t, "  tikv: {recipients: "+listOf(rs...)+"}", rs...)
			b.start()
			k := b.generate("tikv")
			opens := func() string {
				t.Helper()
				if _, err := b.timedUnwrap(k); err != nil {
					t.Fatal(err)
				}
				return b.servedBy()
			}
			if got := opens(); got != rs[0].backend {
				t.Fatalf("served by %s, want %s", got, rs[0].backend)
			}
			rs[0].link.hang()
			for range 4 {
				if got := opens(); got != rs[1].backend {
					t.Fatalf("served by %s, want %s, since %s hangs", got, rs[1].backend, rs[0].backend)
				}
			}
			rs[0].link.clear()
			waitFor(t, rs[0].backend+" serves again", func() bool { return opens() == rs[0].backend })
		})
	}
}

// TestDegraded: with min_recipients keys are made while a KMS is away, with fewer
// ways to be opened, which is counted. When it is back, new ones have all again, and
// rewrap gives all to the others.
func TestDegraded(t *testing.T) {
	t.Parallel()
	vault, aws, google := newRemotes(t)
	all := []*remote{vault, aws, google}
	b := newRemoteBroker(t, "  tikv: {recipients: "+listOf(all...)+", min_recipients: 1}", all...)
	admin := freePort(t)
	b.listenAdmin(admin)
	aws.link.refuse()
	b.start()
	k := b.generate("tikv")
	if got := b.inspect(k); len(got) != 2 || got["aws-kms"] != nil {
		t.Fatalf("made while AWS is away, its recipients are %v", got)
	}
	if got := metric(t, admin, "keybroker_envelopes_degraded_total", `key="tikv"`); got != "1" {
		t.Errorf("keybroker_envelopes_degraded_total is %q, want 1", got)
	}
	aws.link.accept()
	waitFor(t, "new keys have all recipients", func() bool { return len(b.inspect(b.generate("tikv"))) == len(all) })

	out, err := b.cli(k.wrapped, "rewrap", "--raw", "--context", "test="+t.Name())
	if err != nil {
		t.Fatal(err)
	}
	again := dataKey{k.plaintext, []byte(out)}
	if got := b.inspect(again); len(got) != len(all) {
		t.Errorf("rewrapped, its recipients are %v", got)
	}
	vault.link.refuse()
	google.link.refuse()
	b.purgeByForce("tikv")
	b.mustUnwrap(again, fromBackend)
	_, err = b.unwrap(k)
	wantReason(t, err, "BACKEND_UNAVAILABLE", true)
}

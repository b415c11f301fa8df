package integration_test

import (
	"fmt"
	"strings"
	"testing"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// inspect returns what the broker knows of k's recipients, by provider.
func (b *broker) inspect(k dataKey) map[string]*keybrokerv1.Recipient {
	b.t.Helper()
	r, err := b.keys().InspectKey(b.t.Context(), &keybrokerv1.InspectKeyRequest{WrappedKey: k.wrapped})
	if err != nil {
		b.t.Fatal(err)
	}
	found := map[string]*keybrokerv1.Recipient{}
	for _, recipient := range r.GetRecipients() {
		found[recipient.GetProvider()] = recipient
	}
	return found
}

// TestRecipientsChange takes recipients in and out by reloads. A wrapped key opens
// by what is listed for its key, and nothing of it is sent anywhere else.
func TestRecipientsChange(t *testing.T) {
	t.Parallel()
	vault, aws, google := newRemotes(t)
	all := []*remote{vault, aws, google}
	line := func(recipients, former string) string {
		return fmt.Sprintf("  tikv: {recipients: %s, former_recipients: %s}", recipients, former)
	}
	const none = "[]"
	b := newRemoteBroker(t, line(listOf(vault), none), all...)
	b.start()
	reload := func(rs []*remote, keys string) {
		t.Helper()
		b.configure(backendsOf(rs...), keys)
		b.mustCLI("reload")
		b.mustCLI("purge", "--all", "--force")
	}
	// notListed holds that k opens nowhere, that the error says what would open it,
	// and that nobody was asked to.
	notListed := func(k dataKey, parts ...string) {
		t.Helper()
		before := []int{vault.asked(), aws.asked(), google.asked()}
		for range 3 {
			_, err := b.unwrap(k)
			wantReason(t, err, "NO_BACKEND", false)
			for _, part := range append(parts, "key tikv", "keys.tikv.former_recipients") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
		}
		if after := []int{vault.asked(), aws.asked(), google.asked()}; fmt.Sprint(before) != fmt.Sprint(after) {
			t.Errorf("requests to Vault, AWS and Google: %v before, %v after", before, after)
		}
	}

	byVault := b.generate("tikv")
	b.mustUnwrap(byVault, fromCache)

	// AWS is added: what is new has both, what is old has Vault.
	reload(all, line(listOf(vault, aws), none))
	byBoth := b.generate("tikv")
	if got := b.inspect(byBoth); len(got) != 2 || got["vault-transit"].GetBackend() != "vault" || got["aws-kms"].GetBackend() != "aws" {
		t.Errorf("recipients: %v", got)
	}
	b.mustUnwrap(byVault, fromBackend)

	// Vault only opens now.
	reload(all, line(listOf(aws), listOf(vault)))
	byAWS := b.generate("tikv")
	if got := b.inspect(byAWS); len(got) != 1 || got["aws-kms"].GetKeyRef() != aws.key {
		t.Errorf("recipients: %v", got)
	}
	for _, k := range []dataKey{byVault, byBoth, byAWS} {
		b.mustUnwrap(k, fromAny)
	}

	// Vault is not listed, though its backend is there and serves another key.
	reload(all, line(listOf(aws, google), none)+"\n  other: {recipients: "+listOf(vault)+"}")
	b.generate("other")
	notListed(byVault, "vault-transit", "vault-main", "{backend: vault, key: \""+vault.key+"\"}")
	b.mustUnwrap(byBoth, fromBackend)
	b.mustUnwrap(byAWS, fromBackend)
	if got := b.inspect(byBoth)["vault-transit"]; got.GetState() != keybrokerv1.RecipientState_RECIPIENT_STATE_NOT_CONFIGURED || got.GetBackend() != "" {
		t.Errorf("Vault, which is not listed, is %v", got)
	}
	byTwo := b.generate("tikv")

	// Neither Vault nor AWS have a backend any more.
	reload([]*remote{google}, line(listOf(google), none))
	notListed(byVault, "vault-transit", "vault-main", "add it to backends")
	notListed(byBoth, "vault-transit", "aws-kms", vault.key, aws.key)
	notListed(byAWS, "aws-kms", aws.key)
	b.mustUnwrap(byTwo, fromBackend)

	// The line is put back.
	reload(all, line(listOf(google), listOf(vault)))
	b.mustUnwrap(byVault, fromBackend)
	b.mustUnwrap(byBoth, fromBackend)
	notListed(byAWS, "aws-kms", aws.key, "{backend: aws, key: \""+aws.key+"\"}")
}

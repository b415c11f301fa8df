package vault_test

import (
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// fakeID is the fake's cluster_id.
const fakeID = "18f6c753-2362-e1df-7931-a9b6038af25c"

// enterprise makes the fake one with namespaces.
func enterprise(v *fakeVault, namespaces ...string) {
	yes := true
	v.version, v.enterprise, v.namespaces = "1.21.0+ent", &yes, namespaces
}

func TestReference(t *testing.T) {
	for _, test := range []struct {
		name, id, namespace, mount, key, want string
	}{
		{"an id", "prod-vault", "", "", "tikv", "prod-vault//transit/tikv"},
		{"the cluster's id", "", "", "", "tikv", fakeID + "//transit/tikv"},
		{"a namespace", "prod-vault", "team", "", "tikv", "prod-vault/team/transit/tikv"},
		{"a namespace with parts", "prod-vault", "team/db", "", "tikv", "prod-vault/team%2Fdb/transit/tikv"},
		{"a mount with parts", "prod-vault", "", "kms/db", "tikv", "prod-vault//kms%2Fdb/tikv"},
		{"both", "", "team/db", "kms/db", "other", fakeID + "/team%2Fdb/kms%2Fdb/other"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
				enterprise(v, test.namespace)
				cfg.ID, cfg.Namespace, cfg.Mount = test.id, test.namespace, test.mount
				if test.mount != "" {
					v.mount = test.mount
				}
			})
			w, plaintext := b.wrap(test.key)
			if w.Reference != test.want || w.Provider != vault.Provider {
				t.Errorf("%s %s, want %s", w.Provider, w.Reference, test.want)
			}
			b.opens(test.key, w, plaintext)
			if ok, err := b.kms.Match(t.Context(), test.key, w.Reference); !ok || err != nil {
				t.Errorf("Match: %v, %v", ok, err)
			}
			for _, r := range b.vault.received("") {
				want := test.namespace
				if r.path == "sys/health" {
					want = ""
				}
				if got := r.header.Get("X-Vault-Namespace"); got != want {
					t.Errorf("%s went to namespace %q, want %q", r.path, got, want)
				}
			}
		})
	}
}

// No two places have one reference, and no reference is that of another place.
func TestReferencesAreNotConfused(t *testing.T) {
	type place struct{ id, namespace, mount, key string }
	places := []place{
		{"v", "", "transit", "k"}, {"v", "transit", "k", "k"}, {"v", "a", "b", "k"}, {"v", "a/b", "c", "k"}, {"v", "a", "b/c", "k"},
		{"v", "", "a/b/c", "k"}, {"v", "a/b/c", "transit", "k"}, {"v", "a", "transit", "k"}, {"v", "A", "transit", "k"},
		{"V", "a", "transit", "k"}, {"v", "a", "transit", "K"}, {"v", "a.2Fb", "c", "k"}, {"v.a", "b", "c", "k"}, {"v", "a", "2Fb", "k"},
	}
	references := map[string]place{}
	for _, p := range places {
		b := newQuietBench(t, func(v *fakeVault, cfg *vault.Config) {
			enterprise(v, p.namespace)
			v.mount, v.keys[p.key] = p.mount, newFakeKey("aes256-gcm96")
			cfg.ID, cfg.Namespace, cfg.Mount = p.id, p.namespace, p.mount
		})
		w, _ := b.wrap(p.key)
		if other, ok := references[w.Reference]; ok {
			t.Errorf("%+v and %+v are both %s", p, other, w.Reference)
		}
		references[w.Reference] = p
	}
	for _, p := range places {
		b := newQuietBench(t, func(_ *fakeVault, cfg *vault.Config) {
			cfg.ID, cfg.Namespace, cfg.Mount = p.id, p.namespace, p.mount
		})
		for reference, of := range references {
			ok, err := b.kms.Match(t.Context(), p.key, reference)
			if err != nil || ok != (of == p) {
				t.Errorf("%+v: Match of %s: %v, %v", p, reference, ok, err)
			}
		}
	}
}

func TestMatchOfOtherForms(t *testing.T) {
	b := newQuietBench(t, func(v *fakeVault, cfg *vault.Config) {
		enterprise(v, "a/b")
		cfg.Namespace = "a/b"
	})
	good := fakeID + "/a%2Fb/transit/tikv"
	if ok, err := b.kms.Match(t.Context(), "tikv", good); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	asked := b.vault.count("")
	for _, bad := range []string{
		"", "/", "///", good + "/", "/" + good, good + " ", " " + good, good + "\x00", good + "\n", good + "\xff",
		strings.ToUpper(good), fakeID + "/a%2fb/transit/tikv", fakeID + "/a/b/transit/tikv", fakeID + "/a%252Fb/transit/tikv",
		fakeID + "/%61%2Fb/transit/tikv", fakeID + "/a%2Fb/transit/../transit/tikv", fakeID + "//transit/tikv", "/a%2Fb/transit/tikv",
		"x" + good, "x/" + good, strings.Repeat("x", 600) + good, fakeID + "/a%2Fb%2F/transit/tikv", fakeID + "/a%2Fb/transit/other",
	} {
		if ok, err := b.kms.Match(t.Context(), "tikv", bad); ok || err != nil {
			t.Errorf("%q: %v, %v", bad, ok, err)
		}
	}
	if n := b.vault.count(""); n != asked {
		t.Errorf("Vault was asked %d times", n-asked)
	}
	for _, key := range []string{"", "a/b", "../tikv", "-tikv", "tikv.", "ti kv", "tikv\n", strings.Repeat("k", 129), "tikv%2F", "ключ"} {
		_, err := b.kms.Match(t.Context(), key, good)
		b.fails("Match of key "+key, err, backends.InvalidArgument)
		_, _, err = b.wrapErr(key)
		b.fails("Wrap with key "+key, err, backends.InvalidArgument)
	}
	if n := b.vault.count(""); n != asked {
		t.Errorf("Vault was asked %d times about keys that cannot be", n-asked)
	}
}

// Match asks only who Vault is, without a token, once.
func TestMatchAsksOnce(t *testing.T) {
	b := newBench(t, nil)
	for range 3 {
		if ok, err := b.kms.Match(t.Context(), "tikv", fakeID+"//transit/tikv"); !ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
		if ok, err := b.kms.Match(t.Context(), "tikv", "another-vault//transit/tikv"); ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
	}
	got := b.vault.received("")
	if len(got) != 1 || got[0].path != "sys/health" || got[0].token() != "" {
		t.Errorf("%+v", got)
	}
}

// What cannot be the key, whoever Vault is, is not worth a question.
func TestMatchOfOthersAsksNothing(t *testing.T) {
	b := newBench(t, nil)
	for _, reference := range []string{"", "//transit/tikv", "a/b//transit/tikv", fakeID + "/ns/transit/tikv", fakeID + "//transit/other", fakeID + "//kms/tikv", "aws"} {
		if ok, err := b.kms.Match(t.Context(), "tikv", reference); ok || err != nil {
			t.Errorf("%q: %v, %v", reference, ok, err)
		}
	}
	if n := b.vault.count(""); n > 0 {
		t.Errorf("%d requests", n)
	}
}

// With an id in the config, Match asks nothing.
func TestMatchWithID(t *testing.T) {
	b := newBench(t, func(_ *fakeVault, cfg *vault.Config) { cfg.ID = "prod" })
	if ok, err := b.kms.Match(t.Context(), "tikv", "prod//transit/tikv"); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if ok, err := b.kms.Match(t.Context(), "tikv", fakeID+"//transit/tikv"); ok || err != nil {
		t.Errorf("the cluster's id is taken too: %v, %v", ok, err)
	}
	if n := b.vault.count(""); n > 0 {
		t.Errorf("%d requests", n)
	}
}

// While Vault does not tell who it is, nothing is known; an id that is not fit
// for envelopes is not taken.
func TestMatchUnknown(t *testing.T) {
	reference := fakeID + "//transit/tikv"
	for name, test := range map[string]struct {
		body string
		want backends.Class
	}{
		"not initialized": {`{"initialized":false,"sealed":true}`, backends.Unavailable},
		"sealed":          {`{"initialized":true,"sealed":true}`, backends.Unavailable},
		"no id":           {`{"initialized":true,"sealed":false}`, backends.Internal},
		"a bad id":        {`{"initialized":true,"cluster_id":"a/b"}`, backends.Internal},
		"a long id":       {`{"initialized":true,"cluster_id":"` + strings.Repeat("x", 65) + `"}`, backends.Internal},
		"a page":          {`<html>`, backends.Internal},
		"nothing":         {``, backends.Internal},
	} {
		b := newBench(t, nil)
		b.vault.answerWith("sys/health", answerText(200, "application/json", test.body))
		_, err := b.kms.Match(t.Context(), "tikv", reference)
		b.fails(name, err, test.want)
		b.vault.answerWith("", nil)
		if ok, err := b.kms.Match(t.Context(), "tikv", reference); !ok || err != nil {
			t.Errorf("%s, then well: %v, %v", name, ok, err)
		}
	}
}

// A Vault without namespaces would serve the root, so it gets nothing.
func TestNamespaceThatWouldBeIgnored(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		name, version string
		enterprise    *bool
		ok            bool
	}{
		{"Vault", "1.21.0", &no, false},
		{"Vault Enterprise", "1.21.0+ent", &yes, true},
		{"Vault Enterprise that hides its version", "", &yes, true},
		{"a later Vault", "2.4.0", &no, false},
		{"an old Vault", "1.15.0", nil, false},
		{"an old Vault Enterprise", "1.15.0+ent", nil, true},
		{"an old Vault Enterprise with HSM", "1.14.0+ent.hsm", nil, true},
		{"a Vault that somebody has built", "1.15.0+fork", nil, false},
		{"OpenBao", "2.5.0", nil, true},
		{"the first OpenBao with namespaces", "2.3.0", nil, true},
		{"OpenBao before namespaces", "2.2.1", nil, false},
		{"a later OpenBao", "3.0.0", nil, true},
		{"OpenBao that hides its version", "", nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
				v.version, v.enterprise = test.version, test.enterprise
				cfg.Namespace = "team"
				cfg.Auth = appRoleAuth(t, v, fakeRole{policies: []string{"tikv"}})
			})
			_, _, err := b.wrapErr("tikv")
			if test.ok {
				if err != nil {
					t.Error(err)
				}
				return
			}
			b.fails("Wrap", err, backends.InvalidArgument)
			if got := b.vault.received(""); len(got) != b.vault.count("sys/health") {
				t.Errorf("more than sys/health was asked: %+v", got)
			}
		})
	}
	b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
		enterprise(v, "team")
		cfg.Namespace = "tea"
	})
	_, _, err := b.wrapErr("tikv")
	b.fails("a namespace that is not there", err, backends.Unauthenticated)
}

// A Vault that was made anew at the same address has another id, which takes
// effect with the login that it needs.
func TestAnotherVaultAtTheAddress(t *testing.T) {
	b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
		cfg.Auth = appRoleAuth(t, v, fakeRole{policies: []string{"tikv"}})
	})
	b.wrap("tikv")
	b.vault.set(func() {
		b.vault.clusterID = "00000000-1111-2222-3333-444444444444"
		clear(b.vault.tokens)
	})
	w, _ := b.wrap("tikv")
	if want := "00000000-1111-2222-3333-444444444444//transit/tikv"; w.Reference != want {
		t.Errorf("%s, want %s", w.Reference, want)
	}
}

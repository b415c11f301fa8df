package awskms_test

import (
	"testing"

	"github.com/keybroker/keybroker/backends"
)

// ops are the operations that came, in order.
func (b *bench) ops() []string {
	var ops []string
	for _, r := range b.fake.requests("") {
		ops = append(ops, r.op)
	}
	b.fake.set(func() { b.fake.seen = nil })
	return ops
}

func (b *bench) asked(what string, want ...string) {
	b.Helper()
	got := b.ops()
	if len(got) != len(want) {
		b.Errorf("%s asks %q, want %q", what, got, want)
		return
	}
	for i := range want {
		if got[i] != want[i] {
			b.Errorf("%s asks %q, want %q", what, got, want)
		}
	}
}

func (b *bench) checks(what string) {
	b.Helper()
	if err := b.kms.Check(b.Context(), tikv); err != nil {
		b.Errorf("%s: %v", what, err)
	}
}

func TestCheckCosts(t *testing.T) {
	b := newBench(t, nil)
	b.checks("the first")
	b.asked("the first check", "Encrypt", "Decrypt")
	for _, r := range b.fake.requests("") {
		if r.body.EncryptionContext["keybroker:key"] != "keybroker:check" {
			t.Errorf("%+v", r)
		}
	}
	b.checks("the second")
	b.asked("the second check", "Decrypt")
	b.wrap(tikv)
	b.ops()
	b.checks("after a wrap")
	seen := b.fake.requests("Decrypt")
	if len(seen) != 1 || seen[0].body.EncryptionContext["keybroker:key"] != "tikv" {
		t.Errorf("a check after a wrap is not of that: %+v", seen)
	}
	b.asked("a check after a wrap", "Decrypt")
}

// A key of another process's wraps is checked by what was unwrapped.
func TestCheckOfWhatWasUnwrapped(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap(tikv)
	b.kms = open(t, b.cfg)
	b.fake.set(func() { b.fake.denied["Encrypt"] = true })
	b.opens(tikv, w, plaintext)
	b.ops()
	b.checks("a key that is only unwrapped")
	b.asked("its check", "Decrypt")
}

// Nothing but a Decrypt that worked is fine.
func TestCheckIsRefused(t *testing.T) {
	for name, wrapped := range map[string]bool{"before the first wrap": false, "after a wrap": true} {
		for what, test := range map[string]struct {
			change func(*fakeKMS)
			want   backends.Class
		}{
			"disabled":         {func(f *fakeKMS) { f.keys[tikvID].state = "Disabled" }, backends.Disabled},
			"pending deletion": {func(f *fakeKMS) { f.keys[tikvID].state = "PendingDeletion" }, backends.Disabled},
			"gone":             {func(f *fakeKMS) { delete(f.keys, tikvID) }, backends.NotFound},
			"only encrypt":     {func(f *fakeKMS) { f.denied["Decrypt"] = true }, backends.Denied},
			"nothing":          {func(f *fakeKMS) { f.denied["Encrypt"], f.denied["Decrypt"] = true, true }, backends.Denied},
			"nothing at all":   {func(f *fakeKMS) { f.denied["Encrypt"], f.denied["Decrypt"], f.denied["DescribeKey"] = true, true, true }, backends.Denied},
			"only encrypt, and disabled": {func(f *fakeKMS) {
				f.denied["Decrypt"], f.denied["DescribeKey"], f.keys[tikvID].state = true, true, "Disabled"
			}, backends.Disabled},
			"for signatures":  {func(f *fakeKMS) { f.keys[tikvID].usage = "SIGN_VERIFY" }, backends.InvalidArgument},
			"a store is down": {func(f *fakeKMS) { f.keys[tikvID].storeDown = true }, backends.Unavailable},
		} {
			if wrapped && what == "only encrypt, and disabled" {
				continue // KMS says first that Decrypt is denied
			}
			t.Run(name+"/"+what, func(t *testing.T) {
				b := newBench(t, nil)
				if wrapped {
					b.wrap(tikv)
				}
				b.fake.set(func() { test.change(b.fake) })
				for range 2 {
					b.fails("Check", b.kms.Check(t.Context(), tikv), test.want)
				}
			})
		}
	}
}

// Without the right to encrypt, and before anything was unwrapped, a check needs
// the key's state beside a dry run, which does not look at it.
func TestCheckWithoutEncrypt(t *testing.T) {
	b := newBench(t, nil)
	b.fake.set(func() { b.fake.denied["Encrypt"] = true })
	b.checks("may decrypt")
	b.asked("a check without kms:Encrypt", "Encrypt", "DescribeKey", "Decrypt")
	for what, test := range map[string]struct {
		change func(*fakeKMS)
		want   backends.Class
		says   string
	}{
		"disabled":           {func(f *fakeKMS) { f.keys[tikvID].state = "Disabled" }, backends.Disabled, "enable-key"},
		"pending deletion":   {func(f *fakeKMS) { f.keys[tikvID].state = "PendingDeletion" }, backends.Disabled, "cancel-key-deletion"},
		"pending import":     {func(f *fakeKMS) { f.keys[tikvID].state = "PendingImport" }, backends.Disabled, "import"},
		"no decrypt":         {func(f *fakeKMS) { f.denied["Decrypt"] = true }, backends.Denied, "kms:Decrypt"},
		"no state to be had": {func(f *fakeKMS) { f.denied["DescribeKey"] = true }, backends.Denied, "kms:DescribeKey"},
		"for signatures":     {func(f *fakeKMS) { f.keys[tikvID].usage = "SIGN_VERIFY" }, backends.InvalidArgument, "SIGN_VERIFY"},
		"RSA":                {func(f *fakeKMS) { f.keys[tikvID].spec = "RSA_2048" }, backends.InvalidArgument, "RSA_2048"},
		"an old endpoint, and disabled": {func(f *fakeKMS) {
			f.oldEndpoint, f.keys[tikvID].state = true, "Disabled"
		}, backends.Disabled, ""},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t, nil)
			b.fake.set(func() { b.fake.denied["Encrypt"] = true; test.change(b.fake) })
			b.fails("Check", b.kms.Check(t.Context(), tikv), test.want, test.says)
		})
	}
	old := newBench(t, nil)
	old.fake.set(func() { old.fake.denied["Encrypt"], old.fake.oldEndpoint = true, true })
	old.checks("an old endpoint")
}

// A policy on the pairs is one that a check sees as an unwrap does.
func TestCheckUnderAPolicy(t *testing.T) {
	b := newBench(t, nil)
	b.fake.set(func() { b.fake.policy = func(pairs map[string]string) bool { return pairs["keybroker:key"] == "tikv" } })
	b.fails("before the first wrap", b.kms.Check(t.Context(), tikv), backends.Denied)
	b.wrap(tikv)
	b.checks("after it")
	b.fake.set(func() {
		b.fake.policy = func(pairs map[string]string) bool { return pairs["keybroker:key"] == "other" }
	})
	b.fails("when the policy is another", b.kms.Check(t.Context(), tikv), backends.Denied)

	both := newBench(t, nil)
	both.fake.set(func() {
		both.fake.policy = func(pairs map[string]string) bool {
			return pairs["keybroker:key"] == "tikv" || pairs["keybroker:key"] == "keybroker:check"
		}
	})
	both.checks("a policy that allows for checks")
}

// A key that has other material now is noticed.
func TestCheckOfAnotherKey(t *testing.T) {
	b := newBench(t, nil)
	b.wrap(tikv)
	b.fake.set(func() { b.fake.keys[tikvID].materials[0] = newMaterial() })
	b.fails("Check", b.kms.Check(t.Context(), tikv), backends.InvalidCiphertext, "does not open")
	b.checks("the next")
}

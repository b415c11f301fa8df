package vault_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// runFor lets time pass, with a call in each step, none of which may fail.
func (b *bench) runFor(d, step time.Duration) {
	b.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(step) {
		b.works("tikv")
		if b.Failed() {
			b.Fatalf("%s before the end", time.Until(end))
		}
	}
}

// A token is renewed in the background when two thirds of its time are over.
func TestRenewal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, fakeRole{policies: []string{"tikv"}, ttl: time.Hour, renewable: true}))
		b.works("tikv")
		time.Sleep(35 * time.Minute)
		if n := b.vault.count("auth/token/renew-self"); n > 0 {
			t.Errorf("%d renewals before 60 %% of its time", n)
		}
		time.Sleep(6 * time.Minute)
		if n := b.vault.count("auth/token/renew-self"); n != 1 {
			t.Errorf("%d renewals after two thirds of its time", n)
		}
		b.runFor(48*time.Hour, 7*time.Minute)
		if n := b.vault.count("auth/approle/login"); n != 1 {
			t.Errorf("%d logins", n)
		}
		if n := b.vault.count("auth/token/renew-self"); n < 70 || n > 85 {
			t.Errorf("%d renewals in two days", n)
		}
	})
}

// At its greatest age a token is replaced, and no call fails.
func TestMaxTTL(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, fakeRole{policies: []string{"tikv"}, ttl: time.Hour, max: 4 * time.Hour, renewable: true}))
		b.runFor(48*time.Hour, time.Minute)
		if n := b.vault.count("auth/approle/login"); n < 12 || n > 16 {
			t.Errorf("%d logins in two days", n)
		}
		if got := b.vault.refusals(); got > 0 {
			t.Errorf("%d calls came with a token that had expired", got)
		}
	})
}

// refusals is how many requests came with a token that is not known or valid
// any more.
func (v *fakeVault) refusals() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.refused
}

// A token that cannot be renewed is replaced, as is a batch token.
func TestNotRenewable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, fakeRole{policies: []string{"tikv"}, ttl: 10 * time.Minute}))
		b.runFor(10*time.Hour, time.Minute)
		if n := b.vault.count("auth/token/renew-self"); n > 0 {
			t.Errorf("%d renewals", n)
		}
		if n := b.vault.count("auth/approle/login"); n < 85 || n > 105 {
			t.Errorf("%d logins in ten hours", n)
		}
		if got := b.vault.refusals(); got > 0 {
			t.Errorf("%d calls came with a token that had expired", got)
		}
	})
}

// A token that was replaced is not renewed any more.
func TestReplacedTokenIsNotRenewed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, fakeRole{policies: []string{"tikv"}, ttl: time.Hour, renewable: true}))
		b.works("tikv")
		old := b.vault.received("transit/decrypt/")[0].token()
		b.vault.answerWith("transit/keys/", answerJSON(403, "permission denied", "invalid token"))
		time.Sleep(10 * time.Second)
		_, _, err := b.wrapErr("tikv")
		b.fails("Wrap", err, backends.Unauthenticated)
		b.vault.answerWith("", nil)
		b.runFor(5*time.Hour, time.Minute)
		for _, r := range b.vault.received("auth/token/renew-self") {
			if r.token() == old {
				t.Error("the old token was renewed")
			}
		}
	})
}

// A renewal that Vault refuses leads to a login.
func TestRenewalRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, fakeRole{policies: []string{"tikv"}, ttl: time.Hour, renewable: true}))
		b.works("tikv")
		b.vault.answerWith("auth/token/renew-self", answerJSON(400, "lease is not renewable"))
		b.runFor(2*time.Hour, time.Minute)
		if n := b.vault.count("auth/token/renew-self"); n != 2 && n != 3 {
			t.Errorf("%d renewals tried", n)
		}
		if got := b.vault.refusals(); got > 0 {
			t.Errorf("%d calls came with a token that had expired", got)
		}
	})
}

// A renewal that fails in an outage is tried again, in bounds, and the token
// lives on.
func TestRenewalInOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, fakeRole{policies: []string{"tikv"}, ttl: time.Hour, renewable: true}))
		w, plaintext := b.wrap("tikv")
		time.Sleep(30 * time.Minute)
		b.vault.set(func() { b.vault.sealed = true })
		time.Sleep(25 * time.Minute)
		if n := b.vault.count("auth/token/renew-self"); n < 10 || n > 40 {
			t.Errorf("%d renewals tried in 15 minutes of an outage", n)
		}
		b.vault.set(func() { b.vault.sealed = false })
		time.Sleep(2 * time.Minute)
		b.opens("tikv", w, plaintext)
		b.runFor(3*time.Hour, time.Minute)
		if n := b.vault.count("auth/approle/login"); n != 1 {
			t.Errorf("%d logins", n)
		}
	})
}

// When an outage outlasts the token, nothing goes on in the background, and the
// next call logs in.
func TestExpiredInOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, fakeRole{policies: []string{"tikv"}, ttl: time.Hour, renewable: true}))
		w, plaintext := b.wrap("tikv")
		b.vault.set(func() { b.vault.sealed = true })
		time.Sleep(90 * time.Minute)
		asked := b.vault.count("")
		time.Sleep(24 * time.Hour)
		if n := b.vault.count("") - asked; n > 0 {
			t.Errorf("Vault was asked %d times, for nobody", n)
		}
		_, err := b.unwrap(t.Context(), "tikv", w)
		b.fails("Unwrap", err, backends.Unavailable)
		b.vault.set(func() { b.vault.sealed = false })
		b.opens("tikv", w, plaintext)
	})
}

// While a login hangs, the old token serves for as long as it is valid.
func TestOldTokenServesDuringLogin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, func(v *fakeVault, cfg *vault.Config) {
			cfg.Auth = appRoleAuth(t, v, fakeRole{policies: []string{"tikv"}, ttl: 30 * time.Minute})
			cfg.Timeout = time.Minute
		})
		b.works("tikv")
		b.vault.answerWith("auth/approle/login", hang)
		b.runFor(29*time.Minute, 10*time.Second)
		if b.vault.count("auth/approle/login") < 2 {
			t.Error("no login was tried")
		}
		b.vault.answerWith("", nil)
		b.runFor(time.Hour, time.Minute)
	})
}

// A token from a file is renewed, and its end is announced.
func TestTokenFileRenewal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, func(v *fakeVault, cfg *vault.Config) {
			now := time.Now()
			v.tokens["hvs.periodic"] = &fakeToken{policies: []string{"root"}, ttl: time.Hour, expires: now.Add(10 * time.Minute), max: now.Add(5 * time.Hour), renewable: true}
			v.tokens["hvs.next"] = &fakeToken{policies: []string{"root"}}
			cfg.Auth = tokenAuth(t, "hvs.periodic")
		})
		b.runFor(4*time.Hour+50*time.Minute, time.Minute)
		if !strings.Contains(b.log.String(), "put a new one in its file") || !strings.Contains(b.log.String(), b.cfg.Auth.TokenFile) {
			t.Errorf("its end was not announced:\n%s", b.log)
		}
		time.Sleep(15 * time.Minute)
		_, _, err := b.wrapErr("tikv")
		b.fails("Wrap with an expired token", err, backends.Unauthenticated)
		replaceFile(t, b.cfg.Auth.TokenFile, "hvs.next")
		b.works("tikv")
	})
}

// Without a call there is no login, and no goroutine.
func TestNothingBeforeItIsNeeded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, fakeRole{policies: []string{"tikv"}, ttl: time.Hour}))
		time.Sleep(24 * time.Hour)
		if n := b.vault.count(""); n > 0 {
			t.Errorf("%d requests", n)
		}
	})
}

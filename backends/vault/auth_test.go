package vault_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// tikvRole may use the key tikv. Its tokens never expire.
func tikvRole() fakeRole { return fakeRole{policies: []string{"tikv"}} }

// withAppRole logs in by AppRole.
func withAppRole(t testing.TB, role fakeRole) func(*fakeVault, *vault.Config) {
	return func(v *fakeVault, cfg *vault.Config) { cfg.Auth = appRoleAuth(t, v, role) }
}

func TestToken(t *testing.T) {
	b := newBench(t, nil)
	b.works("tikv")
	for _, r := range b.vault.received("transit/") {
		if r.token() != rootToken {
			t.Errorf("%s came with token %q", r.path, r.token())
		}
	}
	if n := b.vault.count("auth/token/lookup-self"); n != 1 {
		t.Errorf("the token was looked up %d times", n)
	}
}

// A token that may not look at itself may still be used.
func TestTokenWithoutDefaultPolicy(t *testing.T) {
	b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
		v.tokens["hvs.narrow"] = &fakeToken{policies: []string{"tikv"}}
		cfg.Auth = tokenAuth(t, "hvs.narrow")
	})
	b.works("tikv")
	_, _, err := b.wrapErr("other")
	b.fails("what it may not", err, backends.Denied)
}

// A token file that is replaced is used from the next calls on, while the old
// token is still good; a bad one is not.
func TestTokenFileReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, func(v *fakeVault, _ *vault.Config) {
			v.tokens["hvs.second"] = &fakeToken{policies: []string{"root"}}
			v.tokens["hvs.third"] = &fakeToken{policies: []string{"root"}}
		})
		last := func() string {
			t.Helper()
			b.works("tikv")
			synctest.Wait() // for a login in the background
			b.works("tikv")
			got := b.vault.received("transit/decrypt/")
			return got[len(got)-1].token()
		}
		if got := last(); got != rootToken {
			t.Errorf("at first, the token is %s", got)
		}
		replaceFile(t, b.cfg.Auth.TokenFile, "hvs.second")
		if got := last(); got != "hvs.second" {
			t.Errorf("after the first change, the token is %s", got)
		}
		replaceFile(t, b.cfg.Auth.TokenFile, "hvs.unknown")
		lookups := b.vault.count("auth/token/lookup-self")
		for range 5 {
			if got := last(); got != "hvs.second" {
				t.Errorf("after a change to an unknown token, the token is %s", got)
			}
		}
		if n := b.vault.count("auth/token/lookup-self") - lookups; n != 1 {
			t.Errorf("Vault was asked %d times about the unknown token", n)
		}
		if err := os.Remove(b.cfg.Auth.TokenFile); err != nil {
			t.Fatal(err)
		}
		if got := last(); got != "hvs.second" {
			t.Errorf("without a file, the token is %s", got)
		}
		replaceFile(t, b.cfg.Auth.TokenFile, "hvs.third")
		if got := last(); got != "hvs.third" {
			t.Errorf("after the third change, the token is %s", got)
		}
	})
}

// A new token that comes while Vault cannot be asked is used when it can.
func TestTokenFileReplacedInOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, func(v *fakeVault, _ *vault.Config) {
			v.tokens["hvs.second"] = &fakeToken{policies: []string{"root"}}
		})
		b.works("tikv")
		b.vault.set(func() { b.vault.sealed = true })
		replaceFile(t, b.cfg.Auth.TokenFile, "hvs.second")
		_, _, err := b.wrapErr("tikv")
		b.fails("sealed", err, backends.Unavailable)
		synctest.Wait()
		b.vault.set(func() { b.vault.sealed = false })
		b.works("tikv")
		synctest.Wait()
		b.works("tikv")
		got := b.vault.received("transit/decrypt/")
		if last := got[len(got)-1].token(); last != "hvs.second" {
			t.Errorf("the token is %s", last)
		}
	})
}

// A revoked token fails until its file has a new one, which is used at once.
func TestTokenRevoked(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap("tikv")
	b.vault.set(func() { delete(b.vault.tokens, rootToken) })
	_, err := b.unwrap(t.Context(), "tikv", w)
	b.fails("Unwrap", err, backends.Unauthenticated)
	if !strings.Contains(err.Error(), b.cfg.Auth.TokenFile) {
		t.Errorf("the error does not name the file: %v", err)
	}
	asked := b.vault.count("")
	_, err = b.unwrap(t.Context(), "tikv", w)
	b.fails("Unwrap again", err, backends.Unauthenticated)
	if n := b.vault.count("") - asked; n > 0 {
		t.Errorf("Vault was asked %d times with a credential that it has just refused", n)
	}
	b.vault.set(func() { b.vault.tokens["hvs.second"] = &fakeToken{policies: []string{"root"}} })
	replaceFile(t, b.cfg.Auth.TokenFile, "hvs.second")
	b.opens("tikv", w, plaintext)
}

// A token that is about to expire is none, and not one that never expires.
func TestTokenExpiresNow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, func(v *fakeVault, cfg *vault.Config) {
			v.tokens["hvs.short"] = &fakeToken{policies: []string{"root"}, expires: time.Now().Add(300 * time.Millisecond)}
			cfg.Auth = tokenAuth(t, "hvs.short")
		})
		_, _, err := b.wrapErr("tikv")
		b.fails("Wrap", err, backends.Unauthenticated)
	})
}

func TestAppRole(t *testing.T) {
	b := newBench(t, withAppRole(t, tikvRole()))
	b.works("tikv")
	got := b.vault.received("auth/approle/login")
	if len(got) != 1 || got[0].body["role_id"] != roleID || got[0].body["secret_id"] != secretID || len(got[0].body) != 2 || got[0].token() != "" {
		t.Errorf("%+v", got)
	}
}

func TestAuthMount(t *testing.T) {
	b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
		cfg.Auth = appRoleAuth(t, v, tikvRole())
		cfg.Auth.Mount = "teams/db"
	})
	_, _, err := b.wrapErr("tikv")
	b.fails("a mount that is not there", err, backends.Unauthenticated)
	if b.vault.count("auth/teams/db/login") == 0 {
		t.Error("it was not asked")
	}
}

// Kubernetes' token is read for each login: it is replaced all the time.
func TestKubernetes(t *testing.T) {
	b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
		v.roles["tikv jwt-one"], v.roles["tikv jwt-two"] = tikvRole(), tikvRole()
		cfg.Auth = vault.Auth{Method: vault.MethodKubernetes, Role: "tikv", JWTFile: writeFile(t, "token", "jwt-one")}
	})
	b.works("tikv")
	replaceFile(t, b.cfg.Auth.JWTFile, "jwt-two\n")
	b.vault.set(func() { clear(b.vault.tokens) })
	b.works("tikv")
	var jwts []string
	for _, r := range b.vault.received("auth/kubernetes/login") {
		jwts = append(jwts, text(r.body, "jwt"))
	}
	if got := strings.Join(jwts, " "); got != "jwt-one jwt-two" {
		t.Errorf("logged in with %s", got)
	}
}

// A wrapped secret ID is unwrapped once, and used for all logins until another
// wrapping token is there.
func TestWrappedSecretID(t *testing.T) {
	b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
		v.wrapping["hvs.wrapping"] = secretID
		cfg.Auth = appRoleAuth(t, v, tikvRole())
		cfg.Auth.SecretIDWrapped = true
		cfg.Auth.SecretIDFile = writeFile(t, "wrapped", "hvs.wrapping\n")
	})
	b.works("tikv")
	b.vault.set(func() { clear(b.vault.tokens) })
	b.works("tikv")
	if n, m := b.vault.count("sys/wrapping/unwrap"), b.vault.count("auth/approle/login"); n != 1 || m != 2 {
		t.Errorf("%d unwrapped, %d logins", n, m)
	}

	// The secret ID is exchanged.
	b.vault.set(func() {
		clear(b.vault.tokens)
		clear(b.vault.roles)
	})
	_, _, err := b.wrapErr("tikv")
	b.fails("an old secret ID", err, backends.Unauthenticated)
	b.vault.set(func() {
		b.vault.roles[roleID+" new-secret-id"] = tikvRole()
		b.vault.wrapping["hvs.wrapping-2"] = "new-secret-id"
	})
	replaceFile(t, b.cfg.Auth.SecretIDFile, "hvs.wrapping-2")
	b.works("tikv")
}

// A wrapping token that was used by somebody else is worth an alarm.
func TestWrappingTokenUsed(t *testing.T) {
	b := newBench(t, func(v *fakeVault, cfg *vault.Config) {
		cfg.Auth = appRoleAuth(t, v, tikvRole())
		cfg.Auth.SecretIDWrapped = true
	})
	_, _, err := b.wrapErr("tikv")
	b.fails("Wrap", err, backends.Unauthenticated)
	if err == nil || !strings.Contains(err.Error(), "somebody else may have") || !strings.Contains(err.Error(), b.cfg.Auth.SecretIDFile) {
		t.Errorf("%v", err)
	}
}

// What a login is answered, and what it means.
func TestLoginAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   backends.Class
	}{
		{"refused", answerJSON(400, "invalid role or secret ID"), backends.Unauthenticated},
		{"missing", answerJSON(400, "missing secret_id"), backends.Unauthenticated},
		{"locked", answerJSON(403, "permission denied"), backends.Unauthenticated},
		{"another account", answerJSON(403, "service account name not authorized"), backends.Unauthenticated},
		{"no such mount", answerJSON(404, `no handler for route "auth/approle/login". route entry not found.`), backends.Unauthenticated},
		{"quota", answerJSON(429, "rate limit quota exceeded"), backends.Throttled},
		{"internal", answerJSON(500, "internal error"), backends.Internal},
		{"sealed", answerJSON(503, "Vault is sealed"), backends.Unavailable},
		{"no active node", answerJSON(503, "no active Vault instance found"), backends.Unavailable},
		{"a page", answerText(403, "text/html", "<html>"), backends.Unavailable},
		{"nothing", answerText(200, "application/json", ""), backends.Internal},
		{"no auth", answerText(200, "application/json", `{"data":{}}`), backends.Internal},
		{"no token", answerText(200, "application/json", `{"auth":{"client_token":"","lease_duration":60}}`), backends.Unauthenticated},
		{"a token for two headers", answerText(200, "application/json", `{"auth":{"client_token":"a\r\nX-Evil: b","lease_duration":60}}`), backends.Unauthenticated},
		{"a time before now", answerText(200, "application/json", `{"auth":{"client_token":"abc","lease_duration":-1}}`), backends.Internal},
		{"a time without end", answerText(200, "application/json", `{"auth":{"client_token":"abc","lease_duration":9223372036854775807}}`), backends.Internal},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, withAppRole(t, tikvRole()))
			b.vault.answerWith("auth/approle/login", test.answer)
			_, _, err := b.wrapErr("tikv")
			b.fails("Wrap", err, test.want)
			b.vault.answerWith("", nil)
			if test.want == backends.Unavailable || test.want == backends.Throttled || test.want == backends.Internal {
				b.works("tikv")
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		v := newFakeVault()
		l := newListener(t, v)
		b := newBench(t, func(_ *fakeVault, cfg *vault.Config) { cfg.Address = "http://" + l.address })
		l.down(t)
		_, _, err := b.wrapErr("tikv")
		b.fails("Wrap", err, backends.Unavailable)
		l.up(t)
		b.works("tikv")
	})
}

// A credential's file that cannot be used is the broker's own failure, says so
// by its name, and is read again when it has changed.
func TestCredentialFiles(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "white space": " \n\t\n", "two lines": "a\nb", "a space": "a b", "not ASCII": "schlüssel", "a zero": "a\x00b", "huge": strings.Repeat("x", 1<<20),
	} {
		b := newBench(t, func(_ *fakeVault, cfg *vault.Config) { cfg.Auth.TokenFile = writeFile(t, "token", content) })
		_, _, err := b.wrapErr("tikv")
		b.fails(name, err, backends.Unauthenticated)
		if err == nil || !strings.Contains(err.Error(), b.cfg.Auth.TokenFile) {
			t.Errorf("%s: the error does not name the file: %v", name, err)
		}
		if n := b.vault.count("auth/"); n > 0 {
			t.Errorf("%s: it was sent", name)
		}
		replaceFile(t, b.cfg.Auth.TokenFile, rootToken)
		b.works("tikv")
	}
	// Nobody writes to the pipe, so whoever opened it would wait for ever.
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing"), os.DevNull, pipe} {
		b := newBench(t, func(_ *fakeVault, cfg *vault.Config) { cfg.Auth.TokenFile = path })
		_, _, err := b.wrapErr("tikv")
		b.fails(path, err, backends.Unauthenticated)
	}
}

// Thousands who need a token cause one login, and who gives up does not end it.
func TestOneLogin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, tikvRole()))
		release := make(chan struct{})
		b.vault.answerWith("auth/approle/login", func(w http.ResponseWriter, _ *http.Request) {
			<-release
			b.vault.set(func() {
				b.vault.login(w, map[string]any{"role_id": roleID, "secret_id": secretID}, "role_id", "secret_id")
			})
		})
		impatient, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := b.kms.Wrap(impatient, backends.WrapRequest{Key: "tikv", Plaintext: randomBytes(32), AssociatedData: someAD})
			gaveUp <- err
		}()
		synctest.Wait()
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() { b.works("tikv") })
		}
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) || backends.ClassOf(err) != backends.Unavailable {
			t.Errorf("who gave up got %v", err)
		}
		close(release)
		all.Wait()
		if n := b.vault.count("auth/approle/login"); n != 1 {
			t.Errorf("%d logins", n)
		}
	})
}

// A login has a time of its own, and its end is not taken for the caller's.
func TestLoginHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, func(v *fakeVault, cfg *vault.Config) {
			cfg.Auth = appRoleAuth(t, v, tikvRole())
			cfg.Timeout = 3 * time.Second
		})
		b.vault.answerWith("auth/approle/login", hang)
		_, _, err := b.wrapErr("tikv")
		b.fails("Wrap", err, backends.Unavailable)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it looks as if the caller's time were over: %v", err)
		}
		b.vault.answerWith("", nil)
		b.works("tikv")
	})
}

// A token that Vault does not know any more is replaced, and no call fails.
func TestRevokedTokenFailsNoCall(t *testing.T) {
	b := newBench(t, withAppRole(t, tikvRole()))
	w, plaintext := b.wrap("tikv")
	for range 5 {
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for range 5 {
					b.opens("tikv", w, plaintext)
					b.works("tikv")
				}
			})
		}
		b.vault.set(func() { clear(b.vault.tokens) })
		all.Wait()
		b.works("tikv")
	}
	if n := b.vault.count("auth/approle/login"); n != 6 {
		t.Errorf("%d logins for 5 revocations", n-1)
	}
}

// A login that does not help is not repeated within a call.
func TestRevokedTokenOnceOnly(t *testing.T) {
	b := newBench(t, withAppRole(t, tikvRole()))
	w, _ := b.wrap("tikv")
	b.vault.answerWith("transit/decrypt/", answerJSON(403, "permission denied", "invalid token"))
	_, err := b.unwrap(t.Context(), "tikv", w)
	b.fails("Unwrap", err, backends.Unauthenticated)
	if n, m := b.vault.count("auth/approle/login"), b.vault.count("transit/decrypt/"); n != 2 || m != 2 {
		t.Errorf("%d logins, %d decrypts", n, m)
	}
}

// A denial is confirmed by a new login, since that may have other policies, but
// not by one for each call.
func TestDenied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, tikvRole()))
		w, plaintext := b.wrap("tikv")
		logins := func(what string, want int) {
			t.Helper()
			if n := b.vault.count("auth/approle/login"); n != want {
				t.Errorf("%s: %d logins, want %d", what, n, want)
			}
		}
		unwrapDenied := func() {
			t.Helper()
			_, err := b.unwrap(t.Context(), "tikv", w)
			b.fails("Unwrap", err, backends.Denied)
			if err == nil || !strings.Contains(err.Error(), "update on transit/encrypt/tikv and transit/decrypt/tikv") {
				t.Errorf("it does not say what the policy needs: %v", err)
			}
		}
		b.vault.set(func() { delete(b.vault.policies["tikv"], "transit/decrypt/tikv") })
		unwrapDenied()
		logins("denied", 2)
		var all sync.WaitGroup
		for range 100 {
			all.Go(unwrapDenied)
		}
		all.Wait()
		logins("denied often", 2)
		time.Sleep(30 * time.Second)
		for range 100 {
			all.Go(unwrapDenied)
		}
		all.Wait()
		logins("denied later", 3)

		// The role gets another policy, which only a new token has.
		b.vault.set(func() {
			b.vault.policies["more"] = map[string]string{"transit/decrypt/tikv": "update"}
			b.vault.roles[roleID+" "+secretID] = fakeRole{policies: []string{"tikv", "more"}}
		})
		time.Sleep(30 * time.Second)
		b.opens("tikv", w, plaintext)
		logins("allowed", 4)
	})
}

// A denial with a token that is good is a denial, also when no login works.
func TestDeniedWithoutLogin(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(v *fakeVault)
		want   backends.Class
	}{
		{"the token is good", func(*fakeVault) {}, backends.Denied},
		{"the token may not ask", func(v *fakeVault) { clear(v.policies["default"]) }, backends.Denied},
		{"the token is gone", func(v *fakeVault) { clear(v.tokens) }, backends.Unauthenticated},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, withAppRole(t, tikvRole()))
			w, _ := b.wrap("tikv")
			b.vault.answerWith("transit/decrypt/", answerJSON(403, "permission denied"))
			b.vault.set(func() {
				clear(b.vault.roles)
				test.change(b.vault)
			})
			_, err := b.unwrap(t.Context(), "tikv", w)
			b.fails("Unwrap", err, test.want)
		})
	}
	t.Run("Vault is gone", func(t *testing.T) {
		b := newBench(t, withAppRole(t, tikvRole()))
		w, _ := b.wrap("tikv")
		b.vault.set(func() {
			b.vault.intercept = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.URL.Path, "/v1/transit/decrypt/") {
					writeErrors(w, 403, "permission denied")
				} else {
					writeErrors(w, 503, "Vault is sealed")
				}
				return true
			}
		})
		_, err := b.unwrap(t.Context(), "tikv", w)
		b.fails("Unwrap", err, backends.Unavailable)
	})
}

// A refused login is not repeated by each call: Vault locks out who fails often.
func TestRefusedLoginBacksOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newQuietBench(t, withAppRole(t, tikvRole()))
		b.vault.set(func() { clear(b.vault.roles) })
		began := time.Now()
		for time.Since(began) < 10*time.Minute {
			_, _, err := b.wrapErr("tikv")
			b.fails("Wrap", err, backends.Unauthenticated)
			time.Sleep(100 * time.Millisecond)
		}
		if n := b.vault.count("auth/approle/login"); n < 12 || n > 18 {
			t.Errorf("%d logins in 10 minutes", n)
		}
		// Another secret ID is tried at once.
		b.vault.set(func() { b.vault.roles[roleID+" another"] = tikvRole() })
		replaceFile(t, b.cfg.Auth.SecretIDFile, "another")
		b.works("tikv")
		// After a success, the waits begin anew.
		b.vault.set(func() {
			clear(b.vault.tokens)
			clear(b.vault.roles)
		})
		_, _, err := b.wrapErr("tikv")
		b.fails("Wrap", err, backends.Unauthenticated)
		b.vault.set(func() { b.vault.roles[roleID+" another"] = tikvRole() })
		time.Sleep(time.Second)
		b.works("tikv")
	})
}
